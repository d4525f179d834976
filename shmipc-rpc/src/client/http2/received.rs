//! The body of a response, on its way through an HTTP/2 connection.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tracing::Span;

use super::{CallAlive, is_late, record_code};
use crate::{
    Body, Status,
    deadline::{self, Lookout},
};

/// The body of a response, which tells failures as statuses.
pub(crate) struct ReceivedBody {
    /// `None` once the status is known.
    incoming: Option<Incoming>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    lookout: Lookout,
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
            lookout: Lookout::default(),
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
        if self.lookout.is_late(self.deadline) {
            return Poll::Ready(Err(deadline::exceeded()));
        }
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
    // As the table of gRPC for responses of HTTP without one says.
    Status::unknown("the server ended the response without a status")
}
