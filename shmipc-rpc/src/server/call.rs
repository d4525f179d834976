//! A call in a task of its own.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use shmipc_transport::{SendError, Stream};
use tracing::Span;

use super::{
    dispatch::{Dispatch, Running},
    panic::guarded,
    reply::Reply,
    router::MethodId,
    session::{CallPermit, Shared},
};
use crate::{
    Body, Code, Status,
    deadline::{self, Elapsed},
};

/// A call that runs, or is about to.
pub(super) struct Call {
    pub(super) stream: Stream,
    pub(super) progress: Progress,
    pub(super) deadline: Option<Instant>,
    /// The method whose record the first poll goes into.
    pub(super) to_be_timed: Option<MethodId>,
    pub(super) span: Span,
    pub(super) shared: Arc<Shared>,
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
    /// Runs the handler, for as long as the caller waits, and sends the reply.
    pub(super) async fn run(mut self) {
        if matches!(self.progress, Progress::New { .. }) {
            // The handler may block this thread. A task that was just made cannot be taken over by other threads, nor do they
            // know that they should watch for I/O now; one that has yielded can, and they do.
            tokio::task::yield_now().await;
        }
        let reply = self.reply().await;
        let progress = mem::replace(&mut self.progress, Progress::Over);
        // What a destructor of the application panics about does not matter any more.
        let _ = guarded(|| drop(progress));
        record_code(
            &self.span,
            reply.as_ref().map_or(Code::Cancelled, Reply::code),
        );
        let Some(reply) = reply else { return };
        let message_len_max = self.shared.limits.response_len_max;
        if let Err(SendError::TooLarge { .. }) = reply.send(&mut self.stream, message_len_max).await
        {
            let status =
                Status::resource_exhausted("the response is larger than the memory of the session");
            // A caller that has gone needs no answer.
            let _ = Reply::Failed(status)
                .send(&mut self.stream, message_len_max)
                .await;
        }
        drop(self.permit);
    }

    /// Returns the reply, or `None` if the caller gave the call up.
    async fn reply(&mut self) -> Option<Reply> {
        let watch = self.stream.watch();
        let deadline = self.deadline;
        let reply = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            Poll::Pending => watch.poll_abandoned(cx).map(|_| None),
        });
        match deadline::within(deadline, reply).await {
            Ok(reply) => reply,
            Err(Elapsed) => {
                let status =
                    Status::deadline_exceeded("the deadline passed before the handler was done");
                Some(Reply::Failed(status))
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
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
            Err(status) => Poll::Ready(Reply::Failed(status)),
        }
    }
}

impl Progress {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        *self = match mem::replace(self, Self::Over) {
            Self::New {
                request,
                mut dispatch,
            } => Self::Running(dispatch.start(*request)),
            progress @ (Self::Running(_) | Self::Over) => progress,
        };
        match self {
            Self::Running(running) => running.poll(cx),
            Self::New { .. } | Self::Over => Poll::Pending,
        }
    }
}

/// Notes in the span of a call how it ended.
pub(super) fn record_code(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("status", code.name());
    }
}
