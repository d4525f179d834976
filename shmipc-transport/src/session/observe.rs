//! What can be seen of a session from outside.

use super::{Session, Shared};
use crate::{core::sync::lock, stats::Stats};

/// What somebody waits for who wants to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lack {
    /// Room in our ring, or for another segment under way.
    Ring,
    /// Memory of our arena.
    Memory,
}

impl Shared {
    /// Counts somebody who begins to wait. Always `true`.
    pub(crate) fn lacks(&self, lack: Lack) -> bool {
        let counters = self.link.counters();
        match lack {
            Lack::Ring => counters.waits_ring.add(1),
            Lack::Memory => counters.waits_memory.add(1),
        }
        true
    }

    /// What the session has done and holds.
    pub(crate) fn stats(&self) -> Stats {
        let (figures, counters) = (self.link.figures(), self.link.counters());
        let (open, opened, accepted) = {
            let streams = lock(&self.streams);
            (streams.len(), streams.opened(), streams.accepted())
        };
        let mut stats = counters.stats();
        let for_records = stats
            .doorbells_rung
            .saturating_sub(counters.rung_for_space.get());
        stats.wakes_avoided = figures.records_sent.saturating_sub(for_records);
        stats.ring_fill = figures.ring.now;
        stats.ring_fill_max = figures.ring.max;
        stats.ring_len = figures.ring.capacity;
        stats.peer_ring_fill = figures.peer_ring.now;
        stats.peer_ring_fill_max = figures.peer_ring.max;
        stats.peer_ring_len = figures.peer_ring.capacity;
        stats.segments_under_way = figures.segments_under_way;
        stats.leases_held = figures.leases_held;
        stats.oldest_lease = figures.lease_age;
        stats.arena_mapped = figures.heap.mapped;
        stats.arena_used = figures.heap.used;
        stats.arena_used_max = figures.heap.used_max;
        stats.arena_len_max = figures.heap_max;
        stats.streams_open = open;
        stats.streams_opened = opened;
        stats.streams_accepted = accepted;
        stats
    }
}

impl Session {
    /// Takes a snapshot of what the session has done and holds.
    ///
    /// Costs a few short locks, one after the other, and a look at each lease and at each record that waits in the peer's ring:
    /// 1 to 100 µs. The figures are of slightly different moments.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }
}
