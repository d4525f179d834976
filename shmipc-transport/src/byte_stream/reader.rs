//! The direction towards us, as bytes.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::incoming::{Incoming, unexpected_end};
use crate::{RecvBuf, RecvError, RecvHalf, StreamWatch};

/// The receiving half of a [`ByteStream`](crate::ByteStream).
///
/// Bytes are read where they lie, across the borders of messages. What has been read is given back to the peer by itself:
/// the rest of a message when all of it was read, a [`Bytes`] when its last share is dropped.
///
/// Messages are taken from the stream as they are needed, so that a reader who reads no further holds the peer up
/// ([`stream_window`](crate::ConfigBuilder::stream_window)). Where the peer ends its direction, reading ends; where it gives the stream
/// up, or is lost, reading fails with an [`io::Error`] whose source is a [`RecvError`].
#[derive(Debug)]
pub struct ByteReader {
    half: RecvHalf,
    incoming: Incoming,
}

impl ByteReader {
    pub(super) fn new(half: RecvHalf) -> Self {
        Self {
            half,
            incoming: Incoming::default(),
        }
    }

    /// Bytes that were received and not read yet, and are to be had without waiting. There may be more in messages that were
    /// not taken from the stream yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.incoming.len()
    }

    /// Whether all bytes were read, and the peer has ended its direction. It may have done so although this is `false`: only
    /// reading finds out.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.incoming.has_ended && self.incoming.is_empty()
    }

    /// Reads exactly `len` bytes.
    ///
    /// They are not copied if they are contiguous and not few (256 or more): then the `Bytes` is a share in the sender's
    /// memory. Those that lie across the border of two messages are copied.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says; and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the peer ended its direction before.
    /// Then none of the bytes were read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: bytes are taken in the poll that returns them.
    pub async fn read_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_gather(cx, len)).await?;
        Ok(self.incoming.take(len))
    }

    /// Reads what comes next in one piece: the rest of a message, or a part of it. `None` once the peer has ended its
    /// direction. Never empty, and never copied unless it is short.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: bytes are taken in the poll that returns them.
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let is_some = poll_fn(|cx| self.poll_some(cx)).await?;
        Ok(is_some.then(|| self.incoming.take_chunk(usize::MAX)))
    }

    /// Looks at the next `len` bytes, without reading them. Waits until they are there.
    ///
    /// # Errors
    ///
    /// As for [`read_bytes`](Self::read_bytes).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub async fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        poll_fn(|cx| self.poll_gather(cx, len)).await?;
        Ok(self.incoming.peek(len))
    }

    /// Reads `len` bytes and forgets them, without looking at them.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says; and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the peer ended its direction before.
    /// Then those that were there are gone.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: it cannot be told how many bytes were discarded before the future was dropped.
    pub async fn discard(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        while left != 0 {
            if !poll_fn(|cx| self.poll_some(cx)).await? {
                return Err(unexpected_end(len, len - left));
            }
            left -= self.skip(left);
        }
        Ok(())
    }

    /// Waits until there is a byte to read. `false` if the peer has ended its direction and there will be none.
    ///
    /// # Errors
    ///
    /// As the [half](Self) says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub async fn readable(&mut self) -> io::Result<bool> {
        Ok(poll_fn(|cx| self.poll_some(cx)).await?)
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

    /// Goes back to messages. What was received and not read comes along.
    #[must_use]
    pub fn into_inner(self) -> (RecvHalf, RecvBuf) {
        (self.half, self.incoming.into_rest())
    }

    /// Takes one more message from the stream, and returns whether there was one. What was not read stays.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, RecvError>> {
        if self.incoming.has_ended {
            return Poll::Ready(Ok(false));
        }
        let received = ready!(self.half.poll_recv(cx))?;
        Poll::Ready(Ok(self.receive(received)))
    }

    /// Takes messages from the stream until there are bytes that were not there before. `false` if there will be none.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, RecvError>> {
        let before = self.buffered();
        while self.buffered() == before {
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Counts the bytes that were read; wraps around.
    pub(crate) fn consumed(&self) -> usize {
        self.incoming.consumed
    }

    /// Sees to it that there is a byte. `false` if there will be none.
    fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, RecvError>> {
        // Messages may be empty.
        while self.incoming.is_empty() {
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<()>> {
        while !self.incoming.gather(len) {
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(Err(unexpected_end(len, self.buffered())));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes note of what was received.
    pub(crate) fn receive(&mut self, received: Option<RecvBuf>) -> bool {
        let is_some = received.is_some();
        match received {
            Some(message) => self.incoming.push(message),
            None => self.incoming.has_ended = true,
        }
        is_some
    }

    pub(crate) fn half(&mut self) -> &mut RecvHalf {
        &mut self.half
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.incoming.has_ended
    }

    pub(crate) fn gather(&mut self, len: usize) -> bool {
        self.incoming.gather(len)
    }

    pub(crate) fn gathered(&self, len: usize) -> &[u8] {
        self.incoming.peek(len)
    }

    pub(crate) fn take(&mut self, len: usize) -> Bytes {
        self.incoming.take(len)
    }

    pub(crate) fn take_chunk(&mut self) -> Bytes {
        self.incoming.take_chunk(usize::MAX)
    }

    pub(crate) fn chunk(&self) -> &[u8] {
        self.incoming.chunk()
    }

    /// Lets go of some of the bytes that are there, at most `most`, and returns how many.
    pub(crate) fn skip(&mut self, most: usize) -> usize {
        let count = most.min(self.buffered());
        self.incoming.advance(count);
        count
    }

    /// Copies as many bytes as are there and fit, and returns how many.
    pub(crate) fn copy_to(&mut self, mut space: &mut [u8]) -> usize {
        let wanted = space.len();
        while !space.is_empty() && !self.incoming.is_empty() {
            let chunk = self.incoming.chunk();
            let len = chunk.len().min(space.len());
            let (head, tail) = space.split_at_mut(len);
            head.copy_from_slice(&chunk[..len]);
            self.incoming.advance(len);
            space = tail;
        }
        wanted - space.len()
    }
}

impl AsyncRead for ByteReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_some(cx))?;
        while buf.remaining() != 0 && !this.incoming.is_empty() {
            let chunk = this.incoming.chunk();
            let len = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..len]);
            this.incoming.advance(len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for ByteReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_some(cx))?;
        Poll::Ready(Ok(this.incoming.chunk()))
    }

    fn consume(self: Pin<&mut Self>, amt: usize) {
        self.get_mut().incoming.advance(amt);
    }
}
