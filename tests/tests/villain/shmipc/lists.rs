//! Lies in the free lists, out of which the victim takes what it sends, and into which it puts what it received.

use shmipc_transport::{
    InvalidShmipc::{ListCursor, SliceHeld},
    PeerMisbehaved::Shmipc,
};
use tests::{
    alone,
    villain::{
        Role,
        shmipc::{Dialect, ShmipcVillain, list, slice},
    },
};

use super::{session, shmipc_lies, stage, stream_after_theirs, told, told_to_holders};

/// Forges a word of all lists, and has the victim take something out of one.
fn forged(villain: &mut ShmipcVillain, field: u32, value: u32) {
    let stream = villain.stream();
    let prod = villain.buffers.write(b"a");
    forge(villain, field, value);
    sent(villain, stream, prod);
}

fn forge(villain: &ShmipcVillain, field: u32, value: u32) {
    for list in &villain.buffers.lists {
        villain.buffers.memory.store(list.at + field, value);
    }
}

fn sent(villain: &mut ShmipcVillain, stream: u32, offset: u32) {
    villain.put(tests::villain::shmipc::Element {
        stream,
        offset,
        status: 0,
    });
}

/// Has a list begin, or end, with a slice that the victim holds, and the victim use it.
fn held_is_free(villain: &mut ShmipcVillain) {
    let [keeping, taking] = [villain.prod(b"h"), villain.stream()];
    let prod = villain.buffers.write(b"a");
    let held = villain.send(keeping, &[1; 4000]);
    let stream = villain.stream();
    // An answer shows that the message has arrived.
    villain.send(stream, b"echo");
    while villain.message().is_some_and(|(of, _)| of != stream) {}
    let list = villain.buffers.lists[1];
    let memory = &villain.buffers.memory;
    memory.store(held + slice::NEXT, list.relative(list.count - 1));
    memory.store(held + slice::FLAGS, slice::HAS_NEXT);
    memory.store(list.at + list::HEAD, held - list.first());
    memory.store(list.at + list::SIZE, 8);
    sent(villain, taking, prod);
}

#[test]
fn hazard_h24_lists_that_begin_or_end_where_no_slice_lies() {
    alone(async {
        told(shmipc_lies! {
            "the first beside a slice": |v| forged(v, list::HEAD, 4) => Shmipc(ListCursor { offset: 4, .. }),
            "the first behind the last": |v| forged(v, list::HEAD, 1 << 24) => Shmipc(ListCursor { .. }),
            "the first nowhere": |v| forged(v, list::HEAD, u32::MAX) => Shmipc(ListCursor { offset: u32::MAX, .. }),
            "the last beside a slice": |v| forged(v, list::TAIL, 20) => Shmipc(ListCursor { offset: 20, .. }),
            "the last nowhere": |v| forged(v, list::TAIL, u32::MAX) => Shmipc(ListCursor { .. }),
            "the last is what is put back": |v| {
                let stream = v.stream();
                let offset = v.buffers.write(b"x");
                v.buffers.memory.store(v.buffers.lists[0].at + list::TAIL, offset - v.buffers.lists[0].first());
                sent(v, stream, offset);
            } => Shmipc(ListCursor { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_h1_a_slice_that_is_held_and_free_at_once() {
    alone(async {
        told_to_holders(shmipc_lies! {
            "the first is held": held_is_free => Shmipc(SliceHeld { .. }),
        })
        .await;
    });
}

/// What the lists of a session are made to look like before the victim takes something out of them.
type Ruin = (&'static str, fn(&ShmipcVillain));

/// Lists out of which nothing can be taken.
const RUINS: &[Ruin] = &[
    ("hazard H3: nothing is free", |v| forge(v, list::SIZE, 0)),
    ("hazard H3: less than nothing", |v| {
        forge(v, list::SIZE, i32::MIN.cast_unsigned() + 100)
    }),
    ("hazard H2: cut behind the first", |v| {
        first(v, slice::FLAGS, 0)
    }),
    ("the first is in use", |v| {
        first(v, slice::FLAGS, slice::HAS_NEXT | slice::IN_USE)
    }),
    ("hazard H24: the second lies nowhere", |v| {
        first(v, slice::NEXT, u32::MAX)
    }),
    ("hazard H24: the second lies beside a slice", |v| {
        first(v, slice::NEXT, 4)
    }),
    ("hazard H22: the first follows itself", |v| {
        for list in &v.buffers.lists {
            let memory = &v.buffers.memory;
            let head = memory.load(list.at + list::HEAD);
            memory.store(list.first() + head + slice::NEXT, head);
        }
    }),
];

/// Changes a word of the first slice of all lists.
fn first(villain: &ShmipcVillain, field: u32, value: u32) {
    for list in &villain.buffers.lists {
        let memory = &villain.buffers.memory;
        let head = memory.load(list.at + list::HEAD);
        memory.store(list.first() + head + field, value);
    }
}

/// All that such a peer can do is have messages go over the socket.
#[test]
fn hazard_h2_h3_ruined_lists_are_a_lack_of_memory() {
    alone(async {
        for dialect in Dialect::ALL {
            let mut stage = stage(dialect).await;
            for (name, ruin) in RUINS {
                for role in [Role::Client, Role::Server] {
                    let (mut villain, session) = session(&mut stage, role, dialect).await;
                    // What is taken meanwhile would be ruined instead of the list.
                    let stream = stream_after_theirs(&mut villain);
                    let prod = villain.buffers.write(b"a");
                    ruin(&villain);
                    sent(&mut villain, stream, prod);
                    let answer = villain.fallback();
                    let expected = (stream, vec![7; 8192]);
                    assert_eq!(answer, expected, "{name} ({role:?}, {dialect:?})");
                    assert!(!session.is_closed(), "{name} ({role:?}, {dialect:?})");
                    drop((villain, session));
                    stage.bystander_is_well(name).await;
                }
            }
        }
    });
}
