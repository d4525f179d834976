//! What a link looks like inside. Whoever prints it is in no hurry, so locks are taken one after the other, and only to copy.

use super::{Link, OutboxLink};
use crate::{
    core::{outbox::Flight, sync::Ordering},
    dump::{FlightDump, LISTED_MAX, LeaseDump, ListDump, RegionDump, RingDump},
};

/// Control records that are told apart.
pub(crate) const CONTROL_LISTED_MAX: usize = 16;

/// The state of a link.
#[derive(Debug, Default)]
pub(crate) struct LinkDump {
    /// Ours and the peer's.
    pub(crate) rings: [RingDump; 2],
    pub(crate) control: Vec<String>,
    pub(crate) control_waiting: usize,
    pub(crate) senders_waiting: usize,
    pub(crate) regions: Vec<RegionDump>,
    /// Only of shmipc's link.
    pub(crate) lists: Vec<ListDump>,
    pub(crate) leases: Vec<LeaseDump>,
    pub(crate) flights: Vec<FlightDump>,
}

impl Link {
    /// The state of the link now.
    pub(crate) fn dump(&self) -> LinkDump {
        match self {
            Self::Outbox(link) => link.dump(),
            Self::Shmipc(link) => link.dump(),
        }
    }
}

impl OutboxLink {
    fn dump(&self) -> LinkDump {
        let (own, peer) = (self.own_header(), self.peer_header());
        let mut dump = LinkDump::default();
        {
            let mut tx = self.tx();
            dump.rings[0] = RingDump {
                len: self.own_layout.ring.get(),
                written: Some(tx.producer.tail()),
                read: peer.head.0.load(Ordering::Relaxed),
                fill: tx.producer.look(&peer.head.0),
                records: None,
                reader_sleeps: peer.sleep.0.load(Ordering::Relaxed),
                writer_starves: own.starved.0.load(Ordering::Relaxed),
            };
            let control = tx.control.iter().take(CONTROL_LISTED_MAX);
            dump.control = control.map(|control| format!("{control:?}")).collect();
            dump.control_waiting = tx.control.len();
            dump.senders_waiting = tx.waiters.count();
            dump.flights = tx.flights.iter().take(LISTED_MAX).map(flight).collect();
        }
        let backlog = self.peer_backlog();
        dump.rings[1] = RingDump {
            len: self.peer_layout.ring.get(),
            written: None,
            read: own.head.0.load(Ordering::Relaxed),
            fill: backlog.bytes,
            records: Some(backlog.records),
            reader_sleeps: own.sleep.0.load(Ordering::Relaxed),
            writer_starves: peer.starved.0.load(Ordering::Relaxed),
        };
        dump.regions = self.heap.dump();
        dump.leases = self.dump_leases();
        dump.leases
            .sort_by_key(|lease| std::cmp::Reverse(lease.age));
        dump.leases.truncate(LISTED_MAX);
        dump
    }
}

fn flight((token, flight): (u32, &Flight)) -> FlightDump {
    FlightDump {
        token,
        region: flight.region.0,
        offset: flight.offset,
        len: flight.len,
        is_forwarded: flight.is_foreign(),
    }
}
