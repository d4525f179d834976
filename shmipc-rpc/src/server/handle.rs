//! A server that runs on its own.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    task::{AbortHandle, JoinError, JoinHandle},
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
    state: Mutex<TaskState>,
}

enum TaskState {
    Running(JoinHandle<Result<(), ServeError>>),
    /// How it ended, for whoever asks next. The error is told once.
    Over(Option<ServeError>, DrainReport),
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl ServerHandle {
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        drain: Arc<Drain>,
        task: JoinHandle<Result<(), ServeError>>,
    ) -> Self {
        Self {
            endpoints,
            drain,
            task: Task {
                abort: task.abort_handle(),
                state: Mutex::new(TaskState::Running(task)),
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
    /// times; the shortest limit counts.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server drains all the same.
    pub async fn drain(&self, limit: Duration) -> DrainReport {
        self.drain.begin(deadline::after(limit));
        self.ended().await.1
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
    /// Returns [`ServeError`] if connections can no longer be accepted. It is returned once.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the server goes on.
    pub async fn finished(&self) -> Result<(), ServeError> {
        match self.ended().await.0 {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn ended(&self) -> (Option<ServeError>, DrainReport) {
        let mut state = self.task.state.lock().await;
        if let TaskState::Running(task) = &mut *state {
            *state = over(task.await, &self.drain);
        }
        match &mut *state {
            TaskState::Over(error, report) => (error.take(), report.clone()),
            TaskState::Running(_) => (None, self.drain.to_report()),
        }
    }
}

fn over(result: Result<Result<(), ServeError>, JoinError>, drain: &Drain) -> TaskState {
    match result {
        Ok(Ok(())) => TaskState::Over(None, drain.to_report()),
        Ok(Err(error)) => TaskState::Over(Some(error), drain.to_report()),
        // The runtime has ended, or there is a bug; either way so has the server.
        Err(error) => {
            tracing::debug!(target: "shmipc_rpc::server", %error, "the server's task has ended");
            TaskState::Over(None, drain.to_report())
        }
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
