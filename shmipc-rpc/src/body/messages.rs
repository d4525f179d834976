//! Messages that are yet to come, one after the other, of which the receiver need not know the type.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use http::HeaderMap;
use pin_project_lite::pin_project;
use shmipc_transport::{SendBuf, SendError, SendHalf};

use super::{Encode, EncodeMessage, Encoded, Owned};
use crate::{
    Status,
    frame::{self, Ending, HalfError, HalfSender},
};

/// Messages sent in one poll, before other tasks get their turn.
const MESSAGES_PER_POLL: usize = 512;

/// Messages in a row that were there at once, before the next are gathered to travel together.
///
/// Until then each is sent before the source is asked for another: whoever waits for the answer to one message must not wait for
/// a source that looks out for the next.
const IN_A_ROW_MIN: usize = 4;

/// The most of them that count. A pause halves the count, so that a source that pauses after many, if only to let others run, need not
/// begin anew, and one that has come to send one at a time is soon taken for what it is.
const IN_A_ROW_MAX: usize = 32;

/// How long several messages may be that travel together: as much as lies in the ring itself.
const GATHER_MAX: usize = SendHalf::SHORT_MAX;

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

    /// Lets those know who send one by one how long a message may be. Who takes the messages looks all the same.
    fn limit(self: Pin<&mut Self>, message_len_max: usize);
}

/// Where the messages of an [`Outflow`] come from.
pub(crate) trait Source: Send {
    /// What can be encoded.
    type Message: Encode + Send + Sync + 'static;

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
    ///
    /// Those that are there at once travel together, as long as they are short.
    pub(crate) struct Outflow<S: Source> {
        #[pin]
        source: S,
        // Taken from the source, and not sent yet: one of any length, or several that fit into one message of the transport.
        held: Vec<(S::Message, usize)>,
        // How long they are together.
        held_len: usize,
        // The one that did not fit.
        next: Option<(S::Message, usize)>,
        ending: Option<Ending>,
        buffer: Option<SendBuf>,
        // Whether what is in the buffer is a head by itself.
        opens: bool,
        // How many messages have lately been there at once, one after the other.
        in_a_row: usize,
    }
}

impl<S: Source> Outflow<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            held: Vec::new(),
            held_len: 0,
            next: None,
            ending: None,
            buffer: None,
            opens: false,
            in_a_row: 0,
        }
    }

    /// Takes messages from the source until it has none, or no other fits to those that are held. Returns how many, and whether
    /// the source has none now.
    fn gather(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &HalfSender) -> (usize, bool) {
        let mut this = self.project();
        // What opens a half travels with one message, and one that is too long must not take others with it.
        let len_max = out.message_len_max();
        let together = out.is_open() && IN_A_ROW_MIN <= *this.in_a_row;
        let mut gathered = 0;
        while this.ending.is_none() && this.next.is_none() {
            let is_full = |(_, len): &(_, usize)| {
                !together || GATHER_MAX <= *this.held_len || len_max < len - frame::PREFIX_LEN
            };
            if this.held.first().is_some_and(is_full) {
                break;
            }
            match this.source.as_mut().poll_next(cx) {
                Poll::Pending => {
                    *this.in_a_row /= 2;
                    return (gathered, true);
                }
                Poll::Ready(None) => {
                    *this.ending = Some(Ending::Done(this.source.as_mut().take_trailers()));
                }
                Poll::Ready(Some(Err(status))) => *this.ending = Some(Ending::Failed(status)),
                Poll::Ready(Some(Ok(message))) => {
                    gathered += 1;
                    *this.in_a_row = (*this.in_a_row + 1).min(IN_A_ROW_MAX);
                    let len = frame::PREFIX_LEN + message.encoded_len();
                    let fits =
                        *this.held_len + len <= GATHER_MAX && len - frame::PREFIX_LEN <= len_max;
                    if this.held.is_empty() || fits {
                        *this.held_len += len;
                        this.held.push((message, len));
                    } else {
                        *this.next = Some((message, len));
                    }
                    if this.source.is_done() {
                        *this.ending = Some(Ending::Done(this.source.as_mut().take_trailers()));
                    }
                }
            }
        }
        (gathered, false)
    }
}

impl<S: Source> Messages for Outflow<S> {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        let Some(out) = out else {
            return Poll::Ready(Err(SendError::Finished));
        };
        let mut budget = MESSAGES_PER_POLL;
        while budget != 0 {
            let mut is_dry = *self.as_mut().project().opens;
            if !is_dry && self.buffer.is_none() {
                let (gathered, dry) = self.as_mut().gather(cx, out);
                budget = budget.saturating_sub(gathered.max(1));
                is_dry = dry;
            }
            let this = self.as_mut().project();
            let sent = match (&mut this.held[..], &mut *this.ending) {
                ([], None) => {
                    // Whoever waits for the head learns at once that there is somebody.
                    let opened = out.poll_open(cx, this.buffer);
                    let was_opening = mem::replace(this.opens, opened.is_pending());
                    match ready!(opened) {
                        Ok(()) if is_dry && !was_opening => return Poll::Pending,
                        opened => {
                            // The source was not asked this time, and may have had something since.
                            is_dry &= !was_opening;
                            opened
                        }
                    }
                }
                (held @ ([] | [_]), Some(ending)) if this.next.is_none() => {
                    let message = held.first_mut().map(|(message, _)| message);
                    let sent = ready!(out.poll_end(cx, message, ending, this.buffer));
                    if sent.is_ok() {
                        let ended = this.ending.take().unwrap_or(Ending::Done(None));
                        return Poll::Ready(Ok(ended));
                    }
                    sent
                }
                ([(message, _)], _) => ready!(out.poll_message(cx, message, this.buffer)),
                (held, _) => ready!(out.poll_messages(cx, held, *this.held_len)),
            };
            this.held.clear();
            *this.held_len = 0;
            if let Some(next) = this.next.take() {
                *this.held_len = next.1;
                this.held.push(next);
            }
            match sent {
                Ok(()) => {}
                Err(HalfError::Stream(error)) => return Poll::Ready(Err(error)),
                Err(HalfError::Frame(status)) => {
                    *this.buffer = None;
                    this.held.clear();
                    *this.ending = Some(Ending::Failed(status));
                }
            }
            if is_dry && this.held.is_empty() && this.ending.is_none() && out.is_open() {
                // The source will wake us.
                return Poll::Pending;
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

    fn limit(self: Pin<&mut Self>, _: usize) {
        // A source does not ask.
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
