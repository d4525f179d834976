//! Messages of calls within a process, where there is no connection that would tell who takes them that it is for nothing: requests end
//! when nobody waits for the answer any longer, and answers when their time is up.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use shmipc_transport::SendError;
use sync_wrapper::SyncWrapper;

use super::{Body, EncodeMessage, ForeignBody, Messages, Outflow, Payload};
use crate::{
    Cancellation, Status,
    frame::{Ending, HalfSender},
};

impl Body {
    /// Ends messages that are yet to come once `cancellation` says that nobody waits for the answer to them.
    pub(crate) fn while_waited(self, cancellation: &Cancellation) -> Self {
        let waited = |messages| {
            let messages = While {
                inner: Some(messages),
                call: Waited::new(cancellation),
            };
            Payload::Messages(SyncWrapper::new(Box::pin(messages)))
        };
        let payload = match self.payload {
            Payload::Messages(messages) => waited(messages.into_inner()),
            Payload::Receiving(receiving) => waited(Box::pin(Outflow::new(*receiving))),
            Payload::Foreign(body, coding) => {
                let body = While {
                    inner: Some(body),
                    call: Waited::new(cancellation),
                };
                Payload::Foreign(Box::pin(body), coding)
            }
            payload => payload,
        };
        Self { payload, ..self }
    }
}

/// Tells when nobody waits for a call any longer.
struct Waited {
    cancellation: Cancellation,
    over: Option<SyncWrapper<Over>>,
}

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Waited {
    fn new(cancellation: &Cancellation) -> Self {
        Self {
            cancellation: cancellation.clone(),
            over: None,
        }
    }

    fn is_over(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = self.over.get_or_insert_with(|| {
            let cancellation = self.cancellation.clone();
            SyncWrapper::new(Box::pin(async move {
                cancellation.cancelled().await;
            }))
        });
        over.get_mut().as_mut().poll(cx)
    }
}

/// Messages for as long as the call goes on.
struct While<R> {
    /// `None` once it is over.
    inner: Option<R>,
    call: Waited,
}

impl<R> While<R> {
    /// Polls the messages, unless the call is over. The error is returned once.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut R, &mut Context<'_>) -> Poll<Option<Result<T, Status>>>,
    ) -> Poll<Option<Result<T, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        // First, for those that are always ready would never end.
        if !self.call.is_over() {
            if let Poll::Ready(next) = poll(inner, cx) {
                return Poll::Ready(next);
            }
            ready!(self.call.poll_over(cx));
        }
        self.inner = None;
        Poll::Ready(Some(Err(given_up(&self.call))))
    }
}

impl Messages for While<Pin<Box<dyn Messages>>> {
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        let this = self.get_mut();
        let Some(messages) = &mut this.inner else {
            return Poll::Ready(Err(SendError::Finished));
        };
        if !this.call.is_over() {
            if let Poll::Ready(sent) = messages.as_mut().poll_send(cx, out) {
                return Poll::Ready(sent);
            }
            ready!(this.call.poll_over(cx));
        }
        messages.as_mut().release(out);
        this.inner = None;
        Poll::Ready(Ok(Ending::Failed(given_up(&this.call))))
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
            .poll(cx, |messages, cx| messages.as_mut().poll_next(cx))
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        let messages = self.get_mut().inner.as_mut()?;
        messages.as_mut().take_trailers()
    }

    fn limit(self: Pin<&mut Self>, message_len_max: usize) {
        if let Some(messages) = &mut self.get_mut().inner {
            messages.as_mut().limit(message_len_max);
        }
    }
}

impl http_body::Body for While<ForeignBody> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.get_mut()
            .poll(cx, |body, cx| body.as_mut().poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        let body = self.inner.as_ref();
        body.is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // It may end before.
        let mut hint = SizeHint::new();
        if let Some(upper) = self
            .inner
            .as_ref()
            .and_then(|body| body.size_hint().upper())
        {
            hint.set_upper(upper);
        }
        hint
    }
}

fn given_up(call: &Waited) -> Status {
    if call.cancellation.is_late() {
        return crate::deadline::exceeded();
    }
    Status::cancelled("the caller gave the call up")
}
