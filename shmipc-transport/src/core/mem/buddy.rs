//! A buddy allocator over one region: sizes are powers of two, neighbours merge again when both are free.
//!
//! Pure bookkeeping over offsets; it never touches the memory it manages. All of its state is private to the owner, so
//! a peer can neither corrupt it nor make it lose anything. Allocation and release are a scan of at most 13 small bitmaps (for a
//! region of 16 MiB).
//!
//! # Where blocks are taken
//!
//! Short blocks, and very long ones, are taken where the address is lowest: one that was just freed tends to be taken next, while it
//! is still in the caches, and a region's tail stays untouched, which in a sparse file means that it costs nothing.
//!
//! In between, that is the worst place. A block that comes back was just read by the peer, so its lines lie in the second-level
//! cache of the *peer's* CPU, and each must be fetched from there before it can be written: 8 µs for 64 KiB on an AMD EPYC whose
//! second-level cache has 1 MiB, against 2.3 µs once they have left that cache for the one that both CPUs share. So these blocks are
//! taken in turn from a [window](WINDOW) that is longer than such caches are. It is no longer than need be, since what is not
//! found in the shared cache either comes from memory.

use crate::core::num::index;

/// The smallest block: a page, so that blocks never share one.
pub(crate) const UNIT: u32 = 4096;

/// The shortest and the longest blocks that are taken in turn, as orders: 16 KiB and 1 MiB.
const ROTATING: std::ops::RangeInclusive<u32> = 2..=8;

/// From which part of a region they are taken, in units: 4 MiB from its beginning on, or a quarter of one that is short. On
/// current CPUs, second-level caches have up to 2 MiB, and what one direction writes shares them with what the other reads.
const WINDOW: u32 = (4 << 20) / UNIT;

/// Free and used parts of a region.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// `free[order]` holds the free blocks of `UNIT << order` bytes.
    free: Vec<Bitmap>,
    units: u32,
    units_used: u32,
    /// Where the last of the blocks ended that are taken in turn, in units.
    turn: u32,
}

impl Buddy {
    /// Manages `len` bytes, rounded down to whole units.
    pub(crate) fn new(len: u32) -> Self {
        let units = len / UNIT;
        let orders = 32 - units.leading_zeros();
        let free = (0..orders)
            .map(|order| Bitmap::new(units >> order))
            .collect();
        let mut buddy = Self {
            free,
            units,
            units_used: 0,
            turn: 0,
        };
        // A region need not be a power of two: cover it with the largest aligned blocks, from the left.
        let mut unit = 0;
        while unit < units {
            let order = (0..orders)
                .rev()
                .find(|order| unit.is_multiple_of(1 << order) && unit + (1 << order) <= units)
                .expect("a block of one unit always fits");
            buddy.free[index(order)].insert(unit >> order);
            unit += 1 << order;
        }
        buddy
    }

    /// The bytes that a request for `len` takes up.
    pub(crate) fn size_class(len: u32) -> u32 {
        UNIT << order_of(len)
    }

    /// Takes out a block of at least `len` bytes and returns its offset.
    pub(crate) fn alloc(&mut self, len: u32) -> Option<u32> {
        let order = order_of(len);
        if !ROTATING.contains(&order) {
            let (found, block) = self.lowest(order)?;
            return Some(self.take(order, found, block, 0));
        }
        let window = WINDOW.min(self.units / 4);
        let turn = self.turn.next_multiple_of(1 << order);
        // No block lies across the end of the window.
        let turn = if turn + (1 << order) <= window {
            turn
        } else {
            0
        };
        let offset = match self.next(order, turn, window) {
            Some((found, block)) => self.take(order, found, block, turn),
            None => {
                let (found, block) = self.lowest(order)?;
                self.take(order, found, block, 0)
            }
        };
        self.turn = offset / UNIT + (1 << order);
        Some(offset)
    }

    /// Whether [`alloc`](Self::alloc) would find a block of `len` bytes.
    pub(crate) fn has_room(&self, len: u32) -> bool {
        let orders = self.free.iter().skip(index(order_of(len)));
        orders.into_iter().any(|blocks| !blocks.is_empty())
    }

    /// Of the smallest free blocks of at least `order`, the one with the lowest address: its order and number.
    fn lowest(&self, order: u32) -> Option<(u32, u32)> {
        (order..self.orders())
            .find_map(|order| Some((order, self.free[index(order)].first_from(0)?)))
    }

