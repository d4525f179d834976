//! Blocks of our own memory, which their holder alone may write.
#![expect(
    unsafe_code,
    reason = "turns the heap's promise of disjoint ranges into slices"
)]

use std::{fmt, ops::Range, sync::Arc};

use super::{Heap, OwnedRegion};
use crate::core::num::{RegionId, index, u32_len};

/// A block of our arena. Goes back to the heap when it is dropped.
pub(crate) struct Block {
    heap: Arc<Heap>,
    region: OwnedRegion,
    id: RegionId,
    /// What the heap handed out.
    range: Range<u32>,
    /// How much of it is in use.
    len: u32,
}

impl Block {
    /// Makes the block that `heap` has just taken out of `region`.
    ///
    /// # Safety
    ///
    /// `range` must be inside `region` and overlap no other live block; the heap must not hand it out again before
    /// this block is dropped.
    pub(super) unsafe fn new(
        heap: Arc<Heap>,
        region: OwnedRegion,
        id: RegionId,
        range: Range<u32>,
    ) -> Self {
        Self {
            heap,
            region,
            id,
            len: range.end - range.start,
            range,
        }
    }

    pub(crate) fn region(&self) -> RegionId {
        self.id
    }

    pub(crate) fn offset(&self) -> u32 {
        self.range.start
    }

    pub(crate) fn len(&self) -> usize {
        index(self.len)
    }

    /// Forgets all but the first `len` bytes; the heap still gets back the whole.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32_len(len));
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the range is ours alone (`new`), and `&mut self` admits no second slice.
        unsafe {
            self.region
                .exclusive(self.range.start..self.range.start + self.len)
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range is ours alone (`new`), and whoever writes needs `&mut self`.
        unsafe {
            self.region
                .shared(self.range.start..self.range.start + self.len)
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.heap
            .free(self.id, self.range.start, self.range.end - self.range.start);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("region", &self.id)
            .field("range", &self.range)
            .field("len", &self.len)
            .finish()
    }
}
