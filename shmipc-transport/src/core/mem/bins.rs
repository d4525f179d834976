//! Bins: free blocks that are kept as they are, in front of the buddy allocator of a region.
//!
//! Messages of one kind take blocks of one size over and over. To merge each with its neighbours when it comes back, and to
//! split them again for the next, is work for nothing. So what comes back goes into the bin of its size, and the next block of
//! that size comes out of it.
//!
//! # Which block is taken
//!
//! Of short blocks, the one that came back last: it is still in the caches.
//!
//! Of those from 16 KiB to 1 MiB that is the worst. A block that comes back was just read by the peer, so its lines lie in the
//! second-level cache of the *peer's* CPU, and each must be fetched from there before it can be written, which takes several times
//! as long as once they have left that cache for the one that both CPUs share. (On an AMD EPYC with 1 MiB of it, messages of 64 KiB
//! on one stream went 2.4 times as fast when blocks were taken in turn: `outbox/free/exchange/65536B/1` of the benchmark.) So none
//! of these is used again before blocks of this size have been taken that make up a [window](WINDOW), which is longer than such
//! caches are, and then it is the one that came back first. The window is no longer than need be, since what is not found in the
//! shared cache either comes from memory. So a bin does not keep for long what a burst has left in it: what is more than a window,
//! and was not needed while as many blocks were taken as there are, goes back to the buddy allocator.
//!
//! Longer blocks have no bin. To merge and to split them is little beside what it takes to write them.
//!
//! # What bins keep from others
//!
//! Nothing: a block in a bin is not in use, and before a request fails, all bins are emptied, and what they held is merged.

use std::{collections::VecDeque, iter};

use super::buddy::{Buddy, UNIT, order_of};
use crate::core::num::{index, u32_len};

/// How many sizes have a bin: from 4 KiB to 1 MiB.
const BINS: u32 = 9;

/// The shortest blocks of which the one that came back first is taken, as an order: 16 KiB.
const FIRST_IN_FIRST_OUT: u32 = 2;

/// How many units of one size are used in turn: 4 MiB, or a quarter of a region that is short. On current CPUs, second-level
/// caches have up to 2 MiB, and what one direction writes shares them with what the other reads.
const WINDOW: u32 = (4 << 20) / UNIT;

/// Free and used parts of a region, with bins for those that come and go.
#[derive(Debug)]
pub(crate) struct Bins {
    buddy: Buddy,
    /// By order.
    bins: Vec<Bin>,
    /// What lies in them.
    units: u32,
}

/// Free blocks of one size.
#[derive(Debug)]
struct Bin {
    /// In the order in which they are taken.
    blocks: VecDeque<u32>,
    /// How many of this size the buddy allocator has handed out: those in use, and `blocks`.
    carved: u32,
    /// How many make up a window.
    window: u32,
    /// How many have been taken since it was last looked for what is superfluous, and the fewest `blocks` that were left.
    taken: u32,
    left_min: usize,
}

impl Bins {
    /// Manages `len` bytes, rounded down to whole units.
    pub(crate) fn new(len: u32) -> Self {
        let window = WINDOW.min(len / UNIT / 4);
        let bins = (0..BINS).map(|order| Bin {
            blocks: VecDeque::new(),
            carved: 0,
            window: window >> order,
            taken: 0,
            left_min: 0,
        });
        Self {
            buddy: Buddy::new(len),
            bins: bins.collect(),
            units: 0,
        }
    }

    /// Takes out a block of at least `len` bytes and returns its offset.
    pub(crate) fn alloc(&mut self, len: u32) -> Option<u32> {
        let order = order_of(len);
        let may_reuse = |bin: &Bin| order < FIRST_IN_FIRST_OUT || bin.window <= bin.carved;
        if self.bins.get(index(order)).is_some_and(may_reuse)
            && let Some(offset) = self.reuse(order)
        {
            return Some(offset);
        }
        self.alloc_slowly(len)
    }

    /// Takes out a block where there is none in the bin, or none that may be used again yet.
    #[cold]
    fn alloc_slowly(&mut self, len: u32) -> Option<u32> {
        if self.unused() < len {
            return None;
        }
        if let Some(offset) = self.carve(len).or_else(|| self.reuse(order_of(len))) {
            return Some(offset);
        }
        self.empty_bins();
        self.carve(len)
    }

    /// Gives back the block at `offset`, which was allocated for `len` bytes.
    pub(crate) fn free(&mut self, offset: u32, len: u32) {
        let order = order_of(len);
        let Some(bin) = self.bins.get_mut(index(order)) else {
            return self.buddy.free(offset, len);
        };
        if order < FIRST_IN_FIRST_OUT {
            bin.blocks.push_front(offset);
        } else {
            bin.blocks.push_back(offset);
        }
        self.units += 1 << order;
    }

