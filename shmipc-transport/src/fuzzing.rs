//! What the fuzz targets call: each decoder, and a whole session, given arbitrary bytes. Not part of the API.

pub use crate::{
    core::{
        handshake::fuzz_handshake as handshake,
        outbox::fuzz_record as record,
        shmipc::{frames::fuzz_frames as shmipc_frames, fuzz::fuzz_handshake as shmipc_handshake},
        wire::{fuzz_deframer as deframer, negotiation::fuzz_negotiation as negotiation},
    },
    session::{fuzz_session as session, fuzz_shmipc_session as shmipc_session},
};

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf, slice::from_ref};

    use super::*;
    use crate::{
        Refusal, RefusalCode,
        core::{
            num::{RegionId, StreamId},
            outbox::{Kind, Part, RecordHead, Segment},
            shmipc::frames::{Frame, Paths},
            wire::{
                HEADER_LEN, Message, Outbox, Region, Transmit,
                negotiation::{DoorbellKind, Offer, Request, Response, Terms},
            },
        },
    };

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 8] = [
        ("deframer", deframer),
        ("handshake", handshake),
        ("negotiation", negotiation),
        ("record", record),
        ("session", session),
        ("shmipc_frames", shmipc_frames),
        ("shmipc_handshake", shmipc_handshake),
        ("shmipc_session", shmipc_session),
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
            shmipc_frames_seeds(),
            shmipc_handshake_seeds(),
            shmipc_session_seeds(),
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

    fn names() -> Paths {
        Paths {
            queue: b"/dev/shm/q".to_vec(),
            buffer: b"/dev/shm/b".to_vec(),
        }
    }

    fn shmipc_frames_seeds() -> Seeds {
        let said = |frames: &[Frame]| {
            let bytes = frames.iter().map(|frame| frame.encode(3));
            bytes.collect::<Vec<_>>().concat()
        };
        let fallback = Frame::Fallback {
            stream: 2,
            status: 0,
            payload: b"abc".to_vec(),
        };
        vec![
            (
                "client",
                said(&[Frame::Version(3), Frame::MemfdNames(names())]),
            ),
            (
                "session",
                said(&[Frame::Polling, fallback, Frame::Close { stream: 2 }]),
            ),
            ("hot_restart", said(&[Frame::HotRestart { epoch: 7 }])),
        ]
    }

    /// The side, and messages with a byte before each part; see `core::shmipc::fuzz`.
    fn shmipc_handshake_seeds() -> Seeds {
        let parts = |frames: &[Frame]| {
            let mut said = Vec::new();
            for frame in frames {
                let bytes = frame.encode(3);
                let (header, body) = bytes.split_at(HEADER_LEN);
                for part in [header, body].into_iter().filter(|part| !part.is_empty()) {
                    said.push(0);
                    said.extend_from_slice(part);
                }
            }
            said
        };
        let (ready, mapped) = (Frame::ReadyForDescriptors, Frame::Mapped);
        let first = Frame::Version(3).encode(3);
        let names = Frame::MemfdNames(names());
        vec![
            ("v2_client", vec![0]),
            (
                "v3_client",
                [
                    &[2][..],
                    &parts(&[Frame::Version(3), ready.clone(), mapped.clone()]),
                ]
                .concat(),
            ),
            (
                "v3_server",
                [&[7][..], &first, &parts(from_ref(&names)), &[2]].concat(),
            ),
            ("v4_client", [&[4][..], &parts(&[ready, mapped])].concat()),
            (
                "v4_server",
                [&[6][..], &parts(from_ref(&names)), &[4]].concat(),
            ),
        ]
    }

    /// Scripts; see `session::fuzz::shmipc` for what the bytes mean.
    fn shmipc_session_seeds() -> Seeds {
        const ACCEPT: &[u8] = &[10];
        const OPEN: &[u8] = &[9];
        const RECEIVE: &[u8] = &[12, 0];
        const SEND: &[u8] = &[11, 0, 0, 16, 0];
        let script = |steps: &[&[u8]]| steps.concat();
        // A message of 4,000 bytes on stream 2, as everybody says it, and of 9 on stream 1 of ours.
        let native: &[u8] = &[0, 2, 0, 0xa0, 0x0f];
        let record: &[u8] = &[0, 1, 0, 9, 0];
        // A message on the socket.
        let fallback: &[u8] = &[5, 3, 2, 0, 0, 3, b'a', b'b', b'c'];
        vec![
            ("native", script(&[&[0], native, ACCEPT, RECEIVE, &[14, 0]])),
            ("records", script(&[&[1], record, ACCEPT, RECEIVE, SEND])),
            ("client", script(&[&[2], OPEN, SEND, &[7, 0], SEND])),
            ("fallback", script(&[&[0], fallback, ACCEPT, RECEIVE])),
            ("forged_layout", script(&[&[16, 1, 0, 0, 1, 3], native])),
            // The head of a list leads beside a slice, and a message is to be sent.
            (
                "forged_list",
                script(&[&[2], OPEN, &[3, 0, 0, 2, 0, 4], SEND]),
            ),
            (
                "sent_twice",
                script(&[&[0], native, &[2, 2, 1, 0, 0, 0], ACCEPT]),
            ),
        ]
    }
}
