//! Bodies on their way through an HTTP/2 connection.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::oneshot, time::Sleep};
use tracing::Span;

use super::{is_late, record_code, status_of};
use crate::{Body, Status, deadline, error::BoxError};

/// The body of a request. It ends when nobody waits for the response any more.
#[derive(Debug)]
pub(crate) struct SentBody {
    body: Body,
    /// How long a message may be.
    message_len_max: usize,
    /// Resolves when the other end is dropped.
    call: oneshot::Receiver<()>,
    failure: Arc<OnceLock<Status>>,
}

/// Keeps the request going. Dropped with the response.
#[derive(Debug)]
pub(super) struct CallAlive {
    _call: oneshot::Sender<()>,
    failure: Arc<OnceLock<Status>>,
}

impl CallAlive {
    /// Returns why the call failed: because its request did, or else for what became of the connection.
    pub(super) fn status_of(&self, error: hyper::Error) -> Status {
        match self.failure.get() {
            Some(status) => status.clone(),
            None => status_of(error),
        }
    }
}

/// The body of a response, which tells failures as statuses.
pub(crate) struct ReceivedBody {
    /// `None` once the status is known.
    incoming: Option<Incoming>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether what goes wrong on the way becomes trailers.
    never_fails: bool,
    /// What the head says of how its messages are compressed, where the head is elsewhere by now.
    pub(super) encoding: Option<HeaderValue>,
    /// Dropped when the response has ended.
    held: Option<Box<dyn Any + Send + Sync>>,
    span: Span,
    alive: CallAlive,
}

/// Makes the body of a response, of which there may be nothing to receive. If it `never_fails`, what goes wrong becomes trailers.
pub(crate) fn body_of(received: Option<ReceivedBody>, never_fails: bool) -> Body {
    match received {
        Some(received) => Body::new(ReceivedBody {
            never_fails,
            ..received
        }),
        None => Body::empty(),
    }
}

impl SentBody {
    pub(super) fn new(body: Body, message_len_max: usize) -> (Self, CallAlive) {
        let (alive, call) = oneshot::channel();
        let failure = Arc::new(OnceLock::new());
        let body = Self {
            body: body.limited(message_len_max),
            message_len_max,
            call,
            failure: Arc::clone(&failure),
        };
        let alive = CallAlive {
            _call: alive,
            failure,
        };
        (body, alive)
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let max = self.message_len_max;
        if let Poll::Ready(frame) = self.body.poll_limited_frame(cx, max) {
            return Poll::Ready(match frame {
                Some(Ok(frame)) if frame.is_data() => Some(Ok(frame)),
                // A request has no trailers.
                Some(Ok(_)) | None => None,
                Some(Err(status)) => {
                    // HTTP/2 has no words for it, so the response will not tell.
                    let _ = self.failure.set(status.clone());
                    Some(Err(status.into()))
                }
            });
        }
        let _ = ready!(Pin::new(&mut self.call).poll(cx));
        // The server is told that the call was cancelled, not that something went wrong.
        Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl ReceivedBody {
    pub(super) fn new(
        incoming: Incoming,
        deadline: Option<Instant>,
        span: Span,
        alive: CallAlive,
    ) -> Self {
        Self {
            incoming: Some(incoming),
            deadline,
            sleep: None,
            never_fails: false,
            encoding: None,
            held: None,
            span,
            alive,
        }
    }

    /// Takes what the head of the response said of how its messages are compressed.
    pub(crate) fn take_encoding(&mut self) -> Option<HeaderValue> {
        self.encoding.take()
    }

    /// Keeps a value until the response has ended, or nobody waits for it any longer.
    pub(crate) fn hold(&mut self, value: Box<dyn Any + Send + Sync>) {
        self.held = Some(value);
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, Status>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(Err(no_status()));
        };
        if let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) {
            return Poll::Ready(match frame {
                Some(Ok(frame)) => Ok(frame),
                Some(Err(error)) => Err(self.alive.status_of(error)),
                None => Err(no_status()),
            });
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(deadline::exceeded()))
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.incoming.is_none() {
            return Poll::Ready(None);
        }
        let trailers = match ready!(self.poll_incoming(cx)).map(Frame::into_trailers) {
            Ok(Err(data)) => return Poll::Ready(Some(Ok(data))),
            Ok(Ok(trailers)) => match Status::from_headers(&trailers) {
                Some(status) if is_late(status.code(), self.deadline) => Err(deadline::exceeded()),
                Some(status) => {
                    record_code(&self.span, status.code());
                    Ok(trailers)
                }
                None => Err(no_status()),
            },
            Err(status) if is_late(status.code(), self.deadline) => Err(deadline::exceeded()),
            Err(status) => Err(status),
        };
        self.incoming = None;
        self.held = None;
        Poll::Ready(Some(match trailers {
            Ok(trailers) => Ok(Frame::trailers(trailers)),
            Err(status) => {
                record_code(&self.span, status.code());
                if self.never_fails {
                    Ok(Frame::trailers(status.to_headers()))
                } else {
                    Err(status)
                }
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_none()
    }
}

impl fmt::Debug for ReceivedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedBody").finish_non_exhaustive()
    }
}

fn no_status() -> Status {
    Status::internal("the server ended the response without a status")
}
