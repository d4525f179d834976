//! The body of a response on its way out.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::{task::AbortHandle, time::Sleep};
use tracing::Span;

use crate::{
    Body, Code, Status,
    cancel::CallGuard,
    deadline::{self, Lookout},
    http2::tasks::CallTask,
    server::{
        call::record_code,
        drain::{NEWS_TIMEOUT, shut_down},
        panic::guarded,
        running::CallPermit,
    },
};

/// The body of a response. It always ends with a status, whatever happens, and never fails.
pub(crate) struct AnswerBody {
    /// `None` once the status has been told, and if there never was more than headers.
    running: Option<(Body, Answering)>,
    /// Ends the call once its time is up, from when a piece was handed out: nobody asks for another while the client's window is full.
    timer: Option<AbortHandle>,
    sleep: Option<Pin<Box<Sleep>>>,
    lookout: Lookout,
}

/// A call that is being answered.
pub(super) struct Answering {
    pub(super) task: CallTask,
    pub(super) deadline: Option<Instant>,
    /// How long a message may be.
    pub(super) message_len_max: usize,
    pub(super) span: Span,
    pub(super) guard: CallGuard,
    pub(super) permit: CallPermit,
}

impl AnswerBody {
    /// The body of a response that is all headers.
    pub(super) fn empty() -> Self {
        Self {
            running: None,
            timer: None,
            sleep: None,
            lookout: Lookout::default(),
        }
    }

    pub(super) fn new(body: Body, call: Answering) -> Self {
        Self {
            running: Some((body.limited(call.message_len_max), call)),
            timer: None,
            sleep: None,
            lookout: Lookout::default(),
        }
    }

    /// Sees to it that the call ends even if nobody asks for more: a little after its deadline, since whoever asks is told so.
    fn set_timer(&mut self) {
        if self.timer.is_none()
            && let Some((_, call)) = &self.running
            && let Some(deadline) = call.deadline
        {
            let task = call.task.clone();
            let timer = tokio::spawn(async move {
                tokio::time::sleep_until((deadline + NEWS_TIMEOUT).into()).await;
                task.end();
            });
            self.timer = Some(timer.abort_handle());
        }
    }

    /// Returns the next piece, or how the call ended.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Result<HeaderMap, Status>>> {
        let Some((body, call)) = &mut self.running else {
            return Poll::Ready(Err(Ok(HeaderMap::new())));
        };
        // A body that always has more would never be pending.
        if call.permit.is_cut_off() {
            return Poll::Ready(Err(Err(shut_down())));
        }
        if self.lookout.is_late(call.deadline) {
            return Poll::Ready(Err(Err(deadline::late())));
        }
        let max = call.message_len_max;
        let polled = {
            let _scope = deadline::Scope::enter(call.deadline);
            let _span = call.span.enter();
            guarded(|| body.poll_limited_frame(cx, max))
        };
        match polled {
            Err(panicked) => return Poll::Ready(Err(Err(panicked))),
            Ok(Poll::Ready(Some(Err(status)))) => return Poll::Ready(Err(Err(status))),
            Ok(Poll::Ready(None)) => return Poll::Ready(Err(Ok(HeaderMap::new()))),
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                return Poll::Ready(
                    frame
                        .into_data()
                        .map_err(|frame| Ok(frame.into_trailers().unwrap_or_default())),
                );
            }
            Ok(Poll::Pending) => {}
        }
        if call.permit.poll_cut_off(cx).is_ready() {
            return Poll::Ready(Err(Err(shut_down())));
        }
        let Some(deadline) = call.deadline else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(Err(deadline::late())))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.running.is_none() {
            return Poll::Ready(None);
        }
        let ended = match ready!(self.poll_body(cx)) {
            Ok(data) => {
                self.set_timer();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Err(ended) => ended,
        };
        let mut running = self.running.take();
        let trailers = match (ended, &mut running) {
            (Ok(trailers), _) => trailers,
            (Err(status), None) => status.to_headers(),
            (Err(status), Some((body, _))) => match body.fail(status) {
                Ok(metadata) => metadata.map(|map| *map).unwrap_or_default(),
                Err(status) => status.to_headers(),
            },
        };
        let (code, trailers) = with_status(trailers);
        if let Some((body, call)) = running {
            // What a destructor of the application panics about does not matter any more.
            let _ = guarded(|| drop(body));
            call.guard.finish();
            record_code(&call.span, code);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.running.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Trailers follow, so that there is nothing to be said of the length.
        SizeHint::default()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

/// Adds the status of success to trailers without one.
fn with_status(mut trailers: HeaderMap) -> (Code, HeaderMap) {
    match Status::from_headers(&trailers) {
        Some(status) => (status.code(), trailers),
        None => {
            trailers.extend(Status::new(Code::Ok, "").to_headers());
            (Code::Ok, trailers)
        }
    }
}
