//! Free lists under two sides.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
#[cfg(not(shmipc_loom))]
use crate::core::shmipc::{InvalidShmipc, ListEnd, Slice};
use crate::core::sync::{model, thread};

/// What is free, from the first to the last, as the links say.
fn free(memory: &TestMemory) -> Vec<u32> {
    let (mut at, tail) = (memory.get(16), memory.get(20));
    let mut found = vec![at];
    while memory.get(44 + at + 16) & 1 != 0 {
        at = memory.get(44 + at + 12);
        assert!(!found.contains(&at), "the list is a ring");
        found.push(at);
    }
    assert_eq!(at, tail, "the last is where the list says");
    found
}

/// One list of `count` slices of 4 bytes.
fn list_of(count: u32) -> (TestMemory, Pool<TestMemory>, Pool<TestMemory>) {
    pools(44 + 24 * count, &[(4, 100)])
}

#[test]
fn what_is_taken_is_taken_once_and_the_last_never() {
    model(|| {
        let (memory, one, other) = list_of(3);
        let taker = thread::spawn(move || other.take(0).unwrap().map(|slice| slice.at()));
        let ours = one.take(0).unwrap().map(|slice| slice.at());
        let theirs = taker.join().unwrap();
        assert!(ours != theirs || ours.is_none());
        assert_eq!(memory.get(8), 1, "one is left");
        assert_eq!(free(&memory), [48]);
    });
}

#[test]
fn hazard_h4_taking_and_putting_back_at_once_keeps_the_list_whole() {
    model(|| {
        let (memory, one, other) = list_of(3);
        let slice = other.take(0).unwrap().unwrap();
        let at = slice.at();
        let putter = thread::spawn(move || other.put(slice).unwrap());
        let taken = one.take(0).unwrap();
        putter.join().unwrap();
        let taken = taken.map(|slice| slice.at() - 44);
        let mut all = free(&memory);
        all.extend(taken);
        all.sort_unstable();
        assert_eq!(all, [0, 24, 48]);
        assert_eq!(memory.get(8), if taken.is_some() { 2 } else { 3 });
        assert_eq!(at, 44);
    });
}

#[test]
fn two_may_put_back_at_once() {
    model(|| {
        let (memory, one, other) = list_of(4);
        let slices = [one.take(0).unwrap().unwrap(), one.take(0).unwrap().unwrap()];
        let [first, second] = slices;
        // The other side has received it.
        let second = other.adopt(one.release(second)).unwrap();
        let putter = thread::spawn(move || other.put(second).unwrap());
        one.put(first).unwrap();
        putter.join().unwrap();
        assert_eq!(free(&memory).len(), 4);
        assert_eq!(memory.get(8), 4);
    });
}

#[test]
#[cfg(not(shmipc_loom))]
fn a_walk_finds_what_is_free_and_who_holds_the_rest() {
    let (_memory, one, other) = list_of(5);
    let whole = one.walk(0);
    assert_eq!((whole.says, whole.found, whole.held), (5, 5, 0));
    assert_eq!(
        (whole.head, whole.tail, whole.end),
        (0, 4 * 24, ListEnd::Last)
    );
    let taken = [one.take(0).unwrap().unwrap(), one.take(0).unwrap().unwrap()];
    let theirs = other.take(0).unwrap().unwrap();
    let (ours, other_walk) = (one.walk(0), other.walk(0));
    assert_eq!((ours.says, ours.found, ours.held), (2, 2, 2));
    assert_eq!((ours.head, ours.end), (3 * 24, ListEnd::Last));
    assert_eq!((other_walk.found, other_walk.held), (2, 1));
    for slice in taken {
        one.put(slice).unwrap();
    }
    other.put(theirs).unwrap();
    assert_eq!((one.walk(0).found, one.walk(0).end), (5, ListEnd::Last));
}

