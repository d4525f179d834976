//! Slices of messages that have been received and are still read.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use foldhash::fast::RandomState;

use crate::{
    core::{num::u32_len, shmipc::Slice, sync::lock},
    dump::{LISTED_MAX, LeaseDump},
    sys::clock,
};

/// The slices that are lent, by where their headers lie: a slice is held once.
#[derive(Debug, Default)]
pub(super) struct Lent(Mutex<HashMap<u32, Held, RandomState>>);

/// A slice that is lent.
#[derive(Clone, Copy, Debug)]
struct Held {
    list: u32,
    /// Where what is lent of it begins in the region, and how long that is.
    offset: u32,
    len: u32,
    /// By the [coarse clock](clock::coarse).
    began: Duration,
}

impl Lent {
    /// Takes note that `len` bytes at `start` of a slice are lent.
    pub(super) fn begin(&self, slice: &Slice, start: u32, len: u32) {
        let held = Held {
            list: u32_len(slice.list()),
            offset: slice.data() + start,
            len,
            began: clock::coarse(),
        };
        lock(&self.0).insert(slice.at(), held);
    }

    /// Takes note that the slice is not read any more.
    pub(super) fn end(&self, slice: &Slice) {
        lock(&self.0).remove(&slice.at());
    }

    /// How many there are, and for how long the oldest has been.
    pub(super) fn figures(&self) -> (usize, Option<Duration>) {
        let lent = lock(&self.0);
        let oldest = lent.values().map(|held| held.began).min();
        let age = oldest.map(|began| clock::coarse().saturating_sub(began));
        (lent.len(), age)
    }

    /// What is lent, the oldest first.
    pub(super) fn dump(&self) -> Vec<LeaseDump> {
        let mut held: Vec<_> = lock(&self.0).values().copied().collect();
        let now = clock::coarse();
        held.sort_by_key(|held| held.began);
        held.truncate(LISTED_MAX);
        let dump = held.into_iter().map(|held| LeaseDump {
            region: held.list,
            offset: held.offset,
            len: held.len,
            age: now.saturating_sub(held.began),
            sent_back: false,
        });
        dump.collect()
    }
}
