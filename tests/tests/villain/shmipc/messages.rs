//! Lies in elements, and in the chains that they lead to.

use shmipc_transport::{
    InvalidShmipc::{ListCursor, MessageLength, SliceHeader, SliceHeld, SliceOffset},
    Payloads,
    PeerMisbehaved::Shmipc,
};
use tests::{
    alone, echo, in_time,
    villain::{
        Role,
        shmipc::{Dialect, Element, ShmipcScript, ShmipcVillain, record, slice},
    },
};

use super::{borne, shmipc_lies, stage_with, told, told_in, told_on, told_to_holders};

/// Sends a message that lies at `offset`, on a stream whose messages are kept.
fn at(villain: &mut ShmipcVillain, offset: u32) {
    let stream = villain.prod(b"h");
    villain.put(Element {
        stream,
        offset,
        status: 0,
    });
}

/// Sends a message whose slice has a word of its head changed.
fn forged(villain: &mut ShmipcVillain, field: u32, value: u32) {
    let offset = villain.buffers.write(b"echo");
    villain.buffers.memory.store(offset + field, value);
    at(villain, offset);
}

/// Links slices, the last one to whichever comes first.
fn linked(villain: &mut ShmipcVillain, slices: &[u32], last: u32) {
    let next = slices[1..].iter().chain([&last]);
    for (&at, &next) in slices.iter().zip(next) {
        let memory = &villain.buffers.memory;
        memory.store(at + slice::NEXT, next);
        memory.store(at + slice::FLAGS, slice::HAS_NEXT | slice::IN_USE);
    }
    at(villain, slices[0]);
}

/// Slices that hold something.
fn slices<const COUNT: usize>(villain: &ShmipcVillain) -> [u32; COUNT] {
    std::array::from_fn(|_| villain.buffers.write(&[1; 4000]))
}

#[test]
fn hazard_h21_h68_messages_that_lie_where_no_slice_does() {
    alone(async {
        told(shmipc_lies! {
            "the head of the region": |v| at(v, 0) => Shmipc(SliceOffset { offset: 0 }),
            "the head of a list": |v| at(v, v.buffers.lists[1].at) => Shmipc(SliceOffset { .. }),
            "beside a slice": |v| { let offset = v.buffers.write(b"x"); at(v, offset + 4) } => Shmipc(SliceOffset { .. }),
            "at an odd place": |v| { let offset = v.buffers.write(b"x"); at(v, offset + 1) } => Shmipc(SliceOffset { .. }),
            "behind the last slice": |v| { let list = v.buffers.lists[1]; at(v, list.first() + list.relative(list.count)) }
                => Shmipc(SliceOffset { .. }),
            "so that its end wraps": |v| at(v, u32::MAX - 19) => Shmipc(SliceOffset { .. }),
            "nowhere": |v| at(v, u32::MAX) => Shmipc(SliceOffset { offset: u32::MAX }),
        })
        .await;
    });
}

