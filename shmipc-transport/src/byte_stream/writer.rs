//! The direction towards the peer, as bytes.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut};
use tokio::io::AsyncWrite;

use crate::{ABANDONED, Flush, Reserved, SendBuf, SendError, SendHalf, StreamWatch};

/// The sending half of a [`ByteStream`](crate::ByteStream).
///
/// Bytes are written straight into shared memory, and collected until they are [flushed](Self::flush): each flush is one
/// message. They are also sent as soon as there are [many](Self::set_flush_at), which is when writing waits for a peer that
/// does not read. *What was not flushed is not sent*, as with any buffered writer, and is lost when the half is dropped. To end the
/// direction in good order, [`finish`](Self::finish) it (or `shutdown` it, which is the same); dropping it before that resets the
/// stream.
///
/// Where the peer has given the stream up, or is lost, writing fails with an [`io::Error`] whose source is a [`SendError`]. It may only be
/// noticed by the next flush.
#[derive(Debug)]
pub struct ByteWriter {
    half: SendHalf,
    /// What was written since the last flush.
    message: Option<SendBuf>,
    /// Whether a flush of it has begun.
    is_sealed: bool,
    flush_at: usize,
    is_finished: bool,
}

impl ByteWriter {
    /// After how many bytes a message is sent without a [flush](Self::flush), unless that is [changed](Self::set_flush_at).
    ///
    /// As many messages as the default [window](crate::ConfigBuilder::stream_window) grants are as long as it grants.
    pub const FLUSH_AT: usize = 128 << 10;

    /// The longest message that is made of bytes which are all there at once.
    const PIECE_MAX: usize = 16 << 20;

    pub(super) fn new(half: SendHalf) -> Self {
        Self {
            half,
            message: None,
            is_sealed: false,
            flush_at: Self::FLUSH_AT,
            is_finished: false,
        }
    }

    /// Sets after how many bytes a message is sent without a [flush](Self::flush): at least 1. Default:
    /// [`FLUSH_AT`](Self::FLUSH_AT), but no more than half of [`memory_max`](crate::ConfigBuilder::memory_max).
    pub fn set_flush_at(&mut self, bytes: usize) {
        self.flush_at = bytes.max(1);
    }

