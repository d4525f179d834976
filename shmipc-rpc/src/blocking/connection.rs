//! The session beneath a blocking channel, and getting another when it is lost.

use std::{
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use shmipc_transport::{
    Address, Backoff, Config, ConnectError,
    blocking::{Session, Stream},
};

use crate::{Status, deadline, error::SharedError};

/// At most one session to an address.
#[derive(Debug)]
pub(super) struct Connection {
    address: Address,
    config: Config,
    state: Mutex<State>,
    /// Wakes those who wait for an attempt to end.
    changed: Condvar,
}

/// Attempts are made on demand, by the thread that needs a session: a channel that nobody calls does nothing.
#[derive(Debug)]
enum State {
    /// There was no attempt yet, or the last session is lost.
    Idle,
    /// A thread connects.
    Connecting,
    /// The session is usable, as far as is known.
    Ready(Session),
    /// The last attempt failed. The next may begin at `until`.
    Failed {
        error: Arc<ConnectError>,
        until: Instant,
        backoff: Backoff,
    },
}

/// What a caller without a session should do.
enum Step {
    Proceed(Session, Stream),
    Connect(Backoff),
    /// Wait for the thread that connects.
    Wait,
    Failed {
        error: Arc<ConnectError>,
        until: Instant,
    },
}

impl Connection {
    pub(super) fn new(address: Address, config: Config) -> Self {
        Self {
            address,
            config,
            state: Mutex::new(State::Idle),
            changed: Condvar::new(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Connects, unless that has been done.
    pub(super) fn connect(&self) -> Result<(), ConnectError> {
        let session = dial(&self.address, &self.config, None)?;
        *self.state() = State::Ready(session);
        Ok(())
    }

    /// Returns the session if there is one, which is looked after for that.
    pub(super) fn session(&self) -> Option<Session> {
        let session = match &*self.state() {
            State::Ready(session) => session.clone(),
            State::Idle | State::Connecting | State::Failed { .. } => return None,
        };
        session.attend();
        (!session.is_closed()).then_some(session)
    }

    /// Opens a stream if there is a session.
    pub(super) fn try_open_stream(&self) -> Option<Stream> {
        match &*self.state() {
            State::Ready(session) => open(session),
            State::Idle | State::Connecting | State::Failed { .. } => None,
        }
    }

    /// Opens a stream, and connects first if need be.
    ///
    /// If the server cannot be reached, it fails after one attempt, or at once if the last one is not long ago; or
    /// goes on trying until `deadline`, if `wait_for_ready`.
    pub(super) fn open_stream(
        &self,
        wait_for_ready: bool,
        deadline: Option<Instant>,
    ) -> Result<(Session, Stream), Status> {
        let mut attempted = false;
        loop {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(deadline::exceeded());
            }
            let state = self.state();
            match step(state, wait_for_ready || !attempted) {
                (Step::Proceed(session, stream), _) => return Ok((session, stream)),
                (Step::Connect(backoff), state) => {
                    drop(state);
                    self.attempt(backoff, deadline);
                    attempted = true;
                }
                (Step::Wait, state) => {
                    self.wait(state, deadline);
                    attempted = true;
                }
                (Step::Failed { error, until }, state) if wait_for_ready => {
                    tracing::debug!(target: "shmipc_rpc::client", address = %self.address, %error, "waiting to connect");
                    let until = deadline.map_or(until, |deadline| deadline.min(until));
                    self.wait(state, Some(until));
                }
                (Step::Failed { error, .. }, _) => {
                    let message = format!("the server at {} cannot be reached", self.address);
                    return Err(Status::unavailable(message)
                        .with_source(error as SharedError)
                        .unsent());
                }
            }
        }
    }

    /// Connects. However it ends, those who wait for it are woken.
    fn attempt(&self, mut backoff: Backoff, deadline: Option<Instant>) {
        let attempt = Attempt {
            connection: self,
            outcome: State::Idle,
        };
        let patience = Instant::now() + self.config.handshake_timeout();
        let is_hurried = deadline.is_some_and(|deadline| deadline < patience);
        let outcome = match dial(&self.address, &self.config, deadline) {
            Ok(session) => State::Ready(session),
            // That it took longer than this caller has says nothing to others.
            Err(ConnectError::TimedOut { .. }) if is_hurried => State::Idle,
            Err(error) => {
                let until = Instant::now() + backoff.next_delay();
                State::Failed {
                    error: Arc::new(error),
                    until,
                    backoff,
                }
            }
        };
        attempt.end(outcome);
    }

    fn wait(&self, state: MutexGuard<'_, State>, deadline: Option<Instant>) {
        match deadline {
            None => drop(self.changed.wait(state)),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                drop(self.changed.wait_timeout(state, left));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced as a whole, so that a panic cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the state, which becomes that of an attempt if one is due.
fn step(mut state: MutexGuard<'_, State>, may_attempt: bool) -> (Step, MutexGuard<'_, State>) {
    let backoff = match &*state {
        State::Ready(session) => match open(session) {
            Some(stream) => return (Step::Proceed(session.clone(), stream), state),
            None => Backoff::default(),
        },
        State::Idle => Backoff::default(),
        State::Connecting => return (Step::Wait, state),
        State::Failed {
            error,
            until,
            backoff,
        } => {
            if !may_attempt || Instant::now() < *until {
                let (error, until) = (Arc::clone(error), *until);
                return (Step::Failed { error, until }, state);
            }
            *backoff
        }
    };
    *state = State::Connecting;
    (Step::Connect(backoff), state)
}

/// Opens a stream, unless the server wants no more of them or is gone.
fn open(session: &Session) -> Option<Stream> {
    let stream = session.open_stream().ok()?;
    (!session.is_going_away()).then_some(stream)
}

/// Connects, no later than until `deadline`.
///
/// A server that stops just now may hang up on whoever has found its socket, although its successor listens at the same
/// address: then we ask again.
fn dial(
    address: &Address,
    config: &Config,
    deadline: Option<Instant>,
) -> Result<Session, ConnectError> {
    /// More successors than one in a moment are few.
    const ATTEMPTS: u32 = 4;

    let connect = || Session::connect_until(address.clone(), config.clone(), deadline);
    for _ in 1..ATTEMPTS {
        match connect() {
            Err(ConnectError::Closed { .. }) => {}
            Err(ConnectError::NoServer { source, .. })
                if source.kind() == io::ErrorKind::ConnectionRefused => {}
            result => return result,
        }
    }
    connect()
}

/// An attempt to connect, which ends even if it panics: who may connect is decided by the user's code.
struct Attempt<'a> {
    connection: &'a Connection,
    outcome: State,
}

impl Attempt<'_> {
    fn end(mut self, outcome: State) {
        self.outcome = outcome;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        *self.connection.state() = mem::replace(&mut self.outcome, State::Idle);
        self.connection.changed.notify_all();
    }
}
