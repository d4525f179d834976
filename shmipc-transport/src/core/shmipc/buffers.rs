//! Where everything lies in a buffer region, and how a peer's claims about that are checked.

use std::mem::offset_of;

use super::{InvalidShmipc, Memory};
use crate::core::{
    num::{index, u32_len},
    sync::Ordering,
};

/// The head of a buffer region. Words are written as such here and only ever accessed as atomics.
#[repr(C)]
struct ManagerHeader {
    /// Number of lists in the lower half, nothing in the upper.
    lists: u32,
    /// Bytes of all lists, without this header.
    used: u32,
}

/// The head of a list, directly followed by its slices.
#[repr(C)]
struct ListHeader {
    /// Free slices, signed: it dips below zero while several sides fail to take the last one.
    size: u32,
    count: u32,
    /// The first free slice, relative to the first slice.
    head: u32,
    /// The last free slice, relative to the first slice.
    tail: u32,
    capacity: u32,
    /// What the creator has taken, less what it has put back.
    creators: u32,
    /// The same of the side that mapped it.
    mappers: u32,
    unused: [u32; 2],
}

/// The head of a slice, directly followed by its data.
#[repr(C)]
struct SliceHeader {
    capacity: u32,
    size: u32,
    start: u32,
    /// In a free list relative to its first slice; in a chain an offset in the region.
    next: u32,
    /// One byte of flags, and three that are always zero: so the whole word may be written, and stays aligned.
    flags: u32,
}

pub(super) const MANAGER_LEN: u32 = 8;
pub(super) const LIST_LEN: u32 = 36;
pub(super) const SLICE_LEN: u32 = 20;

const _: () = {
    assert!(size_of::<ManagerHeader>() == MANAGER_LEN as usize);
    assert!(offset_of!(ManagerHeader, used) == 4);
    assert!(size_of::<ListHeader>() == LIST_LEN as usize);
    assert!(offset_of!(ListHeader, count) == 4);
    assert!(offset_of!(ListHeader, head) == 8);
    assert!(offset_of!(ListHeader, tail) == 12);
    assert!(offset_of!(ListHeader, capacity) == 16);
    assert!(offset_of!(ListHeader, creators) == 20);
    assert!(offset_of!(ListHeader, mappers) == 24);
    assert!(offset_of!(ListHeader, unused) == 28);
    assert!(size_of::<SliceHeader>() == SLICE_LEN as usize);
    assert!(offset_of!(SliceHeader, size) == 4);
    assert!(offset_of!(SliceHeader, start) == 8);
    assert!(offset_of!(SliceHeader, next) == 12);
    assert!(offset_of!(SliceHeader, flags) == 16);
};

/// Offsets of fields, for access by the word.
pub(super) mod field {
    use super::{super::field_at as at, ListHeader, ManagerHeader, SliceHeader, offset_of};

    pub(in super::super) const LISTS: u32 = at(offset_of!(ManagerHeader, lists));
    pub(in super::super) const USED: u32 = at(offset_of!(ManagerHeader, used));

    pub(in super::super) const SIZE: u32 = at(offset_of!(ListHeader, size));
    pub(in super::super) const COUNT: u32 = at(offset_of!(ListHeader, count));
    pub(in super::super) const HEAD: u32 = at(offset_of!(ListHeader, head));
    pub(in super::super) const TAIL: u32 = at(offset_of!(ListHeader, tail));
    pub(in super::super) const CAPACITY: u32 = at(offset_of!(ListHeader, capacity));
    pub(in super::super) const CREATORS: u32 = at(offset_of!(ListHeader, creators));
    pub(in super::super) const MAPPERS: u32 = at(offset_of!(ListHeader, mappers));

    pub(in super::super) const SLICE_CAPACITY: u32 = at(offset_of!(SliceHeader, capacity));
    pub(in super::super) const SLICE_SIZE: u32 = at(offset_of!(SliceHeader, size));
    pub(in super::super) const SLICE_START: u32 = at(offset_of!(SliceHeader, start));
    pub(in super::super) const SLICE_NEXT: u32 = at(offset_of!(SliceHeader, next));
    pub(in super::super) const SLICE_FLAGS: u32 = at(offset_of!(SliceHeader, flags));
}

