//! What the fuzz targets call: each decoder, and a whole session, given arbitrary bytes. Not part of the API.

pub use crate::{
    core::{
        handshake::fuzz_handshake as handshake,
        outbox::fuzz_record as record,
        wire::{fuzz_deframer as deframer, negotiation::fuzz_negotiation as negotiation},
    },
    session::fuzz_session as session,
};

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf};

    use super::*;
    use crate::{
        Refusal, RefusalCode,
        core::{
            num::{RegionId, StreamId},
            outbox::{Kind, Part, RecordHead, Segment},
            wire::{
                HEADER_LEN, Message, Outbox, Region, Transmit,
                negotiation::{DoorbellKind, Offer, Request, Response, Terms},
            },
        },
    };

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 5] = [
        ("deframer", deframer),
        ("handshake", handshake),
        ("negotiation", negotiation),
        ("record", record),
        ("session", session),
    ];

    fn corpus(target: &str) -> PathBuf {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        package.join("../fuzz/corpus").join(target)
    }

    #[test]
    fn the_corpus_holds_no_surprise() {
        for (name, target) in TARGETS {
            for file in fs::read_dir(corpus(name)).expect("each target has a corpus") {
                target(&fs::read(file.unwrap().path()).unwrap());
            }
        }
    }

    /// Run with `UPDATE_CORPUS=1` to write the seeds anew, after a change of a format.
    #[test]
    fn the_corpus_begins_with_what_is_meant_to_be_said() {
        let seeds = [
            deframer_seeds(),
            handshake_seeds(),
            negotiation_seeds(),
            record_seeds(),
            session_seeds(),
        ];
        for ((target, _), seeds) in TARGETS.into_iter().zip(seeds) {
            for (name, seed) in seeds {
                let file = corpus(target).join(name);
                if env::var_os("UPDATE_CORPUS").is_some() {
                    fs::create_dir_all(corpus(target)).unwrap();
                    fs::write(&file, &seed).unwrap();
                }
                let actual = fs::read(&file).unwrap_or_default();
                assert_eq!(actual, seed, "{}: see UPDATE_CORPUS", file.display());
            }
        }
    }

    type Seeds = Vec<(&'static str, Vec<u8>)>;

    fn terms(doorbell: DoorbellKind) -> Terms {
        Terms {
            doorbell,
            forwards: true,
        }
    }

    fn request() -> Message<u32> {
        Message::Negotiation(Request::new(&Offer::outbox(DoorbellKind::EventFd)).encode())
    }

    fn response() -> Message<u32> {
        Message::Negotiation(Response::outbox(terms(DoorbellKind::Socket)).encode())
    }

    fn outbox() -> Message<u32> {
        Message::Outbox(Outbox {
            len: 86016,
            memory_max: 1 << 30,
            memory: 0,
            doorbell: 1,
        })
    }

    fn region(anchor: Option<u32>) -> Message<u32> {
        Message::Region(Region {
            id: RegionId(3),
            len: 1 << 24,
            memory: 0,
            anchor,
        })
    }

    /// Header and body of each message, each behind what `prefix` makes of the number of descriptors and its length.
    fn said(messages: Vec<Message<u32>>, prefix: impl Fn(u8, u8) -> Vec<u8>) -> Vec<u8> {
        let mut said = Vec::new();
        for message in messages {
            let Transmit { bytes, fds } = message.encode();
            let (header, body) = bytes.split_at(HEADER_LEN);
            for (part, fds) in [(header, fds.len()), (body, 0)] {
                if !part.is_empty() {
                    let (fds, len) = (u8::try_from(fds), u8::try_from(part.len()));
                    said.extend(prefix(fds.unwrap(), len.unwrap()));
                    said.extend_from_slice(part);
                }
            }
        }
        said
    }

    fn deframer_seeds() -> Seeds {
        let said = |messages| said(messages, |fds, len| vec![fds, len]);
        vec![
            ("request", said(vec![request()])),
            ("outbox", said(vec![outbox(), Message::Ready])),
            ("region", said(vec![region(None), region(None)])),
            (
                "forwarded_region",
                said(vec![region(Some(1)), region(None)]),
            ),
        ]
    }

    fn handshake_seeds() -> Seeds {
        let said = |side, messages| {
            let said = said(messages, |fds, _| vec![fds]);
            [&[side], &said[..]].concat()
        };
        let refusal = Refusal::new(RefusalCode::Busy, "later");
        let refused = Message::Negotiation(Response::refusal(&refusal).encode());
        vec![
            (
                "client",
                said(0, vec![request(), outbox(), Message::Ready, region(None)]),
            ),
            (
                "server",
                said(1, vec![response(), outbox(), Message::Ready]),
            ),
            ("refusal", said(1, vec![refused])),
            ("out_of_turn", said(0, vec![request(), Message::Ready])),
        ]
    }

    fn negotiation_seeds() -> Seeds {
        let refusal = Refusal::new(RefusalCode::Unauthorized, "no");
        vec![
            (
                "request",
                Request::new(&Offer::outbox(DoorbellKind::Socket)).encode(),
            ),
            (
                "response",
                Response::outbox(terms(DoorbellKind::EventFd)).encode(),
            ),
            ("refusal", Response::refusal(&refusal).encode()),
        ]
    }

    fn record_seeds() -> Seeds {
        let bytes = |head: RecordHead, body: &[u8]| {
            [&head.first_word().to_ne_bytes()[..], &head.rest(), body].concat()
        };
        let credit = RecordHead::control(Kind::Credit, StreamId(1), 8);
        let message = RecordHead {
            flags: 3,
            segments: 2,
            ..RecordHead::control(Kind::Data, StreamId(2), 36)
        };
        let part = Part {
            region: RegionId(1),
            token: 7,
            offset: 4096,
            len: 100,
        };
        let segments = [Segment::Inline { len: 4 }, Segment::Theirs(part)].map(Segment::encode);
        let body = [&segments[0][..], &segments[1], b"abcd"].concat();
        vec![
            ("credit", bytes(credit, &[1, 0, 0, 0, 9, 0, 0, 0])),
            ("message", bytes(message, &body)),
        ]
    }

    /// Scripts; see `session::fuzz` for what the bytes mean.
    fn session_seeds() -> Seeds {
        const ACCEPT: &[u8] = &[10];
        const OPEN: &[u8] = &[9];
        const RECEIVE: &[u8] = &[12, 0];
        const REGION: &[u8] = &[7, 1, 0, 0, 5, 0, 1];
        let script = |steps: &[&[u8]]| steps.concat();
        // A message on a stream of the villain's, of two segments: inline bytes and a part of its region.
        let lent: &[u8] = &[0, 8, 2, 0, 2, 0, 9, 1, 1, 5, 0, 16, 0, 4];
        vec![
            (
                "inline",
                script(&[&[0], &[0, 8, 2, 0, 0, 5], ACCEPT, RECEIVE]),
            ),
            (
                "lent",
                script(&[&[0], REGION, lent, ACCEPT, RECEIVE, &[14, 0]]),
            ),
            (
                "passed_on",
                script(&[
                    &[0],
                    &[7, 1, 0xfe, 0, 5, 0, 1],
                    lent,
                    ACCEPT,
                    RECEIVE,
                    &[14, 0],
                ]),
            ),
            ("guarded", script(&[&[1], REGION, lent, ACCEPT, RECEIVE])),
            (
                "forwarded",
                script(&[
                    &[0],
                    REGION,
                    lent,
                    ACCEPT,
                    RECEIVE,
                    &[13, 0, 0, 0],
                    &[15, 0],
                ]),
            ),
            (
                "returned",
                script(&[&[0], OPEN, &[11, 1, 0, 32, 0], &[6, 0], OPEN, &[6, 0]]),
            ),
            (
                "sent_back",
                script(&[
                    &[0],
                    OPEN,
                    &[11, 0, 0, 32, 0],
                    &[0, 8, 1, 0, 1, 2, 0, 0, 0, 0, 0, 16],
                ]),
            ),
            ("pads_for_ever", script(&[&[4], OPEN, &[8, 0, 0], RECEIVE])),
            ("goodbye", script(&[&[2], OPEN, &[0, 3, 0], &[0, 4, 0]])),
        ]
    }
}
