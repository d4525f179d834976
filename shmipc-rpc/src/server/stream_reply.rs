//! A response of many messages, on its way out.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::HeaderMap;
use shmipc_transport::{SendError, SendHalf, StreamWatch};
use tracing::Span;

use super::{drain::shut_down, panic::guarded, running::CallPermit};
use crate::{
    Code, Status,
    body::{Encoded, Messages},
    deadline::{self, Elapsed},
    frame::{Ending, HalfSender},
    interceptor::Watchers,
};

/// What a handler returned whose messages are yet to come.
pub(super) struct StreamReply {
    pub(super) metadata: HeaderMap,
    pub(super) messages: Pin<Box<dyn Messages>>,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) watchers: Option<Box<Watchers>>,
}

/// The same, once it is known where to.
pub(super) struct Sending {
    messages: Pin<Box<dyn Messages>>,
    out: Option<HalfSender>,
    watch: StreamWatch,
    deadline: Option<Instant>,
}

/// What is to be done when no more messages will be sent.
pub(super) enum Ended {
    /// Nothing: the call ended like this.
    With(Code),
    /// The caller must be told that it failed.
    Failing(Status),
}

/// There is no message in a frame that only ends a call.
const NO_MESSAGE: Option<&mut Encoded<&'static [u8]>> = None;

impl StreamReply {
    /// Begins to send the messages to `stream`.
    pub(super) fn begin(
        self,
        stream: SendHalf,
        deadline: Option<Instant>,
        message_len_max: usize,
    ) -> Sending {
        let trailers = self.trailers.map(|trailers| *trailers).unwrap_or_default();
        Sending {
            messages: self.messages,
            watch: stream.watch(),
            out: Some(
                HalfSender::server(stream, self.metadata, trailers, message_len_max)
                    .with_watchers(self.watchers),
            ),
            deadline,
        }
    }
}

impl Sending {
    /// Polls for the messages to be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, span: &Span) -> Poll<Ended> {
        let polled = {
            let _scope = deadline::Scope::enter(self.deadline);
            let _span = span.enter();
            guarded(|| self.messages.as_mut().poll_send(cx, &mut self.out))
        };
        Poll::Ready(match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(Ending::Done(_)))) => Ended::With(Code::Ok),
            Ok(Poll::Ready(Ok(Ending::Failed(status)))) => Ended::With(status.code()),
            Ok(Poll::Ready(Err(SendError::TooLarge { .. }))) => Ended::Failing(
                Status::resource_exhausted("a message is larger than the memory of the session"),
            ),
            Ok(Poll::Ready(Err(SendError::Memory(_)))) => Ended::Failing(
                Status::resource_exhausted("there is no memory for a message"),
            ),
            // The caller has gone.
            Ok(Poll::Ready(Err(_))) => Ended::With(Code::Cancelled),
            Err(status) => Ended::Failing(status),
        })
    }

    /// Sends the messages, for as long as the caller waits. Returns how the call ended.
    pub(super) async fn run(mut self, span: &Span, permit: &mut CallPermit) -> Code {
        let deadline = self.deadline;
        let sent = poll_fn(|cx| match self.poll(cx, span) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending if permit.poll_cut_off(cx).is_ready() => {
                Poll::Ready(Ended::Failing(shut_down()))
            }
            Poll::Pending => {
                let abandoned = self.watch.poll_abandoned(cx);
                abandoned.map(|_| Ended::With(Code::Cancelled))
            }
        });
        let ended = deadline::within(deadline, sent).await;
        self.end(ended.unwrap_or_else(|Elapsed| {
            Ended::Failing(Status::deadline_exceeded(
                "the deadline passed before the last message",
            ))
        }))
        .await
    }

    /// Tells the caller what is left to tell. Returns how the call ended.
    pub(super) async fn end(mut self, ended: Ended) -> Code {
        let status = match ended {
            Ended::With(code) => return code,
            Ended::Failing(status) => status,
        };
        self.messages.as_mut().release(&mut self.out);
        let Self { messages, out, .. } = self;
        // What a destructor of the application panics about does not matter any more.
        let _ = guarded(|| drop(messages));
        let code = status.code();
        if let Some(mut out) = out {
            let mut ending = Ending::Failed(status);
            let mut buffer = None;
            // A caller that has gone needs no answer.
            let _ = poll_fn(|cx| out.poll_end(cx, NO_MESSAGE, &mut ending, &mut buffer)).await;
        }
        code
    }
}
