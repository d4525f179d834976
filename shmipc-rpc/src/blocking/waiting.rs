//! Waiting in the thread of a handler.

use std::{future::poll_fn, pin::pin, task::Poll};

use shmipc_transport::blocking::Session;

use crate::{Cancellation, Request};

/// Waits for what others do, for as long as the caller of a handler waits for that.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// `None`: the call came in another way, or its session is over.
    session: Option<Session>,
    cancellation: Cancellation,
}

impl Waiting {
    /// Waits for the caller of `request`.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        Self {
            session: request.session().as_ref().and_then(Session::of),
            cancellation: request.cancellation(),
        }
    }

    /// Waits in this thread for what `future` does. `None`: the caller has no more time, has given up, or is gone.
    pub(crate) fn wait_for<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let waiting = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.cancellation.poll_over(cx).map(|()| None),
        });
        let session = self.session.as_ref()?;
        session.block_on(self.cancellation.deadline(), waiting)?
    }
}
