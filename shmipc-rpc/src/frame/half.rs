//! One half of a call, as a sequence of frames to be sent.

use std::{
    mem,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::BufMut;
use http::{HeaderMap, Uri};
use shmipc_transport::{Flush, SendBuf, SendError, SendHalf};

use super::{
    Flags, FrameTooLarge, HeadRef, Outgoing, PREFIX_LEN, Prefix, RequestHeadRef, ResponseHeadRef,
    TrailersRef,
};
use crate::{
    Status,
    body::{Encode, Encoded},
    deadline::{self, Elapsed},
    interceptor::{Ended, Watchers},
};

/// Sends the frames of one half of a call. What opens the half travels with the first of them.
///
/// Each `poll_…` takes a buffer, which keeps a frame that was encoded and waits: pass the same one, with the same message,
/// until it is ready.
#[derive(Debug)]
pub(crate) struct HalfSender {
    stream: SendHalf,
    /// What opens the half, until it was sent.
    opening: Option<Opening>,
    /// What the server says after the last message, if all goes well.
    trailers: HeaderMap,
    /// Who wants to see how the half ends.
    watchers: Option<Box<Watchers>>,
    message_len_max: usize,
    is_server: bool,
}

/// What opens a half of a call.
#[derive(Debug)]
enum Opening {
    Request {
        path: Uri,
        metadata: HeaderMap,
        deadline: Option<Instant>,
    },
    Response {
        metadata: HeaderMap,
    },
}

/// Why a frame was not sent.
#[derive(Debug)]
pub(crate) enum HalfError {
    /// The stream is of no use any more.
    Stream(SendError),
    /// It cannot be sent, for this reason. The stream is as it was.
    Frame(Status),
}

/// How a half of a call ends.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Well; a server adds this metadata to what it says in the end.
    Done(Option<Box<HeaderMap>>),
    /// The server has failed.
    Failed(Status),
}

/// An end that is yet to be shown to those who want to see it. If it is dropped, they see that it is cut off.
#[derive(Debug)]
pub(crate) struct Unsettled {
    watchers: Box<Watchers>,
    ended: Ended,
}

impl Unsettled {
    /// Shows them the end. Runs code of the application. Returns what they have made of it.
    pub(crate) fn settle(self) -> Ending {
        match self.watchers.run(self.ended) {
            Ok(metadata) => Ending::Done(metadata),
            Err(status) => Ending::Failed(status),
        }
    }
}

/// The type of a message that there is not.
type NoMessage = Encoded<&'static [u8]>;

impl From<SendError> for HalfError {
    fn from(error: SendError) -> Self {
        Self::Stream(error)
    }
}

impl From<FrameTooLarge> for HalfError {
    fn from(error: FrameTooLarge) -> Self {
        Self::Frame(error.into())
    }
}

impl HalfSender {
    /// Makes the caller's half of a call of the method at `path`.
    pub(crate) fn caller(
        stream: SendHalf,
        path: Uri,
        metadata: HeaderMap,
        deadline: Option<Instant>,
        message_len_max: usize,
    ) -> Self {
        Self {
            stream,
            opening: Some(Opening::Request {
                path,
                metadata,
                deadline,
            }),
            trailers: HeaderMap::new(),
            watchers: None,
            message_len_max,
            is_server: false,
        }
    }

    /// Makes the server's half of a call.
    pub(crate) fn server(
        stream: SendHalf,
        metadata: HeaderMap,
        trailers: HeaderMap,
        message_len_max: usize,
    ) -> Self {
        Self {
            stream,
            opening: Some(Opening::Response { metadata }),
            trailers,
            watchers: None,
            message_len_max,
            is_server: true,
        }
    }

    /// Sets who wants to see how the half ends.
    pub(crate) fn with_watchers(mut self, watchers: Option<Box<Watchers>>) -> Self {
        self.watchers = watchers;
        self
    }

