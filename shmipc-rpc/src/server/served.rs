//! What the calls of a session, and others, know of it.

use std::{fmt, sync::Arc};

use http::Uri;
use shmipc_transport::{Peer, Session, SessionDump, SessionLost, Stats, WeakSession};

use super::{
    drain::{Drain, Draining},
    running::{CallPermit, Calls},
};
use crate::Channel;

/// A session that is served, as its calls know it. It does not keep the session going.
#[derive(Debug)]
pub(crate) struct Served {
    pub(super) session: WeakSession,
    pub(super) drain: Arc<Drain>,
    pub(super) calls: Calls,
}

impl Served {
    pub(crate) fn new(session: &Session, drain: &Arc<Drain>) -> Self {
        Self {
            session: session.downgrade(),
            drain: Arc::clone(drain),
            calls: Calls::new(Arc::clone(drain), *session.peer()),
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.session.peer()
    }

    /// Returns the session, unless it is over.
    pub(crate) fn session(&self) -> Option<Session> {
        self.session.upgrade()
    }

    /// Counts a call that runs in a thread.
    pub(crate) fn permit(&self, method: Uri) -> CallPermit {
        self.calls.permit(method)
    }

    /// How many calls there are, of those that are counted.
    pub(crate) fn running(&self) -> usize {
        self.calls.count()
    }

    /// Reports the calls that are still there, because the session is about to be ended.
    pub(crate) fn report(&self) {
        self.calls.report();
    }

    pub(crate) fn draining(&self) -> Draining {
        Draining::of(&self.drain)
    }
}

/// A client that has connected to a server, to be called back at any time. See
/// [`Server::on_session`](super::Server::on_session).
#[derive(Clone)]
pub struct ConnectedPeer {
    session: Session,
}

impl ConnectedPeer {
    pub(super) fn new(session: Session) -> Self {
        Self { session }
    }

    /// Returns the process that connected, as the kernel knows it.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        self.session.peer()
    }

    /// Makes a channel to the client, over the very session that it has opened. A client that
    /// [serves](crate::client::ChannelBuilder::serve) nothing answers with [`Code::Unimplemented`](crate::Code::Unimplemented).
    ///
    /// One with a [blocking channel](crate::blocking::Channel) does not answer at all, for it has no task that could: a call takes as
    /// long as its deadline allows.
    ///
    /// When the session is over, calls fail with [`Code::Unavailable`](crate::Code::Unavailable); the channel does not
    /// connect anew, for only the client can.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel::over(self.session.clone())
    }

    /// Waits until the session is over, and returns why.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may be called again, and by several tasks at once.
    pub async fn closed(&self) -> SessionLost {
        self.session.closed().await
    }

    /// Returns what the session has done and holds. See [`Session::stats`](shmipc_transport::Session::stats) for what it costs.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// Takes a picture of the state that the session is in, to be printed. See
    /// [`Session::debug_dump`](shmipc_transport::Session::debug_dump).
    #[must_use]
    pub fn debug_dump(&self) -> SessionDump {
        self.session.debug_dump()
    }

    /// Ends the session. Calls that run fail with [`Code::Unavailable`](crate::Code::Unavailable), on both sides.
    pub fn close(&self) {
        self.session.close();
    }
}

impl fmt::Debug for ConnectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectedPeer")
            .field("peer", self.peer())
            .finish_non_exhaustive()
    }
}
