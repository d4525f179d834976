//! Messages that are yet to come, one after the other, of which the receiver need not know the type.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use http::HeaderMap;
use pin_project_lite::pin_project;
use shmipc_transport::{SendBuf, SendError};

use super::{Encode, EncodeMessage, Encoded, Owned};
use crate::{
    Status,
    frame::{Ending, HalfError, HalfSender},
};

/// Messages sent in one poll, before other tasks get their turn.
const MESSAGES_PER_POLL: usize = 128;

/// A stream of messages, whose type has been forgotten.
///
/// It is used in one of two ways: sent whole, straight into shared memory, by [`poll_send`](Self::poll_send), or taken message by
/// message.
pub(crate) trait Messages: Send {
    /// Polls for all of it to be sent, with its end. Resolves to how that was.
    ///
    /// `out` may be taken and kept until then; see [`release`](Self::release).
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>>;

    /// Puts back into `out` what was taken out of it, because sending ends early.
    fn release(self: Pin<&mut Self>, out: &mut Option<HalfSender>);

    /// Polls for the next message.
    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<dyn EncodeMessage>, Status>>>;

    /// Takes the metadata that comes after the last message, if there is any.
    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>>;
}

/// Where the messages of an [`Outflow`] come from.
pub(crate) trait Source: Send {
    /// What can be encoded.
    type Message: Encode + Send + 'static;

    /// Polls for the next message.
    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Self::Message, Status>>>;

    /// Whether it is certain that no other message comes.
    fn is_done(&self) -> bool;

    /// Takes the metadata that comes after the last message, if there is any.
    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>>;
}

pin_project! {
    /// Messages of any source, on their way out.
    pub(crate) struct Outflow<S: Source> {
        #[pin]
        source: S,
        held: Option<S::Message>,
        ending: Option<Ending>,
        buffer: Option<SendBuf>,
        // Whether what is in the buffer is a head by itself.
        opens: bool,
    }
}

impl<S: Source> Outflow<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            held: None,
            ending: None,
            buffer: None,
            opens: false,
        }
    }
}

impl<S: Source> Messages for Outflow<S> {
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        let mut this = self.project();
        let Some(out) = out else {
            return Poll::Ready(Err(SendError::Finished));
        };
        for _ in 0..MESSAGES_PER_POLL {
            if this.ending.is_none() && this.held.is_none() {
                let next = if *this.opens {
                    Poll::Pending
                } else {
                    this.source.as_mut().poll_next(cx)
                };
                match next {
                    Poll::Ready(Some(Ok(message))) => *this.held = Some(message),
                    Poll::Ready(Some(Err(status))) => *this.ending = Some(Ending::Failed(status)),
                    Poll::Ready(None) => {}
                    Poll::Pending => {
                        // Whoever waits for the head learns at once that there is somebody.
                        let opened = out.poll_open(cx, this.buffer);
                        let opening = mem::replace(this.opens, opened.is_pending());
                        match ready!(opened) {
                            Ok(()) if opening => continue,
                            Ok(()) => return Poll::Pending,
                            Err(HalfError::Stream(error)) => return Poll::Ready(Err(error)),
                            Err(HalfError::Frame(status)) => {
                                *this.ending = Some(Ending::Failed(status));
                            }
                        }
                    }
                }
                if this.ending.is_none() && (this.held.is_none() || this.source.is_done()) {
                    *this.ending = Some(Ending::Done(this.source.as_mut().take_trailers()));
                }
            }
            let sent = match (&mut *this.held, &mut *this.ending) {
                (Some(message), None) => ready!(out.poll_message(cx, message, this.buffer)),
                (message, ending) => {
                    let ending = ending.get_or_insert(Ending::Done(None));
                    let sent = ready!(out.poll_end(cx, message.as_mut(), ending, this.buffer));
                    if sent.is_ok() {
                        let ended = this.ending.take().unwrap_or(Ending::Done(None));
                        return Poll::Ready(Ok(ended));
                    }
                    sent
                }
            };
            *this.held = None;
            match sent {
                Ok(()) => {}
                Err(HalfError::Stream(error)) => return Poll::Ready(Err(error)),
                Err(HalfError::Frame(status)) => {
                    *this.buffer = None;
                    *this.ending = Some(Ending::Failed(status));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn release(self: Pin<&mut Self>, _: &mut Option<HalfSender>) {
        // What was encoded and waits shall not be sent after something else.
        *self.project().buffer = None;
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<dyn EncodeMessage>, Status>>> {
        let next = ready!(self.project().source.poll_next(cx));
        Poll::Ready(next.map(|next| next.map(|message| Box::new(message) as Box<_>)))
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        self.project().source.take_trailers()
    }
}

pin_project! {
    /// A stream of typed messages that may fail.
    pub(crate) struct Fallible<S> {
        #[pin]
        pub(crate) stream: S,
    }
}

pin_project! {
    /// A stream of typed messages that does not fail.
    pub(crate) struct Infallible<S> {
        #[pin]
        pub(crate) stream: S,
    }
}

impl<S, T> Source for Fallible<S>
where
    S: Stream<Item = Result<T, Status>> + Send,
    T: prost::Message + 'static,
{
    type Message = Owned<T>;

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Owned<T>, Status>>> {
        let next = ready!(self.project().stream.poll_next(cx));
        Poll::Ready(next.map(|next| next.map(Owned)))
    }

    fn is_done(&self) -> bool {
        self.stream.size_hint().1 == Some(0)
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        None
    }
}

impl<S, T> Source for Infallible<S>
where
    S: Stream<Item = T> + Send,
    T: prost::Message + 'static,
{
    type Message = Owned<T>;

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Owned<T>, Status>>> {
        let next = ready!(self.project().stream.poll_next(cx));
        Poll::Ready(next.map(|message| Ok(Owned(message))))
    }

    fn is_done(&self) -> bool {
        self.stream.size_hint().1 == Some(0)
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        None
    }
}

/// A stream without messages.
#[derive(Debug)]
pub(crate) struct NoMessages;

impl Source for NoMessages {
    type Message = Encoded<&'static [u8]>;

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Self::Message, Status>>> {
        Poll::Ready(None)
    }

    fn is_done(&self) -> bool {
        true
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        None
    }
}

impl fmt::Debug for dyn Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Messages")
    }
}
