//! What a link has to say for statistics. Asked for, and not kept: it costs those who send and receive nothing.

use std::time::Duration;

use super::OutboxLink;
use crate::core::{mem::HeapFigures, outbox::Backlog, sync::Ordering};

/// How full a ring is, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fill {
    pub(crate) now: u32,
    pub(crate) max: u32,
    pub(crate) capacity: u32,
}

/// What a link holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkFigures {
    /// Our ring.
    pub(crate) ring: Fill,
    /// The peer's.
    pub(crate) peer_ring: Fill,
    /// Records published in our ring so far.
    pub(crate) records_sent: u64,
    /// Segments of ours that the peer has not given back.
    pub(crate) segments_under_way: u32,
    /// Segments of the peer's that we hold, and for how long the oldest.
    pub(crate) leases_held: usize,
    pub(crate) lease_age: Option<Duration>,
    pub(crate) heap: HeapFigures,
    pub(crate) heap_max: u64,
}

/// Looks at a ring until nothing was overwritten meanwhile, at most.
const LOOKS_MAX: usize = 3;

impl OutboxLink {
    /// What the link holds now.
    ///
    /// Costs short locks, and a look at each record that waits to be received and at each lease.
    pub(crate) fn figures(&self) -> LinkFigures {
        let (now, max, records_sent, segments_under_way) = {
            let mut tx = self.tx();
            let now = tx.producer.look(&self.peer_header().head.0);
            let producer = &tx.producer;
            let (max, records) = (producer.fill_max(), producer.records());
            (now, max, records, tx.flights.count())
        };
        let ring = Fill {
            now,
            max,
            capacity: self.own_layout.ring.get(),
        };
        let (leases_held, lease_age) = self.leases_held();
        LinkFigures {
            ring,
            peer_ring: self.peer_ring_fill(),
            records_sent,
            segments_under_way,
            leases_held,
            lease_age,
            heap: self.heap.figures(),
            heap_max: self.heap.max(),
        }
    }

    /// How much of the peer's ring it cannot use, because we have not told it that it was consumed.
    ///
    /// No lock is taken for it: whoever drains the ring may have it for long.
    fn peer_ring_fill(&self) -> Fill {
        let backlog = self.peer_backlog();
        let peak = &self.counters.peer_ring_fill_max;
        peak.raise(u64::from(backlog.bytes));
        Fill {
            now: backlog.bytes,
            max: u32::try_from(peak.get()).unwrap_or(u32::MAX),
            capacity: self.peer_layout.ring.get(),
        }
    }

    /// The records in the peer's ring that it cannot overwrite.
    pub(crate) fn peer_backlog(&self) -> Backlog {
        // Our own word, which whoever drains stores.
        let announced = || self.own_header().head.0.load(Ordering::Relaxed);
        let mut head = announced();
        for _ in 1..LOOKS_MAX {
            let backlog = Backlog::at(self.peer_layout.ring, &self.peer_ring, head);
            let now = announced();
            if now == head {
                return backlog;
            }
            head = now;
        }
        Backlog::at(self.peer_layout.ring, &self.peer_ring, head)
    }
}
