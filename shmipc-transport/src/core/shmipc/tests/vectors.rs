//! The worked examples of the two references: the one for versions 2 and 3, and the one for version 4, each with the number of its
//! section. What takes a socket or an eventfd to be seen is in `sys`: descriptors on their way (12.1, 15.3), and how an eventfd is rung
//! (15.3). The transcript (15.6) has a file of its own.

use std::time::Duration;

use super::{
    super::frames::{Deframer, Frame, Paths},
    *,
};
use crate::{
    core::{
        shmipc::{
            Element, state,
            terms::{Terms, Wakes},
        },
        wire::negotiation::{Accepts, Answer, Choice, Offer, Request, Response},
    },
    error::{Refusal, RefusalCode},
};

/// Bytes written as in the reference: hexadecimal, `|` and spaces between them mean nothing.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// `image` with these bytes in the place of those that it has there.
fn with(mut image: Vec<u8>, changes: &[(usize, &str)]) -> Vec<u8> {
    for &(at, bytes) in changes {
        let bytes = hex(bytes);
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    image
}

/// Says that `memory` is `expected`, from the first byte to the last.
fn expect(memory: &TestMemory, expected: &[u8]) {
    let found = memory.bytes();
    assert_eq!(found.len(), expected.len());
    let pairs = found.chunks(16).zip(expected.chunks(16));
    for (line, (found, expected)) in pairs.enumerate() {
        assert_eq!(found, expected, "at {:#06x}", 16 * line);
    }
}

fn paths() -> Paths {
    Paths {
        queue: b"/dev/shm/q".to_vec(),
        buffer: b"/dev/shm/b".to_vec(),
    }
}

/// The names of section 15.3.
pub(super) fn long_paths() -> Paths {
    Paths {
        queue: b"/dev/shm/shmipc_42_queue_0".to_vec(),
        buffer: b"/dev/shm/shmipc_42_buffer".to_vec(),
    }
}

/// How they are sent.
pub(super) const LONG_PATHS: &str = "00 1a 2f 64 65 76 2f 73
    68 6d 2f 73 68 6d 69 70 63 5f 34 32 5f 71 75 65
    75 65 5f 30 00 19 2f 64 65 76 2f 73 68 6d 2f 73
    68 6d 69 70 63 5f 34 32 5f 62 75 66 66 65 72";

/// A version byte, a message, and what it looks like.
type Example = (u8, Frame, String);

fn examples_with_paths() -> Vec<Example> {
    let body = "00 0a 2f 64 65 76 2f 73 68 6d 2f 71 00 0a 2f 64 65 76 2f 73 68 6d 2f 62";
    vec![
        (
            2,
            Frame::FilePaths(paths()),
            format!("00 00 00 20 77 58 02 00 {body}"),
        ),
        (
            3,
            Frame::FilePaths(paths()),
            format!("00 00 00 20 77 58 03 00 {body}"),
        ),
        (
            3,
            Frame::MemfdNames(paths()),
            format!("00 00 00 20 77 58 03 05 {body}"),
        ),
        (
            0,
            Frame::MemfdNames(long_paths()),
            format!("00 00 00 3f 77 58 00 05 {LONG_PATHS}"),
        ),
        (
            0,
            Frame::FilePaths(long_paths()),
            format!("00 00 00 3f 77 58 00 00 {LONG_PATHS}"),
        ),
    ]
}

fn other_examples() -> Vec<Example> {
    let fallback = |payload: &[u8]| Frame::Fallback {
        stream: 2,
        status: 0,
        payload: payload.to_vec(),
    };
    vec![
        (2, Frame::Polling, "00 00 00 08 77 58 02 01".to_owned()),
        (3, Frame::Polling, "00 00 00 08 77 58 03 01".to_owned()),
        (0, Frame::Polling, "00 00 00 08 77 58 00 01".to_owned()),
        (
            3,
            Frame::Close { stream: 2 },
            "00 00 00 0c 77 58 03 02 00 00 00 02".to_owned(),
        ),
        (
            0,
            Frame::Close { stream: 2 },
            "00 00 00 0c 77 58 00 02 00 00 00 02".to_owned(),
        ),
        (
            3,
            fallback(b"hello"),
            "00 00 00 15 77 58 03 03 00 00 00 02 00 00 00 00 68 65 6c 6c 6f".to_owned(),
        ),
        (
            0,
            fallback(b"hi"),
            "00 00 00 12 77 58 00 03 00 00 00 02 00 00 00 00 68 69".to_owned(),
        ),
        (3, Frame::Version(3), "00 00 00 08 77 58 03 04".to_owned()),
        (3, Frame::Mapped, "00 00 00 08 77 58 03 06".to_owned()),
        (0, Frame::Mapped, "00 00 00 08 77 58 00 06".to_owned()),
        (
            3,
            Frame::ReadyForDescriptors,
            "00 00 00 08 77 58 03 07".to_owned(),
        ),
        (
            0,
            Frame::ReadyForDescriptors,
            "00 00 00 08 77 58 00 07".to_owned(),
        ),
        (
            3,
            Frame::HotRestart { epoch: 1122 },
            "00 00 00 10 77 58 03 08 00 00 00 00 00 00 04 62".to_owned(),
        ),
        (
            3,
            Frame::HotRestartAck { epoch: 1122 },
            "00 00 00 10 77 58 03 09 00 00 00 00 00 00 04 62".to_owned(),
        ),
    ]
}

/// Sections 12.1 and 15.3.
#[test]
fn messages_look_as_in_the_reference() {
    for (version, frame, expected) in examples_with_paths().into_iter().chain(other_examples()) {
        let expected = hex(&expected);
        assert_eq!(frame.encode(version), expected, "{frame:?}");
        assert_eq!(Deframer::decode_all(&expected), Ok(vec![frame]));
    }
}

pub(super) const REQUEST_EVENTFD: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":["eventfd_wakeup"],"settings":{}}"#;
const REQUEST_PLAIN: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":[],"settings":{}}"#;
const REQUEST_POLLING: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":["event_queue_polling"],"settings":{"event_queue_polling":{"polling_interval_us":100}}}"#;
pub(super) const REPLY_EVENTFD: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":["eventfd_wakeup"],"settings":{}}"#;
const REPLY_PLAIN: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":[],"settings":{}}"#;
const REPLY_POLLING: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":["event_queue_polling"],"settings":{"event_queue_polling":{"polling_interval_us":100}}}"#;
const REPLY_REFUSED: &str = r#"{"selected_protocol":0,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":[],"settings":{},"error":{"code":"VERSION_NOT_SUPPORTED","message":"protocol version is not supported"}}"#;

/// Section 15.1.
pub(super) const REQUEST_BYTES: &str = "
    00 00 00 84 77 58 00 0a 7b 22 73 75 70 70 6f 72
    74 73 5f 70 72 6f 74 6f 63 6f 6c 73 22 3a 5b 34
    5d 2c 22 73 64 6b 5f 6e 61 6d 65 22 3a 22 73 68
    6d 69 70 63 2d 72 73 22 2c 22 73 64 6b 5f 76 65
    72 73 69 6f 6e 22 3a 22 30 2e 32 2e 31 22 2c 22
    73 75 70 70 6f 72 74 73 5f 66 65 61 74 75 72 65
    73 22 3a 5b 22 65 76 65 6e 74 66 64 5f 77 61 6b
    65 75 70 22 5d 2c 22 73 65 74 74 69 6e 67 73 22
    3a 7b 7d 7d";
pub(super) const REPLY_BYTES: &str = "
    00 00 00 81 77 58 00 0a 7b 22 73 65 6c 65 63 74
    65 64 5f 70 72 6f 74 6f 63 6f 6c 22 3a 34 2c 22
    73 64 6b 5f 6e 61 6d 65 22 3a 22 73 68 6d 69 70
    63 2d 72 73 22 2c 22 73 64 6b 5f 76 65 72 73 69
    6f 6e 22 3a 22 30 2e 32 2e 31 22 2c 22 73 65 6c
    65 63 74 65 64 5f 66 65 61 74 75 72 65 73 22 3a
    5b 22 65 76 65 6e 74 66 64 5f 77 61 6b 65 75 70
    22 5d 2c 22 73 65 74 74 69 6e 67 73 22 3a 7b 7d
    7d";

/// Sections 15.1 and 15.2.
#[test]
fn negotiations_look_as_in_the_reference() {
    for (json, bytes) in [
        (REQUEST_EVENTFD, REQUEST_BYTES),
        (REPLY_EVENTFD, REPLY_BYTES),
    ] {
        let message = Frame::Negotiation(json.as_bytes().to_vec());
        assert_eq!(message.encode(0), hex(bytes));
        assert_eq!(Deframer::decode_all(&hex(bytes)), Ok(vec![message]));
    }
    for (json, header) in [
        (REQUEST_PLAIN, "00 00 00 74 77 58 00 0a"),
        (REQUEST_POLLING, "00 00 00 ba 77 58 00 0a"),
        (REPLY_PLAIN, "00 00 00 71 77 58 00 0a"),
        (REPLY_POLLING, "00 00 00 b7 77 58 00 0a"),
        (REPLY_REFUSED, "00 00 00 c8 77 58 00 0a"),
    ] {
        let message = Frame::Negotiation(json.as_bytes().to_vec()).encode(0);
        assert_eq!(message[..8], hex(header));
    }
}

/// What we say in a negotiation, as it would be under the name of the crate.
pub(super) fn by_the_crate(json: &[u8]) -> String {
    let ours = concat!(
        r#""sdk_name":"shmipc-transport","sdk_version":""#,
        env!("CARGO_PKG_VERSION"),
        '"'
    );
    let json = String::from_utf8(json.to_vec()).unwrap();
    assert!(json.contains(ours), "{json}");
    json.replace(ours, r#""sdk_name":"shmipc-rs","sdk_version":"0.2.1""#)
}

/// Sections 15.1 and 15.2.
#[test]
fn requests_and_replies_are_said_and_understood_as_in_the_reference() {
    let hundred = Wakes::Polling(Duration::from_micros(100));
    let accepts = Accepts {
        outbox: true,
        shmipc: true,
    };
    for (request, reply, wakes) in [
        (REQUEST_EVENTFD, REPLY_EVENTFD, Wakes::EventFd),
        (REQUEST_PLAIN, REPLY_PLAIN, Wakes::Socket),
        (REQUEST_POLLING, REPLY_POLLING, hundred),
    ] {
        let terms = Terms {
            wakes,
            windows: None,
        };
        let decoded = Request::decode(request.as_bytes()).unwrap();
        assert_eq!(decoded.judge(accepts), Ok(Choice::Shmipc(terms)));
        let offer = Offer {
            outbox: None,
            shmipc: Some(terms),
        };
        let decoded = Response::decode(reply.as_bytes()).unwrap();
        assert_eq!(decoded.answer(&offer), Answer::Shmipc(terms));
        assert_eq!(by_the_crate(&Request::new(&offer).encode()), request);
        assert_eq!(by_the_crate(&Response::shmipc(&terms).encode()), reply);
    }
    let refused = Response::decode(REPLY_REFUSED.as_bytes()).unwrap();
    let offer = Offer {
        outbox: None,
        shmipc: None,
    };
    let refusal = Refusal::new(
        RefusalCode::VersionNotSupported,
        "protocol version is not supported",
    );
    assert_eq!(
        by_the_crate(&Response::refusal(&refusal).encode()),
        REPLY_REFUSED
    );
    assert_eq!(refused.answer(&offer), Answer::Refused(refusal));
}

const MESSAGE: Element = Element {
    stream: 2,
    offset: 44,
    status: state::OPEN,
};
const CLOSE: Element = Element {
    stream: 2,
    offset: 0,
    status: state::CLOSED,
};

/// A region of queues of `cap` elements as the peer has made it. What we make has 16 elements at least.
pub(super) fn their_queues(cap: u32, layout: QueueLayout) -> (TestMemory, [Queues<TestMemory>; 2]) {
    let memory = TestMemory::new(2 * (24 + 12 * cap));
    memory.set(0, cap);
    memory.set(memory.len() / 2, cap);
    let sides = [(); 2].map(|()| Queues::open(memory.clone(), layout).unwrap());
    (memory, sides)
}

/// Section 12.2.
#[test]
fn queues_look_as_in_the_reference() {
    for (layout, put, drained) in [
        (
            QueueLayout::Legacy,
            "04000000 00000000 00000000 01000000 00000000 01000000 02000000 2c000000 00000000",
            "04000000 01000000 00000000 02000000 00000000 01000000 02000000 2c000000 00000000 02000000 00000000 01000000",
        ),
        (
            QueueLayout::Aligned,
            "04000000 01000000 00000000 00000000 01000000 00000000 02000000 2c000000 00000000",
            "04000000 01000000 01000000 00000000 02000000 00000000 02000000 2c000000 00000000 02000000 00000000 01000000",
        ),
    ] {
        let (memory, [client, server]) = their_queues(4, layout);
        let fresh = with(vec![0; 144], &[(0x00, "04000000"), (0x48, "04000000")]);
        expect(&memory, &fresh);
        let mut producer = client.to_server.into_producer();
        let mut consumer = server.to_server.into_consumer();
        producer.put(MESSAGE);
        assert!(producer.must_wake());
        expect(&memory, &with(fresh.clone(), &[(0, put)]));
        assert_eq!(consumer.take(), Ok(Some(MESSAGE)));
        assert!(consumer.arm());
        producer.put(CLOSE);
        assert!(producer.must_wake());
        expect(&memory, &with(fresh, &[(0, drained)]));
        assert!(!producer.must_wake(), "the flag is set");
        assert_eq!(consumer.take(), Ok(Some(CLOSE)));
        assert_eq!(consumer.take(), Ok(None));
    }
}

/// Section 15.4.
#[test]
fn queues_of_8_elements_look_as_in_the_reference() {
    for (layout, put) in [
        (
            QueueLayout::Aligned,
            "08000000 01000000 00000000 00000000 01000000 00000000 02000000 2c000000 00000000",
        ),
        (
            QueueLayout::Legacy,
            "08000000 00000000 00000000 01000000 00000000 01000000 02000000 2c000000 00000000",
        ),
    ] {
        let (memory, [client, server]) = their_queues(8, layout);
        let fresh = with(vec![0; 240], &[(0x00, "08000000"), (0x78, "08000000")]);
        expect(&memory, &fresh);
        let mut producer = client.to_server.into_producer();
        producer.put(MESSAGE);
        assert!(producer.must_wake());
        expect(&memory, &with(fresh.clone(), &[(0, put)]));
        assert_eq!(producer.room(), Ok(7));
        // The other direction, whose first element lies at 0x90.
        let mut producer = server.to_client.into_producer();
        producer.put(CLOSE);
        let close = hex("02000000 00000000 01000000");
        assert_eq!(memory.bytes()[0x90..0x9c], close);
    }
}

/// Section 6 for version 4, 4.1 for the others.
#[test]
fn versions_have_the_layouts_of_the_reference() {
    let legacy = if cfg!(target_arch = "x86_64") {
        QueueLayout::Legacy
    } else {
        QueueLayout::Aligned
    };
    assert_eq!(
        [2, 3, 4].map(QueueLayout::of),
        [legacy, legacy, QueueLayout::Aligned]
    );
    for layout in [QueueLayout::Legacy, QueueLayout::Aligned] {
        let (memory, ..) = queues(8192, layout);
        assert_eq!(memory.len(), 196_656);
        let caps = [(0, "00200000"), (98_328, "00200000")];
        expect(&memory, &with(vec![0; 196_656], &caps));
    }
}

/// The region of section 12.3, as it is made.
fn fresh() -> Vec<u8> {
    with(
        vec![0; 296],
        &[(
            0x00,
            "02 00 00 00 1c 01 00 00 03 00 00 00 03 00 00 00
             00 00 00 00 48 00 00 00 10 00 00 00 00 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 10 00 00 00
             00 00 00 00 00 00 00 00 24 00 00 00 01 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             10 00 00 00 00 00 00 00 00 00 00 00 48 00 00 00
             01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00 10 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00 00 00 00 00 02 00 00 00 02 00 00 00
             00 00 00 00 34 00 00 00 20 00 00 00 00 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 20 00 00 00
             00 00 00 00 00 00 00 00 34 00 00 00 01 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             20 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             00 00 00 00",
        )],
    )
}

/// Section 12.3. A `next` that has no flag is stale in that reference, and means nothing; it is 0 here, as in the other one.
#[test]
fn a_region_of_two_lists_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(296, SMALL);
    expect(&memory, &fresh());
    assert_eq!(send(&creator, b"hello"), Some(44));
    let sent = with(
        fresh(),
        &[
            (0x08, "02000000"),
            (0x10, "24000000"),
            (0x1c, "01000000"),
            (0x30, "05000000 00000000"),
            (0x38, "00000000 02000000"),
            (0x40, "68656c6c6f"),
        ],
    );
    expect(&memory, &sent);
    assert_eq!(receive(&mapper, 44), b"hello");
    let freed = with(
        sent,
        &[
            (0x08, "03000000"),
            (0x14, "00000000"),
            (0x20, "ffffffff"),
            (0x30, "00000000 00000000"),
            (0x38, "00000000 00000000"),
            (0x80, "00000000 01000000"),
        ],
    );
    expect(&memory, &freed);
}

/// Section 12.3, the second half.
#[test]
fn a_chain_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let message: Vec<u8> = (0x41..=0x68).collect();
    assert_eq!(send(&creator, &message), Some(188));
    let sent = with(
        fresh(),
        &[
            (0x08, "02000000"),
            (0x10, "24000000"),
            (0x1c, "01000000"),
            (0x30, "08000000 00000000"),
            (0x38, "00000000 02000000"),
            (0x40, "61626364 65666768"),
            (0x98, "01000000"),
            (0xa0, "34000000"),
            (0xac, "01000000"),
            (0xc0, "20000000 00000000"),
            (0xc8, "2c000000 03000000"),
            (0xd0, "41424344 45464748 494a4b4c 4d4e4f50"),
            (0xe0, "51525354 55565758 595a5b5c 5d5e5f60"),
        ],
    );
    expect(&memory, &sent);
    assert_eq!(receive(&mapper, 188), message);
    let freed = with(
        sent,
        &[
            (0x08, "03000000"),
            (0x14, "00000000"),
            (0x20, "ffffffff"),
            (0x30, "00000000 00000000"),
            (0x3c, "00000000"),
            (0x84, "01000000"),
            (0x98, "02000000"),
            (0xa4, "00000000"),
            (0xb0, "ffffffff"),
            (0xc0, "00000000 00000000"),
            (0xc8, "00000000 00000000"),
            (0x100, "01000000"),
        ],
    );
    expect(&memory, &freed);
}