    /// The free block of at least `order` that comes next at unit `from` or behind it, and within `window`: its order and number.
    fn next(&self, order: u32, from: u32, window: u32) -> Option<(u32, u32)> {
        let blocks = (order..self.orders()).filter_map(|order| {
            let block = self.free[index(order)].first_from(from >> order)?;
            let start = (block << order).max(from);
            (start < window).then_some((start, order, block))
        });
        blocks.min().map(|(_, order, block)| (order, block))
    }

    /// Takes a block of `order` out of a free one of order `found`: at unit `from`, if that lies inside, else at its beginning.
    /// Returns its offset.
    fn take(&mut self, order: u32, found: u32, mut block: u32, from: u32) -> u32 {
        self.free[index(found)].remove(block);
        for order in (order..found).rev() {
            // Split: keep the half that holds `from`, or the left one; free the other.
            let right = block * 2 + 1;
            block = if right << order <= from {
                right
            } else {
                right - 1
            };
            self.free[index(order)].insert(block ^ 1);
        }
        self.units_used += 1 << order;
        (block << order) * UNIT
    }

    /// Gives back the block at `offset`, which was allocated for `len` bytes.
    pub(crate) fn free(&mut self, offset: u32, len: u32) {
        let mut order = order_of(len);
        let mut block = (offset / UNIT) >> order;
        self.units_used -= 1 << order;
        while order + 1 < self.orders() && self.free[index(order)].remove(block ^ 1) {
            block /= 2;
            order += 1;
        }
        self.free[index(order)].insert(block);
    }

    /// Whether nothing is allocated.
    pub(crate) fn is_idle(&self) -> bool {
        self.units_used == 0
    }

    /// Bytes that are allocated, in whole blocks.
    pub(crate) fn used(&self) -> u32 {
        self.units_used * UNIT
    }

    /// The sizes of free blocks, in bytes, and how many there are of each.
    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = (u32, u32)> {
        let sizes = (0..).map(|order| UNIT << order).zip(&self.free);
        let counts = sizes.map(|(size, blocks)| (size, blocks.count));
        counts.filter(|(_, count)| *count != 0)
    }

    fn orders(&self) -> u32 {
        32 - self.units.leading_zeros()
    }
}

/// The order of the smallest block that holds `len` bytes.
fn order_of(len: u32) -> u32 {
    len.div_ceil(UNIT)
        .max(1)
        .next_power_of_two()
        .trailing_zeros()
}

/// A set of small numbers.
#[derive(Debug)]
struct Bitmap {
    words: Vec<u64>,
    len: u32,
    count: u32,
    /// No word before this one has a bit set.
    first: usize,
}

