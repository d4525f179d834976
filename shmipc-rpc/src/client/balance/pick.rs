//! Which of several servers gets the next call.
//!
//! Of two that are chosen at random, the one with fewer calls under way: nearly as good as looking at all of them, and the
//! choice costs the same however many there are. Tower's `Balance` does the same, but is a service that must be polled ready by a
//! single owner, so that sharing it takes a queue and a task; here nothing is locked.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// Chooses among numbered members, which come in tiers: while one of an earlier tier is ready, none of a later one is chosen.
#[derive(Debug)]
pub(super) struct Picker {
    tiers: Box<[Range<usize>]>,
    chance: Chance,
}

impl Picker {
    /// Makes a picker over this many members in each tier, numbered throughout.
    pub(super) fn new(tiers: impl IntoIterator<Item = usize>) -> Self {
        let mut begin = 0;
        let ranges = tiers.into_iter().filter(|&len| 0 < len).map(|len| {
            let range = begin..begin + len;
            begin = range.end;
            range
        });
        Self {
            tiers: ranges.collect(),
            chance: Chance::new(),
        }
    }

    /// Returns a member that is ready, if there is one. `ready` may be asked about any member, and any number of times.
    pub(super) fn pick(
        &self,
        ready: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let in_tier = |tier: &Range<usize>| {
            let (one, other) = self.chance.two_of(tier.clone());
            match (ready(one), other.filter(|&other| ready(other))) {
                (true, Some(other)) if load(other) < load(one) => Some(other),
                (true, _) => Some(one),
                (false, Some(other)) => Some(other),
                // Rare: look at all of them, and begin anywhere, so that not all who do go to the same.
                (false, None) => {
                    let all = (one..tier.end).chain(tier.start..one);
                    all.filter(|&member| ready(member))
                        .min_by_key(|&member| load(member))
                }
            }
        };
        self.tiers.iter().find_map(in_tier)
    }
}

/// A source of numbers that are random enough to spread calls, and can be shared.
#[derive(Debug)]
struct Chance(AtomicU64);

impl Chance {
    fn new() -> Self {
        // The standard library seeds its hashers randomly.
        Self(AtomicU64::new(RandomState::new().hash_one(0)))
    }

    /// SplitMix64: the state counts, and the output is a hash of it, so that a plain addition shares it.
    fn next(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .0
            .fetch_add(GOLDEN, Ordering::Relaxed)
            .wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a member of a range that is not empty, and another if there is one.
    fn two_of(&self, range: Range<usize>) -> (usize, Option<usize>) {
        let Range { start, end } = range;
        let len = end - start;
        if len < 2 {
            return (start, None);
        }
        let [low, high] = halves(self.next());
        let one = scale(low, len);
        // One of the others: those from `one` on move up by one.
        let other = scale(high, len - 1);
        let other = if other < one { other } else { other + 1 };
        (start + one, Some(start + other))
    }
}

fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// Maps a number evenly, or nearly so, to one below `len`.
fn scale(number: u32, len: usize) -> usize {
    // Nobody has 2^32 servers.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let scaled = (u64::from(number) * u64::from(len)) >> 32;
    usize::try_from(scaled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn calls_spread_evenly_over_equals() {
        const CALLS: usize = 40_000;
        for members in 1..=5 {
            let picker = Picker::new([members]);
            let mut counts = vec![0; members];
            for _ in 0..CALLS {
                counts[picker.pick(|_| true, |_| 0).expect("all are ready")] += 1;
            }
            // Ties go to the first of the two, which is uniform. The bounds are dozens of standard deviations away.
            let fair = CALLS / members;
            assert!(
                counts
                    .iter()
                    .all(|count| (fair / 2..=fair * 2).contains(count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen() {
        let picker = Picker::new([2]);
        for _ in 0..100 {
            assert_eq!(picker.pick(|_| true, |member| [3, 2][member]), Some(1));
        }
    }

    #[test]
    fn the_most_loaded_of_many_is_never_chosen() {
        let picker = Picker::new([4]);
        for _ in 0..1000 {
            let picked = picker.pick(|_| true, |member| usize::from(member == 2));
            assert!(picked.is_some_and(|member| member != 2));
        }
    }

    #[test]
    fn pending_calls_balance_out() {
        // All calls take forever: the loads must stay close to each other, as two choices promise.
        let picker = Picker::new([8]);
        let mut loads = [0usize; 8];
        for _ in 0..8000 {
            let picked = picker.pick(|_| true, |member| loads[member]);
            loads[picked.expect("all are ready")] += 1;
        }
        assert!(
            loads.iter().all(|load| (980..=1020).contains(load)),
            "{loads:?}"
        );
    }

    proptest! {
        #[test]
        fn only_what_is_ready_is_chosen_and_the_first_tier_first(
            tiers in vec(0..6usize, 0..4),
            ready in vec(any::<bool>(), 24),
            loads in vec(0..5usize, 24),
        ) {
            let picker = Picker::new(tiers.iter().copied());
            let picked = picker.pick(|member| ready[member], |member| loads[member]);
            let mut begin = 0;
            let first = tiers.iter().find_map(|len| {
                let tier = begin..begin + len;
                begin = tier.end;
                tier.clone().any(|member| ready[member]).then_some(tier)
            });
            match (picked, first) {
                (Some(picked), Some(tier)) => prop_assert!(ready[picked] && tier.contains(&picked)),
                (picked, first) => prop_assert!(picked.is_none() && first.is_none()),
            }
        }

        #[test]
        fn two_are_never_the_same(start in 0..100usize, len in 2..50usize) {
            let chance = Chance::new();
            for _ in 0..50 {
                let (one, other) = chance.two_of(start..start + len);
                let other = other.expect("there are two");
                prop_assert!(one != other);
                prop_assert!((start..start + len).contains(&one) && (start..start + len).contains(&other));
            }
        }
    }
}
