//! The calls of a connection that run in tasks of their own.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use foldhash::fast::RandomState;
use http::Uri;

use super::drain::{CutOff, Drain, Origin};

/// Counts the calls of a session, or of a connection over HTTP/2, and knows which they are.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    drain: Arc<Drain>,
    origin: Origin,
    count: AtomicUsize,
    running: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<u64, Arc<Running>, RandomState>,
    /// The number of the next.
    next: u64,
}

/// A call that runs.
#[derive(Debug)]
struct Running {
    method: Uri,
    began: Instant,
    /// Called when the call is to be cut off.
    waker: Mutex<Option<Waker>>,
}

/// Counts a call for as long as it exists.
#[derive(Debug)]
pub(crate) struct CallPermit {
    calls: Arc<Shared>,
    id: u64,
    running: Arc<Running>,
    was_cut_off: bool,
}

impl Calls {
    pub(super) fn new(drain: Arc<Drain>, origin: impl Into<Origin>) -> Self {
        Self {
            shared: Arc::new(Shared {
                drain,
                origin: origin.into(),
                count: AtomicUsize::new(0),
                running: Mutex::default(),
            }),
        }
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        // Relaxed: the number is all that is communicated.
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Adds a call.
    pub(super) fn permit(&self, method: Uri) -> CallPermit {
        let running = Arc::new(Running {
            method,
            began: Instant::now(),
            waker: Mutex::default(),
        });
        self.shared.count.fetch_add(1, Ordering::Relaxed);
        let id = {
            let mut table = lock(&self.shared.running);
            let id = table.next;
            table.next += 1;
            table.calls.insert(id, Arc::clone(&running));
            id
        };
        CallPermit {
            calls: Arc::clone(&self.shared),
            id,
            running,
            was_cut_off: false,
        }
    }

    /// Wakes the calls, because the time to drain is over.
    pub(super) fn wake(&self) {
        let running: Vec<_> = lock(&self.shared.running).calls.values().cloned().collect();
        for call in running {
            let waker = mem::take(&mut *lock(&call.waker));
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Reports the calls that are still there, because their connection is about to end.
    pub(super) fn report(&self) {
        let running: Vec<_> = lock(&self.shared.running).calls.drain().collect();
        for (_, call) in running {
            self.shared.report(&call);
        }
    }
}

impl Shared {
    fn report(&self, call: &Running) {
        let Origin { peer, address } = self.origin;
        self.drain.report(CutOff {
            method: call.method.path().to_owned(),
            peer,
            address,
            age: call.began.elapsed(),
        });
    }
}

impl CallPermit {
    /// Polls for the call to be cut off.
    pub(super) fn poll_cut_off(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let drain = &self.calls.drain;
        if !drain.is_over() {
            let mut waker = lock(&self.running.waker);
            if !waker
                .as_ref()
                .is_some_and(|known| known.will_wake(cx.waker()))
            {
                *waker = Some(cx.waker().clone());
            }
            drop(waker);
            // It may have come to an end between the look and the registration.
            if !drain.is_over() {
                return Poll::Pending;
            }
        }
        self.cut_off();
        Poll::Ready(())
    }

    /// Tells whether the call is to be cut off, without asking to be woken when it comes to be.
    #[cfg(feature = "grpc")]
    pub(super) fn is_cut_off(&mut self) -> bool {
        let is_over = self.calls.drain.is_over();
        if is_over {
            self.cut_off();
        }
        is_over
    }

    fn cut_off(&mut self) {
        if !mem::replace(&mut self.was_cut_off, true)
            && lock(&self.calls.running).calls.remove(&self.id).is_some()
        {
            self.calls.report(&self.running);
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.calls.count.fetch_sub(1, Ordering::Relaxed);
        let was_running = lock(&self.calls.running).calls.remove(&self.id).is_some();
        if was_running {
            self.calls.drain.count_finished();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is never left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
