//! What is known of each lease: by its token, and by its address for those who ask.
//!
//! Each message that is lent begins a lease and ends it, by its token. Only who sends on what was received asks by address,
//! because all that is known of a `Bytes` is where it lies. Where there are but few leases, all are looked at then. More are in order of their
//! addresses, but only from when somebody asks on, and for as long as somebody asks now and then. To put all in order costs no more
//! than it would have cost to keep them in order since somebody asked last.

use std::{
    collections::{BTreeSet, HashMap, hash_map},
    time::Duration,
};

use foldhash::fast::RandomState;

use crate::core::{
    num::{RegionId, index},
    outbox::RETURNS_MAX,
};

/// How many leases are looked at to find the one that some bytes belong to.
const NEAREST: usize = 8;

/// While there have never been more at once, all are looked at, which is less than keeping them in order.
const FEW: usize = 28;

/// A segment of the peer's that we hold.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) region: RegionId,
    pub(super) offset: u32,
    pub(super) len: u32,
    /// Where it is mapped.
    pub(super) address: usize,
    /// The `Lease`s of it: that of the application, and those that keep it from ending while a message names it.
    pub(super) shares: u32,
    /// Whether any part of it has been sent back to its owner.
    pub(super) sent_back: bool,
    /// When it began, by the [coarse clock](crate::sys::clock::coarse).
    pub(super) began: Duration,
}

/// All segments of the peer's that we hold.
#[derive(Debug)]
pub(super) struct Leases {
    by_token: HashMap<u32, Held, RandomState>,
    by_address: Option<ByAddress>,
    /// The lowest address that any has had, and the end of the highest.
    start: usize,
    end: usize,
}

