//! A server that runs on its own.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{self, AbortHandle},
};

use super::drain::{Drain, DrainReport};
use crate::{Endpoint, ServeError, deadline};

/// A server that was [started](super::Server::start), and runs in a task of its own.
///
/// Dropping it ends the server at once, as if its process had ended: use [`drain`](Self::drain) to let calls finish.
#[must_use = "dropping it ends the server"]
pub struct ServerHandle {
    endpoints: Vec<Endpoint>,
    drain: Arc<Drain>,
    task: Task,
}

/// Ends a task when it is dropped.
struct Task {
    abort: AbortHandle,
    /// Closed once the task is over.
    over: watch::Receiver<()>,
    /// Why it could not go on, for whoever asks first.
    error: Arc<Mutex<Option<ServeError>>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl ServerHandle {
    /// Begins to serve, in a task of its own.
    pub(super) fn new<F>(endpoints: Vec<Endpoint>, drain: Arc<Drain>, serving: F) -> Self
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let (running, over) = watch::channel(());
        // That is how it ends if it does not come to say otherwise.
        let error = Arc::new(Mutex::new(Some(ServeError::Broken)));
        let cause = Arc::clone(&error);
        let task = task::spawn(async move {
            // Dropped with the task, however that ends.
            let _running = running;
            let result = serving.await;
            *cause.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
        });
        Self {
            endpoints,
            drain,
            task: Task {
                abort: task.abort_handle(),
                over,
                error,
            },
        }
    }

    /// Returns where the server listens, in the order in which it was bound.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Takes the server out of service: gives the address back, tells the clients to open no further calls here and the
    /// [handlers](crate::Request::draining) to come to an end, waits for the calls that run, for `limit` at most, and then
    /// cuts off those that are left. Returns how that went, once the server has ended.
    ///
    /// The callers of calls that were cut off get [`Code::Unavailable`](crate::Code::Unavailable). No other call fails: calls
    /// that cross the news are served, and clients that have connected before and were not accepted yet are, too. So if a
    /// successor listens at the address by now (see [`take_over`](super::Server::take_over)), callers notice nothing.
    ///
    /// It may take a second longer than `limit`, to tell the callers of calls that were cut off. It may be called several
    /// times; the shortest limit counts. If the server could not go on before, the report has what was seen until then, and
    /// [`finished`](Self::finished) says why.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server drains all the same.
    pub async fn drain(&self, limit: Duration) -> DrainReport {
        self.drain.begin(deadline::after(limit));
        self.ended().await;
        self.drain.to_report()
    }

    /// Ends the server at once: as [`drain`](Self::drain) without any time.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server ends all the same.
    pub async fn shutdown_now(&self) -> DrainReport {
        self.drain(Duration::ZERO).await
    }

    /// Waits until the server has ended: because it has drained, or because it cannot go on.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted, or the server has panicked. It is returned once.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the server goes on.
    pub async fn finished(&self) -> Result<(), ServeError> {
        self.ended().await;
        let error = self.task.error.lock();
        let error = error.unwrap_or_else(PoisonError::into_inner).take();
        error.map_or(Ok(()), Err)
    }

    /// Waits for the end. Nothing is held meanwhile: others may wait as well, and some may not go on.
    async fn ended(&self) {
        let mut over = self.task.over.clone();
        while over.changed().await.is_ok() {}
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