    /// Bytes that were written and not sent yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.message.as_ref().map_or(0, SendBuf::len)
    }

    /// Lends `len` contiguous bytes of shared memory, to be filled in place; see [`SendBuf::reserve`].
    ///
    /// Waits as writing does if many bytes are there already.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says; and [`InvalidInput`](io::ErrorKind::InvalidInput) if no message can be so long.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written before the space is returned.
    pub async fn reserve(&mut self, len: usize) -> io::Result<Reserved<'_>> {
        poll_fn(|cx| self.poll_room_for(cx, len)).await?;
        Ok(self.space(len)?)
    }

    /// Writes all of `source`.
    ///
    /// [`Bytes`](bytes::Bytes) that lie in the session's memory already, because they were
    /// [lent](crate::Session::alloc) or received by it, are sent as they are, without a copy.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says.
    ///
    /// # Cancel safety
    ///
    /// What was written of `source` is taken from it, so that writing may go on if it is passed by reference.
    pub async fn put(&mut self, mut source: impl Buf) -> io::Result<()> {
        Ok(poll_fn(|cx| self.poll_put(cx, &mut source)).await?)
    }

    /// Sends what was written as one message, if anything was. Waits while the peer grants no credit, or there is no memory.
    ///
    /// Returns once the message is where the peer finds it, whether or not it has looked.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the message is sent in the poll that returns, or kept for the next flush.
    pub async fn flush(&mut self) -> io::Result<()> {
        Ok(poll_fn(|cx| self.poll_message(cx, Flush::More)).await?)
    }

    /// Sends what was written, and ends this direction. The peer's goes on.
    ///
    /// If there is nothing left to be sent, it makes no difference whether the peer has dropped its stream meanwhile.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says. It is none to call it again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the end is sent in the poll that returns, or not at all.
    pub async fn finish(&mut self) -> io::Result<()> {
        Ok(poll_fn(|cx| self.poll_end(cx)).await?)
    }

    /// Gives up both directions of the stream. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.half.reset(code);
    }

    /// A watch over the stream's end.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.half.watch()
    }

    /// Goes back to messages. What was written and not sent comes along.
    #[must_use]
    pub fn into_inner(self) -> (SendHalf, Option<SendBuf>) {
        (self.half, self.message)
    }

    pub(crate) fn half(&self) -> &SendHalf {
        &self.half
    }

    /// Two messages fit into the memory, so that one can be written while the other is read.
    fn bound(&self, wanted: usize) -> usize {
        let max = self.half.owner().shared.link.message_max();
        wanted.min(max / 2).max(1)
    }

    /// Sees to it that bytes can be written: sends what is there if it is many, or if a flush of it was begun and given up.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.is_sealed || self.bound(self.flush_at) <= self.buffered() {
            ready!(self.poll_message(cx, Flush::More))?;
        }
        Poll::Ready(if self.is_finished {
            Err(SendError::Finished)
        } else {
            Ok(())
        })
    }

    /// As [`poll_room`](Self::poll_room), for `len` bytes in a piece.
    pub(crate) fn poll_room_for(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
    ) -> Poll<Result<(), SendError>> {
        ready!(self.poll_room(cx))?;
        let bound = self.bound(self.flush_at);
        if self.buffered() != 0 && bound < self.buffered().saturating_add(len) {
            ready!(self.poll_message(cx, Flush::More))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Lends `len` bytes of the message, after [`poll_room_for`](Self::poll_room_for) them.
    pub(crate) fn space(&mut self, len: usize) -> Result<Reserved<'_>, SendError> {
        self.message(len).reserve(len)
    }

    /// The message that is being written.
    fn message(&mut self, size_hint: usize) -> &mut SendBuf {
        self.message
            .get_or_insert_with(|| self.half.buffer(size_hint))
    }

    /// Writes some bytes.
    fn poll_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, SendError>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        let bound = self.bound(self.flush_at);
        let len = bytes.len().min(bound - self.buffered());
        self.message(len).put_slice(&bytes[..len]);
        self.send_early(cx);
        Poll::Ready(Ok(len))
    }

    /// Writes all bytes. What was written is cut off the front.
    pub(crate) fn poll_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut &[u8],
    ) -> Poll<Result<(), SendError>> {
        while !bytes.is_empty() {
            let written = ready!(self.poll_some(cx, bytes))?;
            *bytes = &bytes[written..];
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all of `source`, and links what can be linked.
    pub(crate) fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Buf,
    ) -> Poll<Result<(), SendError>> {
        while source.has_remaining() {
            // In large pieces, of which each is contiguous at the receiver if it was here.
            let piece = source.remaining().min(self.bound(Self::PIECE_MAX));
            ready!(self.poll_room_for(cx, piece))?;
            self.message(piece).put(source.take(piece));
            self.send_early(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was written if it is many bytes, and can be sent now, so that the peer reads while we write on.
    fn send_early(&mut self, cx: &mut Context<'_>) {
        if self.bound(self.flush_at) <= self.buffered() {
            // If it cannot go, whoever writes next waits for it, or meets the error again.
            let _ = self.poll_message(cx, Flush::More);
        }
    }

    /// Sends what was written, if anything was.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        flush: Flush,
    ) -> Poll<Result<(), SendError>> {
        if let Some(message) = &mut self.message {
            // From now on nothing is added to it.
            self.is_sealed = true;
            ready!(self.half.poll_send(cx, message, flush))?;
            self.message = None;
            self.is_sealed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was written, and the end.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if !self.is_finished {
            match &self.message {
                Some(_) => ready!(self.poll_message(cx, Flush::End))?,
                None => match ready!(self.half.poll_finish(cx)) {
                    // The peer was through with the stream, too, and waited for nothing more.
                    Err(SendError::Reset(ABANDONED)) => {}
                    finished => finished?,
                },
            }
            self.is_finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_some(cx, buf).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut written = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match this.poll_some(cx, buf) {
                Poll::Ready(Ok(len)) => {
                    written += len;
                    if len < buf.len() {
                        break;
                    }
                }
                // It comes again when there is nothing else to report.
                _ if written != 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.get_mut().poll_message(cx, Flush::More);
        sent.map_err(io::Error::from)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx).map_err(io::Error::from)
    }
}
