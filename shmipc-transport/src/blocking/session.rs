use std::{
    pin::pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Signal, Stream};
use crate::{
    Address, Config, Lent, LinkInfo, Peer, SessionDump, Stats,
    error::{AllocError, ConnectError, SessionLost},
    session::{Elapsed, FAREWELL, Shared},
};

/// A [session](crate::Session) for threads. Clones are the same session, and any number of threads may use it at once.
///
/// It needs no runtime and makes no thread. It ends when [`close`](Self::close) is called, when all of its handles and
/// streams are dropped, or when the peer ends it or dies. See the [module](super) for what happens while nobody waits.
///
/// An idle session costs no CPU time, about 100 KiB of memory and six file descriptors.
#[derive(Clone, Debug)]
pub struct Session {
    inner: crate::Session,
}

impl Session {
    /// Connects to the server at `address` with the default [`Config`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::connect_with(address, Config::default())
    }

    /// Connects to the server at `address`. Waits at most for the
    /// [`handshake_timeout`](crate::ConfigBuilder::handshake_timeout).
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_with(address: impl Into<Address>, config: Config) -> Result<Self, ConnectError> {
        Self::connect_until(address, config, None)
    }

    /// As [`connect_with`](Self::connect_with), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_until(
        address: impl Into<Address>,
        config: Config,
        deadline: Option<Instant>,
    ) -> Result<Self, ConnectError> {
        let inner = crate::Session::connect_blocking(&address.into(), config, deadline)?;
        Ok(Self { inner })
    }

    /// Returns a session as threads know it, if it was made for them.
    #[must_use]
    pub fn of(session: &crate::Session) -> Option<Self> {
        session.shared().lead()?;
        Some(Self {
            inner: session.clone(),
        })
    }

    /// Wraps a session that has no task.
    pub(crate) fn new(inner: crate::Session) -> Self {
        Self { inner }
    }

    /// Opens a stream. The peer learns of it with the first message.
    ///
    /// Takes note of what the peer has said or done, if nobody has looked for 10 ms.
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] if the session is over.
    pub fn open_stream(&self) -> Result<Stream, SessionLost> {
        self.attend();
        self.inner.open_stream().map(Stream::new)
    }

    /// Waits for a stream that the peer opens. Its first message is there by then.
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] once the session is over and all streams that had come were taken.
    pub fn accept_stream(&self) -> Result<Stream, SessionLost> {
        match self.accept_stream_until(None)? {
            Some(stream) => Ok(stream),
            // Without a deadline, there is no other end to it.
            None => Err(self.shared().reason()),
        }
    }

    /// Waits until `deadline` for a stream that the peer opens. Returns `None` if there was none.
    ///
    /// # Errors
    ///
    /// As for [`accept_stream`](Self::accept_stream).
    pub fn accept_stream_until(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Option<Stream>, SessionLost> {
        let shared = self.shared();
        let Some(lead) = shared.lead() else {
            return Err(SessionLost::ClosedHere);
        };
        let accepted = match shared.try_accept() {
            Some(accepted) => Ok(accepted),
            None => shared.wait(lead, false, deadline, |waker| {
                if let Some(waker) = waker {
                    shared.wait_to_accept(waker);
                }
                shared.try_accept()
            }),
        };
        match accepted {
            Ok(Ok(stream)) => Ok(Some(Stream::new(self.inner.accepted(stream)))),
            Ok(Err(lost)) => Err(lost),
            Err(Elapsed) => Ok(None),
        }
    }

    /// Lends `len` bytes of memory that the peer can read. Filled and frozen, it is sent without being copied.
    ///
    /// Waits while all of the configured memory is in use. The content is arbitrary (left over from earlier messages of
    /// this session), and visible to the peer from the moment it is written.
    ///
    /// Over shmipc's own link it is private memory, which is copied when it is sent: there, the peer could write to it.
    ///
    /// # Errors
    ///
    /// See [`AllocError`].
    pub fn alloc(&self, len: usize) -> Result<Lent, AllocError> {
        self.alloc_until(len, None)
    }

    /// As [`alloc`](Self::alloc), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`AllocError`].
    pub fn alloc_until(&self, len: usize, deadline: Option<Instant>) -> Result<Lent, AllocError> {
        let lent = block_on(self.shared(), deadline, self.inner.alloc(len));
        lent.unwrap_or(Err(AllocError::TimedOut))
    }

    /// Asks the peer whether it is there, and waits until `deadline` for the answer. Returns how long that took, or `None`
    /// if there was no answer in time.
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] if the session is over, or ends meanwhile.
    pub fn ping(&self, deadline: Option<Instant>) -> Result<Option<Duration>, SessionLost> {
        match block_on(self.shared(), deadline, self.inner.ping()) {
            Ok(answered) => answered.map(Some),
            Err(Elapsed) => Ok(None),
        }
    }

    /// Waits until the session is over, or until `deadline`. Returns why it is over.
    pub fn closed(&self, deadline: Option<Instant>) -> Option<SessionLost> {
        block_on(self.shared(), deadline, self.inner.closed()).ok()
    }

    /// Takes note of what the peer has said or done, if nobody has looked for 10 ms and nobody looks now.
    ///
    /// Costs a reading of the coarse clock, and a system call at most every 10 ms.
    pub fn attend(&self) {
        let shared = self.shared();
        if let Some(lead) = shared.lead() {
            shared.attend(lead);
        }
    }

    /// Whether the session is over, as far as is known without [looking](Self::attend).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Ends the session, and with it all that threads wait for. What was sent before still reaches the peer; all streams end
    /// here with [`SessionLost::ClosedHere`]. `Bytes` that were received stay readable.
    ///
    /// Over shmipc's own link, waits for at most a second until the socket has taken what was given to it and, with others than
    /// ourselves, the peer what is in its queue, which it would lose. So does dropping the last handle or stream of a session.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Asks the peer to open no more streams. Those that are open, or on their way, go on.
    pub fn go_away(&self) {
        self.inner.go_away();
    }

    /// Asks the peer to open no more streams, waits until all streams of both sides are over, and ends the session. Returns
    /// `true` once it has ended, for this reason or another, and `false` if that was not so by `deadline`; then it goes on,
    /// and the peer opens no more streams all the same.
    ///
    /// Streams that the peer opens before it learns of this are [accepted](Self::accept_stream) like others, so none is
    /// lost: other threads must go on to do so.
    #[must_use]
    pub fn drain(&self, deadline: Option<Instant>) -> bool {
        let shared = self.shared();
        if block_on(shared, deadline, self.inner.drain_streams()).is_err() {
            return self.is_closed();
        }
        let farewell = Instant::now() + FAREWELL;
        self.closed(Some(
            deadline.map_or(farewell, |deadline| deadline.min(farewell)),
        ));
        self.inner.hang_up();
        true
    }

    /// Whether the peer has asked us to open no more streams (O18), as far as is known without [looking](Self::attend).
    #[must_use]
    pub fn is_going_away(&self) -> bool {
        self.inner.is_going_away()
    }

    /// The epoch of the hot restart that the server has told us of, with shmipc's own protocol, as far as is known without
    /// [looking](Self::attend). See [`Session::restart_epoch`](crate::Session::restart_epoch).
    #[must_use]
    pub fn restart_epoch(&self) -> Option<u64> {
        self.inner.restart_epoch()
    }

    /// Tells the server that all sessions of this client have moved to its successor. See
    /// [`Session::acknowledge_restart`](crate::Session::acknowledge_restart).
    pub fn acknowledge_restart(&self) -> bool {
        self.inner.acknowledge_restart()
    }

    /// The process on the other side.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        self.inner.peer()
    }

    /// The link that both sides have agreed on.
    #[must_use]
    pub fn link(&self) -> LinkInfo {
        self.inner.link()
    }

    /// The settings of this session.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.inner.config()
    }

    /// Takes a snapshot of what the session has done and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Reports now what the session has done and holds; see [`Session::report_metrics`](crate::Session::report_metrics).
    #[cfg(feature = "metrics")]
    pub fn report_metrics(&self) {
        self.inner.report_metrics();
    }

    /// Takes a picture of the state that the session is in; see [`Session::debug_dump`](crate::Session::debug_dump).
    #[must_use]
    pub fn debug_dump(&self) -> SessionDump {
        self.inner.debug_dump()
    }

    /// Waits in this thread for what `future` does, until `deadline`, looking after the session meanwhile if nobody else does.
    /// Returns `None` if it was not ready by then; it is dropped.
    ///
    /// For what is made of the session's own futures, or of other threads' wakers: nobody drives a runtime here.
    pub fn block_on<F: Future>(&self, deadline: Option<Instant>, future: F) -> Option<F::Output> {
        block_on(self.shared(), deadline, future).ok()
    }

    /// The session as others know it. What it does at once works as it does here; its futures only make progress while a
    /// thread waits on the session.
    #[must_use]
    pub fn as_async(&self) -> &crate::Session {
        &self.inner
    }

    pub(crate) fn into_inner(self) -> crate::Session {
        self.inner
    }

    fn shared(&self) -> &Shared {
        self.inner.shared()
    }
}

/// Waits in this thread for what `future` does, looking after the session meanwhile.
///
/// It is never polled while this thread leads: it may need locks that come before the leader's.
pub(super) fn block_on<F: Future>(
    shared: &Shared,
    deadline: Option<Instant>,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    Signal::with(|signal, waker| {
        let outcome = loop {
            signal.clear();
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                break Ok(output);
            }
            let waited = match (shared.lead(), shared.lost()) {
                (None, _) => Err(Elapsed),
                // There is nothing to look after any more, and others decide when it is ready.
                (_, Some(_)) => signal.wait(deadline),
                (Some(lead), None) => {
                    let is_over = || signal.is_set() || shared.lost().is_some();
                    shared.wait(lead, false, deadline, |_| is_over().then_some(()))
                }
            };
            if let Err(elapsed) = waited {
                break Err(elapsed);
            }
        };
        // What polls a future that waits like this has perhaps been called meanwhile.
        signal.set();
        outcome
    })
}