    /// Whether no block is in use.
    pub(crate) fn is_idle(&self) -> bool {
        self.used() == 0
    }

    /// Bytes that are in use, in whole blocks.
    pub(crate) fn used(&self) -> u32 {
        self.buddy.used() - self.units * UNIT
    }

    /// Bytes that are not.
    fn unused(&self) -> u32 {
        self.buddy.unused() + self.units * UNIT
    }

    /// The sizes of free blocks, in bytes, and how many there are of each.
    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = (u32, u32)> {
        let binned = self.bins.iter().map(|bin| u32_len(bin.blocks.len()));
        let counts = iter::zip(self.buddy.free_blocks(), binned.chain(iter::repeat(0)));
        let sizes = (0..).map(|order| UNIT << order).zip(counts);
        let sizes = sizes.map(|(size, (free, binned))| (size, free + binned));
        sizes.filter(|(_, count)| *count != 0)
    }

    /// Takes the next block out of a bin.
    #[inline]
    fn reuse(&mut self, order: u32) -> Option<u32> {
        let bin = self.bins.get_mut(index(order))?;
        let offset = bin.blocks.pop_front()?;
        self.units -= 1 << order;
        bin.taken += 1;
        bin.left_min = bin.left_min.min(bin.blocks.len());
        if bin.carved < bin.taken {
            self.give_back(order);
        }
        Some(offset)
    }

    /// Has the buddy allocator hand out a block.
    fn carve(&mut self, len: u32) -> Option<u32> {
        let offset = self.buddy.alloc(len)?;
        if let Some(bin) = self.bins.get_mut(index(order_of(len))) {
            bin.carved += 1;
        }
        Some(offset)
    }

    /// Gives back what is superfluous in a bin.
    #[cold]
    fn give_back(&mut self, order: u32) {
        let bin = &mut self.bins[index(order)];
        let superfluous = bin.left_min.saturating_sub(index(bin.window));
        let kept = bin.blocks.len() - superfluous;
        for offset in bin.blocks.drain(kept..) {
            self.buddy.free(offset, UNIT << order);
        }
        bin.carved -= u32_len(superfluous);
        self.units -= u32_len(superfluous) << order;
        bin.taken = 0;
        bin.left_min = kept;
    }

