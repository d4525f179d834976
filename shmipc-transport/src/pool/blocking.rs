//! The same for threads: whoever wants a stream does what there is to do.
//!
//! Nobody does it meanwhile, so each call begins with a look at all sessions. Attempts to connect are made by the callers, one after the other
//! each, and side by side among them; the state knows which are under way.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use super::{
    PoolConfig, PoolStats,
    line::Line,
    state::{Choice, Event, State, Work},
    stream::Loan,
    take_another,
    watch::Watch,
};
use crate::{
    Address, Flush, SendBuf,
    blocking::{Session, Stream},
    core::sync::{lock, try_lock},
    error::{ConnectError, PoolError},
};

/// A [pool of sessions](crate::SessionPool) for threads: the same choices, reuse of streams, pauses between attempts, and answers to restarts.
///
/// ```no_run
/// use bytes::{Buf, BufMut};
/// use shmipc_transport::{Flush, PoolConfig, blocking::SessionPool};
///
/// # fn call() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = SessionPool::connect_with("/run/echo.sock", PoolConfig::builder().size(4).build()?)?;
/// let mut stream = pool.stream_with(5, Flush::More, |message| message.put_slice(b"hello"))?;
/// if let Some(reply) = stream.recv()? {
///     assert_eq!(reply.remaining(), 5);
/// }
/// stream.give_back(); // Whoever is next goes on with it.
/// # Ok(()) }
/// ```
///
/// # While nobody calls
///
/// It needs no runtime and makes no thread: what there is to do is done by the threads that want streams, before they get them, and by
/// whoever calls [`attend`](Self::attend). In between, nobody does it. A pool that nobody uses
///
/// - does not follow a server that [restarts]: it learns of that when it is next used or attended, and then moves with
///   all its sessions, and says so, in that very call. The server counts it as one that has not moved in time, if it is waited for no longer;
/// - does not connect a session that was lost, and lets old sessions go no sooner than that;
/// - does nothing that its [sessions](crate::blocking#while-nobody-waits) do not do by themselves either. It costs no CPU time.
///
/// A call that finds a session missing, or one to be replaced, connects another before it goes on, which takes as long as a handshake does, at
/// most the [time for one](crate::ConfigBuilder::handshake_timeout). Others go on with what there is meanwhile. If there is another session to be had, it takes no
/// more than half of the time that the caller has. After a failure nobody tries before the [pause](crate::PoolConfigBuilder::backoff) is
/// over.
///
/// Each call looks at each session; that costs little more than a reading of the coarse clock, and a system call for each session every 10 ms.
///
/// Cheap to clone; all clones are the same pool. When the last one is dropped, each session ends with the last stream of it that is in use; see
/// [`Session::close`] about how long that may take.
///
/// [restarts]: crate::Clients::hot_restart
#[derive(Clone, Debug)]
pub struct SessionPool {
    owner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: Address,
    config: PoolConfig,
    state: Mutex<State>,
    /// Told when an attempt has ended, a session was lost, or the pool is closed.
    changed: Condvar,
    /// Of all sessions. Held by whoever looks, who takes the state's lock meanwhile; never the other way round.
    watches: Mutex<Vec<Watch>>,
}

