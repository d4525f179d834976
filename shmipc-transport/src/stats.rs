//! What a session has done.

use crate::core::sync::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// As [`add`](Self::add), for a counter that only ever grows under one lock, which the caller holds.
    pub(crate) fn add_locked(&self, n: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(sum, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live counters of a session.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_sent: Counter,
    pub(crate) messages_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_received: Counter,
    /// Of those sent, the bytes that were named where they were.
    pub(crate) bytes_linked: Counter,
    /// Of those received, the bytes that were lent in place.
    pub(crate) bytes_lent: Counter,
    pub(crate) segments_forwarded: Counter,
    pub(crate) bytes_forwarded: Counter,
    pub(crate) fallbacks_sent: Counter,
    pub(crate) fallbacks_received: Counter,
    pub(crate) doorbells_rung: Counter,
    pub(crate) doorbells_heard: Counter,
    pub(crate) spins_hit: Counter,
    pub(crate) spins_missed: Counter,
    pub(crate) regions_added: Counter,
    /// Blocks handed out, by which the driver tells whether memory is in use.
    pub(crate) blocks_taken: Counter,
}

/// A snapshot of what a session has done and holds. See [`Session::stats`](crate::Session::stats).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages published in our ring.
    pub messages_sent: u64,
    /// Messages taken from the peer's ring.
    pub messages_received: u64,
    /// Bytes of the messages sent.
    pub bytes_sent: u64,
    /// Bytes of the messages received.
    pub bytes_received: u64,
    /// Of the bytes sent, those that were not copied for it: they lay in memory that the peer can see (lent by
    /// [`alloc`](crate::Session::alloc), received from it, or [forwarded](crate::Session::forward_from)).
    pub bytes_linked: u64,
    /// Of the bytes received, those that were not copied out: they were lent in place.
    pub bytes_lent: u64,
    /// Parts of messages sent that lay in another session's memory and were passed on without a copy. See
    /// [`Session::forward_from`](crate::Session::forward_from).
    pub segments_forwarded: u64,
    /// The bytes of those parts.
    pub bytes_forwarded: u64,
    /// Messages sent over the socket for want of shared memory: with shmipc's own link only.
    pub fallbacks_sent: u64,
    /// Messages that the peer has sent so.
    pub fallbacks_received: u64,
    /// System calls made to wake the peer.
    pub doorbells_rung: u64,
    /// Times that the peer woke us.
    pub doorbells_heard: u64,
    /// Waits that ended while looking at shared memory.
    pub spins_hit: u64,
    /// Waits for which looking at shared memory was in vain.
    pub spins_missed: u64,
    /// Regions added to our arena so far.
    pub regions_added: u64,
    /// Address space of our arena at the moment, in bytes.
    pub arena_mapped: u64,
    /// Bytes of our arena that are in use, in whole blocks.
    pub arena_used: u64,
    /// The most bytes of our arena that were ever in use.
    pub arena_used_max: u64,
    /// Bytes of our ring that the peer has not consumed, when last looked at.
    pub ring_fill: u32,
    /// Segments of ours that the peer holds.
    pub segments_under_way: u32,
    /// Segments of the peer's that we hold.
    pub leases_held: usize,
    /// Streams that are open.
    pub streams_open: usize,
}
