use std::{
    future::poll_fn,
    io::{self, BufRead, Read, Write},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

use super::{Stream, session::block_on, stream::recv};
use crate::{Flush, RecvError, Reserved, SendError, StreamWatch, byte_stream::unexpected_end};

/// A [`Stream`] as two sequences of bytes, for threads; see [`Stream::into_bytes`].
///
/// It implements [`Read`], [`BufRead`] and [`Write`], so that whatever runs over a
/// [`UnixStream`](std::os::unix::net::UnixStream) runs over it. What shared memory has to offer beyond that, reading and writing in
/// place, is in its two halves, [`ByteReader`] and [`ByteWriter`].
///
/// ```
/// use std::io::{BufRead, Write};
/// use shmipc_transport::blocking::Stream;
///
/// # fn example(stream: Stream) -> std::io::Result<()> {
/// let mut bytes = stream.into_bytes();
/// writeln!(bytes, "hello")?;
/// bytes.flush()?; // One message, and the peer may read it.
/// let mut reply = String::new();
/// bytes.read_line(&mut reply)?;
/// bytes.writer().finish() // Ends our direction. Dropping the stream before resets it.
/// # }
/// ```
#[derive(Debug)]
pub struct ByteStream {
    reader: ByteReader,
    writer: ByteWriter,
}

/// The receiving half of a [`ByteStream`]; see [`ByteReader`](crate::ByteReader).
#[derive(Debug)]
pub struct ByteReader {
    inner: crate::ByteReader,
    timeout: Option<Duration>,
}

/// The sending half of a [`ByteStream`]; see [`ByteWriter`](crate::ByteWriter), also about when bytes are sent.
#[derive(Debug)]
pub struct ByteWriter {
    inner: crate::ByteWriter,
    timeout: Option<Duration>,
}

impl Stream {
    /// Turns the stream into one of bytes. The peer need not do the same: it sees a message per flush, and where its own
    /// messages begin and end is forgotten here.
    #[must_use]
    pub fn into_bytes(self) -> ByteStream {
        let (reader, writer) = self.into_async().into_bytes().split();
        ByteStream {
            reader: ByteReader {
                inner: reader,
                timeout: None,
            },
            writer: ByteWriter {
                inner: writer,
                timeout: None,
            },
        }
    }
}

impl ByteStream {
    /// Separates the directions, so that two threads can use them.
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

impl ByteReader {
    /// Sets how long a single wait for a message of the peer's may take. Default: `None`, forever.
    ///
    /// When the time has passed, reading fails with [`TimedOut`](io::ErrorKind::TimedOut), and may be tried again: nothing was lost.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Bytes that are to be had without waiting; see [`ByteReader::buffered`](crate::ByteReader::buffered).
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.inner.buffered()
    }

    /// Whether all bytes were read; see [`ByteReader::is_at_end`](crate::ByteReader::is_at_end).
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.inner.is_at_end()
    }

    /// Reads exactly `len` bytes; see [`ByteReader::read_bytes`](crate::ByteReader::read_bytes).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut). None of the bytes were read then.
    pub fn read_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        self.gather(len)?;
        Ok(self.inner.take(len))
    }

    /// Reads what comes next in one piece; see [`ByteReader::read_chunk`](crate::ByteReader::read_chunk).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let is_some = self.readable()?;
        Ok(is_some.then(|| self.inner.take_chunk()))
    }

    /// Looks at the next `len` bytes; see [`ByteReader::peek`](crate::ByteReader::peek).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        self.gather(len)?;
        Ok(self.inner.gathered(len))
    }

    /// Reads `len` bytes and forgets them; see [`ByteReader::discard`](crate::ByteReader::discard).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn discard(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        while left != 0 {
            if !self.readable()? {
                return Err(unexpected_end(len, len - left));
            }
            left -= self.inner.skip(left);
        }
        Ok(())
    }

    /// Waits until there is a byte to read. `false` if the peer has ended its direction and there will be none.
    ///
    /// # Errors
    ///
    /// As for [`read_chunk`](Self::read_chunk).
    pub fn readable(&mut self) -> io::Result<bool> {
        // Messages may be empty.
        while self.inner.buffered() == 0 {
            if !self.receive()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives up both directions of the stream. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.inner.reset(code);
    }

    /// A watch over the stream's end. It only learns of it while a thread waits on the session.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.inner.watch()
    }

    fn gather(&mut self, len: usize) -> io::Result<()> {
        while !self.inner.gather(len) {
            if !self.receive()? {
                return Err(unexpected_end(len, self.buffered()));
            }
        }
        Ok(())
    }

    /// Takes one more message from the stream, and returns whether there was one.
    fn receive(&mut self) -> Result<bool, RecvError> {
        if self.inner.has_ended() {
            return Ok(false);
        }
        let received = recv(self.inner.half(), deadline(self.timeout))?;
        Ok(self.inner.receive(received))
    }
}

