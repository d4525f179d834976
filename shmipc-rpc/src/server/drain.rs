//! Going out of service: what the calls are told, and what is reported of them.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use shmipc_transport::Peer;
use tokio::sync::watch;

use crate::{Status, deadline};

/// How a drain went. See [`ServerHandle::drain`](super::ServerHandle::drain).
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct DrainReport {
    /// How many calls were running, or still came, and ended by themselves. Those that were answered without any waiting
    /// are not counted.
    pub finished: usize,
    /// The calls that were still running when the time was over. Their callers have been told
    /// [`Code::Unavailable`](crate::Code::Unavailable), as far as they could be reached.
    pub cut_off: Vec<CutOff>,
}

/// A call that did not end in time.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct CutOff {
    /// The path of the method, such as `/helloworld.Greeter/SayHello`.
    pub method: String,
    /// Who had called. `None` over TCP, where the kernel knows no process.
    pub peer: Option<Peer>,
    /// Where the call came from. `None`, unless that was over TCP.
    pub address: Option<SocketAddr>,
    /// How long the call had been running.
    pub age: Duration,
}

/// Tells a handler that its server drains: that it goes out of service once the calls that run have ended. A handler whose
/// response has no end of its own should end it then, and its caller will call the successor.
///
/// See [`Request::draining`](crate::Request::draining).
///
/// # Examples
///
/// ```no_run
/// # use shmipc_rpc::{Request, Response, Status};
/// # async fn next_event() {}
/// async fn wait_for_event(request: Request<()>) -> Result<Response<bool>, Status> {
///     let draining = request.draining();
///     tokio::select! {
///         () = next_event() => Ok(Response::new(true)),
///         () = draining.begun() => Ok(Response::new(false)), // "Ask again."
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Draining {
    /// `None` where there is no server.
    drain: Option<Arc<Drain>>,
}

impl Draining {
    pub(crate) fn of(drain: &Arc<Drain>) -> Self {
        Self {
            drain: Some(Arc::clone(drain)),
        }
    }

    /// Waits until the server drains. Never returns on the calling side, and for a call within the process.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may be called again, and by several tasks at once.
    pub async fn begun(&self) {
        match &self.drain {
            Some(drain) => drain.begun().await,
            None => pending().await,
        }
    }

    /// Tells whether the server drains.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        let phase = self.drain.as_ref().map(|drain| drain.phase());
        !matches!(phase, None | Some(Phase::Serving))
    }

    /// Returns when the calls that still run will be cut off. `None`: the server does not drain, or waits for as long as
    /// they take. It may come to be earlier.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.drain.as_ref()?.phase() {
            Phase::Draining { until } => until,
            Phase::Over { at } => Some(at),
            Phase::Serving => None,
        }
    }
}

/// Where a server stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    Serving,
    /// Calls may go on, until this time if there is one.
    Draining {
        until: Option<Instant>,
    },
    /// No call may go on, since this time.
    Over {
        at: Instant,
    },
}

/// A server's way out of service.
#[derive(Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    /// Whether the phase is [`Phase::Over`], for those who ask often.
    is_over: AtomicBool,
    finished: AtomicUsize,
    cut_off: Mutex<Vec<CutOff>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            is_over: AtomicBool::new(false),
            finished: AtomicUsize::new(0),
            cut_off: Mutex::default(),
        }
    }
}

impl Drain {
    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Begins to drain, until `until` if that is given, or no later than was said before.
    pub(crate) fn begin(&self, until: Option<Instant>) {
        self.phase.send_if_modified(|phase| {
            let next = match phase {
                Phase::Serving => until,
                Phase::Draining { until: known } if deadline::earlier(*known, until) != *known => {
                    until
                }
                Phase::Draining { .. } | Phase::Over { .. } => return false,
            };
            *phase = Phase::Draining { until: next };
            true
        });
    }

    /// Waits until the server drains.
    pub(super) async fn begun(&self) {
        let mut phase = self.phase.subscribe();
        // It cannot fail: the sender is ours.
        let _ = phase
            .wait_for(|phase| !matches!(phase, Phase::Serving))
            .await;
    }

    /// Waits until the time to drain is over.
    pub(super) async fn time_is_up(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            let until = match *phase.borrow_and_update() {
                Phase::Over { .. } => return,
                Phase::Draining { until } => until,
                Phase::Serving => None,
            };
            // If it changes meanwhile, it is looked at again.
            if deadline::within(until, phase.changed()).await.is_err() {
                return;
            }
        }
    }

    /// The time is over. The calls are to be woken now.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.phase.send_if_modified(|phase| {
            let is_first = !matches!(phase, Phase::Over { .. });
            if is_first {
                *phase = Phase::Over { at: Instant::now() };
            }
            is_first
        });
    }

    /// Tells whether calls must not go on.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Counts a call that ended by itself.
    pub(super) fn count_finished(&self) {
        if !matches!(self.phase(), Phase::Serving) {
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes a call that was cut off.
    pub(super) fn report(&self, cut_off: CutOff) {
        self.reported().push(cut_off);
    }

    /// Returns how it went, so far.
    pub(crate) fn to_report(&self) -> DrainReport {
        DrainReport {
            finished: self.finished.load(Ordering::Relaxed),
            cut_off: self.reported().clone(),
        }
    }

    fn reported(&self) -> MutexGuard<'_, Vec<CutOff>> {
        // A list is never left half changed.
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the calls of a connection come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) peer: Option<Peer>,
    pub(super) address: Option<SocketAddr>,
}

impl From<Peer> for Origin {
    fn from(peer: Peer) -> Self {
        Self {
            peer: Some(peer),
            address: None,
        }
    }
}

/// How long it may take to tell the callers of calls that were cut off.
pub(super) const NEWS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the caller of a call that was cut off is told.
pub(super) fn shut_down() -> Status {
    Status::unavailable("the server was shut down before the call was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_to_drain_only_gets_shorter() {
        let drain = Arc::new(Drain::default());
        let draining = Draining::of(&drain);
        assert!(!draining.has_begun());
        assert_eq!(draining.deadline(), None);
        drain.begin(None);
        assert!(draining.has_begun());
        assert_eq!(draining.deadline(), None);
        let now = tokio::time::Instant::now().into_std();
        let (soon, late) = (
            now + Duration::from_secs(1),
            now + Duration::from_secs(3600),
        );
        drain.begin(Some(late));
        assert_eq!(draining.deadline(), Some(late));
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.time_is_up().await }
        });
        tokio::task::yield_now().await;
        drain.begin(Some(soon));
        drain.begin(Some(late));
        drain.begin(None);
        assert_eq!(draining.deadline(), Some(soon));
        waiting.await.unwrap();
        assert!(tokio::time::Instant::now().into_std() < late);
    }
}
