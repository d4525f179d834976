//! The session beneath a channel, and getting another when it is lost.

use std::{
    io, mem,
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use shmipc_transport::{Address, Backoff, Config, ConnectError, Session, Stream};
use tokio::{
    sync::{Notify, futures::Notified},
    task::AbortHandle,
    time::Instant, // Not that of `std`: a runtime whose time is paused goes ahead of it.
};

use crate::{Status, body::session_lost, error::SharedError, server::SessionServices};

/// At most one session to an address, or the one that there is.
#[derive(Debug)]
pub(super) struct Connection {
    target: Option<Target>,
    state: RwLock<State>,
    /// How many sessions there have been. Written under the lock of the state, before a session can be seen.
    generation: AtomicU64,
    /// Wakes those who wait for an attempt to end.
    changed: Notify,
}

/// Where sessions come from.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) config: Config,
    /// What this side serves in each of them.
    pub(super) services: Arc<SessionServices>,
}

/// Attempts are made on demand: a channel that nobody calls does nothing.
enum State {
    /// There was no attempt yet, or the last session is lost.
    Idle,
    /// A task is about to connect.
    Connecting { backoff: Backoff },
    /// The session is usable, as far as is known.
    Ready(Watched),
    /// The last attempt failed. The next may begin at `until`.
    Failed {
        error: Arc<ConnectError>,
        until: Instant,
        backoff: Backoff,
    },
}

/// A session, and the task that lets go of it when the server wants no more calls or is gone.
struct Watched {
    session: Session,
    watcher: Option<AbortHandle>,
}

/// What a caller without a stream should do.
enum Step {
    Proceed(Stream),
    AwaitAttempt,
    Failed {
        error: Arc<ConnectError>,
        until: Instant,
    },
    /// There is no session, and there will be no other.
    Over(Status),
}

/// What may be expected of a connection.
pub(super) enum Outlook {
    /// There is a session.
    Ready,
    /// It connects.
    Connecting,
    /// The last attempt failed. The next may begin at `until`.
    Failed {
        error: Arc<ConnectError>,
        until: Instant,
    },
    /// There is no session, and there will be no other.
    Over(Status),
}

impl Connection {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target: Some(target),
            state: RwLock::new(State::Idle),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// A connection that consists of `session`, and is over with it.
    pub(super) fn over(session: Session) -> Self {
        let watched = Watched {
            session,
            watcher: None,
        };
        Self {
            target: None,
            state: RwLock::new(State::Ready(watched)),
            generation: AtomicU64::new(1),
            changed: Notify::new(),
        }
    }

    /// Where sessions come from, unless there is but one.
    pub(super) fn address(&self) -> Option<&Address> {
        self.target.as_ref().map(|target| &target.address)
    }

