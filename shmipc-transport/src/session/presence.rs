//! What the two sides say about themselves: that they are there, want no more streams, or leave.

use super::shared::Shared;
use crate::{
    core::{
        streams::StreamTable,
        sync::{AtomicBool, AtomicU64, Ordering, lock},
    },
    error::{PeerMisbehaved, SendError},
    link::Control,
    stream::StreamShared,
};

/// What was said so far.
///
/// `Relaxed` throughout: whoever needs more than the word itself takes a lock that orders it, as is said there.
#[derive(Debug, Default)]
pub(super) struct Presence {
    peer_goes_away: AtomicBool,
    goes_away: AtomicBool,
    said_bye: AtomicBool,
    pings_sent: AtomicU64,
    /// The latest ping that was answered.
    pongs_heard: AtomicU64,
    /// Whether the driver wants to be polled when there is a stream.
    awaits_streams: AtomicBool,
}

impl Presence {
    /// The peer wants no more streams.
    pub(super) fn peer_goes_away(&self) {
        self.peer_goes_away.store(true, Ordering::Relaxed);
    }

    /// Whether we want no more streams.
    pub(super) fn goes_away(&self) -> bool {
        self.goes_away.load(Ordering::Relaxed)
    }

    /// Whether we have told the peer that nothing follows.
    pub(super) fn said_bye(&self) -> bool {
        self.said_bye.load(Ordering::Relaxed)
    }

    /// The peer has answered a ping.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::Pong`] if there was no such ping.
    pub(super) fn answered(&self, nonce: u64) -> Result<(), PeerMisbehaved> {
        if nonce == 0 || self.pings_sent.load(Ordering::Relaxed) < nonce {
            return Err(PeerMisbehaved::Pong { nonce });
        }
        self.pongs_heard.fetch_max(nonce, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    /// Asks the peer to open no more streams.
    pub(crate) fn go_away(&self) {
        // Whoever waits for the last stream to be over looks at the table, whose lock is taken by whoever takes it out.
        self.presence.goes_away.store(true, Ordering::Relaxed);
        self.link.counters().go_aways_sent.add(1);
        self.control(Control::GoAway);
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn say_bye(&self) {
        self.presence.said_bye.store(true, Ordering::Relaxed);
        self.control(Control::Bye);
    }

    /// Whether the peer wants no more streams.
    pub(crate) fn peer_goes_away(&self) -> bool {
        self.presence.peer_goes_away.load(Ordering::Relaxed)
    }

    /// Whether one more stream may be opened now. To be asked, and acted upon, under the sender's lock. The answer to a ping
    /// takes it as well; so who has an answer to a ping that it sent behind go-away has seen all streams that there will be.
    ///
    /// # Errors
    ///
    /// Returns why none may be opened ever again.
    pub(crate) fn may_open(&self, streams: &StreamTable<StreamShared>) -> Result<bool, SendError> {
        match self.lost() {
            Some(lost) => Err(SendError::SessionLost(lost.clone())),
            None if self.peer_goes_away() => Err(SendError::GoingAway),
            None if streams.is_exhausted() => Err(SendError::GoingAway),
            None => Ok(streams.may_open()),
        }
    }

    /// Sends a ping, and returns what [`is_answered`](Self::is_answered) knows it by.
    pub(crate) fn ping(&self) -> u64 {
        let nonce = self.presence.pings_sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.control(Control::Ping { nonce });
        nonce
    }

    /// Whether a ping was answered, or one that was sent after it.
    pub(crate) fn is_answered(&self, nonce: u64) -> bool {
        nonce <= self.presence.pongs_heard.load(Ordering::Relaxed)
    }

    /// A number that changes when a message or an answer to a ping comes.
    pub(crate) fn heard(&self) -> u64 {
        let messages = self.link.counters().messages_received.get();
        messages.wrapping_add(self.presence.pongs_heard.load(Ordering::Relaxed))
    }

    /// Whether no stream is open.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.streams).is_empty()
    }

    /// Has the driver polled once there is a stream. Returns `false` if there is one already.
    pub(crate) fn await_streams(&self) -> bool {
        self.presence.awaits_streams.store(true, Ordering::Relaxed);
        let awaits = self.is_idle();
        if !awaits {
            self.presence.awaits_streams.store(false, Ordering::Relaxed);
        }
        awaits
    }

    /// Whether there was no stream since [`await_streams`](Self::await_streams).
    pub(crate) fn awaits_streams(&self) -> bool {
        self.presence.awaits_streams.load(Ordering::Relaxed)
    }

    /// Tells the driver, if it wants to know, that a stream was put into the table.
    pub(crate) fn stream_opened(&self) {
        // Both sides take the table's lock in between: either the driver looks at the table after us, or we look here
        // after it.
        let awaits = &self.presence.awaits_streams;
        if awaits.load(Ordering::Relaxed) && awaits.swap(false, Ordering::Relaxed) {
            self.kick_driver();
        }
    }
}
