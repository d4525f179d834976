use proptest::{collection::vec, prelude::*};

use super::*;

/// Pushes `bytes` as a socket would deliver them, `step` at a time, with the descriptors on the first.
fn decode(bytes: &[u8], fds: &[u32], step: usize) -> Result<Option<Message<u32>>, InvalidMessage> {
    let mut deframer = Deframer::new();
    let mut fds = fds.to_vec();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(step.min(deframer.wanted()).min(rest.len()));
        rest = later;
        if let Some(message) = deframer.push(now, fds.drain(..))? {
            assert!(rest.is_empty(), "the message ended before its bytes did");
            return Ok(Some(message));
        }
    }
    Ok(None)
}

fn decode_whole(bytes: &[u8], fds: &[u32]) -> Result<Option<Message<u32>>, InvalidMessage> {
    decode(bytes, fds, usize::MAX)
}

const OUTBOX: [u8; 28] = [
    0, 0, 0, 28, 0x77, 0x58, 0, 32, // header
    0, 0, 0, 0, 0, 2, 0, 0, // length
    0, 0, 0, 0, 0x40, 0, 0, 0, // memory_max
    0, 0, 0, 1, // layout
];
const READY: [u8; 8] = [0, 0, 0, 8, 0x77, 0x58, 0, 33];
const REGION: [u8; 20] = [
    0, 0, 0, 20, 0x77, 0x58, 0, 34, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0x10, 0, 0,
];
const FORWARDED: [u8; 20] = [
    0, 0, 0, 20, 0x77, 0x58, 0, 35, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0x10, 0, 0,
];
const NEGOTIATION: [u8; 10] = [0, 0, 0, 10, 0x77, 0x58, 0, 10, b'{', b'}'];

#[test]
fn messages_have_these_bytes() {
    let outbox = Message::Outbox(Outbox {
        len: 0x2_0000,
        memory_max: 0x4000_0000,
        memory: 3,
        doorbell: 4,
    });
    let [region, forwarded] = [None, Some(6)].map(|anchor| {
        Message::Region(Region {
            id: RegionId(7),
            len: 0x10_0000,
            memory: 5,
            anchor,
        })
    });
    let negotiation = Message::Negotiation(b"{}".to_vec());
    for (message, bytes, fds) in [
        (outbox, &OUTBOX[..], &[3, 4][..]),
        (Message::Ready, &READY, &[]),
        (region, &REGION, &[5]),
        (forwarded, &FORWARDED, &[5, 6]),
        (negotiation, &NEGOTIATION, &[]),
    ] {
        assert_eq!(
            message.clone().encode(),
            Transmit {
                bytes: bytes.to_vec(),
                fds: fds.to_vec()
            }
        );
        for step in [1, 3, usize::MAX] {
            assert_eq!(
                decode(bytes, fds, step),
                Ok(Some(message.clone())),
                "{step} bytes at a time"
            );
        }
    }
}

/// `bytes` with one of them replaced.
fn with<const N: usize>(mut bytes: [u8; N], at: usize, value: u8) -> [u8; N] {
    bytes[at] = value;
    bytes
}

#[test]
fn headers_are_checked() {
    assert_eq!(
        decode_whole(&with(READY, 4, 0x78), &[]),
        Err(InvalidMessage::Magic(0x7858))
    );
    assert_eq!(
        decode_whole(&with(READY, 6, 3), &[]),
        Err(InvalidMessage::Version(3))
    );
    for unknown in [1, 2, 3, 5, 9, 11, 31, 36, 255] {
        assert_eq!(
            decode_whole(&with(READY, 7, unknown), &[]),
            Err(InvalidMessage::UnknownType(unknown))
        );
    }
    for (bytes, message, len) in [
        (with(READY, 3, 7), "ready", 7),
        (with(READY, 3, 0), "ready", 0),
        (with(READY, 0, 0xff), "ready", 0xff00_0008),
        (with(with(READY, 7, 10), 1, 2), "negotiation", 0x2_0008),
        (with(with(READY, 7, 34), 3, 73), "region", 73),
    ] {
        assert_eq!(
            decode_whole(&bytes, &[]),
            Err(InvalidMessage::Length { message, len })
        );
    }
}

