//! The worked examples of the reference for versions 2 to 4.

use std::time::Duration;

use super::{
    super::frames::{Deframer, Frame, Paths},
    *,
};
use crate::core::{
    shmipc::{
        Element, state,
        terms::{Terms, Wakes},
    },
    wire::negotiation::{Accepts, Answer, Choice, Offer, Request, Response},
};

/// Bytes written as in the reference: hexadecimal, `|` and spaces between them mean nothing.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Says that `memory` has these bytes at `at`.
fn expect(memory: &TestMemory, at: usize, expected: &str) {
    let expected = hex(expected);
    let found = &memory.bytes()[at..at + expected.len()];
    assert_eq!(found, expected, "at {at:#06x}");
}

fn paths() -> Paths {
    Paths {
        queue: b"/dev/shm/q".to_vec(),
        buffer: b"/dev/shm/b".to_vec(),
    }
}

/// A version byte, a message, and what it looks like.
type Example = (u8, Frame, String);

fn examples_with_paths() -> Vec<Example> {
    let body = "00 0a 2f 64 65 76 2f 73 68 6d 2f 71 00 0a 2f 64 65 76 2f 73 68 6d 2f 62";
    let long = Paths {
        queue: b"/dev/shm/shmipc_42_queue_0".to_vec(),
        buffer: b"/dev/shm/shmipc_42_buffer".to_vec(),
    };
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
            Frame::MemfdNames(long),
            "00 00 00 3f 77 58 00 05 00 1a 2f 64 65 76 2f 73
            68 6d 2f 73 68 6d 69 70 63 5f 34 32 5f 71 75 65
            75 65 5f 30 00 19 2f 64 65 76 2f 73 68 6d 2f 73
            68 6d 69 70 63 5f 34 32 5f 62 75 66 66 65 72"
                .to_owned(),
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

#[test]
fn messages_look_as_in_the_reference() {
    for (version, frame, expected) in examples_with_paths().into_iter().chain(other_examples()) {
        let expected = hex(&expected);
        assert_eq!(frame.encode(version), expected, "{frame:?}");
        assert_eq!(Deframer::decode_all(&expected), Ok(vec![frame]));
    }
}

const REQUEST_EVENTFD: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":["eventfd_wakeup"],"settings":{}}"#;
const REQUEST_PLAIN: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":[],"settings":{}}"#;
const REQUEST_POLLING: &str = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":["event_queue_polling"],"settings":{"event_queue_polling":{"polling_interval_us":100}}}"#;
const REPLY_EVENTFD: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":["eventfd_wakeup"],"settings":{}}"#;
const REPLY_PLAIN: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":[],"settings":{}}"#;
const REPLY_POLLING: &str = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":["event_queue_polling"],"settings":{"event_queue_polling":{"polling_interval_us":100}}}"#;
const REPLY_REFUSED: &str = r#"{"selected_protocol":0,"sdk_name":"shmipc-rs","sdk_version":"0.2.1","selected_features":[],"settings":{},"error":{"code":"VERSION_NOT_SUPPORTED","message":"protocol version is not supported"}}"#;

#[test]
fn negotiations_have_the_headers_of_the_reference() {
    for (json, header) in [
        (REQUEST_EVENTFD, "00 00 00 84 77 58 00 0a"),
        (REQUEST_PLAIN, "00 00 00 74 77 58 00 0a"),
        (REQUEST_POLLING, "00 00 00 ba 77 58 00 0a"),
        (REPLY_EVENTFD, "00 00 00 81 77 58 00 0a"),
        (REPLY_PLAIN, "00 00 00 71 77 58 00 0a"),
        (REPLY_POLLING, "00 00 00 b7 77 58 00 0a"),
        (REPLY_REFUSED, "00 00 00 c8 77 58 00 0a"),
    ] {
        let message = Frame::Negotiation(json.as_bytes().to_vec()).encode(0);
        assert_eq!(message[..8], hex(header));
    }
}

#[test]
fn requests_and_replies_of_others_are_understood() {
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
        let request = Request::decode(request.as_bytes()).unwrap();
        assert_eq!(request.judge(accepts), Ok(Choice::Shmipc(terms)));
        let offer = Offer {
            outbox: None,
            shmipc: Some(terms),
        };
        let reply = Response::decode(reply.as_bytes()).unwrap();
        assert_eq!(reply.answer(&offer), Answer::Shmipc(terms));
        // But for our name, ours are the same.
        let ours = String::from_utf8(Request::new(&offer).encode()).unwrap();
        assert_eq!(
            Request::decode(ours.as_bytes()).unwrap().judge(accepts),
            Ok(Choice::Shmipc(terms))
        );
    }
    let refused = Response::decode(REPLY_REFUSED.as_bytes()).unwrap();
    let offer = Offer {
        outbox: None,
        shmipc: None,
    };
    assert!(matches!(refused.answer(&offer), Answer::Refused(_)));
}

