//! A stream as bytes instead of messages: for codecs, for HTTP, for whatever reads and writes.

mod incoming;
mod reader;
mod writer;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::incoming::unexpected_end;
pub use self::{reader::ByteReader, writer::ByteWriter};
use crate::Stream;

/// A [`Stream`] as two sequences of bytes; see [`Stream::into_bytes`].
///
/// It implements tokio's `AsyncRead`, `AsyncBufRead` and `AsyncWrite`, so that whatever runs over a TCP connection runs over
/// it: hyper, the codecs of `tokio-util`, `copy_bidirectional`. What shared memory has to offer beyond that, reading and
/// writing in place, is in its two halves, [`ByteReader`] and [`ByteWriter`].
///
/// As a socket that is closed, a stream of which both halves were dropped takes nothing more: a peer that writes all the same
/// meets [`ConnectionReset`](io::ErrorKind::ConnectionReset). What was flushed before is still read, and so is the end, if it was sent.
///
/// ```
/// use shmipc_transport::{ByteStream, Stream};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn example(stream: Stream) -> std::io::Result<()> {
/// let mut bytes: ByteStream = stream.into_bytes();
/// bytes.write_all(b"hello").await?;
/// bytes.flush().await?; // One message, and the peer may read it.
/// let mut reply = [0; 5];
/// bytes.read_exact(&mut reply).await?;
/// bytes.shutdown().await // Ends our direction. Dropping the stream before resets it.
/// # }
/// ```
#[derive(Debug)]
pub struct ByteStream {
    reader: ByteReader,
    writer: ByteWriter,
}

impl Stream {
    /// Turns the stream into one of bytes. The peer need not do the same: it sees a message per flush, and where its own
    /// messages begin and end is forgotten here.
    #[must_use]
    pub fn into_bytes(self) -> ByteStream {
        let (send, recv) = self.split();
        ByteStream {
            reader: ByteReader::new(recv),
            writer: ByteWriter::new(send),
        }
    }
}

impl ByteStream {
    /// Separates the directions, so that two tasks can use them.
    #[must_use]
    pub fn split(self) -> (ByteReader, ByteWriter) {
        (self.reader, self.writer)
    }

    /// Borrows both directions.
    pub fn halves_mut(&mut self) -> (&mut ByteReader, &mut ByteWriter) {
        (&mut self.reader, &mut self.writer)
    }

    /// Borrows the direction towards us.
    pub fn reader(&mut self) -> &mut ByteReader {
        &mut self.reader
    }

    /// Borrows the direction towards the peer.
    pub fn writer(&mut self) -> &mut ByteWriter {
        &mut self.writer
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.writer.reset(code);
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().reader).poll_read(cx, buf)
    }
}

impl AsyncBufRead for ByteStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().reader).poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, amt: usize) {
        Pin::new(&mut self.get_mut().reader).consume(amt);
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().writer).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writer).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writer).poll_shutdown(cx)
    }
}