impl ByteWriter {
    /// See [`ByteWriter::FLUSH_AT`](crate::ByteWriter::FLUSH_AT).
    pub const FLUSH_AT: usize = crate::ByteWriter::FLUSH_AT;

    /// Sets how long a single wait for the peer, or for memory, may take. Default: `None`, forever.
    ///
    /// When the time has passed, writing fails with [`TimedOut`](io::ErrorKind::TimedOut). What was written before is kept, and flushing may
    /// be tried again.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Sets after how many bytes a message is sent without a flush; see
    /// [`ByteWriter::set_flush_at`](crate::ByteWriter::set_flush_at).
    pub fn set_flush_at(&mut self, bytes: usize) {
        self.inner.set_flush_at(bytes);
    }

    /// Bytes that were written and not sent yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.inner.buffered()
    }

    /// Lends `len` contiguous bytes of shared memory, to be filled in place; see
    /// [`ByteWriter::reserve`](crate::ByteWriter::reserve).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn reserve(&mut self, len: usize) -> io::Result<Reserved<'_>> {
        self.wait(|inner, cx| inner.poll_room_for(cx, len))?;
        Ok(self.inner.space(len)?)
    }

    /// Writes all of `source`, without a copy where that is possible; see [`ByteWriter::put`](crate::ByteWriter::put).
    ///
    /// # Errors
    ///
    /// As there; and [`TimedOut`](io::ErrorKind::TimedOut). What was written of `source` is taken from it.
    pub fn put(&mut self, mut source: impl Buf) -> io::Result<()> {
        Ok(self.wait(|inner, cx| inner.poll_put(cx, &mut source))?)
    }

    /// Sends what was written, and ends this direction. The peer's goes on.
    ///
    /// # Errors
    ///
    /// As for [`ByteWriter::finish`](crate::ByteWriter::finish); and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn finish(&mut self) -> io::Result<()> {
        Ok(self.wait(crate::ByteWriter::poll_end)?)
    }

    /// Gives up both directions of the stream. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.inner.reset(code);
    }

    /// Waits in this thread for what `poll` does.
    fn wait(
        &mut self,
        mut poll: impl FnMut(&mut crate::ByteWriter, &mut Context<'_>) -> Poll<Result<(), SendError>>,
    ) -> Result<(), SendError> {
        let owner = Arc::clone(self.inner.half().owner());
        let inner = &mut self.inner;
        let done = block_on(
            &owner.shared,
            deadline(self.timeout),
            poll_fn(|cx| poll(inner, cx)),
        );
        done.unwrap_or(Err(SendError::TimedOut))
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    // A time that cannot be told does not come.
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

impl Read for ByteReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || !self.readable()? {
            return Ok(0);
        }
        Ok(self.inner.copy_to(buf))
    }
}

impl BufRead for ByteReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.readable()?;
        Ok(self.inner.chunk())
    }

    fn consume(&mut self, amount: usize) {
        self.inner.skip(amount);
    }
}

impl Write for ByteWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = &buf[..buf.len().min(Self::FLUSH_AT)];
        let most = rest.len();
        let done = self.wait(|inner, cx| inner.poll_all(cx, &mut rest));
        match (done, most - rest.len()) {
            (Err(error), 0) => Err(error.into()),
            (_, written) => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.wait(|inner, cx| inner.poll_message(cx, Flush::More))?)
    }
}

impl Read for ByteStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

impl BufRead for ByteStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

impl Write for ByteStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