#[test]
fn queues_look_as_in_the_reference() {
    // The reference's queue has 4 elements; what we make has 16 at least, so the peer makes this one.
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
        let memory = TestMemory::new(144);
        memory.set(0, 4);
        memory.set(72, 4);
        let [client, server] = [(); 2].map(|()| Queues::open(memory.clone(), layout).unwrap());
        let mut producer = client.to_server.into_producer();
        let mut consumer = server.to_server.into_consumer();
        let message = Element {
            stream: 2,
            offset: 44,
            status: state::OPEN,
        };
        let close = Element {
            stream: 2,
            offset: 0,
            status: state::CLOSED,
        };
        producer.put(message);
        assert!(producer.must_wake());
        expect(&memory, 0, put);
        assert_eq!(consumer.take(), Ok(Some(message)));
        assert!(consumer.arm());
        producer.put(close);
        assert!(producer.must_wake());
        expect(&memory, 0, drained);
        assert!(!producer.must_wake(), "the flag is set");
        assert_eq!(consumer.take(), Ok(Some(close)));
        assert_eq!(consumer.take(), Ok(None));
        expect(&memory, 72, "04000000 00000000 00000000");
    }
}

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
    assert_eq!(QueuePlan::new(8192).len(), 196_656);
}

#[test]
fn a_region_of_two_lists_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(296, SMALL);
    expect(
        &memory,
        0x00,
        "02000000 1c010000 03000000 03000000 00000000 48000000 10000000 00000000",
    );
    expect(
        &memory,
        0x20,
        "00000000 00000000 00000000 10000000 00000000 00000000 24000000 01000000",
    );
    expect(
        &memory,
        0x50,
        "10000000 00000000 00000000 48000000 01000000",
    );
    expect(
        &memory,
        0x74,
        "10000000 00000000 00000000 00000000 00000000",
    );
    expect(
        &memory,
        0x98,
        "02000000 02000000 00000000 34000000 20000000 00000000 00000000 00000000 00000000",
    );
    expect(
        &memory,
        0xbc,
        "20000000 00000000 00000000 34000000 01000000",
    );
    expect(
        &memory,
        0xf0,
        "20000000 00000000 00000000 00000000 00000000",
    );
    assert_eq!(send(&creator, b"hello"), Some(44));
    expect(&memory, 0x08, "02000000 03000000 24000000");
    expect(&memory, 0x1c, "01000000");
    // `next` is stale in the reference, and means nothing without its flag.
    expect(
        &memory,
        0x30,
        "05000000 00000000 00000000 02000000 68656c6c6f",
    );
    assert_eq!(receive(&mapper, 44), b"hello");
    expect(
        &memory,
        0x08,
        "03000000 03000000 24000000 00000000 10000000 01000000 ffffffff",
    );
    expect(&memory, 0x30, "00000000 00000000 00000000 00000000");
    expect(&memory, 0x80, "00000000 01000000");
}

#[test]
fn a_chain_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let message: Vec<u8> = (0x41..=0x68).collect();
    assert_eq!(send(&creator, &message), Some(188));
    expect(&memory, 0x08, "02000000 03000000 24000000");
    expect(
        &memory,
        0x30,
        "08000000 00000000 00000000 02000000 6162636465666768",
    );
    expect(&memory, 0x98, "01000000 02000000 34000000");
    expect(&memory, 0xac, "01000000");
    expect(
        &memory,
        0xc0,
        "20000000 00000000 2c000000 03000000 41424344",
    );
    assert_eq!(receive(&mapper, 188), message);
    expect(&memory, 0x08, "03000000");
    expect(&memory, 0x14, "00000000");
    expect(&memory, 0x20, "ffffffff");
    expect(&memory, 0x84, "01000000");
    expect(&memory, 0x98, "02000000 02000000 34000000 00000000");
    expect(&memory, 0xb0, "ffffffff");
    expect(&memory, 0xc0, "00000000 00000000 00000000 00000000");
    expect(&memory, 0x100, "01000000");
}

#[test]
fn a_region_of_one_list_looks_as_in_the_reference() {
    let (memory, creator, mapper) = pools(1 << 20, &[(4096, 100)]);
    expect(
        &memory,
        0x00,
        "01000000 fcf30f00 fe000000 fe000000 00000000 c4e30f00 00100000 00000000",
    );
    expect(
        &memory,
        0x20,
        "00000000 00000000 00000000 00100000 00000000 00000000 14100000 01000000",
    );
    assert_eq!(send(&creator, b"hello"), Some(0x2c));
    expect(
        &memory,
        0x08,
        "fd000000 fe000000 14100000 c4e30f00 00100000 01000000",
    );
    expect(
        &memory,
        0x2c,
        "00100000 05000000 00000000 00000000 02000000 68656c6c6f",
    );
    assert_eq!(receive(&mapper, 0x2c), b"hello");
    expect(
        &memory,
        0x08,
        "fe000000 fe000000 14100000 00000000 00100000 01000000 ffffffff",
    );
    expect(
        &memory,
        0x2c,
        "00100000 00000000 00000000 00000000 00000000",
    );
    expect(
        &memory,
        0xfe3f0,
        "00100000 00000000 00000000 00000000 01000000",
    );
}

#[test]
fn the_default_region_has_the_numbers_of_the_reference() {
    let plan = Geometry::plan(32 << 20, &[(8172, 50), (32748, 30), (131_052, 20)]).unwrap();
    let counts: Vec<_> = plan
        .lists()
        .iter()
        .map(|list| (list.capacity, list.count))
        .collect();
    assert_eq!(counts, [(8172, 2047), (32748, 307), (131_052, 51)]);
    assert_eq!(plan.allocatable(), 33_293_400);
}
