//! Hot restarts as one session sees them.
//!
//! Natively, over shmipc's link, a server names an epoch, and its client acknowledges when it has moved; until then the session is
//! used as before. Among ourselves it is a [go-away](Shared::go_away), behind which no stream is opened, and there is nothing to
//! acknowledge: the session ends with its last stream.

use std::time::Duration;

use super::{Session, shared::Shared};
use crate::error::SessionLost;

impl Shared {
    /// The server tells us, natively, of a restart.
    pub(super) fn hear_restart(&self, epoch: u64) {
        if self.presence.restarts().hear(epoch) {
            self.link.counters().restarts_received.add(1);
            self.changed.notify_waiters();
        }
    }

    /// The client says that it has moved. Ignored unless it was asked (H28).
    pub(super) fn hear_acknowledgement(&self, epoch: u64) {
        if self.presence.restarts().answer(epoch) {
            self.link.counters().restarts_acknowledged.add(1);
            self.changed.notify_waiters();
        }
    }

    /// The restart that the server has told us of natively.
    pub(crate) fn restart_epoch(&self) -> Option<u64> {
        self.presence.restarts().heard()
    }

    /// Whether the server wants us elsewhere, in whichever words.
    pub(crate) fn is_going_away(&self) -> bool {
        self.peer_goes_away() || self.restart_epoch().is_some()
    }

    /// Says that we have moved. Returns whether there was anything to say.
    pub(crate) fn acknowledge_restart(&self) -> bool {
        let Some(epoch) = self.presence.restarts().acknowledge() else {
            return false;
        };
        // Before the sender's lock is taken: whoever opens a stream later sees it, and whoever does so now is waited for.
        self.presence.moved();
        self.link.counters().restarts_acknowledged.add(1);
        if let Err(misbehaved) = self.link.acknowledge_restart(epoch) {
            self.blame(misbehaved);
        }
        self.wake_openers();
        true
    }

    /// Tells the client that its server restarts. Returns `false` if it would not understand.
    pub(crate) fn tell_restart(&self, epoch: u64) -> bool {
        // First, so that no answer comes too early to be known.
        self.presence.restarts().tell(epoch);
        if !self.link.is_native() {
            self.go_away();
        } else if !self.link.tell_restart(epoch) {
            return false;
        }
        self.link.counters().restarts_sent.add(1);
        true
    }

    /// Waits until a client that was [told](Self::tell_restart) has moved (`true`), or the session is over. `pause` is how time is waited
    /// for.
    pub(crate) async fn has_client_moved<P: Future<Output = ()>>(
        &self,
        epoch: u64,
        pause: impl FnOnce(Duration) -> P,
    ) -> bool {
        if self.link.is_native() {
            let moved = |shared: &Self| match shared.lost() {
                _ if shared.presence.restarts().is_answered(epoch) => Some(true),
                lost => lost.map(|_| false),
            };
            return self.until(moved).await;
        }
        self.wind_down_with(pause).await;
        let moved = matches!(
            self.lost(),
            Some(SessionLost::ClosedHere | SessionLost::ClosedByPeer)
        );
        self.link
            .counters()
            .restarts_acknowledged
            .add(u64::from(moved));
        moved
    }
}

impl Session {
    /// The epoch of the hot restart that the server has told us of, with shmipc's own protocol; `None` otherwise. Among ourselves
    /// there is no epoch: [`is_going_away`](Self::is_going_away) says that we are to open streams elsewhere.
    ///
    /// A [`SessionPool`](crate::SessionPool) does by itself what is called for: it opens another session to the same address, uses that
    /// one from then on, and [acknowledges](Self::acknowledge_restart).
    #[must_use]
    pub fn restart_epoch(&self) -> Option<u64> {
        self.shared().restart_epoch()
    }

    /// Tells the server that has told us of a [hot restart](Self::restart_epoch) that we have moved to its successor: with all sessions that
    /// this client has with it. From then on this session opens no more streams ([`GoingAway`](crate::SendError::GoingAway)); those
    /// that are open go on. Returns `false`, having done nothing, if there was no such restart or it was acknowledged before.
    ///
    /// A server that is told so may end the session when the last stream is over, or soon.
    pub fn acknowledge_restart(&self) -> bool {
        self.shared().acknowledge_restart()
    }
}