/// The addresses and tokens of all of them: a peer may have the same memory under way in several messages at once.
#[derive(Debug)]
struct ByAddress {
    order: BTreeSet<(usize, u32)>,
    /// How many have begun since it was asked for last.
    unasked: u32,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            by_token: HashMap::default(),
            by_address: None,
            start: usize::MAX,
            end: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_token.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.by_token.values()
    }

    /// Adds one. Returns whether the peer may have it under way: it may not have more than [`RETURNS_MAX`], nor two of one token.
    pub(super) fn begin(&mut self, token: u32, held: Held) -> bool {
        if index(RETURNS_MAX) <= self.by_token.len() {
            return false;
        }
        let hash_map::Entry::Vacant(vacant) = self.by_token.entry(token) else {
            return false;
        };
        self.start = self.start.min(held.address);
        self.end = self.end.max(held.address + index(held.len));
        if let Some(by_address) = &mut self.by_address {
            by_address.order.insert((held.address, token));
            by_address.unasked += 1;
            if RETURNS_MAX < by_address.unasked {
                self.by_address = None;
            }
        }
        vacant.insert(held);
        true
    }

    pub(super) fn get_mut(&mut self, token: u32) -> Option<&mut Held> {
        self.by_token.get_mut(&token)
    }

    /// Takes back a share in one. Returns it if that was the last.
    pub(super) fn end(&mut self, token: u32) -> Option<Held> {
        let hash_map::Entry::Occupied(mut entry) = self.by_token.entry(token) else {
            return None;
        };
        let held = entry.get_mut();
        held.shares -= 1;
        if held.shares != 0 {
            return None;
        }
        let held = entry.remove();
        if let Some(by_address) = &mut self.by_address {
            by_address.order.remove(&(held.address, token));
        }
        Some(held)
    }

    /// One that all of `len` bytes at `address` belong to, with its token.
    pub(super) fn find(&mut self, address: usize, len: usize) -> Option<(u32, &mut Held)> {
        // Most bytes that are asked for are private memory.
        if address < self.start || self.end < address + len {
            return None;
        }
        let covers = |held: &Held| {
            held.address <= address && address + len <= held.address + index(held.len)
        };
        // The room in the table is what looking at all of it costs.
        if self.by_address.is_none() && self.by_token.capacity() <= FEW {
            let found = self.by_token.iter_mut().find(|(_, held)| covers(held));
            return found.map(|(&token, held)| (token, held));
        }
        let by_token = &self.by_token;
        let by_address = self.by_address.get_or_insert_with(|| ByAddress {
            order: by_token
                .iter()
                .map(|(&token, held)| (held.address, token))
                .collect(),
            unasked: 0,
        });
        by_address.unasked = 0;
        // Leases may overlap, so the nearest need not be the right one; but it is among the nearest, or not worth a search.
        let nearest = by_address.order.range(..=(address, u32::MAX)).rev();
        let mut nearest = nearest.take(NEAREST).map(|(_, token)| token);
        let token = *nearest.find(|token| covers(&by_token[token]))?;
        Some((token, self.by_token.get_mut(&token)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(address: usize, len: u32) -> Held {
        Held {
            region: RegionId(0),
            offset: 0,
            len,
            address,
            shares: 1,
            sent_back: false,
            began: Duration::ZERO,
        }
    }

    fn found(leases: &mut Leases, address: usize, len: usize) -> Option<u32> {
        leases.find(address, len).map(|(token, _)| token)
    }

    #[test]
    fn a_part_is_found_while_its_lease_lasts() {
        let mut leases = Leases::new();
        assert_eq!(found(&mut leases, 1000, 1), None);
        assert!(leases.begin(7, held(1000, 100)));
        assert!(leases.by_address.is_none(), "nobody has asked");
        assert_eq!(found(&mut leases, 1000, 100), Some(7));
        assert_eq!(found(&mut leases, 1099, 1), Some(7));
        assert_eq!(found(&mut leases, 1001, 100), None);
        assert_eq!(found(&mut leases, 999, 2), None);
        assert!(leases.begin(8, held(1100, 100)));
        assert_eq!(found(&mut leases, 1100, 10), Some(8));
        assert_eq!(found(&mut leases, 1050, 100), None, "it belongs to two");
        assert!(leases.end(7).is_some());
        assert_eq!(found(&mut leases, 1050, 10), None);
        assert_eq!(found(&mut leases, 1150, 10), Some(8));
    }

    #[test]
    fn a_lease_ends_with_the_last_share() {
        let mut leases = Leases::new();
        assert!(leases.begin(7, held(1000, 100)));
        leases.get_mut(7).unwrap().shares += 1;
        assert!(leases.end(7).is_none());
        assert!(leases.end(7).is_some());
        assert!(leases.end(7).is_none());
        assert_eq!(leases.len(), 0);
    }

    #[test]
    fn tokens_are_under_way_once_and_segments_are_counted() {
        let mut leases = Leases::new();
        for token in 0..RETURNS_MAX {
            assert!(leases.begin(token, held(0, 1)));
            assert!(!leases.begin(token, held(1, 1)));
        }
        assert!(!leases.begin(RETURNS_MAX, held(0, 1)));
        assert!(leases.end(0).is_some());
        assert!(leases.begin(RETURNS_MAX, held(0, 1)));
    }

    #[test]
    fn few_are_not_put_in_order() {
        let mut leases = Leases::new();
        for token in 0..8 {
            assert!(leases.begin(token, held(1000 + 100 * index(token), 100)));
        }
        assert_eq!(found(&mut leases, 1399, 1), Some(3));
        assert!(leases.by_address.is_none());
    }

    #[test]
    fn the_order_is_kept_while_somebody_asks() {
        let mut leases = Leases::new();
        assert!(leases.begin(7, held(1000, 100)));
        for token in 100..100 + u32::try_from(FEW).unwrap() {
            assert!(leases.begin(token, held(3000, 100)));
        }
        let pass = |leases: &mut Leases, count| {
            for _ in 0..count {
                assert!(leases.begin(8, held(2000, 100)));
                leases.end(8);
            }
            leases.by_address.is_some()
        };
        assert!(!pass(&mut leases, 1));
        for _ in 0..3 {
            assert_eq!(found(&mut leases, 1000, 100), Some(7));
            assert!(pass(&mut leases, RETURNS_MAX));
        }
        assert!(!pass(&mut leases, 1));
        assert_eq!(found(&mut leases, 1000, 100), Some(7));
    }

    proptest! {
        /// The oracle is a list. Few overlap here, so that the nearest are all that could be right.
        #[test]
        fn what_is_found_is_what_is_held(
            ops in prop::collection::vec((0u8..3, 0u32..40, 1u32..4), 0..200),
        ) {
            let mut leases = Leases::new();
            let mut all: Vec<(u32, usize, u32)> = Vec::new();
            for (op, token, len) in ops {
                let address = 1000 + index(token % 20);
                match op {
                    0 => {
                        let is_new = all.iter().all(|(known, ..)| *known != token);
                        prop_assert_eq!(leases.begin(token, held(address, len)), is_new);
                        if is_new {
                            all.push((token, address, len));
                        }
                    }
                    1 => {
                        let known = all.iter().position(|(known, ..)| *known == token);
                        prop_assert_eq!(leases.end(token).is_some(), known.is_some());
                        known.map(|i| all.swap_remove(i));
                    }
                    _ => {
                        let covers = |&&(_, start, held_len): &&(u32, usize, u32)| {
                            start <= address && address + index(len) <= start + index(held_len)
                        };
                        let right: Vec<_> = all.iter().filter(covers).map(|(token, ..)| *token).collect();
                        let found = found(&mut leases, address, index(len));
                        prop_assert_eq!(found.is_some(), !right.is_empty());
                        prop_assert!(found.is_none_or(|token| right.contains(&token)));
                    }
                }
                prop_assert_eq!(leases.len(), all.len());
            }
        }
    }
}