impl SessionPool {
    /// Connects to the server at `address`, with the default [`PoolConfig`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::connect_with(address, PoolConfig::default())
    }

    /// Connects all sessions to the server at `address`, one after the other.
    ///
    /// An inherited descriptor can be connected once, so it is no address for this.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if one of the sessions cannot be connected; then there is none.
    pub fn connect_with(
        address: impl Into<Address>,
        config: PoolConfig,
    ) -> Result<Self, ConnectError> {
        let address = address.into();
        let connect = |_| Session::connect_with(address.clone(), config.session.clone());
        let sessions: Vec<_> = (0..config.size).map(connect).collect::<Result<_, _>>()?;
        Ok(Self::begin(address, config, sessions))
    }

    /// Makes a pool for the server at `address`, which need not be there yet. Whoever is first to want a stream connects.
    #[must_use]
    pub fn connect_lazy(address: impl Into<Address>, config: PoolConfig) -> Self {
        Self::begin(address.into(), config, Vec::new())
    }

    fn begin(address: Address, config: PoolConfig, sessions: Vec<Session>) -> Self {
        let mut state = State::new(&config, Instant::now());
        for (slot, session) in sessions.into_iter().enumerate() {
            state.start(slot, session.into_inner(), &config);
        }
        let watches = state.lines().map(|line| Watch::of(line)).collect();
        Self {
            owner: Arc::new(Inner {
                address,
                config,
                state: Mutex::new(state),
                changed: Condvar::new(),
                watches: Mutex::new(watches),
            }),
        }
    }

    /// Takes a stream that was [given back](PooledStream::give_back), or opens one.
    ///
    /// If there is no session, it connects one, or waits for a thread that does, and fails when that does, unless it is to have
    /// [patience](crate::PoolConfigBuilder::patience).
    ///
    /// The peer learns of a stream with its first message. If it has gone away by then, that fails with
    /// [`GoingAway`](crate::SendError::GoingAway), and nothing was sent: take another stream, or use [`stream_with`](Self::stream_with).
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn stream(&self) -> Result<PooledStream, PoolError> {
        self.stream_until(None)
    }

    /// As [`stream`](Self::stream), but waits no longer than until `deadline`: then there is no session
    /// ([`Unavailable`](PoolError::Unavailable)).
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn stream_until(&self, deadline: Option<Instant>) -> Result<PooledStream, PoolError> {
        self.owner.take(true, deadline)
    }

    /// Opens a stream. As [`stream`](Self::stream), but it is never one that was used before.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn open_stream(&self) -> Result<PooledStream, PoolError> {
        self.open_stream_until(None)
    }

    /// As [`open_stream`](Self::open_stream), but waits no longer than until `deadline`: then there is no session
    /// ([`Unavailable`](PoolError::Unavailable)).
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn open_stream_until(&self, deadline: Option<Instant>) -> Result<PooledStream, PoolError> {
        self.owner.take(false, deadline)
    }

    /// Takes a [`stream`](Self::stream) and sends a message on it, of about `size_hint` bytes, that `fill` writes. If its session turns
    /// out to go away, or is lost before anything was sent, another is taken, and the message is written once more.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn stream_with(
        &self,
        size_hint: usize,
        flush: Flush,
        fill: impl FnMut(&mut SendBuf),
    ) -> Result<PooledStream, PoolError> {
        self.stream_with_until(size_hint, flush, None, fill)
    }

    /// As [`stream_with`](Self::stream_with), but waits no longer than until `deadline`. Then there is no session
    /// ([`Unavailable`](PoolError::Unavailable)), or the message could not be sent in time ([`Send`](PoolError::Send)); in neither case was it.
    ///
    /// # Errors
    ///
    /// See [`PoolError`].
    pub fn stream_with_until(
        &self,
        size_hint: usize,
        flush: Flush,
        deadline: Option<Instant>,
        mut fill: impl FnMut(&mut SendBuf),
    ) -> Result<PooledStream, PoolError> {
        let mut reuses = true;
        loop {
            let mut stream = self.owner.take(reuses, deadline)?;
            let mut message = stream.buffer(size_hint);
            fill(&mut message);
            match stream.send_until(message, flush, deadline) {
                Ok(()) => return Ok(stream),
                Err(refused) => take_another(refused, &mut reuses)?,
            }
        }
    }

    /// Looks at all sessions and does what there is to do, as each call does before it takes a stream: connects sessions that are missing or are
    /// to be replaced, and tells a server that restarts when all have moved. Waits no longer than until `deadline`, and not for what other
    /// threads do.
    ///
    /// Without it, a pool that nobody uses learns of nothing. A thread that calls this every now and then makes up for that; every 100 ms is
    /// often enough to follow a restart.
    pub fn attend(&self, deadline: Option<Instant>) {
        self.owner.keep_up(deadline);
    }

    /// Ends all sessions, and all streams with them, and connects nothing more. What was sent before still reaches the server. See
    /// [`Session::close`] about how long that may take, for each session.
    pub fn close(&self) {
        for line in self.owner.close() {
            line.session.close();
        }
    }

    /// The address of the server.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.owner.address
    }

    /// The sessions that take streams, as far as is known without a [look](Self::attend): to look at their
    /// [statistics](Session::stats), or to accept streams of them.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        let state = lock(&self.owner.state);
        state.ready().cloned().map(Session::new).collect()
    }

    /// Takes a snapshot of what the pool has done and holds, as far as is known without a [look](Self::attend). Costs a short lock for each
    /// session.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        lock(&self.owner.state).stats()
    }
}

impl Inner {
    fn take(&self, reuses: bool, deadline: Option<Instant>) -> Result<PooledStream, PoolError> {
        let patience = Instant::now().checked_add(self.config.patience);
        loop {
            self.keep_up(deadline);
            let now = Instant::now();
            let mut state = lock(&self.state);
            let (is_hopeful, error) = match state.lend(&self.config, now)?.0 {
                Choice::Line(line) => {
                    drop(state);
                    match self.stream_of(line, reuses) {
                        Some(stream) => return Ok(stream),
                        // It was lost just now.
                        None => continue,
                    }
                }
                Choice::None { is_hopeful, error } => (is_hopeful, error),
            };
            let patience = patience.filter(|_| !is_hopeful);
            let limit = [patience, deadline].into_iter().flatten().min();
            if limit.is_some_and(|limit| limit <= now) {
                return Err(PoolError::Unavailable { source: error });
            }
            let until = [limit, state.next_look(now)].into_iter().flatten().min();
            match until.map(|until| until.saturating_duration_since(now)) {
                Some(left) => drop(self.changed.wait_timeout(state, left)),
                None => drop(self.changed.wait(state)),
            }
        }
    }

