use std::task::{Context, Poll};

use bytes::BufMut;
use shmipc_transport::{Flush, SendBuf, SendError, SendHalf, Stream};

use super::{Flags, Head, PREFIX_LEN, Prefix};
use crate::{Status, body::Encode};

/// The longest prefix and head that are put together before they are written, in bytes: more than those without metadata have.
const FRONT_MAX: usize = 256;

/// A frame to be sent, whose lengths are known and fit.
#[derive(Debug)]
pub(crate) struct Outgoing<'a, H, M: ?Sized> {
    prefix: Prefix,
    head: H,
    message: Option<&'a mut M>,
    len: usize,
}

/// Why a frame cannot be made. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameTooLarge {
    #[error("the metadata has {len} bytes; {max} are possible", max = u16::MAX)]
    Head { len: usize },
    #[error("the message has {len} bytes; the limit is {max}")]
    Message { len: usize, max: usize },
}

impl From<FrameTooLarge> for Status {
    fn from(error: FrameTooLarge) -> Self {
        Self::resource_exhausted(error.to_string())
    }
}

impl<'a, H: Head, M: Encode + ?Sized> Outgoing<'a, H, M> {
    /// Makes a frame with a message of at most `message_len_max` bytes.
    pub(crate) fn new(
        flags: Flags,
        head: H,
        message: Option<&'a mut M>,
        message_len_max: usize,
    ) -> Result<Self, FrameTooLarge> {
        let head_len_usize = head.encoded_len();
        let head_len = u16::try_from(head_len_usize).map_err(|_| FrameTooLarge::Head {
            len: head_len_usize,
        })?;
        let message_len_usize = message.as_ref().map_or(0, |message| message.encoded_len());
        let max = message_len_max.min(u32::MAX as usize);
        let message_len = u32::try_from(message_len_usize)
            .ok()
            .filter(|_| message_len_usize <= max);
        let message_len = message_len.ok_or(FrameTooLarge::Message {
            len: message_len_usize,
            max,
        })?;
        let prefix = Prefix {
            message_len,
            head_len,
            flags,
        };
        Ok(Self {
            prefix,
            head,
            message,
            len: PREFIX_LEN + head_len_usize + message_len_usize,
        })
    }

    /// Whether it may be possible to send the frame at once: a longer one never can.
    pub(crate) fn is_short(&self) -> bool {
        self.len <= SendHalf::SHORT_MAX
    }

    /// Sends the frame if that can be done at once.
    ///
    /// Returns `false`, having done nothing, if it must be [sent](Self::send) instead.
    pub(crate) fn try_send(&mut self, stream: &mut SendHalf) -> Result<bool, SendError> {
        let (len, flush) = (self.len, self.flush());
        stream.try_send_exact(len, flush, |out| self.write(out))
    }

    /// As [`try_send`](Self::try_send), for a caller that receives the answer next.
    pub(crate) fn try_ask(&mut self, stream: &mut Stream) -> Result<bool, SendError> {
        let (len, flush) = (self.len, self.flush());
        stream.try_send_exact_then_recv(len, flush, |out| self.write(out))
    }

    /// Polls for the frame to be sent.
    ///
    /// `buffer` is for what has been encoded and waits: pass the same one until it is ready. While it holds something, the frame
    /// is what it holds, whatever `self` says.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendHalf,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), SendError>> {
        let flush = self.flush();
        if self.is_short() && buffer.is_none() {
            return stream.poll_send_exact(cx, self.len, flush, |out| self.write(out));
        }
        let encoded = buffer.get_or_insert_with(|| self.encode(stream));
        let sent = stream.poll_send(cx, encoded, flush);
        if sent.is_ready() {
            *buffer = None;
        }
        sent
    }

    /// Sends the frame.
    pub(crate) async fn send(mut self, stream: &mut SendHalf) -> Result<(), SendError> {
        let flush = self.flush();
        let buffer = self.encode(stream);
        stream.send(buffer, flush).await
    }

    /// Whether this is the last frame of its half of the call.
    fn flush(&self) -> Flush {
        if self.prefix.flags.contains(Flags::END) {
            Flush::End
        } else {
            Flush::More
        }
    }

    /// Encodes the frame in place.
    fn write(&mut self, out: &mut &mut [u8]) {
        out.put_slice(&self.prefix.encode());
        self.head.write(out);
        if let Some(message) = &mut self.message {
            message.encode_to_slice(out);
        }
        debug_assert!(out.is_empty(), "a message knows its length");
    }

    fn encode(&mut self, stream: &SendHalf) -> SendBuf {
        let mut buffer = stream.buffer(self.len);
        // Written in many small pieces, each of which costs more in shared memory.
        let mut front = [0; FRONT_MAX];
        let front_len = PREFIX_LEN + usize::from(self.prefix.head_len);
        if let Some(front) = front.get_mut(..front_len) {
            let mut out = &mut *front;
            out.put_slice(&self.prefix.encode());
            self.head.write(&mut out);
            buffer.put_slice(front);
        } else {
            buffer.put_slice(&self.prefix.encode());
            self.head.write(&mut buffer);
        }
        if let Some(message) = &mut self.message {
            message.encode_to_buffer(&mut buffer);
        }
        debug_assert_eq!(buffer.len(), self.len, "a message knows its length");
        buffer
    }
}