/// Whatever the peer writes to a list, a walk ends, and says why.
#[test]
#[cfg(not(shmipc_loom))]
fn hazard_v4_a_walk_follows_nothing_that_is_no_slice_and_does_not_go_round() {
    let (head, tail) = (16, 20);
    let next = |slice: u32| 44 + 24 * slice + 12;
    let flags = |slice: u32| 44 + 24 * slice + 16;
    for (word, forged, found, end) in [
        (head, 1, 0, ListEnd::Astray),
        (head, u32::MAX, 0, ListEnd::Astray),
        (next(1), 23, 2, ListEnd::Astray),
        (next(1), 5 * 24, 2, ListEnd::Astray),
        (next(2), 0, 5, ListEnd::Circle),
        (next(0), 0, 5, ListEnd::Circle),
        (flags(2), 0, 3, ListEnd::Cut),
        (tail, 7, 5, ListEnd::Cut),
    ] {
        let (memory, one, _other) = list_of(5);
        memory.set(word, forged);
        let walk = one.walk(0);
        assert_eq!((walk.found, walk.end), (found, end), "{word} is {forged}");
    }
    let count = 2 * 65_536;
    let (_memory, one, _other) = list_of(count);
    let walk = one.walk(0);
    assert_eq!((walk.found, walk.end), (65_536, ListEnd::Beyond));
}

#[test]
#[cfg(not(shmipc_loom))]
fn a_slice_is_put_back_where_it_came_from() {
    let (_, creator, mapper) = pools(1 << 16, &[(16, 30), (256, 30), (4096, 40)]);
    for len in [1, 16, 17, 256, 257, 4096, 5000] {
        let message = vec![7; len];
        let offset = send(&creator, &message).unwrap();
        assert_eq!(receive(&mapper, offset), message);
    }
    for list in 0..3 {
        let count = creator.geometry().lists()[list].count;
        assert_eq!(creator.available(list), count - 1);
    }
    assert_eq!((creator.held(), mapper.held()), (0, 0));
}

#[test]
#[cfg(not(shmipc_loom))]
fn an_exhausted_list_is_passed_over_for_the_next_larger() {
    let (_, creator, _) = pools(296, SMALL);
    let mut slices: Vec<Slice> = Vec::new();
    while let Some(taken) = creator.take_for(10).unwrap() {
        slices.extend(taken.into_iter().map(|(slice, _)| slice));
    }
    let capacities: Vec<_> = slices.iter().map(Slice::capacity).collect();
    assert_eq!(capacities, [16, 16, 32]);
    slices
        .into_iter()
        .for_each(|slice| creator.put(slice).unwrap());
    assert_eq!(creator.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(shmipc_loom) { 0 } else { 256 }, ..Default::default() })]

    /// The oracle is a queue of messages, and the sum of what they need.
    #[test]
    fn messages_arrive_as_they_were_sent(ops: Vec<Option<u8>>) {
        let (_, creator, mapper) = pools(4096, &[(16, 30), (64, 30), (256, 40)]);
        let mut oracle = VecDeque::new();
        for (seed, op) in (0u8..=255).cycle().zip(ops) {
            match op {
                Some(len) => {
                    let message: Vec<u8> = (0..=len).map(|i| i.wrapping_mul(seed)).collect();
                    match send(&creator, &message) {
                        Some(offset) => oracle.push_back((offset, message)),
                        None => prop_assert!(!oracle.is_empty(), "an empty region takes any message of 256 bytes"),
                    }
                }
                None => if let Some((offset, message)) = oracle.pop_front() {
                    prop_assert_eq!(receive(&mapper, offset), message);
                },
            }
            prop_assert_eq!((creator.held(), mapper.held()), (0, 0));
        }
        for (offset, message) in oracle {
            prop_assert_eq!(receive(&mapper, offset), message);
        }
        for list in 0..3 {
            prop_assert_eq!(creator.available(list), creator.geometry().lists()[list].count - 1);
        }
    }

    /// Whatever regions are described, what is found lies inside.
    #[test]
    fn any_region_is_refused_or_fits(words: Vec<u32>, len in 2u32..4096) {
        let memory = TestMemory::new(len * 4);
        for (at, word) in (0..len * 4).step_by(4).zip(words) {
            memory.set(at, word % 512);
        }
        if let Ok(pool) = Pool::open(memory) {
            for list in pool.geometry().lists() {
                prop_assert!(list.first + list.count * (list.capacity + 20) <= len * 4);
            }
        }
    }
}

