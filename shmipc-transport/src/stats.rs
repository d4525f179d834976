//! What a session has done.

use std::time::Duration;

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

/// The largest of many numbers.
#[derive(Debug, Default)]
pub(crate) struct Peak(AtomicU64);

impl Peak {
    pub(crate) fn raise(&self, n: u64) {
        // Written only where it changes, which is seldom.
        if self.0.load(Ordering::Relaxed) < n {
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live counters of a session.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages that were given a place, under the sender's lock, and their bytes: a locked operation once they are published would
    /// wait until the peer's CPU has let go of the ring's cache lines.
    pub(crate) messages_placed: Counter,
    pub(crate) bytes_placed: Counter,
    /// Of those, the ones that were not written after all.
    pub(crate) messages_given_up: Counter,
    pub(crate) bytes_given_up: Counter,
    pub(crate) messages_received: Counter,
    pub(crate) bytes_received: Counter,
    /// Of those sent, the bytes that were named where they were.
    pub(crate) bytes_linked: Counter,
    /// Of those received, the bytes that were lent in place.
    pub(crate) bytes_lent: Counter,
    /// Of those received, the bytes that are our own.
    pub(crate) bytes_sent_back: Counter,
    pub(crate) segments_forwarded: Counter,
    pub(crate) bytes_forwarded: Counter,
    pub(crate) fallbacks_sent: Counter,
    pub(crate) fallbacks_received: Counter,
    pub(crate) doorbells_rung: Counter,
    /// Of those, the ones for space that has become free.
    pub(crate) rung_for_space: Counter,
    pub(crate) doorbells_heard: Counter,
    pub(crate) spins_hit: Counter,
    pub(crate) spins_missed: Counter,
    pub(crate) waits_ring: Counter,
    pub(crate) waits_credit: Counter,
    pub(crate) waits_memory: Counter,
    pub(crate) waits_streams: Counter,
    pub(crate) go_aways_sent: Counter,
    pub(crate) go_aways_received: Counter,
    pub(crate) restarts_sent: Counter,
    pub(crate) restarts_received: Counter,
    pub(crate) restarts_acknowledged: Counter,
    pub(crate) regions_added: Counter,
    /// Blocks handed out, by which the driver tells whether memory is in use.
    pub(crate) blocks_taken: Counter,
    pub(crate) peer_ring_fill_max: Peak,
    /// Only of shmipc's link: the others know them.
    pub(crate) ring_fill_max: Peak,
    pub(crate) arena_used_max: Peak,
}

impl Counters {
    /// A message of `len` bytes was given a place. The caller holds the sender's lock.
    pub(crate) fn placed(&self, len: u32) {
        self.messages_placed.add_locked(1);
        self.bytes_placed.add_locked(u64::from(len));
    }

    /// Such a message was not written.
    pub(crate) fn given_up(&self, len: u32) {
        self.messages_given_up.add(1);
        self.bytes_given_up.add(u64::from(len));
    }

    /// What is counted, without what is only known when it is asked for.
    pub(crate) fn stats(&self) -> Stats {
        let sent =
            |placed: &Counter, given_up: &Counter| placed.get().saturating_sub(given_up.get());
        let bytes_sent = sent(&self.bytes_placed, &self.bytes_given_up);
        let bytes_linked = self.bytes_linked.get();
        let (bytes_lent, bytes_sent_back) = (self.bytes_lent.get(), self.bytes_sent_back.get());
        let bytes_received = self.bytes_received.get();
        Stats {
            messages_sent: sent(&self.messages_placed, &self.messages_given_up),
            messages_received: self.messages_received.get(),
            bytes_sent,
            bytes_received,
            // A message under way may be counted in part.
            bytes_copied_out: bytes_sent.saturating_sub(bytes_linked),
            bytes_linked,
            bytes_copied_in: bytes_received.saturating_sub(bytes_lent + bytes_sent_back),
            bytes_lent,
            bytes_sent_back,
            segments_forwarded: self.segments_forwarded.get(),
            bytes_forwarded: self.bytes_forwarded.get(),
            fallbacks_sent: self.fallbacks_sent.get(),
            fallbacks_received: self.fallbacks_received.get(),
            doorbells_rung: self.doorbells_rung.get(),
            doorbells_heard: self.doorbells_heard.get(),
            spins_hit: self.spins_hit.get(),
            spins_missed: self.spins_missed.get(),
            waits_ring: self.waits_ring.get(),
            waits_credit: self.waits_credit.get(),
            waits_memory: self.waits_memory.get(),
            waits_streams: self.waits_streams.get(),
            go_aways_sent: self.go_aways_sent.get(),
            go_aways_received: self.go_aways_received.get(),
            restarts_sent: self.restarts_sent.get(),
            restarts_received: self.restarts_received.get(),
            restarts_acknowledged: self.restarts_acknowledged.get(),
            regions_added: self.regions_added.get(),
            ..Stats::default()
        }
    }
}

/// A snapshot of what a session has done and holds. See [`Session::stats`](crate::Session::stats).
///
/// What is counted is counted since the session began. Sizes are in bytes.
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
    /// Of the bytes sent, those that were written for it, into the ring or into a block: all that were not
    /// [linked](Self::bytes_linked).
    pub bytes_copied_out: u64,
    /// Of the bytes sent, those that were not copied for it: they lay in memory that the peer can see (lent by
    /// [`alloc`](crate::Session::alloc), received from it, or [forwarded](crate::Session::forward_from)).
    pub bytes_linked: u64,
    /// Of the bytes received, those that were copied out: all that were neither [lent](Self::bytes_lent) nor [sent
    /// back](Self::bytes_sent_back).
    pub bytes_copied_in: u64,
    /// Of the bytes received, those of the peer's memory that were not copied out: they were lent in place.
    pub bytes_lent: u64,
    /// Of the bytes received, those that lie in our own memory: the peer has sent back what it was lent.
    pub bytes_sent_back: u64,
    /// Parts of messages sent that lay in another session's memory and were passed on without a copy. See
    /// [`Session::forward_from`](crate::Session::forward_from).
    pub segments_forwarded: u64,
    /// The bytes of those parts.
    pub bytes_forwarded: u64,
    /// Messages that went over the socket, because there was no shared memory for them: with shmipc's own link only. Over the other
    /// one they wait instead.
    pub fallbacks_sent: u64,
    /// Messages that came over the socket, for the same reason.
    pub fallbacks_received: u64,
    /// System calls made to wake the peer.
    pub doorbells_rung: u64,
    /// Times that the peer woke us.
    pub doorbells_heard: u64,
    /// Records published without a system call to wake the peer: it was awake, or had been woken already. A record is a
    /// message, or a word of the session's own, such as a grant of credit.
    pub wakes_avoided: u64,
    /// Waits that ended while looking at shared memory.
    pub spins_hit: u64,
    /// Waits for which looking at shared memory was in vain.
    pub spins_missed: u64,
    /// Times that a sender began to wait because our ring was full, or as many segments were under way as may be.
    pub waits_ring: u64,
    /// Times that a sender began to wait for credit of its stream.
    pub waits_credit: u64,
    /// Times that a sender, or [`alloc`](crate::Session::alloc), began to wait because all of our memory was in use. Over
    /// shmipc's link, messages for which there is none go over the socket, and this counts those that had to wait for that.
    pub waits_memory: u64,
    /// Times that a sender began to wait because the peer had as many streams of ours open as it accepts.
    pub waits_streams: u64,
    /// Times that we asked the peer to open no more streams. See [`Session::go_away`](crate::Session::go_away).
    pub go_aways_sent: u64,
    /// Times that the peer asked us.
    pub go_aways_received: u64,
    /// Times that we told the peer of a [hot restart](crate::Listener::hot_restart).
    pub restarts_sent: u64,
    /// Times that the peer told us of one, with shmipc's own protocol. Among ourselves it is a
    /// [request to go away](Self::go_aways_received).
    pub restarts_received: u64,
    /// Those of both that were acknowledged: the client has moved.
    pub restarts_acknowledged: u64,
    /// Regions added to our arena so far.
    pub regions_added: u64,
    /// Address space of our arena at the moment, in bytes. Over shmipc's link, both sides have one together.
    pub arena_mapped: u64,
    /// Bytes of our arena that are in use, in whole blocks. Over shmipc's link: by either side, with the slices that ours keep to use
    /// them again.
    pub arena_used: u64,
    /// The most bytes of our arena that were ever in use. Over shmipc's link: when statistics were taken, or somebody had to wait.
    pub arena_used_max: u64,
    /// Bytes that our arena may grow to. See [`ConfigBuilder::memory_max`](crate::ConfigBuilder::memory_max).
    pub arena_len_max: u64,
    /// Bytes of our ring that the peer has not consumed. Over shmipc's link, the ring is its queue: 12 bytes for each message or word
    /// of the session's own.
    pub ring_fill: u32,
    /// The most bytes of our ring that were found in use. It is looked at when statistics are taken, once around the ring, and
    /// whenever it seems to be full: so a ring that was full shows, and a peak in between may not. Over shmipc's link, one of half of the
    /// ring or more shows.
    pub ring_fill_max: u32,
    /// The length of our ring in bytes. A record takes 16 bytes and its content, rounded up, or what names it where it lies.
    pub ring_len: u32,
    /// Bytes of the peer's ring that it cannot use yet, because we have not consumed them or not said so.
    pub peer_ring_fill: u32,
    /// The most bytes of the peer's ring that were found in use. It is looked at when statistics are taken, once around the ring
    /// while it is never found empty, and for what is consumed at a time.
    pub peer_ring_fill_max: u32,
    /// The length of the peer's ring in bytes.
    pub peer_ring_len: u32,
    /// Segments of ours that the peer holds.
    pub segments_under_way: u32,
    /// Segments of the peer's that we hold. Over shmipc's link: slices of messages that were received and are lent in place.
    pub leases_held: usize,
    /// For how long we have been holding the oldest of those; `None` if we hold none. Exact to 10 ms.
    pub oldest_lease: Option<Duration>,
    /// Streams that are open.
    pub streams_open: usize,
    /// Streams that we have opened so far, those that are over included.
    pub streams_opened: u64,
    /// Streams that the peer has opened so far, those that are over included.
    pub streams_accepted: u64,
}