    /// Connects, unless that has been done.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<(), ConnectError> {
        if let Some(target) = &self.target {
            let session = target.dial().await?;
            let serving = target.services.serve(&session);
            let mut state = self.write();
            *state = self.ready(session, serving);
        }
        Ok(())
    }

    /// The number of the current session, or the last one, from 1. What is known of one session does not hold for the next.
    #[cfg(feature = "health")]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Opens a stream if there is a session.
    pub(super) fn try_open_stream(&self) -> Option<Stream> {
        match &*self.read() {
            State::Ready(watched) => watched.open_stream(),
            State::Idle | State::Connecting { .. } | State::Failed { .. } => None,
        }
    }

    /// Returns the session if there is one.
    pub(super) fn session(&self) -> Option<Session> {
        match &*self.read() {
            State::Ready(watched) if !watched.session.is_closed() => Some(watched.session.clone()),
            State::Ready(_) | State::Idle | State::Connecting { .. } | State::Failed { .. } => None,
        }
    }

    /// Whether there is a session that takes calls, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        match &*self.read() {
            State::Ready(watched) => {
                !watched.session.is_going_away() && !watched.session.is_closed()
            }
            State::Idle | State::Connecting { .. } | State::Failed { .. } => false,
        }
    }

    /// Whether the last attempt failed. Another may be under way.
    pub(super) fn has_failed(&self) -> bool {
        match &*self.read() {
            State::Failed { .. } => true,
            State::Connecting { backoff } => backoff.has_failed(),
            State::Idle | State::Ready(_) => false,
        }
    }

    /// Tells what may be expected of this connection. Begins an attempt if there is no session and one is due.
    pub(super) fn outlook(self: &Arc<Self>) -> Outlook {
        match self.step(true) {
            Step::Proceed(_unused) => Outlook::Ready,
            Step::AwaitAttempt => Outlook::Connecting,
            Step::Failed { error, until } => Outlook::Failed { error, until },
            Step::Over(status) => Outlook::Over(status),
        }
    }

    /// Waits for the end of an attempt.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The status of a call for which there is no session.
    pub(super) fn unreachable(&self, error: Arc<ConnectError>) -> Status {
        let mut message = "the server cannot be reached".to_owned();
        if let Some(address) = self.address() {
            message = format!("the server at {address} cannot be reached");
        }
        Status::unavailable(message)
            .with_source(error as SharedError)
            .unsent()
    }

    /// Opens a stream, and connects first if need be.
    ///
    /// If the server cannot be reached, it fails after one attempt, or at once if the last one is not long ago; or
    /// goes on trying, if `wait_for_ready`.
    pub(super) async fn open_stream(
        self: &Arc<Self>,
        wait_for_ready: bool,
    ) -> Result<Stream, Status> {
        let mut attempted = false;
        loop {
            // Listen first, look afterwards: an attempt that ends in between is noticed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.step(wait_for_ready || !attempted) {
                Step::Proceed(stream) => return Ok(stream),
                Step::AwaitAttempt => {
                    changed.await;
                    attempted = true;
                }
                Step::Over(status) => return Err(status),
                Step::Failed { error, until } if wait_for_ready => {
                    tracing::debug!(target: "shmipc_rpc::client", %error, "waiting to connect");
                    tokio::time::sleep_until(until).await;
                }
                Step::Failed { error, .. } => return Err(self.unreachable(error)),
            }
        }
    }

    /// Looks at the state, and begins an attempt if one is due.
    fn step(self: &Arc<Self>, may_attempt: bool) -> Step {
        let mut state = self.write();
        let backoff = match &*state {
            State::Ready(watched) => match watched.open_stream() {
                Some(stream) => return Step::Proceed(stream),
                None if self.target.is_none() => return Step::Over(watched.over()),
                None => Backoff::default(),
            },
            State::Idle => Backoff::default(),
            State::Connecting { .. } => return Step::AwaitAttempt,
            State::Failed {
                error,
                until,
                backoff,
            } => {
                if !may_attempt || Instant::now() < *until {
                    return Step::Failed {
                        error: Arc::clone(error),
                        until: *until,
                    };
                }
                *backoff
            }
        };
        *state = State::Connecting { backoff };
        drop(state);
        tokio::spawn(
            Attempt {
                connection: Arc::clone(self),
            }
            .run(),
        );
        Step::AwaitAttempt
    }

    /// Takes up a new session, in which this side serves. The state must be locked.
    fn ready(
        self: &Arc<Self>,
        session: Session,
        serving: impl Future<Output = ()> + Send + 'static,
    ) -> State {
        self.generation.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serving);
        State::Ready(self.watch(session))
    }

    /// Begins to watch a session.
    ///
    /// When the server goes away, the connection's handle is dropped, so that the session ends with the calls that still
    /// run. That is what a draining server waits for.
    fn watch(self: &Arc<Self>, session: Session) -> Watched {
        let connection = Arc::downgrade(self);
        let watched = session.clone();
        let watcher = tokio::spawn(async move {
            watched.going_away().await;
            let Some(connection) = connection.upgrade() else {
                return;
            };
            let mut state = connection.write();
            // Another session may have taken its place.
            if matches!(&*state, State::Ready(current) if current.open_stream().is_none()) {
                *state = State::Idle;
            }
        });
        Watched {
            session,
            watcher: Some(watcher.abort_handle()),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is replaced as a whole, so that a panic cannot leave half of one.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Opens a stream, unless the server wants no more of them or is gone.
    fn open_stream(&self) -> Option<Stream> {
        if self.session.is_going_away() {
            None
        } else {
            self.session.open_stream().ok()
        }
    }

    /// Why no stream can be opened any more.
    fn over(&self) -> Status {
        match self.session.open_stream() {
            Err(lost) => session_lost(lost),
            Ok(_) => Status::unavailable("the peer accepts no further calls in this session"),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl Target {
    /// Connects.
    ///
    /// A server that stops just now may hang up on whoever has found its socket, although its successor listens at the same
    /// address: then we ask again.
    async fn dial(&self) -> Result<Session, ConnectError> {
        /// More successors than one in a moment are few.
        const ATTEMPTS: u32 = 4;

        let connect = || Session::connect_with(self.address.clone(), self.config.clone());
        for _ in 1..ATTEMPTS {
            match connect().await {
                Err(ConnectError::Closed { .. }) => {}
                Err(ConnectError::NoServer { source, .. })
                    if source.kind() == io::ErrorKind::ConnectionRefused => {}
                result => return result,
            }
        }
        connect().await
    }
}

/// An attempt to connect. However it ends, those who wait for it are woken.
struct Attempt {
    connection: Arc<Connection>,
}

impl Attempt {
    async fn run(self) {
        let Some(target) = &self.connection.target else {
            return;
        };
        let result = target.dial().await;
        // What the user wants to do with each session is done while nothing is locked.
        let result = result.map(|session| (target.services.serve(&session), session));
        let mut state = self.connection.write();
        let State::Connecting { mut backoff } = *state else {
            return;
        };
        *state = match result {
            Ok((serving, session)) => self.connection.ready(session, serving),
            Err(error) => {
                let until = Instant::now() + backoff.next_delay();
                State::Failed {
                    error: Arc::new(error),
                    until,
                    backoff,
                }
            }
        };
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.connection.write();
        if let State::Connecting { .. } = *state {
            // The task was dropped with its runtime.
            drop(mem::replace(&mut *state, State::Idle));
        }
        drop(state);
        self.connection.changed.notify_waiters();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle => f.write_str("Idle"),
            Self::Connecting { .. } => f.write_str("Connecting"),
            Self::Ready(_) => f.write_str("Ready"),
            Self::Failed { error, .. } => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}
