//! A buddy allocator over one region: sizes are powers of two, neighbours merge again when both are free.
//!
//! Pure bookkeeping over offsets; it never touches the memory it manages. All of its state is private to the owner, so
//! a peer can neither corrupt it nor make it lose anything. Of the smallest blocks that are large enough, the one
//! with the lowest address is handed out, so a region's tail stays untouched, which in a sparse file means that it costs
//! nothing.
//!
//! Allocation and release are a scan of at most 13 small bitmaps (for a region of 16 MiB). Blocks that come and go all the
//! time are spared that by [`Bins`](super::bins::Bins).

use crate::core::num::index;

/// The smallest block: a page, so that blocks never share one.
pub(crate) const UNIT: u32 = 4096;

/// Free and used parts of a region.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// `free[order]` holds the free blocks of `UNIT << order` bytes.
    free: Vec<Bitmap>,
    units: u32,
    units_used: u32,
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
        let wanted = order_of(len);
        let found = (wanted..self.orders()).find(|&order| !self.free[index(order)].is_empty())?;
        let mut block = self.free[index(found)].take_first()?;
        for order in (wanted..found).rev() {
            // Split: keep the left half, free the right.
            block *= 2;
            self.free[index(order)].insert(block + 1);
        }
        self.units_used += 1 << wanted;
        Some((block << wanted) * UNIT)
    }

    /// Whether [`alloc`](Self::alloc) would find a block of `len` bytes.
    pub(crate) fn has_room(&self, len: u32) -> bool {
        let mut orders = self.free.iter().skip(index(order_of(len)));
        orders.any(|blocks| !blocks.is_empty())
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

    /// Bytes that are allocated, in whole blocks.
    pub(crate) fn used(&self) -> u32 {
        self.units_used * UNIT
    }

    /// Bytes that are not, in blocks of any size.
    pub(crate) fn unused(&self) -> u32 {
        (self.units - self.units_used) * UNIT
    }

    /// How many free blocks there are of each size, from one of [`UNIT`] bytes on.
    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = u32> {
        self.free.iter().map(|blocks| blocks.count)
    }

    fn orders(&self) -> u32 {
        32 - self.units.leading_zeros()
    }
}

/// The order of the smallest block that holds `len` bytes.
pub(super) fn order_of(len: u32) -> u32 {
    32 - (len.saturating_sub(1) / UNIT).leading_zeros()
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
        true
    }

    fn take_first(&mut self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        while self.words[self.first] == 0 {
            self.first += 1;
        }
        let bit = u32::try_from(self.first * 64).ok()? + self.words[self.first].trailing_zeros();
        self.remove(bit);
        Some(bit)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Whether nothing of `size` bytes at `offset` is in use.
    pub(in crate::core::mem) fn is_free(live: &BTreeMap<u32, u32>, offset: u32, size: u32) -> bool {
        let before = live.range(..offset + size).next_back();
        before.is_none_or(|(&start, len)| start + len <= offset)
    }

    #[test]
    fn the_freed_block_is_taken_next() {
        let mut buddy = Buddy::new(16 << 20);
        let first = buddy.alloc(1 << 20).unwrap();
        buddy.free(first, 1 << 20);
        assert_eq!(buddy.alloc(1 << 20), Some(first));
    }

    #[test]
    fn a_block_is_the_smallest_that_is_long_enough() {
        let sizes = [0, 1, 4096, 4097, 8192, 8193, 16 << 20].map(Buddy::size_class);
        assert_eq!(sizes, [4096, 4096, 4096, 8192, 8192, 16384, 16 << 20]);
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
        assert_eq!(buddy.used(), 0);
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
                    prop_assert!(is_free(&live, offset, size));
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
            prop_assert_eq!(buddy.alloc(largest * UNIT), Some(0));
        }
    }
}
