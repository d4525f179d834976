//! What shmipc's link has to say for statistics.

use super::ShmipcLink;
use crate::{
    core::{
        mem::{HeapFigures, SharedRegion},
        shmipc::{ELEMENT_LEN, Ends},
        sync::Ordering,
    },
    dump::{ListDump, RegionDump, RingDump},
    link::{CONTROL_LISTED_MAX, Fill, LinkDump, LinkFigures},
    stats::Peak,
};

impl ShmipcLink {
    /// What the link holds now. All words but our own counters are the peer's as well: they are figures, and nothing follows from
    /// them.
    pub(crate) fn figures(&self) -> LinkFigures {
        let records_sent = self.tx().producer.published();
        let heap = self.region_figures();
        let (leases_held, lease_age) = self.lent.figures();
        LinkFigures {
            ring: fill(&self.ours, &self.counters.ring_fill_max),
            peer_ring: fill(&self.theirs, &self.counters.peer_ring_fill_max),
            records_sent,
            // A message sent belongs to the peer, which puts its slices back where we need not see it.
            segments_under_way: 0,
            leases_held,
            lease_age,
            heap_max: heap.mapped,
            heap,
        }
    }

    /// Raises the high-water marks to what there is now. As short whatever was lent.
    pub(super) fn raise_peaks(&self) {
        fill(&self.ours, &self.counters.ring_fill_max);
        fill(&self.theirs, &self.counters.peer_ring_fill_max);
        self.region_figures();
    }

    /// The state of the link now.
    pub(crate) fn dump(&self) -> LinkDump {
        let figures = self.figures();
        let ring = |queue: &Ends<SharedRegion>, fill: Fill| {
            let (head, tail, is_consumer_idle) = queue.cursors();
            RingDump {
                len: fill.capacity,
                written: Some(tail.wrapping_mul(ELEMENT_LEN)),
                read: head.wrapping_mul(ELEMENT_LEN),
                fill: fill.now,
                records: Some(fill.now / ELEMENT_LEN),
                reader_sleeps: u32::from(is_consumer_idle),
                // The peer's is not to be known.
                writer_starves: 0,
            }
        };
        let mut rings = [
            ring(&self.ours, figures.ring),
            ring(&self.theirs, figures.peer_ring),
        ];
        rings[0].writer_starves = u32::from(self.starving.load(Ordering::Relaxed));
        let tx = self.tx();
        let control = tx.control.iter().take(CONTROL_LISTED_MAX);
        LinkDump {
            rings,
            control: control.map(|control| format!("{control:?}")).collect(),
            control_waiting: tx.control.len(),
            senders_waiting: tx.waiters.count(),
            regions: self.dump_regions(),
            lists: self.dump_lists(),
            leases: self.lent.dump(),
            ..LinkDump::default()
        }
    }

    /// What the links of the free lists lead to.
    fn dump_lists(&self) -> Vec<ListDump> {
        let lists = self.pool.geometry().lists().iter().enumerate();
        let dump = lists.map(|(i, list)| {
            let walk = self.pool.walk(i);
            ListDump {
                id: u32::try_from(i).unwrap_or(u32::MAX),
                capacity: list.capacity,
                slices: list.count,
                says: walk.says,
                head: walk.head,
                tail: walk.tail,
                found: walk.found,
                end: walk.end,
                held: walk.held,
            }
        });
        dump.collect()
    }

    /// The lists of slices, as regions.
    fn dump_regions(&self) -> Vec<RegionDump> {
        let lists = self.pool.geometry().lists().iter().enumerate();
        let dump = lists.map(|(i, list)| {
            let free = self.pool.available(i).saturating_add(1).min(list.count);
            RegionDump {
                id: u32::try_from(i).unwrap_or(u32::MAX),
                len: list.count.saturating_mul(list.capacity),
                used: (list.count - free).saturating_mul(list.capacity),
                free: vec![(list.capacity, free)],
            }
        });
        dump.collect()
    }

    /// How much of the region is in use, by either side.
    fn region_figures(&self) -> HeapFigures {
        let lists = self.pool.geometry().lists();
        let bytes = |count: u32, capacity: u32| u64::from(count) * u64::from(capacity);
        let mapped = lists.iter().map(|list| bytes(list.count, list.capacity));
        // One slice of each list is never taken.
        let used = lists.iter().enumerate().map(|(i, list)| {
            let free = self.pool.available(i).saturating_add(1);
            bytes(list.count.saturating_sub(free), list.capacity)
        });
        let (mapped, used) = (mapped.sum(), used.sum());
        self.counters.arena_used_max.raise(used);
        HeapFigures {
            mapped,
            used,
            used_max: self.counters.arena_used_max.get(),
        }
    }
}

fn fill(queue: &Ends<SharedRegion>, peak: &Peak) -> Fill {
    let now = queue.waiting().saturating_mul(ELEMENT_LEN);
    peak.raise(u64::from(now));
    Fill {
        now,
        max: u32::try_from(peak.get()).unwrap_or(u32::MAX),
        capacity: queue.cap().saturating_mul(ELEMENT_LEN),
    }
}
