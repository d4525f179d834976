//! One session: takes the calls that arrive, and answers at once those that can be.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::Uri;
use shmipc_transport::{RecvBuf, SendHalf, SessionLost, Stream};

use tracing::Span;

use super::{
    call::{Call, Progress, record_code, send_in_time},
    dispatch::{Dispatch, Running},
    drain::Drain,
    incoming::Incoming,
    limits::LimitTable,
    panic::guarded,
    reply::{Outcome, Reply},
    router::{MethodId, Routes},
    served::Served,
    stream_reply::{Ended, Sending},
};
use crate::{Body, Status, deadline};

/// What all sessions of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) routes: Arc<Routes>,
    pub(super) limits: LimitTable,
    pub(super) drain: Arc<Drain>,
    /// Whether anything is served. If not, that is what all calls are told.
    pub(super) serves: bool,
}

/// Of the calls that are polled here, one in this many is timed: reading the clock twice costs a tenth of a short call.
const TIMED_EVERY: u8 = 8;

/// How many calls are refused in one poll by a side that serves nothing, before other tasks get their turn.
const REFUSALS_PER_POLL: u32 = 64;

/// The task of one session.
pub(super) struct SessionTask {
    served: Arc<Served>,
    shared: Arc<Shared>,
    dispatch: Box<dyn Dispatch>,
    until_timed: u8,
}

impl SessionTask {
    pub(super) fn new(
        served: Arc<Served>,
        shared: Arc<Shared>,
        dispatch: Box<dyn Dispatch>,
    ) -> Self {
        Self {
            served,
            shared,
            dispatch,
            until_timed: 0,
        }
    }

