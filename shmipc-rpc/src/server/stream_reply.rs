//! A response of many messages, on its way out.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Instant};

use http::HeaderMap;
use shmipc_transport::{SendError, SendHalf};
use tracing::Span;

use super::{drain::shut_down, panic::guarded, running::CallPermit};
use crate::{
    Code, Status,
    body::{Encoded, Messages},
    deadline::{self, Elapsed},
    frame::{Ending, HalfSender},
};

/// What a handler returned whose messages are yet to come.
pub(super) struct StreamReply {
    pub(super) metadata: HeaderMap,
    pub(super) messages: Pin<Box<dyn Messages>>,
    pub(super) trailers: Option<Box<HeaderMap>>,
}

/// There is no message in a frame that only ends a call.
const NO_MESSAGE: Option<&mut Encoded<&'static [u8]>> = None;

impl StreamReply {
    /// Sends the messages, for as long as the caller waits. Returns how the call ended.
    pub(super) async fn send(
        self,
        stream: SendHalf,
        deadline: Option<Instant>,
        message_len_max: usize,
        span: &Span,
        permit: &mut CallPermit,
    ) -> Code {
        let Self {
            metadata,
            mut messages,
            trailers,
        } = self;
        let watch = stream.watch();
        let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
        let mut out = Some(HalfSender::server(
            stream,
            metadata,
            trailers,
            message_len_max,
        ));
        let sent = poll_fn(|cx| {
            let polled = {
                let _scope = deadline::Scope::enter(deadline);
                let _span = span.enter();
                guarded(|| messages.as_mut().poll_send(cx, &mut out))
            };
            match polled {
                Ok(Poll::Ready(sent)) => Poll::Ready(Some(Ok(sent))),
                Ok(Poll::Pending) if permit.poll_cut_off(cx).is_ready() => {
                    Poll::Ready(Some(Err(shut_down())))
                }
                Ok(Poll::Pending) => watch.poll_abandoned(cx).map(|_| None),
                Err(status) => Poll::Ready(Some(Err(status))),
            }
        });
        let status = match deadline::within(deadline, sent).await {
            Ok(None) => return Code::Cancelled,
            Ok(Some(Ok(Ok(Ending::Done(_))))) => return Code::Ok,
            Ok(Some(Ok(Ok(Ending::Failed(status))))) => return status.code(),
            Ok(Some(Ok(Err(SendError::TooLarge { .. })))) => {
                Status::resource_exhausted("a message is larger than the memory of the session")
            }
            Ok(Some(Ok(Err(SendError::Memory(_))))) => {
                Status::resource_exhausted("there is no memory for a message")
            }
            // The caller has gone.
            Ok(Some(Ok(Err(_)))) => return Code::Cancelled,
            Ok(Some(Err(status))) => status,
            Err(Elapsed) => {
                Status::deadline_exceeded("the deadline passed before the last message")
            }
        };
        messages.as_mut().release(&mut out);
        // As above: what a destructor panics about does not matter any more.
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
