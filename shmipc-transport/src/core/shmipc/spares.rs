//! Slices that this side keeps for messages of its own, instead of putting them back.
//!
//! A free list hands out the slice that was put back longest ago: nothing of it is in a cache any more, and both processes contend for
//! the words of the list. A slice that has just been read is where the next message is best written, which the protocol allows for:
//! other implementations write to the slices that they have received as well, per stream. And what is not put back cannot be put
//! back by halves: who is suspended while he does so cuts the list (H2), and then the other side finds no memory, although there is plenty.
//!
//! What is kept here, the peer cannot have. So a *few* are kept of each list, none of a short one; *many* only while most of the
//! list is free, and somebody looks after the session who puts them back before he sleeps; and nothing once the session is over, since
//! other sessions may share the lists.

use std::sync::Mutex;

use super::{Slice, buffers::List};
use crate::core::{
    num::index,
    sync::{AtomicBool, Ordering, lock},
};

/// One slice of so many is kept in any case, and at most so many slices.
const FEW: (u32, u32) = (16, 64);

/// As [`FEW`], while most of the list is free and nobody sleeps.
const MANY: (u32, u32) = (4, 256);

/// What is kept of each list.
#[derive(Debug)]
pub(super) struct Spares {
    lists: Box<[Spare]>,
    /// Whether somebody is awake who will [`trim`](Self::trim).
    is_awake: AtomicBool,
}

#[derive(Debug)]
struct Spare {
    few: usize,
    many: usize,
    /// `None` once nothing is kept any more.
    slices: Mutex<Option<Vec<Slice>>>,
}

impl Spares {
    pub(super) fn new(lists: &[List]) -> Self {
        let spare = |list: &List| {
            let limit = |(share, max): (u32, u32)| index((list.count / share).min(max));
            let few = limit(FEW);
            Spare {
                few,
                many: if few == 0 { 0 } else { limit(MANY) },
                slices: Mutex::new(Some(Vec::new())),
            }
        };
        Self {
            lists: lists.iter().map(spare).collect(),
            is_awake: AtomicBool::new(false),
        }
    }

    /// Keeps many from now on, until they are [trimmed](Self::trim).
    pub(super) fn wake(&self) {
        // Relaxed, here and below: what is kept lies behind locks. Looked at first, so that the line is not written in each turn.
        if !self.is_awake.load(Ordering::Relaxed) {
            self.is_awake.store(true, Ordering::Relaxed);
        }
    }

    /// The slice of this list that was kept last.
    pub(super) fn take(&self, list: usize) -> Option<Slice> {
        lock(&self.lists[list].slices).as_mut()?.pop()
    }

    /// Keeps a slice of this list, unless there are enough, or none are kept any more.
    pub(super) fn keep(
        &self,
        list: usize,
        slice: Slice,
        is_mostly_free: impl FnOnce() -> bool,
    ) -> Result<(), Slice> {
        let Spare { few, many, slices } = &self.lists[list];
        let mut slices = lock(slices);
        let Some(slices) = &mut *slices else {
            return Err(slice);
        };
        let may_be_many = || self.is_awake.load(Ordering::Relaxed) && is_mostly_free();
        if slices.len() < *few || slices.len() < *many && may_be_many() {
            slices.push(slice);
            Ok(())
        } else {
            Err(slice)
        }
    }

    /// Keeps but a few, until somebody is [awake](Self::wake) again. Returns the others: of each list, what was kept longest ago.
    pub(super) fn trim(&self) -> Vec<Slice> {
        // Whoever keeps a slice after that list was trimmed has its lock after us, and finds it so.
        self.is_awake.store(false, Ordering::Relaxed);
        let trim = |spare: &Spare| {
            let mut slices = lock(&spare.slices);
            let surplus = slices.as_mut().map(|slices| {
                let surplus = slices.len().saturating_sub(spare.few);
                slices.drain(..surplus).collect::<Vec<_>>()
            });
            surplus.unwrap_or_default()
        };
        self.lists.iter().flat_map(trim).collect()
    }

    /// Keeps nothing any more. Returns what was kept.
    pub(super) fn close(&self) -> Vec<Slice> {
        let close = |spare: &Spare| lock(&spare.slices).take().unwrap_or_default();
        self.lists.iter().flat_map(close).collect()
    }

    /// How many slices of this list are kept.
    pub(super) fn kept(&self, list: usize) -> usize {
        lock(&self.lists[list].slices).as_ref().map_or(0, Vec::len)
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        (0..self.lists.len()).map(|list| self.kept(list)).sum()
    }
}
