//! A connection that is made on demand, and anew when it is lost.

use std::{
    error::Error,
    fmt, mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant, // Not that of `std`: a runtime whose time is paused goes ahead of it.
};

use shmipc_transport::Backoff;

/// How a connection is made.
pub(crate) trait Dial: Send + Sync + 'static {
    /// A handle to the connection. The connection ends with its last handle.
    type Link: Clone + Send + 'static;
    /// Why there is none.
    type Error: Error + Send + Sync + 'static;

    /// Connects.
    fn dial(&self) -> impl Future<Output = Result<Self::Link, Self::Error>> + Send;

    /// Tells whether a connection takes further calls.
    fn is_usable(link: &Self::Link) -> bool;
}

/// At most one connection. Attempts are made on demand: a connection that nobody uses does nothing.
pub(crate) struct Reconnect<D: Dial> {
    dialer: D,
    state: Mutex<State<D>>,
    /// How many connections there have been. Written under the lock of the state, before a connection can be seen.
    generation: AtomicU64,
    /// Wakes those who wait for an attempt to end.
    changed: Notify,
}

enum State<D: Dial> {
    /// There was no attempt yet.
    Idle,
    /// A task is about to connect.
    Connecting { backoff: Backoff },
    /// The connection is usable, as far as is known.
    Ready(D::Link),
    /// The last attempt failed. The next may begin at `until`.
    Failed {
        error: Arc<D::Error>,
        until: Instant,
        backoff: Backoff,
    },
}

/// What a caller without a connection should do.
enum Step<D: Dial> {
    Proceed(D::Link),
    AwaitAttempt,
    Failed {
        error: Arc<D::Error>,
        until: Instant,
    },
}

/// What may be expected of a connection.
pub(crate) enum Outlook<E> {
    /// It is there.
    Ready,
    /// It is being made.
    Connecting,
    /// The last attempt failed. The next may begin at `until`.
    Failed { error: Arc<E>, until: Instant },
}

impl<D: Dial> Reconnect<D> {
    pub(crate) fn new(dialer: D) -> Self {
        Self {
            dialer,
            state: Mutex::new(State::Idle),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    /// Connects in any case, once.
    pub(crate) async fn connect(&self) -> Result<(), D::Error> {
        let link = self.dialer.dial().await?;
        let mut state = self.state();
        *state = self.ready(link);
        Ok(())
    }

    /// The number of the current connection, or the last one, from 1. What is known of one does not hold for the next.
    #[cfg(feature = "health")]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether there is a connection that takes calls, as far as is known.
    #[cfg(feature = "health")]
    pub(crate) fn is_ready(&self) -> bool {
        matches!(&*self.state(), State::Ready(link) if D::is_usable(link))
    }

    /// Returns a usable connection; makes one first if need be.
    ///
    /// If the server cannot be reached, it fails after one attempt, or at once if the last one is not long ago; or
    /// goes on trying, if `wait_for_ready`.
    pub(crate) async fn link(
        self: &Arc<Self>,
        wait_for_ready: bool,
    ) -> Result<D::Link, Arc<D::Error>> {
        let mut attempted = false;
        loop {
            // Listen first, look afterwards: an attempt that ends in between is noticed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.step(wait_for_ready || !attempted) {
                Step::Proceed(link) => return Ok(link),
                Step::AwaitAttempt => {
                    changed.await;
                    attempted = true;
                }
                Step::Failed { error, until } if wait_for_ready => {
                    tracing::debug!(target: "shmipc_rpc::client", %error, "waiting to connect");
                    tokio::time::sleep_until(until).await;
                }
                Step::Failed { error, .. } => return Err(error),
            }
        }
    }

    /// Tells what may be expected. Begins an attempt if there is no connection and one is due.
    pub(crate) fn outlook(self: &Arc<Self>) -> Outlook<D::Error> {
        match self.step(true) {
            Step::Proceed(_unused) => Outlook::Ready,
            Step::AwaitAttempt => Outlook::Connecting,
            Step::Failed { error, until } => Outlook::Failed { error, until },
        }
    }

    /// Whether the last attempt failed. Another may be under way.
    pub(crate) fn has_failed(&self) -> bool {
        match &*self.state() {
            State::Failed { .. } => true,
            State::Connecting { backoff } => backoff.has_failed(),
            State::Idle | State::Ready(_) => false,
        }
    }

    /// Waits for the end of an attempt.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Looks at the state, and begins an attempt if one is due.
    fn step(self: &Arc<Self>, may_attempt: bool) -> Step<D> {
        let mut state = self.state();
        let backoff = match &*state {
            State::Ready(link) if D::is_usable(link) => return Step::Proceed(link.clone()),
            State::Ready(_) | State::Idle => Backoff::default(),
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
        tokio::spawn(Attempt(Arc::clone(self)).run());
        Step::AwaitAttempt
    }

    /// Takes up a new connection. The state must be locked.
    fn ready(&self, link: D::Link) -> State<D> {
        self.generation.fetch_add(1, Ordering::Relaxed);
        State::Ready(link)
    }

    fn state(&self) -> MutexGuard<'_, State<D>> {
        // The state is replaced as a whole, so that a panic cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to connect. However it ends, those who wait for it are woken.
struct Attempt<D: Dial>(Arc<Reconnect<D>>);

impl<D: Dial> Attempt<D> {
    async fn run(self) {
        let result = self.0.dialer.dial().await;
        let mut state = self.0.state();
        let State::Connecting { mut backoff } = *state else {
            return;
        };
        *state = match result {
            Ok(link) => self.0.ready(link),
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

impl<D: Dial> Drop for Attempt<D> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let State::Connecting { .. } = *state {
            // The task was dropped with its runtime.
            drop(mem::replace(&mut *state, State::Idle));
        }
        drop(state);
        self.0.changed.notify_waiters();
    }
}

impl<D: Dial + fmt::Debug> fmt::Debug for Reconnect<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("dialer", &self.dialer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Counts attempts; a link is usable while nobody has cut it.
    #[derive(Debug, Default)]
    struct Counting {
        attempts: AtomicUsize,
        refuses: AtomicBool,
    }

    impl Dial for Counting {
        type Link = Arc<AtomicBool>;
        type Error = std::io::Error;

        async fn dial(&self) -> Result<Self::Link, std::io::Error> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if self.refuses.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Arc::new(AtomicBool::new(true)))
        }

        fn is_usable(link: &Self::Link) -> bool {
            link.load(Ordering::Relaxed)
        }
    }

    fn attempts(connection: &Reconnect<Counting>) -> usize {
        connection.dialer().attempts.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn those_who_come_together_share_an_attempt() {
        let connection = Arc::new(Reconnect::new(Counting::default()));
        let (one, other) = tokio::join!(connection.link(false), connection.link(false));
        let (one, other) = (one.expect("it connects"), other.expect("it connects"));
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(attempts(&connection), 1);
        one.store(false, Ordering::Relaxed);
        let next = connection.link(false).await.expect("it connects anew");
        assert!(!Arc::ptr_eq(&one, &next));
        assert_eq!(attempts(&connection), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_there_is_a_pause() {
        let connection = Arc::new(Reconnect::new(Counting::default()));
        connection.dialer().refuses.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(connection.link(false).await.is_err());
        }
        assert_eq!(attempts(&connection), 1, "calls within the pause fail fast");
        let mut patient = Box::pin(connection.link(true));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), &mut patient).await;
        assert!(waited.is_err(), "it goes on trying");
        connection.dialer().refuses.store(false, Ordering::Relaxed);
        patient.await.expect("the server is there");
    }
}
