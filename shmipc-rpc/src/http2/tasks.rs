//! The tasks that hyper makes for the calls of a connection, and how they end with those.
//!
//! A body is sent in a task of its own, which waits for nothing but room while the peer's window is full: it does not ask the body, nor
//! does it see that nobody wants the answer any more. So whoever has to give such a call up ends its task, and the stream is reset.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Makes the tasks of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    next: Arc<Mutex<Option<CallTask>>>,
}

/// The task that sends the body of a call, once there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallTask(Arc<Mutex<Sending>>);

#[derive(Debug, Default)]
enum Sending {
    #[default]
    NotYet,
    Task(AbortHandle),
    /// It has ended, or is to end as soon as it is there.
    Over,
}

impl Tasks {
    /// The next task of this connection is for that call.
    pub(crate) fn next_is_of(&self, call: &CallTask) {
        *self.next() = Some(call.clone());
    }

    fn next(&self) -> MutexGuard<'_, Option<CallTask>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::spawn(future).abort_handle();
        let call = self.next().take();
        if let Some(call) = call {
            call.begin(task);
        }
    }
}

impl CallTask {
    fn begin(&self, task: AbortHandle) {
        let mut sending = self.sending();
        match *sending {
            Sending::Over => task.abort(),
            Sending::NotYet | Sending::Task(_) => *sending = Sending::Task(task),
        }
    }

    /// Ends it. What it has not sent yet is not sent any more.
    pub(crate) fn end(&self) {
        let sending = std::mem::replace(&mut *self.sending(), Sending::Over);
        if let Sending::Task(task) = sending {
            task.abort();
        }
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
