//! What the two sides say about themselves: that they are there, want no more streams, or leave.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{FAREWELL, shared::Shared};
use crate::{
    core::{
        restart::Notice,
        streams::StreamTable,
        sync::{AtomicBool, AtomicU64, Ordering, lock},
    },
    error::{PeerMisbehaved, SendError, SessionLost},
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
    /// What was said of hot restarts, in shmipc's own words. No other lock is taken inside of this one.
    restarts: Mutex<Notice>,
    /// Whether we have acknowledged one.
    has_moved: AtomicBool,
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

    /// What was said of hot restarts.
    pub(super) fn restarts(&self) -> MutexGuard<'_, Notice> {
        lock(&self.restarts)
    }

    /// We have moved to another server.
    pub(super) fn moved(&self) {
        self.has_moved.store(true, Ordering::Relaxed);
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
        if !self.presence.goes_away.swap(true, Ordering::Relaxed) {
            self.link.counters().go_aways_sent.add(1);
            self.control(Control::GoAway);
        }
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn say_bye(&self) {
        self.presence.said_bye.store(true, Ordering::Relaxed);
        self.control(Control::Bye);
    }

    /// Ends the session from this side.
    pub(crate) fn close(&self) {
        // Best effort: a peer whose ring is full learns of it by the socket's closing.
        self.say_bye();
        self.lose(SessionLost::ClosedHere);
        self.farewell();
    }

    /// Whether the peer wants no more streams.
    pub(crate) fn peer_goes_away(&self) -> bool {
        self.presence.peer_goes_away.load(Ordering::Relaxed)
    }

    /// Whether we have told the server that we have moved, and so open no more streams.
    pub(super) fn has_moved(&self) -> bool {
        self.presence.has_moved.load(Ordering::Relaxed)
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
            None if self.peer_goes_away() || self.has_moved() => Err(SendError::GoingAway),
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

    /// Sends a ping, and waits for the answer.
    pub(super) async fn pinged(&self) -> Result<(), SessionLost> {
        let nonce = self.ping();
        self.until(|shared| match shared.lost() {
            _ if shared.is_answered(nonce) => Some(Ok(())),
            Some(lost) => Some(Err(lost.clone())),
            None => None,
        })
        .await
    }

    /// Has the peer open no more streams, waits until all are over, and ends the session.
    pub(crate) async fn wind_down(&self) {
        self.wind_down_with(tokio::time::sleep).await;
    }

    /// As [`wind_down`](Self::wind_down), where `pause` is how time is waited for.
    pub(crate) async fn wind_down_with<P: Future<Output = ()>>(
        &self,
        pause: impl FnOnce(Duration) -> P,
    ) {
        self.drain_streams().await;
        // Natively, nobody was told that nothing follows: what was sent is lingered for, as after any close.
        if !self.link.is_native() {
            tokio::select! {
                biased;
                () = self.until(|shared| shared.lost().map(drop)) => {}
                () = pause(FAREWELL) => {}
            }
        }
        self.lose(SessionLost::ClosedHere);
    }

    /// Drains as far as saying goodbye. The peer is then given [`FAREWELL`] to hang up.
    pub(super) async fn drain_streams(&self) {
        self.go_away();
        // Having read that, the peer opens no more streams, and answers pings (O18). So those it has opened come first.
        if self.pinged().await.is_err() {
            return;
        }
        self.until(|shared| (shared.is_idle() || shared.lost().is_some()).then_some(()))
            .await;
        // A stream that was given up may be idle while its other half still writes. So the end is left to the peer, which takes
        // one after the other.
        self.say_bye();
    }

    /// Waits until `check` has something to say, which it is asked whenever [`changed`](Self::changed) is told.
    pub(crate) async fn until<T>(&self, check: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(value) = check(self) {
                return value;
            }
            changed.await;
        }
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