/// Another slice follows.
pub(super) const HAS_NEXT: u32 = 1;
/// The slice is not in a free list. Nobody relies on it.
pub(super) const IN_USE: u32 = 2;

/// More lists than anybody configures: each is looked at for every allocation.
const LISTS_MAX: u32 = 64;

/// A list of slices of one capacity, verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct List {
    /// Where its header lies.
    pub(super) header: u32,
    /// Where its first slice lies.
    pub(super) first: u32,
    /// From one slice to the next.
    stride: u32,
    /// Bytes of data in a slice.
    pub(crate) capacity: u32,
    pub(crate) count: u32,
    /// The number of its first slice among all.
    first_index: u32,
}

impl List {
    /// The slice at an offset from the first one: its number among all.
    pub(super) fn slice(&self, relative: u32) -> Option<u32> {
        let number = relative / self.stride;
        (relative.is_multiple_of(self.stride) && number < self.count)
            .then_some(self.first_index + number)
    }

    /// Where the last slice lies, from the first one.
    fn last(&self) -> u32 {
        (self.count - 1) * self.stride
    }

    fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count) * u64::from(self.stride)
    }

    /// Makes a list whose header lies at `header`, if all of it fits below `end` and all of its words are aligned.
    fn new(header: u32, capacity: u32, count: u32, first_index: u32, end: u64) -> Option<Self> {
        let stride = capacity.checked_add(SLICE_LEN)?;
        let list = Self {
            header,
            first: header.checked_add(LIST_LEN)?,
            stride,
            capacity,
            count,
            first_index,
        };
        let is_aligned = capacity.is_multiple_of(4) && header.is_multiple_of(4);
        (capacity != 0 && count != 0 && is_aligned && list.end() <= end).then_some(list)
    }
}

/// A buffer region's layout, known to fit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Geometry {
    /// By offset.
    lists: Vec<List>,
    /// Their numbers, the smallest slices first.
    by_capacity: Vec<usize>,
    slices: u32,
    used: u32,
}

/// Why a region cannot be laid out as configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidPlan {
    #[error("shares of slices come to more than 100 percent, or there are none")]
    Shares,
    #[error("no slice of {capacity} bytes fits into its share")]
    Slice { capacity: u32 },
    #[error("two lists of slices of {capacity} bytes")]
    SameCapacity { capacity: u32 },
}

impl Geometry {
    /// Lays out a region of `len` bytes: capacities of slices, each with its share in percent.
    ///
    /// # Errors
    ///
    /// Returns what does not fit. Two lists of one capacity would have their slices mixed up by other implementations (H10).
    pub(crate) fn plan(len: u32, slices: &[(u32, u32)]) -> Result<Self, InvalidPlan> {
        let mut slices = slices.to_vec();
        slices.sort_unstable();
        let shares: u64 = slices.iter().map(|&(_, percent)| u64::from(percent)).sum();
        let heads = u64::from(LIST_LEN) * slices.len() as u64 + u64::from(MANAGER_LEN);
        let room = u64::from(len)
            .checked_sub(heads)
            .ok_or(InvalidPlan::Shares)?;
        if slices.is_empty() || index(LISTS_MAX) < slices.len() || 100 < shares {
            return Err(InvalidPlan::Shares);
        }
        let mut lists: Vec<List> = Vec::with_capacity(slices.len());
        for (capacity, percent) in slices {
            if lists.last().is_some_and(|last| last.capacity == capacity) {
                return Err(InvalidPlan::SameCapacity { capacity });
            }
            let wrong = InvalidPlan::Slice { capacity };
            let share = room * u64::from(percent) / 100;
            let count = share / (u64::from(capacity) + u64::from(SLICE_LEN));
            let (header, index) = lists.last().map_or((u64::from(MANAGER_LEN), 0), |last| {
                (last.end(), last.first_index + last.count)
            });
            let header = u32::try_from(header).map_err(|_| wrong)?;
            let count = u32::try_from(count).map_err(|_| wrong)?;
            let list = List::new(header, capacity, count, index, u64::from(len)).ok_or(wrong)?;
            lists.push(list);
        }
        Ok(Self::of(lists))
    }

