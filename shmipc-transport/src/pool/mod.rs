//! Several sessions to one address, kept up: streams from whichever is best, and from its successor when the server restarts.
//!
//! [`State`] says what is to be done. [`Keeper`] does it in a task of its own; in a [pool for threads](blocking), whoever wants a stream does.
//! What a client does about hot restarts is decided by [`Relocation`](crate::core::restart::Relocation).

pub(crate) mod blocking;
mod config;
mod keeper;
mod line;
mod state;
mod stats;
mod stream;
mod watch;

use std::{
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::timeout_at,
};

pub use config::{PoolConfig, PoolConfigBuilder, Selection};
use keeper::Keeper;
use line::Line;
use state::{Choice, State};
pub use stats::{PoolStats, SlotState, SlotStats};
pub use stream::PooledStream;

use crate::{
    Address, Flush, SendBuf, SendError, Session,
    core::sync::lock,
    error::{ConnectError, PoolError, SessionLost},
};

/// Several [sessions](Session) to one address, and streams of them.
///
/// A session that is lost is connected anew, with pauses that grow while that fails; streams are opened in the others meanwhile. When
/// the server [restarts](crate::Clients::hot_restart), or [goes away](Session::go_away), each session is replaced by one to whoever listens at
/// the address by then. New streams go there at once; those that are in use stay where they are, and their session ends with the last
/// of them. With shmipc's own protocol, versions 2 and 3, the old server is told when all sessions have moved, and is left to close the
/// old ones for a while.
///
/// ```no_run
/// use bytes::{Buf, BufMut};
/// use shmipc_transport::{Flush, PoolConfig, SessionPool};
///
/// # async fn call() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = SessionPool::connect_with("/run/echo.sock", PoolConfig::builder().size(4).build()?).await?;
/// let mut stream = pool.stream_with(5, Flush::More, |message| message.put_slice(b"hello")).await?;
/// if let Some(reply) = stream.recv().await? {
///     assert_eq!(reply.remaining(), 5);
/// }
/// stream.give_back(); // Whoever is next goes on with it.
/// # Ok(()) }
/// ```
///
/// Cheap to clone; all clones are the same pool. When the last one is dropped, nothing more is connected, and each session ends with the
/// last stream of it that is in use. A pool that is not used costs what its sessions cost, two tasks that sleep for each, and
/// attempts to connect while there is no server.
#[derive(Clone, Debug)]
pub struct SessionPool {
    owner: Arc<PoolOwner>,
}

#[derive(Debug)]
struct PoolOwner {
    inner: Arc<Inner>,
    keeper: AbortHandle,
}

/// What the handles and the keeper share.
#[derive(Debug)]
struct Inner {
    address: Address,
    config: PoolConfig,
    state: Mutex<State>,
    /// Told when an attempt has ended, a session was lost, or the pool is closed.
    changed: Notify,
    /// Has the keeper look at the state.
    kicked: Notify,
}

impl PoolOwner {
    /// Lets go of everything. Returns the sessions.
    fn close(&self) -> Vec<Arc<Line>> {
        self.keeper.abort();
        let lines = lock(&self.inner.state).close();
        lines.iter().for_each(|line| line.retire());
        self.inner.changed.notify_waiters();
        lines
    }
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl SessionPool {
    /// Connects to the server at `address`, with the default [`PoolConfig`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future hangs up; nothing else remains.
    pub async fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::connect_with(address, PoolConfig::default()).await
    }

    /// Connects all sessions to the server at `address`.
    ///
    /// An inherited descriptor can be connected once, so it is no address for this.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if one of the sessions cannot be connected; then there is none.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future hangs up; nothing else remains.
    pub async fn connect_with(
        address: impl Into<Address>,
        config: PoolConfig,
    ) -> Result<Self, ConnectError> {
        let address = address.into();
        let mut attempts = JoinSet::new();
        for _ in 0..config.size {
            attempts.spawn(Session::connect_with(
                address.clone(),
                config.session.clone(),
            ));
        }
        let mut sessions = Vec::with_capacity(config.size);
        while let Some(ended) = attempts.join_next().await {
            match ended {
                Ok(outcome) => sessions.push(outcome?),
                // It has panicked, in code of the user's, or the runtime is over, and then nobody is here.
                Err(failed) => {
                    if let Ok(panic) = failed.try_into_panic() {
                        resume_unwind(panic);
                    }
                }
            }
        }
        Ok(Self::begin(address, config, sessions))
    }

    /// Makes a pool for the server at `address`, which need not be there yet. Sessions are connected from now on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[must_use]
    pub fn connect_lazy(address: impl Into<Address>, config: PoolConfig) -> Self {
        Self::begin(address.into(), config, Vec::new())
    }

    fn begin(address: Address, config: PoolConfig, sessions: Vec<Session>) -> Self {
        let mut state = State::new(&config, Instant::now());
        for (slot, session) in sessions.into_iter().enumerate() {
            state.start(slot, session, &config);
        }
        let inner = Arc::new(Inner {
            address,
            config,
            state: Mutex::new(state),
            changed: Notify::new(),
            kicked: Notify::new(),
        });
        let keeper = tokio::spawn(Keeper::new(Arc::clone(&inner)).run()).abort_handle();
        Self {
            owner: Arc::new(PoolOwner { inner, keeper }),
        }
    }