#[test]
fn the_longest_negotiation_is_accepted_and_one_byte_more_is_not() {
    let longest = Message::<u32>::Negotiation(vec![b' '; NEGOTIATION_LEN_MAX]);
    assert_eq!(
        decode(&longest.clone().encode().bytes, &[], 1000),
        Ok(Some(longest))
    );
    let mut too_long = Message::<u32>::Negotiation(vec![b' '; NEGOTIATION_LEN_MAX])
        .encode()
        .bytes;
    too_long[3] += 1;
    assert!(matches!(
        decode_whole(&too_long, &[]),
        Err(InvalidMessage::Length {
            message: "negotiation",
            ..
        })
    ));
}

#[test]
fn bodies_have_exactly_their_length() {
    let short = with(OUTBOX, 3, 27);
    assert_eq!(
        decode_whole(&short[..27], &[3, 4]),
        Err(InvalidMessage::TooShort { missing: 1 })
    );
    let mut long = with(OUTBOX, 3, 30).to_vec();
    long.extend([0, 0]);
    assert_eq!(
        decode_whole(&long, &[3, 4]),
        Err(InvalidMessage::TrailingBytes(2))
    );
    let mut long = with(READY, 3, 9).to_vec();
    long.push(0);
    assert_eq!(
        decode_whole(&long, &[]),
        Err(InvalidMessage::TrailingBytes(1))
    );
}

#[test]
fn each_message_has_its_number_of_descriptors() {
    let wrong = |message, expected, received| {
        Err(InvalidMessage::Descriptors {
            message,
            expected,
            received,
        })
    };
    assert_eq!(decode_whole(&OUTBOX, &[]), wrong("outbox", 2, 0));
    assert_eq!(decode_whole(&OUTBOX, &[3]), wrong("outbox", 2, 1));
    assert_eq!(decode_whole(&READY, &[3]), wrong("ready", 0, 1));
    assert_eq!(decode_whole(&REGION, &[]), wrong("region", 1, 0));
    assert_eq!(decode_whole(&REGION, &[3, 4]), wrong("region", 1, 2));
    assert_eq!(decode_whole(&NEGOTIATION, &[3]), wrong("negotiation", 0, 1));
    assert_eq!(
        decode_whole(&OUTBOX, &[3, 4, 5]),
        Err(InvalidMessage::TooManyDescriptors)
    );
}

#[test]
fn a_layout_of_the_future_is_refused() {
    assert_eq!(
        decode_whole(&with(OUTBOX, 27, 2), &[3, 4]),
        Err(InvalidMessage::Layout(2))
    );
}

#[test]
fn a_message_cut_short_is_no_message() {
    for len in 0..OUTBOX.len() {
        assert_eq!(decode_whole(&OUTBOX[..len], &[3, 4]), Ok(None));
    }
}

fn any_message() -> impl Strategy<Value = Message<u32>> {
    prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(Message::Negotiation),
        any::<(u64, u64, u32, u32)>().prop_map(|(len, memory_max, memory, doorbell)| {
            Message::Outbox(Outbox {
                len,
                memory_max,
                memory,
                doorbell,
            })
        }),
        Just(Message::Ready),
        any::<(u32, u64, u32, Option<u32>)>().prop_map(|(id, len, memory, anchor)| {
            Message::Region(Region {
                id: RegionId(id),
                len,
                memory,
                anchor,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(message in any_message(), step in 1..40_usize) {
        let Transmit { bytes, fds } = message.clone().encode();
        prop_assert_eq!(decode(&bytes, &fds, step), Ok(Some(message)));
    }

    #[test]
    fn one_wrong_byte_does_no_harm(message in any_message(), at in any::<prop::sample::Index>(), value: u8) {
        let Transmit { mut bytes, fds } = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let mut deframer = Deframer::new();
        let mut rest = &bytes[..];
        let mut fds = fds.into_iter();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(deframer.wanted().min(rest.len()));
            rest = later;
            if deframer.push(now, fds.by_ref()).is_err() {
                break;
            }
        }
    }

    #[test]
    fn anything_may_arrive(data in vec(any::<u8>(), 0..400)) {
        fuzz_deframer(&data);
    }
}