    /// Takes who wants to see how the half ends, and the end, which is `ending` until they have seen it.
    pub(crate) fn unsettled(&mut self, ending: &mut Ending) -> Option<Unsettled> {
        let watchers = self.watchers.take()?;
        let ended = match mem::replace(ending, Ending::Done(None)) {
            Ending::Done(more) => {
                crate::metadata::merge(&mut self.trailers, more);
                Ok(Some(Box::new(mem::take(&mut self.trailers))))
            }
            Ending::Failed(status) => {
                self.trailers.clear();
                Err(status)
            }
        };
        Some(Unsettled { watchers, ended })
    }

    /// How long a message may be.
    pub(crate) fn message_len_max(&self) -> usize {
        self.message_len_max
    }

    /// Sends no message that is longer than this.
    pub(crate) fn limit(&mut self, message_len_max: usize) {
        self.message_len_max = self.message_len_max.min(message_len_max);
    }

    /// Whether what opens the half was sent.
    pub(crate) fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    /// Polls for what opens the half to be sent, without a message, unless it was.
    pub(crate) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), HalfError>> {
        if self.opening.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.poll_frame(cx, None::<&mut NoMessage>, Flags::NONE, buffer)
    }

    /// Polls for a message to be sent that others may follow.
    pub(crate) fn poll_message<M: Encode + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut M,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), HalfError>> {
        self.poll_frame(cx, Some(message), Flags::MESSAGE, buffer)
    }

    /// Begins a long message of `len` bytes, which are to be written to what is returned, without this half being held
    /// meanwhile. [`poll_begun`](Self::poll_begun) sends it.
    pub(crate) fn begin_message(&self, len: usize) -> Result<SendBuf, Status> {
        let too_large = FrameTooLarge::Message {
            len,
            max: self.message_len_max,
        };
        let message_len = u32::try_from(len).ok();
        let message_len = message_len.filter(|_| len <= self.message_len_max);
        let prefix = Prefix {
            message_len: message_len.ok_or(too_large)?,
            head_len: 0,
            flags: Flags::MESSAGE,
        };
        let mut buffer = self.stream.buffer(PREFIX_LEN + len);
        buffer.put_slice(&prefix.encode());
        Ok(buffer)
    }

    /// Polls for a message to be sent that was begun, and that others may follow, after what opens the half.
    pub(crate) fn poll_begun(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut SendBuf,
    ) -> Poll<Result<(), HalfError>> {
        debug_assert!(self.opening.is_none(), "what opens a half comes first");
        let sent = self.stream.poll_send(cx, message, Flush::More);
        sent.map_err(HalfError::Stream)
    }

    /// Polls for several messages to be sent together that others may follow, after what opens the half. Each comes with the length
    /// of its frame. None is longer than it may be, and all together are short.
    pub(crate) fn poll_messages<M: Encode>(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut [(M, usize)],
        len: usize,
    ) -> Poll<Result<(), HalfError>> {
        debug_assert!(self.opening.is_none(), "what opens a half travels alone");
        let sent = self.stream.poll_send_exact(cx, len, Flush::More, |out| {
            for (message, len) in &mut *messages {
                let prefix = Prefix {
                    message_len: u32::try_from(*len - PREFIX_LEN).unwrap_or(u32::MAX),
                    head_len: 0,
                    flags: Flags::MESSAGE,
                };
                out.put_slice(&prefix.encode());
                message.encode_to_slice(out);
            }
        });
        sent.map_err(HalfError::Stream)
    }

    /// Polls for the end of the half to be sent, and the last message with it if there is one.
    ///
    /// If a server's last frame cannot be sent for what it says, a failure that says so takes its place, in `ending` too.
    pub(crate) fn poll_end<M: Encode + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        mut message: Option<&mut M>,
        ending: &mut Ending,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), HalfError>> {
        if self.watchers.is_some() {
            if let Some(unsent) = &message
                && self.message_len_max < unsent.encoded_len()
            {
                let (len, max) = (unsent.encoded_len(), self.message_len_max);
                *ending = Ending::Failed(FrameTooLarge::Message { len, max }.into());
                message = None;
            }
            if let Some(unsettled) = self.unsettled(ending) {
                *ending = unsettled.settle();
            }
        }
        if !self.is_server {
            // A caller has no way to say that it failed but to give the call up, which is not done here.
            if let Ending::Failed(_) = ending {
                return Poll::Ready(Ok(()));
            }
            // Where an end without a frame does not reach the server, it gets one.
            if self.opening.is_none() && message.is_none() && self.stream.tells_end() {
                return self.stream.poll_finish(cx).map_err(HalfError::Stream);
            }
            let flags = if message.is_some() {
                Flags::MESSAGE.with(Flags::END)
            } else {
                Flags::END
            };
            return self.poll_frame(cx, message, flags, buffer);
        }
        loop {
            let sent = self.poll_server_end(cx, message.as_deref_mut(), ending, buffer);
            match ready!(sent) {
                Err(HalfError::Frame(status)) => {
                    // The second time it is the status itself that is too long.
                    *ending = Ending::Failed(match mem::replace(ending, Ending::Done(None)) {
                        Ending::Done(_) => status,
                        Ending::Failed(status) => status.shortened(),
                    });
                    if let Some(Opening::Response { metadata }) = &mut self.opening {
                        metadata.clear();
                    }
                    message = None;
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_server_end<M: Encode + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        message: Option<&mut M>,
        ending: &mut Ending,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), HalfError>> {
        if let Ending::Done(more) = ending
            && let Some(more) = more.take()
        {
            crate::metadata::merge(&mut self.trailers, Some(more));
        }
        let is_ok = matches!(ending, Ending::Done(_));
        let trailers = match ending {
            Ending::Done(_) => TrailersRef::ok(&self.trailers),
            Ending::Failed(status) => TrailersRef::failed(status),
        };
        let mut flags = match message {
            Some(_) => Flags::MESSAGE.with(Flags::END),
            None => Flags::END,
        };
        let head = match &self.opening {
            Some(Opening::Response { metadata })
                if is_ok || message.is_some() || !metadata.is_empty() =>
            {
                flags = flags.with(Flags::OPEN);
                // A unary response goes without trailers if they are empty.
                let needed = !is_ok || message.is_none() || !self.trailers.is_empty();
                if needed {
                    flags = flags.with(Flags::TRAILERS);
                }
                HeadRef::Response(ResponseHeadRef {
                    metadata,
                    trailers: needed.then_some(trailers),
                })
            }
            Some(_) | None => {
                flags = flags.with(Flags::TRAILERS);
                HeadRef::Trailers(trailers)
            }
        };
        let mut frame = Outgoing::new(flags, head, message, self.message_len_max)?;
        let sent = ready!(frame.poll_send(cx, &mut self.stream, buffer));
        self.opening = None;
        Poll::Ready(sent.map_err(HalfError::Stream))
    }

    /// Polls for a frame to be sent that carries the opening if it was not sent yet.
    fn poll_frame<M: Encode + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        message: Option<&mut M>,
        flags: Flags,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), HalfError>> {
        let (flags, head) = match &self.opening {
            None => (flags, HeadRef::None),
            Some(opening) => (
                flags.with(Flags::OPEN),
                opening
                    .head()
                    .map_err(|Elapsed| HalfError::Frame(deadline::exceeded()))?,
            ),
        };
        let mut frame = Outgoing::new(flags, head, message, self.message_len_max)?;
        ready!(frame.poll_send(cx, &mut self.stream, buffer))?;
        self.opening = None;
        Poll::Ready(Ok(()))
    }
}

impl Opening {
    fn head(&self) -> Result<HeadRef<'_>, Elapsed> {
        Ok(match self {
            Self::Request {
                path,
                metadata,
                deadline,
            } => HeadRef::Request(RequestHeadRef {
                path: path.path(),
                timeout_ns: deadline.map(deadline::left_ns).transpose()?,
                metadata,
            }),
            Self::Response { metadata } => HeadRef::Response(ResponseHeadRef {
                metadata,
                trailers: None,
            }),
        })
    }
}