    fn inner(&self) -> &Inner {
        &self.owner.inner
    }

    /// Takes a stream that was [given back](PooledStream::give_back), or opens one.
    ///
    /// If there is no session, it waits for one that is being connected, and fails when that does, unless it is to have
    /// [patience](PoolConfigBuilder::patience).
    ///
    /// The peer learns of a stream with its first message. If it has gone away by then, that fails with
    /// [`GoingAway`](SendError::GoingAway), and nothing was sent: take another stream, or use [`stream_with`](Self::stream_with).
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    ///
    /// # Panics
    ///
    /// If it waits with [patience](PoolConfigBuilder::patience) outside of a tokio runtime with time enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a stream is taken in the poll that returns it.
    pub async fn stream(&self) -> Result<PooledStream, PoolError> {
        self.take(true).await
    }

    /// Opens a stream. As [`stream`](Self::stream), but it is never one that was used before.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    ///
    /// # Panics
    ///
    /// As [`stream`](Self::stream) does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is sent.
    pub async fn open_stream(&self) -> Result<PooledStream, PoolError> {
        self.take(false).await
    }

    /// Takes a [`stream`](Self::stream) and sends a message on it, of about `size_hint` bytes, that `fill` writes. If its session turns
    /// out to go away, or is lost before anything was sent, another is taken, and the message is written once more.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    ///
    /// # Panics
    ///
    /// As [`stream`](Self::stream) does.
    ///
    /// # Cancel safety
    ///
    /// The message is sent in the poll that returns, or not at all.
    pub async fn stream_with(
        &self,
        size_hint: usize,
        flush: Flush,
        mut fill: impl FnMut(&mut SendBuf),
    ) -> Result<PooledStream, PoolError> {
        let mut reuses = true;
        loop {
            let mut stream = self.take(reuses).await?;
            let mut message = stream.buffer(size_hint);
            fill(&mut message);
            match stream.send(message, flush).await {
                Ok(()) => return Ok(stream),
                Err(refused) => take_another(refused, &mut reuses)?,
            }
        }
    }

    async fn take(&self, reuses: bool) -> Result<PooledStream, PoolError> {
        let inner = self.inner();
        let deadline = Instant::now().checked_add(inner.config.patience);
        loop {
            // Listen first, look afterwards: what changes in between is noticed.
            let mut changed = pin!(inner.changed.notified());
            changed.as_mut().enable();
            let (is_hopeful, error) = match inner.choose()? {
                Choice::Line(line) => match inner.stream_of(line, reuses) {
                    Some(stream) => return Ok(stream),
                    // It was lost just now.
                    None => continue,
                },
                Choice::None { is_hopeful, error } => (is_hopeful, error),
            };
            if is_hopeful {
                changed.await;
                continue;
            }
            let time_is_over = match deadline {
                Some(deadline) if deadline <= Instant::now() => true,
                Some(deadline) => timeout_at(deadline.into(), changed).await.is_err(),
                None => {
                    changed.await;
                    false
                }
            };
            if time_is_over {
                return Err(PoolError::Unavailable { source: error });
            }
        }
    }

    /// Ends all sessions, and all streams with them, and connects nothing more. What was sent before still reaches the server.
    pub fn close(&self) {
        for line in self.owner.close() {
            line.session.close();
        }
    }

    /// The address of the server.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.inner().address
    }

    /// The sessions that take streams at the moment: to look at their [statistics](Session::stats), or to accept streams of them.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        lock(&self.inner().state).ready().cloned().collect()
    }

    /// Takes a snapshot of what the pool has done and holds. Costs a short lock for each session.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        lock(&self.inner().state).stats()
    }
}

/// What follows from a first message that could not be sent on a stream: another one is taken, or that is an error.
fn take_another(refused: SendError, reuses: &mut bool) -> Result<(), PoolError> {
    match refused {
        // Whatever is wrong with it, was so before: a message that is refused is not sent in part. Its session takes no stream any
        // more; or the peer has ended the stream while nobody used it.
        SendError::GoingAway
        | SendError::SessionLost(
            SessionLost::ClosedByPeer | SessionLost::ClosedHere | SessionLost::PeerDied,
        ) => Ok(()),
        SendError::Reset(_) if *reuses => {
            *reuses = false;
            Ok(())
        }
        refused => Err(PoolError::Send(refused)),
    }
}

impl Inner {
    /// Chooses a session.
    fn choose(&self) -> Result<Choice, PoolError> {
        let (choice, is_news) = lock(&self.state).lend(&self.config, Instant::now())?;
        if is_news {
            self.kicked.notify_one();
        }
        Ok(choice)
    }

    /// A stream of a session, which has counted it; `None` if the session is lost.
    fn stream_of(&self, line: Arc<Line>, reuses: bool) -> Option<PooledStream> {
        let (stream, is_reused) = line.stream(reuses)?;
        lock(&self.state).lent(is_reused);
        Some(PooledStream::new(stream, line))
    }
}
