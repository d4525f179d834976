//! Slices that this side keeps for messages of its own, instead of putting them back.
//!
//! A free list hands out the slice that was put back longest ago: nothing of it is in a cache any more, and both processes contend for
//! the words of the list. A slice that has just been read is where the next message is best written, which the protocol allows for:
//! other implementations write to the slices that they have received as well, per stream.
//!
//! What is kept here, the peer cannot have. So it is a small share of each list, and nothing of a short one; and nothing once the
//! session is over, since other sessions may share the lists.

use std::sync::Mutex;

use super::{Slice, buffers::List};
use crate::core::{num::index, sync::lock};

/// One slice of so many may be kept.
const SHARE: u32 = 16;

/// The most slices of a list that are kept.
const KEPT_MAX: u32 = 64;

/// What is kept of each list.
#[derive(Debug)]
pub(super) struct Spares(Box<[Spare]>);

#[derive(Debug)]
struct Spare {
    max: usize,
    /// `None` once nothing is kept any more.
    slices: Mutex<Option<Vec<Slice>>>,
}

impl Spares {
    pub(super) fn new(lists: &[List]) -> Self {
        let spare = |list: &List| Spare {
            max: index((list.count / SHARE).min(KEPT_MAX)),
            slices: Mutex::new(Some(Vec::new())),
        };
        Self(lists.iter().map(spare).collect())
    }

    /// The slice of this list that was kept last.
    pub(super) fn take(&self, list: usize) -> Option<Slice> {
        lock(&self.0[list].slices).as_mut()?.pop()
    }

    /// Keeps a slice of this list, unless there are enough, or none are kept any more.
    pub(super) fn keep(&self, list: usize, slice: Slice) -> Result<(), Slice> {
        let Spare { max, slices } = &self.0[list];
        match &mut *lock(slices) {
            Some(slices) if slices.len() < *max => {
                slices.push(slice);
                Ok(())
            }
            _ => Err(slice),
        }
    }

    /// Keeps nothing any more. Returns what was kept.
    pub(super) fn close(&self) -> Vec<Slice> {
        let close = |spare: &Spare| lock(&spare.slices).take().unwrap_or_default();
        self.0.iter().flat_map(close).collect()
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let count = |spare: &Spare| lock(&spare.slices).as_ref().map_or(0, Vec::len);
        self.0.iter().map(count).sum()
    }
}