    /// Gives back all that bins hold.
    fn empty_bins(&mut self) {
        for (order, bin) in (0..).zip(&mut self.bins) {
            bin.carved -= u32_len(bin.blocks.len());
            bin.left_min = 0;
            for offset in bin.blocks.drain(..) {
                self.buddy.free(offset, UNIT << order);
            }
        }
        self.units = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::core::mem::buddy::tests::is_free;

    const MIB: u32 = 1 << 20;

    /// Offsets of `count` blocks of `len` bytes, each of which is given back before the next is taken.
    fn turns(bins: &mut Bins, len: u32, count: u32) -> Vec<u32> {
        let turn = |_| {
            let offset = bins.alloc(len).unwrap();
            bins.free(offset, len);
            offset
        };
        (0..count).map(turn).collect()
    }

    #[test]
    fn a_freed_block_that_is_short_or_very_long_is_taken_next() {
        for len in [UNIT, 2 * UNIT, 2 * MIB] {
            let mut bins = Bins::new(16 * MIB);
            assert_eq!(turns(&mut bins, len, 5), [0; 5]);
            let both = [0, len];
            assert_eq!(both.map(|_| bins.alloc(len).unwrap()), both);
            both.into_iter().for_each(|offset| bins.free(offset, len));
            let last = if len < MIB { len } else { 0 };
            assert_eq!(bins.alloc(len), Some(last));
        }
    }

    #[test]
    fn blocks_in_between_are_taken_in_turn_from_the_window() {
        for len in [16 << 10, 64 << 10, MIB] {
            let mut bins = Bins::new(16 * MIB);
            // Those that are in use are passed over, and shorter ones do not lie in the way.
            let short = bins.alloc(UNIT).unwrap();
            let held = bins.alloc(len).unwrap();
            let count = WINDOW * UNIT / len - 1;
            let in_turn: Vec<_> = (0..count).map(|i| held + len + i * len).collect();
            for _ in 0..3 {
                assert_eq!(turns(&mut bins, len, count), in_turn);
            }
            assert_eq!(bins.used(), UNIT + len);
            bins.free(short, UNIT);
            bins.free(held, len);
            assert!(bins.is_idle());
        }
    }

    #[test]
    fn the_block_that_came_back_first_is_taken_first() {
        let mut bins = Bins::new(16 * MIB);
        let offsets = [(); 4].map(|()| bins.alloc(MIB).unwrap());
        for i in [2, 0, 3, 1] {
            bins.free(offsets[i], MIB);
        }
        let again = [(); 4].map(|()| bins.alloc(MIB).unwrap());
        assert_eq!(again, [2, 0, 3, 1].map(|i| offsets[i]));
    }

    #[test]
    fn what_does_not_fit_into_the_window_lies_behind_it() {
        let mut bins = Bins::new(16 * MIB);
        let offsets: Vec<_> = iter::from_fn(|| bins.alloc(MIB)).collect();
        assert_eq!(offsets, (0..16).map(|i| i * MIB).collect::<Vec<_>>());
        assert_eq!(bins.alloc(1), None);
        bins.free(9 * MIB, MIB);
        assert_eq!(bins.alloc(2 * MIB), None);
        assert_eq!(bins.alloc(64 << 10), Some(9 * MIB));
    }

    #[test]
    fn a_short_region_has_a_short_window() {
        let mut bins = Bins::new(MIB);
        let kib: Vec<_> = turns(&mut bins, 64 << 10, 5);
        assert_eq!(kib, [0, 64, 128, 192, 0].map(|kib| kib << 10));
        assert_eq!(turns(&mut bins, 512 << 10, 2), [512 << 10; 2], "no window");
    }

    #[test]
    fn bins_give_back_what_a_longer_block_needs() {
        let mut bins = Bins::new(16 * MIB);
        let offsets: Vec<_> = iter::from_fn(|| bins.alloc(MIB)).collect();
        for offset in offsets {
            bins.free(offset, MIB);
        }
        assert!(bins.is_idle());
        assert_eq!(bins.alloc(16 * MIB), Some(0));
        bins.free(0, 16 * MIB);

        let held = bins.alloc(UNIT).unwrap();
        turns(&mut bins, MIB, 4);
        let free: Vec<_> = bins.free_blocks().collect();
        assert_eq!(bins.alloc(16 * MIB), None);
        assert_eq!(
            free,
            bins.free_blocks().collect::<Vec<_>>(),
            "nothing is given back in vain"
        );
        bins.free(held, UNIT);
    }

    #[test]
    fn what_a_burst_has_left_goes_back_once_it_is_not_needed() {
        for len in [UNIT, 64 << 10, MIB] {
            let mut bins = Bins::new(16 * MIB);
            let all = 16 * MIB / len;
            let burst = |bins: &mut Bins, count| {
                let offsets: Vec<_> = (0..count).map(|_| bins.alloc(len).unwrap()).collect();
                offsets
                    .into_iter()
                    .for_each(|offset| bins.free(offset, len));
            };
            for _ in 0..5 {
                burst(&mut bins, all);
                assert_eq!(bins.buddy.used(), 16 * MIB, "it is needed");
            }
            for _ in 0..all {
                burst(&mut bins, 3);
            }
            assert!((4 * MIB..=4 * MIB + 3 * len).contains(&bins.buddy.used()));
            turns(&mut bins, len, all);
            assert!((4 * MIB..=4 * MIB + len).contains(&bins.buddy.used()));
        }
    }

    /// Whether a block of `size` bytes fits between those that are in use.
    fn fits(live: &BTreeMap<u32, u32>, size: u32, region_len: u32) -> bool {
        let mut offsets = (0..region_len / size).map(|i| i * size);
        offsets.any(|offset| is_free(live, offset, size))
    }

    proptest! {
        /// The oracle is a map of live ranges: blocks never overlap, stay inside and are aligned to their size; there is one
        /// whenever one fits; and when all are freed the whole region is one again.
        #[test]
        fn blocks_never_overlap(
            units in 1u32..200,
            ops in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u32>()), 0..300),
        ) {
            let len = units * UNIT;
            let mut bins = Bins::new(len);
            let mut live: BTreeMap<u32, u32> = BTreeMap::new();
            for (allocate, short, n) in ops {
                if allocate {
                    let wanted = n % if short { 4 * UNIT } else { len + UNIT } + 1;
                    let size = Buddy::size_class(wanted);
                    let Some(offset) = bins.alloc(wanted) else {
                        prop_assert!(!fits(&live, size, len));
                        continue;
                    };
                    prop_assert!(wanted <= size && offset % size == 0 && offset + size <= len);
                    prop_assert!(is_free(&live, offset, size));
                    live.insert(offset, size);
                } else if let Some((&offset, &size)) = live.iter().nth(index(n) % live.len().max(1)) {
                    live.remove(&offset);
                    bins.free(offset, size);
                }
                let used = live.values().sum::<u32>();
                prop_assert_eq!(bins.used(), used);
                prop_assert_eq!(bins.is_idle(), live.is_empty());
                let free = bins.free_blocks().map(|(size, count)| size * count);
                prop_assert_eq!(free.sum::<u32>(), len - used);
            }
            for (offset, size) in live {
                bins.free(offset, size);
            }
            prop_assert!(bins.is_idle());
            let largest = 1 << (31 - units.leading_zeros());
            prop_assert_eq!(bins.alloc(largest * UNIT), Some(0));
        }
    }
}