#[test]
fn hazard_h21_heads_that_contradict_their_list() {
    alone(async {
        told(shmipc_lies! {
            "no capacity": |v| forged(v, slice::CAPACITY, 0) => Shmipc(SliceHeader { capacity: 0, .. }),
            "the capacity of another list": |v| forged(v, slice::CAPACITY, 4096) => Shmipc(SliceHeader { .. }),
            "a capacity beyond everything": |v| forged(v, slice::CAPACITY, u32::MAX) => Shmipc(SliceHeader { .. }),
            "one byte too many": |v| forged(v, slice::SIZE, 1025) => Shmipc(SliceHeader { size: 1025, .. }),
            "more bytes than there are": |v| forged(v, slice::SIZE, u32::MAX) => Shmipc(SliceHeader { .. }),
            "bytes from behind the end": |v| forged(v, slice::START, 1021) => Shmipc(SliceHeader { start: 1021, size: 4, .. }),
            "a sum that wraps": |v| forged(v, slice::START, u32::MAX - 3) => Shmipc(SliceHeader { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_h22_chains_that_do_not_end_or_cross() {
    alone(async {
        told(shmipc_lies! {
            "a slice that follows itself": |v| { let [a] = slices(v); linked(v, &[a], a) } => Shmipc(SliceHeld { .. }),
            "two that follow each other": |v| { let [a, b] = slices(v); linked(v, &[a, b], a) } => Shmipc(SliceHeld { .. }),
            "a long way round": |v| { let all: [u32; 4] = slices(v); linked(v, &all, all[2]) } => Shmipc(SliceHeld { .. }),
            "hazard V6: a slice of nothing that follows itself": |v| { let a = v.buffers.write(b""); linked(v, &[a], a) }
                => Shmipc(SliceHeld { .. }),
            "hazard V6: two of nothing that follow each other": |v| {
                let [a, b] = std::array::from_fn(|_| v.buffers.write(b""));
                linked(v, &[a, b], a);
            } => Shmipc(SliceHeld { .. }),
        })
        .await;
        told_to_holders(shmipc_lies! {
            "the same message twice": |v| { let [a] = slices(v); at(v, a); at(v, a) } => Shmipc(SliceHeld { .. }),
            "a chain into a message that is held": |v| { let [a, b] = slices(v); at(v, a); linked(v, &[b], a) }
                => Shmipc(SliceHeld { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_h46_messages_that_are_too_long() {
    alone(async {
        for dialect in Dialect::ALL {
            // As long as those of the victim.
            let limits = |shmipc: shmipc_transport::Shmipc| shmipc.message_max(8192);
            let stage = stage_with(dialect, limits, |config| config).await;
            let lies = shmipc_lies! {
                "three slices": |v| { let [a, b, c] = slices(v); linked(v, &[a, b], c) } => Shmipc(MessageLength { max: 8192 }),
                "over the socket": |v| { let stream = v.stream(); v.fall_back(stream, 0, &[1; 8193]) } => Shmipc(MessageLength { max: 8192 }),
            };
            told_on(stage, dialect, lies).await;
        }
    });
}

#[test]
fn hazard_h12_chains_whose_last_slice_leads_on() {
    alone(async {
        told(shmipc_lies! {
            "to the head of the region": |v| { let [a] = slices(v); linked(v, &[a], 0) } => Shmipc(SliceOffset { offset: 0 }),
            "to the middle of a slice": |v| { let [a, b] = slices(v); linked(v, &[a], b + 20) } => Shmipc(SliceOffset { .. }),
            "to nowhere": |v| { let [a] = slices(v); linked(v, &[a], u32::MAX) } => Shmipc(SliceOffset { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_v7_a_short_message_that_is_sent_twice_ties_its_list_in_a_knot() {
    alone(async {
        // It was copied and put back, and is the last of its list when it is put back again.
        told(shmipc_lies! {
            "a slice that lies in its list": |v| {
                let stream = v.prod(b"h");
                let offset = v.buffers.write(b"short");
                for _ in 0..2 {
                    v.put(Element { stream, offset, status: 0 });
                }
            } => Shmipc(ListCursor { .. } | SliceHeld { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_h13_slices_that_are_odd_and_harmless() {
    alone(async {
        borne(&[
            ("a message of nothing", |v| {
                let stream = v.stream();
                v.send(stream, b"");
            }),
            ("bytes that begin late", |v| {
                let offset = v.buffers.write(b"xxno echo");
                v.buffers.memory.store(offset + slice::START, 2);
                v.buffers.memory.store(offset + slice::SIZE, 7);
                let stream = v.stream();
                v.put(Element {
                    stream,
                    offset,
                    status: 0,
                });
            }),
            ("flags of all kinds", |v| {
                let offset = v.buffers.write(b"no echo");
                v.buffers.memory.store(offset + slice::FLAGS, u32::MAX - 1);
                let stream = v.stream();
                v.put(Element {
                    stream,
                    offset,
                    status: 0,
                });
            }),
            ("a message that changes after it was sent", |v| {
                let stream = v.prod(b"h");
                let offset = v.send(stream, &[3; 4000]);
                for field in [slice::SIZE, slice::START, slice::CAPACITY] {
                    v.buffers.memory.store(offset + field + 20, u32::MAX);
                }
            }),
        ])
        .await;
    });
}

/// Where nobody is trusted to leave a message alone. The villain has all of its slices again before the message is looked at.
#[test]
fn hazard_h37_s6_what_was_received_does_not_change() {
    alone(async {
        for dialect in Dialect::ALL {
            let mut stage = stage_with(
                dialect,
                |shmipc| shmipc,
                |config| config.payloads(Payloads::Guarded),
            )
            .await;
            let script = ShmipcScript::new(Role::Client, dialect, stage.files());
            let (ending, outcome) = stage.play(Role::Client, |socket| script.play(socket)).await;
            let (mut villain, session) = (ending.session(), stage.taken(outcome).await);
            let stream = villain.stream();
            let offset = villain.send(stream, &[3; 4000]);
            let mut theirs = in_time("a stream", session.accept_stream()).await.unwrap();
            let message = in_time("a message", theirs.recv()).await.unwrap().unwrap();
            villain.buffers.memory.write(offset + 20, &[4; 4000]);
            assert_eq!(echo::all(message), [3; 4000], "{dialect:?}");
        }
    });
}

#[test]
fn records_that_lie() {
    alone(async {
        told_in(
            Dialect::Records,
            shmipc_lies! {
                "a record that there is not": |v| { let stream = v.stream(); v.put(Element { stream, offset: 0, status: 11 << 8 }); }
                    => Shmipc(shmipc_transport::InvalidShmipc::Status { .. }),
                "a last message nowhere": |v| { let stream = v.stream(); v.put(Element { stream, offset: 3, status: record::LAST_MESSAGE }); }
                    => Shmipc(SliceOffset { offset: 3 }),
            },
        )
        .await;
    });
}