    /// Reads and verifies the layout that the peer has given a region. The only look at any of these words.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if a list is not where it could be (H8, H23, V3).
    pub(crate) fn read(memory: &impl Memory) -> Result<Self, InvalidShmipc> {
        let len = memory.len();
        let wrong = |lists, used| InvalidShmipc::BufferRegion {
            len: u64::from(len),
            lists,
            used,
        };
        if len < MANAGER_LEN {
            return Err(wrong(0, 0));
        }
        let count = memory.word(field::LISTS).load(Ordering::Acquire) & 0xffff;
        let used = memory.word(field::USED).load(Ordering::Acquire);
        let end = u64::from(MANAGER_LEN) + u64::from(used);
        if count == 0 || LISTS_MAX < count || u64::from(len) < end {
            return Err(wrong(count, used));
        }
        let mut lists: Vec<List> = Vec::with_capacity(index(count));
        for number in 0..count {
            let (header, first_index) = lists.last().map_or((u64::from(MANAGER_LEN), 0), |last| {
                (last.end(), last.first_index + last.count)
            });
            let header = u32::try_from(header)
                .ok()
                .filter(|&header| u64::from(header) + u64::from(LIST_LEN) <= end)
                .ok_or_else(|| wrong(count, used))?;
            let word = |at| memory.word(header + at).load(Ordering::Acquire);
            let (slices, capacity) = (word(field::COUNT), word(field::CAPACITY));
            let list = List::new(header, capacity, slices, first_index, end);
            lists.push(list.ok_or(InvalidShmipc::List {
                list: number,
                count: slices,
                capacity,
            })?);
        }
        Ok(Self::of(lists))
    }

    /// Writes the layout, all slices free, into a region that is zero.
    pub(super) fn write(&self, memory: &impl Memory) {
        let put = |at: u32, value: u32| memory.word(at).store(value, Ordering::Release);
        for list in &self.lists {
            put(list.header + field::COUNT, list.count);
            put(list.header + field::TAIL, list.last());
            put(list.header + field::CAPACITY, list.capacity);
            for number in 0..list.count {
                let slice = list.first + number * list.stride;
                put(slice + field::SLICE_CAPACITY, list.capacity);
                if number + 1 < list.count {
                    put(slice + field::SLICE_NEXT, (number + 1) * list.stride);
                    put(slice + field::SLICE_FLAGS, HAS_NEXT);
                }
            }
            put(list.header + field::SIZE, list.count);
        }
        put(field::LISTS, u32_len(self.lists.len()));
        put(field::USED, self.used);
    }

    fn of(lists: Vec<List>) -> Self {
        let mut by_capacity: Vec<usize> = (0..lists.len()).collect();
        by_capacity.sort_by_key(|&list| lists[list].capacity);
        let last = lists.last().expect("there is at least one list");
        Self {
            slices: last.first_index + last.count,
            used: u32::try_from(last.end() - u64::from(MANAGER_LEN))
                .expect("lists lie in a region of less than 4 GiB"),
            by_capacity,
            lists,
        }
    }

    /// All lists, by offset.
    pub(crate) fn lists(&self) -> &[List] {
        &self.lists
    }

    /// The numbers of the lists, the smallest slices first.
    pub(super) fn by_capacity(&self) -> &[usize] {
        &self.by_capacity
    }

    /// The number of slices in all lists.
    pub(super) fn slices(&self) -> u32 {
        self.slices
    }

    #[cfg(test)]
    /// The most bytes that slices can hold at once, if nobody else holds any: the last of each list is never handed out.
    pub(crate) fn allocatable(&self) -> u64 {
        let of = |list: &List| u64::from(list.count - 1) * u64::from(list.capacity);
        self.lists.iter().map(of).sum()
    }

    /// The slice whose header lies at an offset of the region: the number of its list, and its own among all.
    pub(super) fn locate(&self, at: u32) -> Option<(usize, u32)> {
        let number = self
            .lists
            .partition_point(|list| list.first <= at)
            .checked_sub(1)?;
        let list = &self.lists[number];
        Some((number, list.slice(at - list.first)?))
    }
}