impl Bitmap {
    fn new(len: u32) -> Self {
        Self {
            words: vec![0; index(len.div_ceil(64))],
            len,
            count: 0,
            first: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn insert(&mut self, bit: u32) {
        let word = index(bit / 64);
        self.words[word] |= 1 << (bit % 64);
        self.first = self.first.min(word);
        self.count += 1;
    }

    /// Removes `bit`; `false` if it was not there.
    fn remove(&mut self, bit: u32) -> bool {
        if self.len <= bit || self.words[index(bit / 64)] & (1 << (bit % 64)) == 0 {
            return false;
        }
        self.words[index(bit / 64)] &= !(1 << (bit % 64));
        self.count -= 1;
        while self.words.get(self.first) == Some(&0) {
            self.first += 1;
        }
        true
    }

    /// The first bit at `start` or behind it that is set.
    fn first_from(&self, start: u32) -> Option<u32> {
        let start = start.max(u32::try_from(self.first * 64).ok()?);
        let masks = std::iter::once(u64::MAX << (start % 64)).chain(std::iter::repeat(u64::MAX));
        let words = self.words.iter().enumerate().skip(index(start / 64));
        let mut found = words
            .zip(masks)
            .map(|((word, bits), mask)| (word, bits & mask));
        let (word, bits) = found.find(|(_, bits)| *bits != 0)?;
        Some(u32::try_from(word * 64).ok()? + bits.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_freed_block_that_is_short_or_very_long_is_taken_next() {
        for len in [UNIT, 2 * UNIT, 2 << 20] {
            let mut buddy = Buddy::new(16 << 20);
            let first = buddy.alloc(len).unwrap();
            buddy.free(first, len);
            assert_eq!(buddy.alloc(len), Some(first));
        }
    }

    #[test]
    fn blocks_in_between_are_taken_in_turn_from_the_window() {
        for len in [16 << 10, 64 << 10, 1 << 20] {
            let mut buddy = Buddy::new(16 << 20);
            // Those that are in use are passed over, and shorter ones do not lie in the way.
            let held = buddy.alloc(UNIT).unwrap();
            let mut turn = || {
                let offset = buddy.alloc(len).unwrap();
                buddy.free(offset, len);
                offset
            };
            let turns: Vec<_> = (1..WINDOW * UNIT / len).map(|i| i * len).collect();
            for _ in 0..3 {
                assert_eq!(turns, turns.iter().map(|_| turn()).collect::<Vec<_>>());
            }
            buddy.free(held, UNIT);
            assert!(buddy.is_idle());
        }
    }

    #[test]
    fn what_does_not_fit_into_the_window_lies_behind_it() {
        let mut buddy = Buddy::new(16 << 20);
        let offsets: Vec<_> = std::iter::from_fn(|| buddy.alloc(1 << 20)).collect();
        assert_eq!(offsets, (0..16).map(|i| i << 20).collect::<Vec<_>>());
        assert!(!buddy.has_room(1));
        buddy.free(9 << 20, 1 << 20);
        assert!(buddy.has_room(1 << 20) && !buddy.has_room(2 << 20));
        assert_eq!(buddy.alloc(64 << 10), Some(9 << 20));
    }

    #[test]
    fn a_short_region_has_a_short_window() {
        let mut buddy = Buddy::new(1 << 20);
        let mut turn = || {
            let offset = buddy.alloc(64 << 10).unwrap();
            buddy.free(offset, 64 << 10);
            offset >> 10
        };
        assert_eq!([0, 64, 128, 192, 0], [(); 5].map(|()| turn()));
    }

    #[test]
    fn a_region_that_is_no_power_of_two_is_used_to_the_last_unit() {
        let mut buddy = Buddy::new(7 * UNIT);
        let mut offsets: Vec<_> = std::iter::from_fn(|| buddy.alloc(1)).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (0..7).map(|unit| unit * UNIT).collect::<Vec<_>>());
        for offset in offsets {
            buddy.free(offset, 1);
        }
        assert!(buddy.is_idle());
        assert_eq!(buddy.alloc(4 * UNIT), Some(0), "neighbours have merged");
    }

    proptest! {
        /// The oracle is a map of live ranges: blocks never overlap, stay inside, are aligned to their size, and when
        /// all are freed the whole region is one again.
        #[test]
        fn blocks_never_overlap(units in 1u32..200, ops: Vec<(bool, u32)>) {
            let len = units * UNIT;
            let mut buddy = Buddy::new(len);
            let mut live: BTreeMap<u32, u32> = BTreeMap::new();
            for (allocate, n) in ops {
                if allocate {
                    let wanted = n % (len + UNIT) + 1;
                    let has_room = buddy.has_room(wanted);
                    let Some(offset) = buddy.alloc(wanted) else {
                        prop_assert!(!has_room);
                        continue;
                    };
                    prop_assert!(has_room);
                    let size = Buddy::size_class(wanted);
                    prop_assert!(wanted <= size && offset % size == 0 && offset + size <= len);
                    if let Some((start, size)) = live.range(..=offset).next_back() {
                        prop_assert!(start + size <= offset);
                    }
                    if let Some((next, _)) = live.range(offset..).next() {
                        prop_assert!(offset + size <= *next);
                    }
                    live.insert(offset, size);
                } else if let Some((&offset, &size)) = live.iter().nth(index(n) % live.len().max(1)) {
                    live.remove(&offset);
                    buddy.free(offset, size);
                }
                prop_assert_eq!(buddy.used(), live.values().sum::<u32>());
            }
            for (offset, size) in live {
                buddy.free(offset, size);
            }
            let largest = 1 << (31 - units.leading_zeros());
            let whole = buddy.alloc(largest * UNIT);
            prop_assert!(whole.is_some_and(|offset| offset + largest * UNIT <= len));
        }
    }
}
