//! A call between its request and its answer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use shmipc_transport::{ABANDONED, Stream};
use tokio::time::Sleep;
use tracing::Span;

use super::{
    answer::{Answer, no_answer, not_received},
    channel::Terms,
};
use crate::{Status, deadline};

/// How a call ended. The inner error is what the server says went wrong, the outer one what went wrong on the way.
pub(super) type Outcome = Result<Result<Answer, Status>, Status>;

/// The stream of a call. Dropping it gives the call up, unless it is over.
pub(super) struct Unanswered(pub(super) Stream);

impl Drop for Unanswered {
    fn drop(&mut self) {
        // The request, and with it our half of the stream, may have ended. To the server that says nothing about whether
        // somebody waits for the answer.
        self.0.reset(ABANDONED);
    }
}

/// A call whose request has been sent. Resolves to its outcome, at the deadline at the latest.
///
/// A future by hand: it is small, and has a timer only if it must wait.
pub(super) struct Sent<'a> {
    call: Unanswered,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    response_len_max: usize,
    span: &'a Span,
}

impl<'a> Sent<'a> {
    pub(super) fn new(call: Unanswered, terms: Terms, span: &'a Span) -> Self {
        let Terms {
            deadline, limits, ..
        } = terms;
        Self {
            call,
            deadline,
            timer: None,
            response_len_max: limits.response_len_max,
            span,
        }
    }
}

impl Future for Sent<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let _span = this.span.enter();
        Poll::Ready(match this.call.0.poll_recv(cx) {
            Poll::Ready(Ok(Some(answer))) => Answer::read(answer, this.response_len_max),
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
