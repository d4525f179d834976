use bytes::BufMut;
use shmipc_transport::{Flush, SendError, Stream};

use super::{Flags, Head, PREFIX_LEN, Prefix};
use crate::{Status, body::Encode};

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

    /// Sends the frame, which ends the stream, if that can be done at once.
    ///
    /// Returns `false`, having done nothing, if it must be [sent](Self::send) instead.
    pub(crate) fn try_send(&mut self, stream: &mut Stream) -> Result<bool, SendError> {
        let len = self.len;
        stream.try_send_exact(len, Flush::End, |out| self.write(out))
    }

    /// As [`try_send`](Self::try_send), for a caller that receives the answer next.
    pub(crate) fn try_ask(&mut self, stream: &mut Stream) -> Result<bool, SendError> {
        let len = self.len;
        stream.try_send_exact_then_recv(len, Flush::End, |out| self.write(out))
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

    /// Sends the frame, which ends the stream.
    pub(crate) async fn send(self, stream: &mut Stream) -> Result<(), SendError> {
        let mut buffer = stream.buffer(self.len);
        buffer.put_slice(&self.prefix.encode());
        self.head.write(&mut buffer);
        if let Some(message) = self.message {
            message.encode_to_buffer(&mut buffer);
        }
        debug_assert_eq!(buffer.len(), self.len, "a message knows its length");
        stream.send(buffer, Flush::End).await
    }
}