    /// Serves until the session ends. If the future is dropped, the session is closed.
    pub(super) async fn run(mut self) -> SessionLost {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionLost> {
        if !self.shared.serves {
            return self.poll_refusing(cx);
        }
        // The session yields now and then, so this needs no bound of its own.
        loop {
            match ready!(self.served.session.poll_accept_stream(cx)) {
                Ok(stream) => self.on_stream(stream, cx),
                Err(lost) => return Poll::Ready(lost),
            }
        }
    }

    /// As [`poll`](Self::poll), where no calls are expected.
    fn poll_refusing(&mut self, cx: &mut Context<'_>) -> Poll<SessionLost> {
        for _ in 0..REFUSALS_PER_POLL {
            match ready!(self.served.session.poll_unexpected_stream(cx)) {
                Ok(stream) => self.on_stream(stream, cx),
                Err(lost) => return Poll::Ready(lost),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn on_stream(&mut self, mut stream: Stream, cx: &mut Context<'_>) {
        // A stream is handed out with its first message. If it has none, it ended, or was given up, before it told what it
        // wants: there is nobody to answer.
        if let Some(Ok(Some(frame))) = stream.try_recv() {
            self.on_frame(stream, frame, cx);
        }
    }

    /// Returns why a call is refused whatever it is, if it is.
    fn refusal(&self) -> Option<Status> {
        if !self.shared.serves {
            let message = "the client serves nothing: its channel was built without `serve`";
            return Some(Status::unimplemented(message));
        }
        let calls_max = self.shared.limits.server.calls_per_session_max;
        (calls_max <= self.served.calls.count()).then(|| {
            Status::resource_exhausted(format!(
                "{calls_max} calls run in this session, which is the limit"
            ))
        })
    }

    fn on_frame(&mut self, stream: Stream, frame: RecvBuf, cx: &mut Context<'_>) {
        if let Some(status) = self.refusal() {
            return self.refuse(stream.split().0, status, Uri::default, cx);
        }
        let layered = self.dispatch.is_layered();
        let mut request = http::Request::new(Body::empty());
        let incoming = match Incoming::read(
            &self.shared,
            &self.served,
            stream,
            frame,
            &mut request,
            layered,
        ) {
            Ok(incoming) => incoming,
            Err((stream, status)) => {
                let path = || request.uri().clone();
                return self.refuse(stream, status, path, cx);
            }
        };
        let Incoming {
            deadline,
            method,
            span,
            stream,
        } = incoming;
        let Some(proven) = method
            .map(|method| self.shared.routes.known(method))
            .filter(|known| known.is_unary && known.pace.is_proven())
        else {
            let path = request.uri().clone();
            let progress = Progress::New {
                request: Box::new(request),
                dispatch: self.dispatch.boxed_clone(),
            };
            return self.spawn(stream, progress, path, deadline, method, span);
        };

        // Known for methods that are announced, and copied for others.
        let path = match proven.uri {
            Some(_) => Uri::default(),
            None => request.uri().clone(),
        };
        let timed = turn(&mut self.until_timed).then(Instant::now);
        let polled = {
            let _scope = deadline::Scope::enter(deadline);
            let _span = span.enter();
            start(&mut *self.dispatch, request, method, cx)
        };
        if let Some(began) = timed {
            proven.pace.record(began.elapsed());
        }
        let path = || proven.uri.clone().unwrap_or_else(|| path.clone());
        let reply = match polled {
            Ok(Ok(Outcome::Reply(reply))) => reply,
            Ok(Ok(Outcome::Stream(reply))) => {
                let max = self.shared.limits.response_at(path);
                let sending = reply.begin(stream, deadline, max);
                return self.stream(sending, path, span, cx);
            }
            Ok(Err(running)) => {
                let progress = Progress::Running(running);
                return self.spawn(stream, progress, path(), deadline, None, span);
            }
            Err(status) => Reply::Failed(status),
        };
        record_code(&span, reply.code());
        self.answer(stream, reply, path, deadline, cx);
    }

    /// Sends messages; in a task of its own if that takes waiting. Those of a single message, which comes through a layer or
    /// from a server that somebody else generated, rarely do.
    fn stream(
        &self,
        mut sending: Sending,
        path: impl FnOnce() -> Uri,
        span: Span,
        cx: &mut Context<'_>,
    ) {
        let ended = sending.poll(cx, &span);
        if let Poll::Ready(Ended::With(code)) = ended {
            return record_code(&span, code);
        }
        let mut permit = self.served.calls.permit(path());
        tokio::spawn(async move {
            let code = match ended {
                Poll::Ready(ended) => sending.end(ended).await,
                Poll::Pending => sending.run(&span, &mut permit).await,
            };
            record_code(&span, code);
        });
    }

    /// Goes on with a call in a task of its own.
    fn spawn(
        &self,
        stream: SendHalf,
        progress: Progress,
        path: Uri,
        deadline: Option<Instant>,
        to_be_timed: Option<MethodId>,
        span: Span,
    ) {
        let response_len_max = self.shared.limits.at(path.path()).response_len_max;
        let (shared, permit) = (Arc::clone(&self.shared), self.served.calls.permit(path));
        tokio::spawn(
            Call {
                stream,
                progress,
                deadline,
                to_be_timed,
                span,
                shared,
                response_len_max,
                permit,
            }
            .run(),
        );
    }

    /// Answers a call that is not begun.
    fn refuse(
        &self,
        stream: SendHalf,
        status: Status,
        path: impl Fn() -> Uri,
        cx: &mut Context<'_>,
    ) {
        self.answer(stream, Reply::Failed(status), path, None, cx);
    }

    /// Sends a reply; in a task of its own if that takes waiting.
    fn answer(
        &self,
        mut stream: SendHalf,
        mut reply: Reply,
        path: impl Fn() -> Uri,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) {
        let message_len_max = self.shared.limits.response_at(&path);
        // Here and below: a caller that has gone needs no answer.
        let Ok(false) = reply.try_send(&mut stream, message_len_max) else {
            return;
        };
        let mut sending = Box::pin(async move { reply.send(&mut stream, message_len_max).await });
        // A long message rarely has to wait, and a task of its own would cost more than sending it.
        if sending.as_mut().poll(cx).is_pending() {
            let mut permit = self.served.calls.permit(path());
            tokio::spawn(async move { send_in_time(sending, deadline, &mut permit).await });
        }
    }
}

impl Drop for SessionTask {
    fn drop(&mut self) {
        // Ends the calls that still run, each in its task.
        if let Some(session) = self.served.session() {
            session.close();
        }
    }
}

/// Begins a call, and polls it once. The outer error is a panic, the inner one is what is still running.
fn start(
    dispatch: &mut dyn Dispatch,
    request: http::Request<Body>,
    method: Option<MethodId>,
    cx: &mut Context<'_>,
) -> Result<Result<Outcome, Running>, Status> {
    guarded(|| {
        let mut running = dispatch.start(request, method);
        match running.poll(cx) {
            Poll::Ready(outcome) => Ok(outcome),
            Poll::Pending => Err(running),
        }
    })
}

/// Counts down, and returns `true` when it begins anew.
fn turn(countdown: &mut u8) -> bool {
    if *countdown == 0 {
        *countdown = TIMED_EVERY;
    }
    *countdown -= 1;
    *countdown == 0
}
