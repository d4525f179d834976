//! The body of a response on its way out.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tracing::Span;

use crate::{
    Body, Code, Status,
    cancel::CallGuard,
    deadline,
    server::{call::record_code, panic::guarded},
};

/// The body of a response. It always ends with a status, whatever happens, and never fails.
pub(crate) struct AnswerBody {
    /// `None` once the status has been told.
    body: Option<Body>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// How long a message may be, if that can be told.
    message_len_max: usize,
    span: Span,
    guard: Option<CallGuard>,
}

impl AnswerBody {
    /// The body of a response that is all headers.
    pub(super) fn empty() -> Self {
        Self {
            body: None,
            deadline: None,
            sleep: None,
            message_len_max: 0,
            span: Span::none(),
            guard: None,
        }
    }

    pub(super) fn new(
        body: Body,
        deadline: Option<Instant>,
        message_len_max: usize,
        span: Span,
        guard: CallGuard,
    ) -> Self {
        Self {
            body: Some(body),
            deadline,
            sleep: None,
            message_len_max,
            span,
            guard: Some(guard),
        }
    }

    /// Returns the next piece, or how the call ended.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Result<HeaderMap, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Err(Ok(HeaderMap::new())));
        };
        let max = self.message_len_max;
        let polled = {
            let _scope = deadline::Scope::enter(self.deadline);
            let _span = self.span.enter();
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
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        ready!(sleep.as_mut().poll(cx));
        let message = "the deadline passed before the handler was done";
        Poll::Ready(Err(Err(Status::deadline_exceeded(message))))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        let ended = match ready!(self.poll_body(cx)) {
            Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Err(ended) => ended,
        };
        let mut body = self.body.take();
        let trailers = match (ended, &mut body) {
            (Ok(trailers), _) => trailers,
            (Err(status), None) => status.to_headers(),
            (Err(status), Some(body)) => match body.fail(status) {
                Ok(metadata) => metadata.map(|map| *map).unwrap_or_default(),
                Err(status) => status.to_headers(),
            },
        };
        // What a destructor of the application panics about does not matter any more.
        let _ = guarded(|| drop(body));
        if let Some(guard) = self.guard.take() {
            guard.finish();
        }
        let (code, trailers) = with_status(trailers);
        record_code(&self.span, code);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Trailers follow, so that there is nothing to be said of the length.
        SizeHint::default()
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