#[cfg(not(shmipc_loom))]
#[test]
fn hazard_h15_a_share_of_what_was_received_is_kept_for_the_next_messages() {
    let (memory, one, other) = list_of(50);
    let others: Vec<_> = (0..24).map(|_| one.take(0).unwrap().unwrap()).collect();
    let slices: Vec<_> = (0..5).map(|_| one.take(0).unwrap().unwrap()).collect();
    assert_eq!((one.held(), other.available(0)), (29, 20));
    let places: Vec<_> = slices.iter().map(Slice::at).collect();
    for slice in slices {
        one.recycle(slice).unwrap();
    }
    // One of sixteen: three of fifty. The peer has the others again.
    assert_eq!((one.held(), other.available(0)), (24, 22));
    let free = free(&memory);
    let is_free = |at: &u32| free.contains(&(at - 44));
    let is_kept: Vec<_> = places.iter().map(|at| !is_free(at)).collect();
    assert_eq!(is_kept, [true, true, true, false, false]);
    // What was kept last is used first, and then what the list has.
    let next: Vec<_> = (0..4)
        .flat_map(|_| one.take_for(4).unwrap().unwrap())
        .map(|(slice, _)| slice.at())
        .collect();
    assert_eq!(next[..3], [places[2], places[1], places[0]]);
    assert!(!places.contains(&next[3]));
    assert_eq!((one.held(), other.available(0)), (28, 21));
    drop(others);
}

#[cfg(not(shmipc_loom))]
#[test]
fn hazard_h15_much_is_kept_only_while_most_of_the_list_is_free_and_nobody_sleeps() {
    let (memory, one, other) = list_of(64);
    one.wake();
    let take = |count| (0..count).map(|_| one.take(0).unwrap().unwrap());
    let recycle = |slices: Vec<Slice>| {
        let mut slices = slices.into_iter();
        slices.try_for_each(|slice| one.recycle(slice)).unwrap();
    };
    let (first, second): (Vec<_>, Vec<_>) = (take(20).collect(), take(20).collect());
    assert_eq!(other.available(0), 23);
    // Four are kept in any case; ten go back until most of the list is free, and the other six are kept again.
    recycle(first);
    assert_eq!((one.held(), other.available(0)), (20, 33));
    // One of four at most.
    recycle(second);
    assert_eq!((one.held(), other.available(0)), (0, 47));
    one.trim().unwrap();
    assert_eq!(other.available(0), 59, "four stay while this side sleeps");
    assert_eq!(free(&memory).len(), 60);
    one.trim().unwrap();
    assert_eq!(other.available(0), 59);
    // What comes back meanwhile is not kept, although there is plenty.
    let late: Vec<_> = take(10).collect();
    recycle(late);
    assert_eq!((one.held(), other.available(0)), (0, 59));
}

#[cfg(not(shmipc_loom))]
#[test]
fn hazard_h17_what_is_kept_goes_back_when_there_are_no_more_messages() {
    let (memory, one, other) = list_of(50);
    let slices = [(); 4].map(|()| one.take(0).unwrap().unwrap());
    let [held, kept @ ..] = slices;
    kept.into_iter()
        .for_each(|slice| one.recycle(slice).unwrap());
    assert_eq!((memory.get(8), other.available(0)), (46, 45));
    one.retire();
    assert_eq!(memory.get(8), 49);
    one.recycle(held).unwrap();
    assert_eq!(memory.get(8), 50, "nothing is kept any more");
    assert_eq!(free(&memory).len(), 50);
    assert_eq!(one.held(), 0);
    one.retire();
}

#[cfg(not(shmipc_loom))]
#[test]
fn hazard_h21_a_slice_that_is_kept_cannot_arrive() {
    let (_memory, one, other) = list_of(50);
    let slice = one.take(0).unwrap().unwrap();
    let at = slice.at();
    one.recycle(slice).unwrap();
    let forged = one.follow(at, LIMITS).unwrap_err();
    assert_eq!(forged, InvalidShmipc::SliceHeld { offset: at });
    assert_eq!(other.held(), 0);
}

#[test]
fn nothing_of_a_short_list_is_kept() {
    model(|| {
        let (memory, one, _) = list_of(15);
        let slice = one.take(0).unwrap().unwrap();
        one.recycle(slice).unwrap();
        assert_eq!(memory.get(8), 15);
    });
}
