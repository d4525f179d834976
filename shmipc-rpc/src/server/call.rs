//! A call in a task of its own.

use std::{
    future::poll_fn,
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use shmipc_transport::SendHalf;
use tracing::Span;

use super::{
    dispatch::{Dispatch, Running},
    drain::shut_down,
    panic::guarded,
    reply::Outcome,
    router::MethodId,
    running::CallPermit,
    session::Shared,
};
use crate::{
    Body, Code,
    deadline::{self, Elapsed},
};

/// A call that runs, or is about to.
pub(super) struct Call {
    pub(super) stream: SendHalf,
    pub(super) progress: Progress,
    pub(super) deadline: Option<Instant>,
    /// The method whose record the first poll goes into.
    pub(super) to_be_timed: Option<MethodId>,
    pub(super) span: Span,
    pub(super) shared: Arc<Shared>,
    pub(super) response_len_max: usize,
    pub(super) permit: CallPermit,
}

/// How far a call has come.
pub(super) enum Progress {
    New {
        request: Box<http::Request<Body>>,
        dispatch: Box<dyn Dispatch>,
    },
    Running(Running),
    Over,
}

impl Call {
    /// Runs the handler, for as long as the caller waits, and sends what it returns.
    pub(super) async fn run(mut self) {
        if matches!(self.progress, Progress::New { .. }) {
            // The handler may block this thread. A task that was just made cannot be taken over by other threads, nor do they
            // know that they should watch for I/O now; one that has yielded can, and they do.
            tokio::task::yield_now().await;
        }
        let outcome = self.outcome().await;
        let progress = mem::replace(&mut self.progress, Progress::Over);
        // What a destructor of the application panics about does not matter any more.
        let _ = guarded(|| drop(progress));
        let Self {
            mut stream,
            deadline,
            span,
            response_len_max: message_len_max,
            mut permit,
            ..
        } = self;
        match outcome {
            None => record_code(&span, Code::Cancelled),
            Some(Outcome::Reply(reply)) => {
                record_code(&span, reply.code());
                let sending = reply.send(&mut stream, message_len_max);
                send_in_time(sending, deadline, &mut permit).await;
            }
            Some(Outcome::Stream(reply)) => {
                let sending = reply.begin(stream, deadline, message_len_max);
                record_code(&span, sending.run(&span, &mut permit).await);
            }
        }
        drop(permit);
    }

    /// Returns what the call came to, or `None` if the caller gave it up.
    async fn outcome(&mut self) -> Option<Outcome> {
        let watch = self.stream.watch();
        let deadline = self.deadline;
        let outcome = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if self.permit.poll_cut_off(cx).is_ready() => {
                Poll::Ready(Some(shut_down().into()))
            }
            Poll::Pending => watch.poll_abandoned(cx).map(|_| None),
        });
        match deadline::within(deadline, outcome).await {
            Ok(outcome) => outcome,
            Err(Elapsed) => Some(deadline::late().into()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let timed = self
            .to_be_timed
            .take()
            .map(|method| (method, Instant::now()));
        let polled = {
            let _scope = deadline::Scope::enter(self.deadline);
            let _span = self.span.enter();
            let progress = &mut self.progress;
            guarded(|| progress.poll(cx))
        };
        if let Some((method, began)) = timed {
            self.shared
                .routes
                .known(method)
                .pace
                .record(began.elapsed());
        }
        match polled {
            Ok(polled) => polled,
            Err(status) => Poll::Ready(status.into()),
        }
    }
}

impl Progress {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        *self = match mem::replace(self, Self::Over) {
            Self::New {
                request,
                mut dispatch,
            } => Self::Running(dispatch.start(*request, None)),
            progress @ (Self::Running(_) | Self::Over) => progress,
        };
        match self {
            Self::Running(running) => running.poll(cx),
            Self::New { .. } | Self::Over => Poll::Pending,
        }
    }
}

/// Waits until a reply was sent. What waits longer than its caller, or than there is time, is given up.
pub(super) async fn send_in_time(
    sending: impl Future<Output = ()>,
    deadline: Option<Instant>,
    permit: &mut CallPermit,
) {
    let mut sending = pin!(sending);
    let sent = poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => permit.poll_cut_off(cx),
    });
    // The stream is reset then, for it has not ended.
    let _ = deadline::within(deadline, sent).await;
}

/// Notes in the span of a call how it ended.
pub(super) fn record_code(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("status", code.name());
    }
}