/// Section 15.5.
#[test]
fn a_region_of_one_list_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(1 << 20, &[(4096, 100)]);
    let fresh = memory.bytes();
    let heads = hex("
        01 00 00 00 fc f3 0f 00 fe 00 00 00 fe 00 00 00
        00 00 00 00 c4 e3 0f 00 00 10 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 00 00 00 00 10 00 00
        00 00 00 00 00 00 00 00 14 10 00 00 01 00 00 00");
    assert_eq!(fresh[..64], heads);
    assert_eq!(send(&creator, b"hello"), Some(0x2c));
    let sent = with(
        fresh,
        &[
            (
                0x08,
                "fd000000 fe000000 14100000 c4e30f00 00100000 01000000",
            ),
            (
                0x2c,
                "00100000 05000000 00000000 00000000 02000000 68656c6c6f",
            ),
        ],
    );
    expect(&memory, &sent);
    assert_eq!(receive(&mapper, 0x2c), b"hello");
    let freed = with(
        sent,
        &[
            (
                0x08,
                "fe000000 fe000000 14100000 00000000 00100000 01000000 ffffffff",
            ),
            (0x2c, "00100000 00000000 00000000 00000000 00000000"),
            (0xfe3f0, "00100000 00000000 00000000 00000000 01000000"),
        ],
    );
    expect(&memory, &freed);
}

/// Section 3.2 for versions 2 and 3, 8.1 for version 4.
#[test]
fn the_default_region_has_the_numbers_of_the_reference() {
    let (memory, creator, _) = pools(32 << 20, &[(8172, 50), (32748, 30), (131_052, 20)]);
    assert_eq!((memory.get(0), memory.get(4)), (3, 33_513_580));
    let lists = creator.geometry().lists();
    for (list, (at, first, capacity, count, allocatable)) in lists.iter().zip([
        (8, 44, 8172, 2047, 16_719_912),
        (16_769_068, 16_769_104, 32_748, 307, 10_020_888),
        (26_828_880, 26_828_916, 131_052, 51, 6_552_600),
    ]) {
        assert_eq!((list.header, list.first), (at, first));
        assert_eq!((list.capacity, list.count), (capacity, count));
        assert_eq!((count - 1) * capacity, allocatable);
        // Free, all of them, first and last, capacity.
        let last = (count - 1) * (capacity + 20);
        let words = [count, count, 0, last, capacity];
        assert_eq!([0, 4, 8, 12, 16].map(|word| memory.get(at + word)), words);
    }
    assert_eq!(creator.geometry().allocatable(), 33_293_400);
}
