//! A call between its request and its answer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use shmipc_transport::{ABANDONED, RecvBuf, Stream};
use tokio::time::Sleep;
use tracing::Span;

use super::answer::{no_answer, not_received};
use crate::{Status, deadline};

/// The stream of a call. Dropping it gives the call up (R6), unless it is over.
pub(super) struct Unanswered(pub(super) Stream);

impl Drop for Unanswered {
    fn drop(&mut self) {
        // The request, and with it our half of the stream, may have ended. To the server that says nothing about whether
        // somebody waits for the answer.
        self.0.reset(ABANDONED);
    }
}

/// A call whose request has been sent. Resolves to the frame that answers it, or fails at the deadline.
///
/// A future by hand: it is small, and has a timer only if it must wait.
pub(super) struct Sent<'a> {
    call: Unanswered,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    span: &'a Span,
}

impl<'a> Sent<'a> {
    pub(super) fn new(call: Unanswered, deadline: Option<Instant>, span: &'a Span) -> Self {
        Self {
            call,
            deadline,
            timer: None,
            span,
        }
    }
}

impl Future for Sent<'_> {
    type Output = Result<RecvBuf, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let _span = this.span.enter();
        Poll::Ready(match this.call.0.poll_recv(cx) {
            Poll::Ready(Ok(Some(answer))) => Ok(answer),
            Poll::Ready(Ok(None)) => Err(no_answer()),
            Poll::Ready(Err(error)) => Err(not_received(error)),
            Poll::Pending => {
                let Some(deadline) = this.deadline else {
                    return Poll::Pending;
                };
                let timer = || Box::pin(tokio::time::sleep_until(deadline.into()));
                ready!(this.timer.get_or_insert_with(timer).as_mut().poll(cx));
                Err(deadline::exceeded())
            }
        })
    }
}
