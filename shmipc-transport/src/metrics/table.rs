//! All that is reported, in one table.

use super::{Kind, Metric, Source};
use crate::Stats;

const fn total(
    name: &'static str,
    unit: &'static str,
    get: fn(&Stats) -> u64,
    description: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit,
        description,
        source: Source::Total(get),
    }
}

const fn level(
    name: &'static str,
    unit: &'static str,
    get: fn(&Stats) -> u64,
    description: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit,
        description,
        source: Source::Level(get),
    }
}

const fn sample(
    name: &'static str,
    unit: &'static str,
    get: fn(&Stats) -> Option<f64>,
    description: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        unit,
        description,
        source: Source::Sample(get),
    }
}

const COUNT: &str = "count";
const BYTES: &str = "bytes";
const SECONDS: &str = "seconds";

/// What sessions report.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "shmipc_sessions",
        kind: Kind::Gauge,
        unit: COUNT,
        description: "Sessions that are open",
        source: Source::Sessions,
    },
    Metric {
        name: "shmipc_sessions_ended_total",
        kind: Kind::Counter,
        unit: COUNT,
        description: "Sessions that have ended, by reason",
        source: Source::Ended,
    },
    total(
        "shmipc_messages_sent_total",
        COUNT,
        |s| s.messages_sent,
        "Messages sent",
    ),
    total(
        "shmipc_messages_received_total",
        COUNT,
        |s| s.messages_received,
        "Messages received",
    ),
    total(
        "shmipc_sent_bytes_total",
        BYTES,
        |s| s.bytes_sent,
        "Bytes of messages sent",
    ),
    total(
        "shmipc_received_bytes_total",
        BYTES,
        |s| s.bytes_received,
        "Bytes of messages received",
    ),
    total(
        "shmipc_copied_out_bytes_total",
        BYTES,
        |s| s.bytes_copied_out,
        "Bytes sent that were written for it",
    ),
    total(
        "shmipc_linked_bytes_total",
        BYTES,
        |s| s.bytes_linked,
        "Bytes sent where they were",
    ),
    total(
        "shmipc_copied_in_bytes_total",
        BYTES,
        |s| s.bytes_copied_in,
        "Bytes received that were copied out of the peer's memory",
    ),
    total(
        "shmipc_lent_bytes_total",
        BYTES,
        |s| s.bytes_lent,
        "Bytes received that were lent in place",
    ),
    total(
        "shmipc_sent_back_bytes_total",
        BYTES,
        |s| s.bytes_sent_back,
        "Bytes received that lie in our own memory",
    ),
    total(
        "shmipc_forwarded_bytes_total",
        BYTES,
        |s| s.bytes_forwarded,
        "Bytes sent that lie in memory of other sessions",
    ),
    total(
        "shmipc_fallbacks_sent_total",
        COUNT,
        |s| s.fallbacks_sent,
        "Messages sent over the socket for want of shared memory",
    ),
    total(
        "shmipc_fallbacks_received_total",
        COUNT,
        |s| s.fallbacks_received,
        "Messages received over the socket for want of shared memory",
    ),
    total(
        "shmipc_wakes_sent_total",
        COUNT,
        |s| s.doorbells_rung,
        "System calls made to wake the peer",
    ),
    total(
        "shmipc_wakes_received_total",
        COUNT,
        |s| s.doorbells_heard,
        "Times that the peer woke us",
    ),
    total(
        "shmipc_wakes_avoided_total",
        COUNT,
        |s| s.wakes_avoided,
        "Records sent for which the peer did not have to be woken",
    ),
    total(
        "shmipc_spins_hit_total",
        COUNT,
        |s| s.spins_hit,
        "Waits that ended while looking at shared memory",
    ),
    total(
        "shmipc_spins_missed_total",
        COUNT,
        |s| s.spins_missed,
        "Waits for which looking at shared memory was in vain",
    ),
    total(
        "shmipc_waits_for_ring_total",
        COUNT,
        |s| s.waits_ring,
        "Waits of senders because the ring was full",
    ),
    total(
        "shmipc_waits_for_credit_total",
        COUNT,
        |s| s.waits_credit,
        "Waits of senders for credit of their stream",
    ),
    total(
        "shmipc_waits_for_memory_total",
        COUNT,
        |s| s.waits_memory,
        "Waits of senders because all memory was in use",
    ),
    total(
        "shmipc_waits_for_streams_total",
        COUNT,
        |s| s.waits_streams,
        "Waits of senders because the peer accepted no further stream",
    ),
    total(
        "shmipc_streams_opened_total",
        COUNT,
        |s| s.streams_opened,
        "Streams that we have opened",
    ),
    total(
        "shmipc_streams_accepted_total",
        COUNT,
        |s| s.streams_accepted,
        "Streams that peers have opened",
    ),
    total(
        "shmipc_go_aways_sent_total",
        COUNT,
        |s| s.go_aways_sent,
        "Times that we asked a peer to open no more streams",
    ),
    total(
        "shmipc_go_aways_received_total",
        COUNT,
        |s| s.go_aways_received,
        "Times that a peer asked us to open no more streams",
    ),
    total(
        "shmipc_restarts_sent_total",
        COUNT,
        |s| s.restarts_sent,
        "Times that we told a client of a hot restart",
    ),
    total(
        "shmipc_restarts_received_total",
        COUNT,
        |s| s.restarts_received,
        "Times that a server told us of a hot restart, with shmipc's own protocol",
    ),
    total(
        "shmipc_restarts_acknowledged_total",
        COUNT,
        |s| s.restarts_acknowledged,
        "Hot restarts of either kind after which the client has moved",
    ),
    total(
        "shmipc_regions_added_total",
        COUNT,
        |s| s.regions_added,
        "Regions of memory added",
    ),
    level(
        "shmipc_streams",
        COUNT,
        |s| s.streams_open as u64,
        "Streams that are open",
    ),
    level(
        "shmipc_leases",
        COUNT,
        |s| s.leases_held as u64,
        "Segments of peers that we hold",
    ),
    level(
        "shmipc_segments_under_way",
        COUNT,
        |s| u64::from(s.segments_under_way),
        "Segments of ours that peers hold",
    ),
    level(
        "shmipc_ring_fill_bytes",
        BYTES,
        |s| u64::from(s.ring_fill),
        "Bytes of our rings that peers have not consumed",
    ),
    level(
        "shmipc_peer_ring_fill_bytes",
        BYTES,
        |s| u64::from(s.peer_ring_fill),
        "Bytes of the peers' rings that we have not consumed",
    ),
    level(
        "shmipc_arena_mapped_bytes",
        BYTES,
        |s| s.arena_mapped,
        "Address space of our arenas",
    ),
    level(
        "shmipc_arena_used_bytes",
        BYTES,
        |s| s.arena_used,
        "Bytes of our arenas that are in use",
    ),
    sample(
        "shmipc_ring_fill_max_bytes",
        BYTES,
        |s| Some(f64::from(s.ring_fill_max)),
        "The high-water mark of our ring in a session",
    ),
    sample(
        "shmipc_peer_ring_fill_max_bytes",
        BYTES,
        |s| Some(f64::from(s.peer_ring_fill_max)),
        "The high-water mark of the peer's ring in a session",
    ),
    sample(
        "shmipc_arena_used_max_bytes",
        BYTES,
        |s| {
            Some(f64::from(
                u32::try_from(s.arena_used_max).unwrap_or(u32::MAX),
            ))
        },
        "The high-water mark of our arena in a session",
    ),
    sample(
        "shmipc_oldest_lease_seconds",
        SECONDS,
        |s| s.oldest_lease.map(|age| age.as_secs_f64()),
        "For how long a session has been holding the oldest segment of its peer's",
    ),
];
