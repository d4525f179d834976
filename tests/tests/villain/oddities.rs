//! What no honest peer does, and harms nobody.

use shmipc_transport::SessionLost;
use tests::{
    alone, process,
    villain::{Record, Role, Segment, Villain, at, record},
};

use crate::{PAGE, hoarded, stage::Stage, zeros};

/// Something odd, and how it is done.
type Oddity = (&'static str, fn(&mut Villain));

/// In this order, on one session.
const ODDITIES: &[Oddity] = &[
    ("pads", |v| {
        for len in [0, 16, 1000] {
            zeros(v, record::PAD, len)
        }
    }),
    ("asleep with every value", |v| {
        for value in [1, 3, u32::MAX, 0, 2] {
            v.own.store(at::SLEEP, value)
        }
    }),
    ("starved with every value", |v| {
        for value in [1, 3, u32::MAX, 0, 2] {
            v.own.store(at::STARVED, value)
        }
    }),
    ("constants that change", |v| {
        for word in 0..9 {
            v.own.store(4 * word, u32::MAX)
        }
    }),
    ("go-away twice", |v| {
        for _ in 0..2 {
            zeros(v, record::GO_AWAY, 0)
        }
    }),
    ("no credit", |v| {
        let id = v.open(1, b"n");
        v.push(Record::control(record::CREDIT, id, &[0, 0]));
    }),
    ("news of a stream that is over", |v| {
        let id = v.open(record::MESSAGE, b"n");
        for body in [&[1], &[2]] {
            v.push(Record::control(record::RESET, id, body));
        }
        v.push(Record::control(record::CREDIT, id, &[9, 9]));
        v.push(Record::data(id, record::MESSAGE, b"late"));
    }),
    ("ids with gaps", |v| {
        let id = v.next_stream() + 100;
        v.push(Record::data(id, 3, b"n"));
        v.push(Record::control(record::RESET, id, &[1]));
    }),
    ("an empty segment", |v| {
        v.add_region(9, 4096);
        hoarded(
            v,
            Segment {
                region: 9,
                token: 1,
                offset: 4096,
                len: 0,
            },
        )
    }),
    ("overlapping segments", |v| {
        v.add_region(8, 4096);
        hoarded(v, Segment { region: 8, ..PAGE });
        hoarded(
            v,
            Segment {
                region: 8,
                token: 8,
                offset: 1,
                len: 9,
            },
        )
    }),
    ("a segment changed after it was sent", |v| {
        v.add_region(7, 4096);
        hoarded(
            v,
            Segment {
                region: 7,
                token: 9,
                ..PAGE
            },
        )
    }),
];

#[test]
fn oddities_are_borne() {
    alone(async {
        let mut stage = Stage::new().await;
        let before = process::Holdings::count();
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
            villain.message();
            // Opened first, because ids only count up.
            let echo = villain.open(record::MESSAGE, b"e");
            assert_eq!(villain.message().body, b"e");
            for (name, tell) in ODDITIES {
                tell(&mut villain);
                villain.push(Record::data(echo, record::MESSAGE, name.as_bytes()));
                let reply = loop {
                    let message = villain.message();
                    if message.stream == echo {
                        break message;
                    }
                };
                assert_eq!(reply.body, name.as_bytes(), "{name} ({role:?})");
                villain.push(Record::control(record::CREDIT, echo, &[0, 0]));
                assert!(!session.is_closed(), "{name} ({role:?})");
            }
            drop(villain);
            let lost = tests::in_time("hanging up", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
            stage.bystander_is_well("oddities").await;
        }
        before.are_back("after oddities").await;
    });
}
