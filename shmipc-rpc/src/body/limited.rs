//! How long messages may be that nobody has encoded yet, or that somebody else has; and what becomes of a body that panics.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use shmipc_transport::SendError;
use sync_wrapper::SyncWrapper;

use super::{
    Body, EncodeMessage, ForeignBody, Messages, Payload, ending::failing, measured::Measured,
};
use crate::{
    Status,
    deadline::Scope,
    frame::{self, Ending, HalfSender},
    server::panic::guarded,
};

impl Body {
    /// Tells those who send the messages how long one may be, and makes what somebody else has framed fail instead of passing a
    /// longer one on. Of all others, HTTP/2 [looks](Self::poll_limited_frame) at each.
    #[cfg(feature = "grpc")]
    pub(crate) fn limited(mut self, message_len_max: usize) -> Self {
        match self.payload {
            Payload::Messages(ref mut messages) => {
                messages.get_mut().as_mut().limit(message_len_max);
            }
            // No message is longer than its prefix can say.
            Payload::Foreign(body, coding) if u32::try_from(message_len_max).is_ok() => {
                let body = Box::pin(Measured::new(body, message_len_max));
                self.payload = Payload::Foreign(body, coding);
            }
            _ => {}
        }
        self
    }

    /// Makes the body fail in the place of a message that is longer, whoever has made it, for a receiver within this process.
    pub(crate) fn within(mut self, message_len_max: usize) -> Self {
        let too_large = |len| failing(None, frame::message_too_large(len, message_len_max));
        self.payload = match self.payload {
            Payload::Message(message) if message_len_max < message.encoded_len() => {
                too_large(message.encoded_len())
            }
            Payload::Received(message) if message_len_max < message.len() => {
                too_large(message.len())
            }
            Payload::Messages(messages) => Payload::Messages(SyncWrapper::new(Box::pin(Within {
                messages: Some(messages.into_inner()),
                message_len_max,
            }))),
            Payload::Receiving(mut receiving) => {
                receiving.limit(message_len_max);
                Payload::Receiving(receiving)
            }
            Payload::Foreign(body, coding) => {
                Payload::Foreign(Box::pin(Measured::new(body, message_len_max)), coding)
            }
            payload @ (Payload::Empty
            | Payload::Message(_)
            | Payload::Received(_)
            | Payload::Rest(_)) => payload,
        };
        self
    }

    /// As [`within`](Self::within), where those who send the messages are limited, and not only who takes them.
    pub(crate) fn sent_within(mut self, message_len_max: usize) -> Self {
        if let Payload::Messages(messages) = &mut self.payload {
            messages.get_mut().as_mut().limit(message_len_max);
        }
        self.within(message_len_max)
    }

    /// Makes a panic of whoever makes the messages a failure. What is called while they are made inherits `deadline`.
    pub(crate) fn guarded(mut self, deadline: Option<Instant>) -> Self {
        self.payload = match self.payload {
            Payload::Messages(messages) => {
                let inner = Some(messages.into_inner());
                let messages = Guarded { inner, deadline };
                Payload::Messages(SyncWrapper::new(Box::pin(messages)))
            }
            Payload::Foreign(body, coding) => {
                let inner = Some(body);
                Payload::Foreign(Box::pin(Guarded { inner, deadline }), coding)
            }
            payload => payload,
        };
        self
    }
}

/// Messages up to one that is too long.
struct Within {
    /// `None` after that.
    messages: Option<Pin<Box<dyn Messages>>>,
    message_len_max: usize,
}

impl Messages for Within {
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        let this = self.get_mut();
        let Some(messages) = &mut this.messages else {
            return Poll::Ready(Err(SendError::Finished));
        };
        if let Some(half) = out {
            half.limit(this.message_len_max);
        }
        messages.as_mut().poll_send(cx, out)
    }

    fn release(self: Pin<&mut Self>, out: &mut Option<HalfSender>) {
        if let Some(messages) = &mut self.get_mut().messages {
            messages.as_mut().release(out);
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<dyn EncodeMessage>, Status>>> {
        let this = self.get_mut();
        let Some(messages) = &mut this.messages else {
            return Poll::Ready(None);
        };
        let next = ready!(messages.as_mut().poll_next(cx));
        if let Some(Ok(message)) = &next {
            let (len, max) = (message.encoded_len(), this.message_len_max);
            if max < len {
                this.messages = None;
                return Poll::Ready(Some(Err(frame::message_too_large(len, max))));
            }
        }
        Poll::Ready(next)
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        let messages = self.get_mut().messages.as_mut()?;
        messages.as_mut().take_trailers()
    }

    fn limit(self: Pin<&mut Self>, message_len_max: usize) {
        if let Some(messages) = &mut self.get_mut().messages {
            messages.as_mut().limit(message_len_max);
        }
    }
}

/// What may panic.
struct Guarded<R> {
    /// `None` after it did.
    inner: Option<R>,
    deadline: Option<Instant>,
}

impl<R> Guarded<R> {
    /// Polls it. A panic is returned once, as a failure.
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(&mut R) -> Poll<Option<Result<T, Status>>>,
    ) -> Poll<Option<Result<T, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let _scope = Scope::enter(self.deadline);
        guarded(|| poll(inner)).unwrap_or_else(|panicked| {
            let inner = self.inner.take();
            // What a destructor of the application panics about does not matter any more.
            let _ = guarded(|| drop(inner));
            Poll::Ready(Some(Err(panicked)))
        })
    }
}

impl Messages for Guarded<Pin<Box<dyn Messages>>> {
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        match &mut self.get_mut().inner {
            // Who sends them looks for panics himself.
            Some(messages) => messages.as_mut().poll_send(cx, out),
            None => Poll::Ready(Err(SendError::Finished)),
        }
    }

    fn release(self: Pin<&mut Self>, out: &mut Option<HalfSender>) {
        if let Some(messages) = &mut self.get_mut().inner {
            messages.as_mut().release(out);
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<dyn EncodeMessage>, Status>>> {
        self.get_mut()
            .poll(|messages| messages.as_mut().poll_next(cx))
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        self.get_mut().inner.as_mut()?.as_mut().take_trailers()
    }

    fn limit(self: Pin<&mut Self>, message_len_max: usize) {
        if let Some(messages) = &mut self.get_mut().inner {
            messages.as_mut().limit(message_len_max);
        }
    }
}

impl http_body::Body for Guarded<ForeignBody> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.get_mut().poll(|body| body.as_mut().poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        let body = self.inner.as_ref();
        body.is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // It may end before.
        let mut hint = SizeHint::new();
        let body = self.inner.as_ref();
        if let Some(upper) = body.and_then(|body| body.size_hint().upper()) {
            hint.set_upper(upper);
        }
        hint
    }
}
