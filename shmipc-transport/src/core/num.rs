//! Numbers that must not be mixed up, and the conversions between widths.

use std::fmt;

/// The length of a ring in bytes or entries: a power of two, so that a cursor's slot is a mask away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Capacity(u32);

impl Capacity {
    /// Returns `None` unless `value` is a power of two of at most 2³⁰.
    pub(crate) const fn new(value: u32) -> Option<Self> {
        // With a bit to spare, the distance between two cursors is never ambiguous.
        if value.is_power_of_two() && value <= 1 << 30 {
            Some(Self(value))
        } else {
            None
        }
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// Where the free-running `cursor` lies in the ring.
    pub(crate) const fn slot(self, cursor: u32) -> u32 {
        cursor & (self.0 - 1)
    }
}

/// Names a stream within its session.
///
/// The side that connected opens odd ids, the side that accepted even ones; each counts up and none is used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a region of one side's memory. Never used again within a session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct RegionId(pub(crate) u32);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bounded number of bytes as `u32`.
///
/// # Panics
///
/// If `len` does not fit. Callers have bounded it by a constant or a configured maximum below 4 GiB.
pub(crate) fn u32_len(len: usize) -> u32 {
    u32::try_from(len).expect("lengths are bounded by memory_max, which is below 4 GiB")
}

/// A `u32` as an index. Lossless: the crate builds for 64-bit targets only.
pub(crate) const fn index(value: u32) -> usize {
    value as usize
}