    /// A stream of a session, which has counted it; `None` if the session is lost.
    fn stream_of(&self, line: Arc<Line>, reuses: bool) -> Option<PooledStream> {
        let (stream, is_reused) = line.stream(reuses)?;
        lock(&self.state).lent(is_reused);
        Some(PooledStream {
            loan: Loan::new(Stream::new(stream), line),
        })
    }

    /// Does what there is to do, but for what other threads do already.
    fn keep_up(&self, deadline: Option<Instant>) {
        loop {
            self.look();
            let now = Instant::now();
            let attempts_max = usize::from(deadline.is_none_or(|deadline| now < deadline));
            let mut work = lock(&self.state).work(&self.config, now, attempts_max);
            let attempt = work.connect.pop();
            work.settle();
            let Some((slot, number)) = attempt else {
                return;
            };
            self.attempt(slot, number, deadline);
        }
    }

    /// Takes note of what has become of all sessions, unless somebody else does.
    fn look(&self) {
        let Some(mut watches) = try_lock(&self.watches) else {
            return;
        };
        let mut work = Work::default();
        let mut has_lost = false;
        watches.retain_mut(|watch| {
            watch.attend();
            while let Some(event) = watch.news() {
                work.adopt(lock(&self.state).happened(watch.number, event, &self.config));
                if let Event::Lost = event {
                    has_lost = true;
                    return false;
                }
            }
            true
        });
        drop(watches);
        work.settle();
        if has_lost {
            self.changed.notify_all();
        }
    }

    /// Connects a session.
    fn attempt(&self, slot: usize, number: u64, deadline: Option<Instant>) {
        let attempt = Attempt {
            pool: self,
            slot,
            has_ended: false,
        };
        let now = Instant::now();
        let has_another = lock(&self.state).has_ready();
        let limit = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            now + if has_another { left / 2 } else { left }
        });
        let config = self.config.session.clone();
        attempt.end(
            number,
            Session::connect_until(self.address.clone(), config, limit),
        );
    }

    /// Lets go of everything. Returns the sessions.
    fn close(&self) -> Vec<Arc<Line>> {
        let lines = lock(&self.state).close();
        lines.iter().for_each(|line| line.retire());
        lock(&self.watches).clear();
        self.changed.notify_all();
        lines
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// An attempt to connect, which ends even if it panics: whom to connect to is decided by the user's code.
struct Attempt<'a> {
    pool: &'a Inner,
    slot: usize,
    has_ended: bool,
}

impl Attempt<'_> {
    fn end(mut self, number: u64, outcome: Result<Session, ConnectError>) {
        self.has_ended = true;
        let Inner { state, config, .. } = self.pool;
        match outcome {
            Ok(session) => {
                let (line, mut work) = {
                    let mut state = lock(state);
                    if state.is_closed {
                        return;
                    }
                    state.connected(self.slot, number, session.into_inner(), config)
                };
                lock(&self.pool.watches).push(Watch::of(&line));
                work.settle();
            }
            // It had less time than the settings say.
            Err(ConnectError::TimedOut { timeout, .. })
                if timeout < config.session.handshake_timeout() =>
            {
                lock(state).broken_off(self.slot);
            }
            Err(error) => {
                tracing::debug!(address = %self.pool.address, %error, "a session of a pool could not be connected");
                lock(state).failed_for_all(self.slot, &Arc::new(error));
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            lock(&self.pool.state).broken_off(self.slot);
        }
        self.pool.changed.notify_all();
    }
}

/// A stream of a session of a [`SessionPool`], used as the [`Stream`] that it is; see [`PooledStream`](crate::PooledStream).
///
/// Dropping it ends it, as with any stream. To have it reused, [give it back](Self::give_back).
#[derive(Debug)]
pub struct PooledStream {
    loan: Loan<Stream>,
}

impl PooledStream {
    /// Gives the stream back for somebody else to use, and returns whether it will be. If not, it ends. When that may be done, and what is kept,
    /// is as with [`PooledStream::give_back`](crate::PooledStream::give_back).
    pub fn give_back(self) -> bool {
        self.loan.give_back(Stream::into_async)
    }

    /// Takes the stream out of the care of the pool, which no longer counts it.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.loan.into_stream()
    }
}

impl Deref for PooledStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.loan
    }
}

impl DerefMut for PooledStream {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.loan
    }
}
