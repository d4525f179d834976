//! What can be seen of a session from outside.

use super::{Session, Shared};
use crate::{
    core::sync::{lock, try_lock},
    dump::{DriverDump, LISTED_MAX, SessionDump},
    stats::Stats,
};

/// What somebody waits for who wants to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lack {
    /// The stream's credit.
    Credit,
    /// That the peer accepts one more stream.
    Stream,
    /// Room in our ring, or for another segment under way.
    Ring,
    /// Memory of our arena; over shmipc's link, a way around it.
    Memory,
}

impl Shared {
    /// Counts somebody who begins to wait.
    pub(crate) fn lacks(&self, lack: Lack) {
        let counters = self.link.counters();
        match lack {
            Lack::Credit => counters.waits_credit.add(1),
            Lack::Stream => counters.waits_streams.add(1),
            // A place, where there is room in the queue: what is lacking is a way around it.
            Lack::Ring if self.link.has_room() => counters.waits_memory.add(1),
            Lack::Ring => counters.waits_ring.add(1),
            Lack::Memory => counters.waits_memory.add(1),
        }
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

    fn dump(&self) -> SessionDump {
        let (waiting, engaged, openers_waiting, unaccepted) = self.waiters();
        // Who leads, or looks at the ring, holds this for long.
        let policy = try_lock(&self.inbound).map(|inbound| inbound.policy.describe());
        if policy.is_some()
            && let Some(lead) = self.lead()
        {
            // Somebody may have wanted to lead meanwhile, and have taken us for the leader.
            lead.hand_over();
        }
        let streams = lock(&self.streams).some(LISTED_MAX);
        let mut streams: Vec<_> = streams.iter().map(|stream| stream.dump()).collect();
        streams.sort_by_key(|stream| stream.id);
        let link = self.link.dump();
        SessionDump {
            peer: self.peer,
            link: self.link.info(),
            lost: self.lost().cloned(),
            going_away: (self.presence.goes_away(), self.peer_goes_away()),
            stats: self.stats(),
            rings: link.rings,
            control: link.control,
            control_waiting: link.control_waiting,
            senders_waiting: link.senders_waiting,
            openers_waiting,
            unaccepted,
            streams,
            regions: link.regions,
            lists: link.lists,
            leases: link.leases,
            flights: link.flights,
            driver: DriverDump {
                is_task: self.lead().is_none(),
                waiting,
                engaged,
                policy,
            },
        }
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

    /// Takes a picture of the state that the session is in, to be printed: rings and their sleep words, streams and their credit, the
    /// arena, what both sides hold of each other's memory, who waits; over shmipc's own link, also where its free lists lead.
    ///
    /// For finding out why a session does not go on. It never waits for whoever looks after the session, and believes nothing of what the
    /// peer says. Costs what it copies, in short locks one after the other: up to some 100 µs for thousands of streams, and
    /// as much for each 10,000 slices of free lists, of which it follows 65,536 at most.
    ///
    /// ```no_run
    /// # fn print(session: &shmipc_transport::Session) {
    /// eprintln!("{}", session.debug_dump());
    /// # }
    /// ```
    #[must_use]
    pub fn debug_dump(&self) -> SessionDump {
        self.shared().dump()
    }
}
