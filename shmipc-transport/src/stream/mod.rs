//! Streams: sequences of messages in both directions, many to a session.

mod ends;
mod flush;
mod recv_buf;
mod rest;
mod send_buf;
mod sending;
mod shared;
#[cfg(test)]
mod tests;
mod unwritten;
mod watch;

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

pub use flush::Flush;
pub use recv_buf::RecvBuf;
pub use send_buf::{Reserved, SendBuf};
use sending::Waiting;
use shared::StreamRef;
pub(crate) use shared::StreamShared;
pub use watch::{Abandoned, StreamWatch};

use crate::{
    core::outbox::INLINE_MAX,
    error::{RecvError, SendError},
    link::Reservation,
    session::{Owner, Shared, Waiter},
};

/// The code of a reset when a stream is dropped unfinished.
pub const ABANDONED: u32 = 0;

/// A sequence of messages in each direction.
///
/// Each direction ends by itself ([`Flush::End`], [`finish`](Self::finish)); either side may give up both at any time
/// ([`reset`](Self::reset)). Dropping a stream that has not ended in both directions resets it with code [`ABANDONED`].
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

/// The sending half of a [`Stream`]. Dropping it before the end was sent resets the stream.
#[derive(Debug)]
pub struct SendHalf {
    handle: Handle,
    waiting: Waiting,
}

/// The receiving half of a [`Stream`]. Dropping it drops what still arrives; the sending half goes on. Once both halves are
/// dropped, a stream that has not ended is reset.
#[derive(Debug)]
pub struct RecvHalf {
    handle: Handle,
    /// Whether a message was sent for which the peer has not been woken.
    wakes_peer: bool,
}

#[derive(Clone, Debug)]
struct Handle {
    owner: Arc<Owner>,
    stream: StreamRef,
}

impl Handle {
    fn session(&self) -> &Shared {
        &self.owner.shared
    }
}

impl Stream {
    /// A stream of ours.
    pub(crate) fn open(owner: Arc<Owner>) -> Self {
        let stream = Arc::new(StreamShared::unopened(&owner.shared));
        Self::accepted(owner, stream)
    }

    /// A stream that the peer has opened.
    pub(crate) fn accepted(owner: Arc<Owner>, stream: StreamRef) -> Self {
        let handle = Handle { owner, stream };
        Self {
            send: SendHalf {
                handle: handle.clone(),
                waiting: Waiting::default(),
            },
            recv: RecvHalf {
                handle,
                wakes_peer: false,
            },
        }
    }

    /// The number of the stream within its session; `None` until the first message was sent.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.send.handle.stream.id().map(|id| id.0)
    }

    /// Separates the directions, so that two tasks can use them.
    #[must_use]
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    /// Borrows both directions.
    pub fn halves_mut(&mut self) -> (&mut SendHalf, &mut RecvHalf) {
        (&mut self.send, &mut self.recv)
    }

    /// Begins a message; see [`SendHalf::buffer`].
    #[must_use]
    pub fn buffer(&self, size_hint: usize) -> SendBuf {
        self.send.buffer(size_hint)
    }

    /// Sends a message; see [`SendHalf::send`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// The message is sent in the poll that returns, or not at all.
    pub async fn send(&mut self, message: SendBuf, flush: Flush) -> Result<(), SendError> {
        self.send.send(message, flush).await
    }

    /// Sends a short message at once; see [`SendHalf::try_send_exact`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn try_send_exact(
        &mut self,
        len: usize,
        flush: Flush,
        write: impl FnOnce(&mut &mut [u8]),
    ) -> Result<bool, SendError> {
        self.send.try_send_exact(len, flush, write)
    }

    /// Like [`try_send_exact`](Self::try_send_exact), for a caller that receives next.
    ///
    /// The peer is woken, if it must be, by the first poll for a message of this stream (or when the stream is dropped):
    /// by then this side has said that it is awake, so that the answer needs no system call.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn try_send_exact_then_recv(
        &mut self,
        len: usize,
        flush: Flush,
        write: impl FnOnce(&mut &mut [u8]),
    ) -> Result<bool, SendError> {
        let handle = &self.send.handle;
        let sent = handle.encode_exact(len, flush, write, Reservation::commit_quietly)?;
        let sent = sent == Ok(true);
        self.recv.wakes_peer |= sent;
        Ok(sent)
    }

    /// Ends the sending direction without a message; see [`SendHalf::finish`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// The end is sent in the poll that returns, or not at all.
    pub async fn finish(&mut self) -> Result<(), SendError> {
        self.send.finish().await
    }

    /// Receives the next message; see [`RecvHalf::recv`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message is taken in the poll that returns it.
    pub async fn recv(&mut self) -> Result<Option<RecvBuf>, RecvError> {
        self.recv.recv().await
    }

    /// Polls for the next message; see [`RecvHalf::recv`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecvBuf>, RecvError>> {
        self.recv.poll_recv(cx)
    }

    /// Takes the next message if it is there; see [`RecvHalf::try_recv`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn try_recv(&mut self) -> Option<Result<Option<RecvBuf>, RecvError>> {
        self.recv.try_recv()
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.send.reset(code);
    }

    /// A watch over this stream's end.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.send.watch()
    }
}

impl SendHalf {
    pub(crate) fn owner(&self) -> &Arc<Owner> {
        &self.handle.owner
    }

    /// Begins a message that will have about `size_hint` bytes. The hint saves copies and memory; it binds to nothing.
    ///
    /// It can be sent on any stream of the session, and on none of another.
    #[must_use]
    pub fn buffer(&self, size_hint: usize) -> SendBuf {
        SendBuf::new(self.handle.session().link.clone(), size_hint)
    }

    /// Sends a message. Waits while the peer grants no credit on this stream, accepts no further stream, or while ring or
    /// memory are full.
    ///
    /// Returns once the message is where the peer finds it, whether or not it has looked.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// The message is sent in the poll that returns, or not at all; then it is dropped with the future.
    pub async fn send(&mut self, message: SendBuf, flush: Flush) -> Result<(), SendError> {
        let mut message = message;
        poll_fn(|cx| self.poll_send(cx, &mut message, flush)).await
    }

    /// Polls for a message to be sent; see [`send`](Self::send).
    ///
    /// `message` keeps what is left to be done: pass the same one until it is ready. Then it is empty.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut SendBuf,
        flush: Flush,
    ) -> Poll<Result<(), SendError>> {
        let link = &self.handle.session().link;
        if !message.is_for(link) {
            return Poll::Ready(Err(SendError::OtherSession));
        }
        let max = link.message_max();
        let sent = match message.sealed() {
            Ok(outgoing) => ready!(self.poll_outgoing(cx, Some(outgoing), flush)),
            Err(len) => Err(SendError::TooLarge { len, max }),
        };
        if sent.is_ok() {
            message.clear();
        }
        Poll::Ready(sent)
    }

    /// Sends a message of exactly `len` bytes if that can be done at once: `write` encodes it straight into the ring.
    ///
    /// Returns `false`, having sent nothing, if it would have to wait, if `len` is more than
    /// [`SHORT_MAX`](Self::SHORT_MAX), or if `write` wrote fewer bytes; [`send`](Self::send) it then.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn try_send_exact(
        &mut self,
        len: usize,
        flush: Flush,
        write: impl FnOnce(&mut &mut [u8]),
    ) -> Result<bool, SendError> {
        let handle = &self.handle;
        let sent = handle.encode_exact(len, flush, write, Reservation::commit)?;
        Ok(sent == Ok(true))
    }

    /// Polls for a short message of exactly `len` bytes to be sent: `write` encodes it straight into the ring, in the poll
    /// that is ready. Until then nothing has happened.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Panics
    ///
    /// If `len` is more than [`SHORT_MAX`](Self::SHORT_MAX), or `write` wrote fewer bytes.
    pub fn poll_send_exact(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        flush: Flush,
        mut write: impl FnMut(&mut &mut [u8]),
    ) -> Poll<Result<(), SendError>> {
        assert!(len <= Self::SHORT_MAX, "{len} bytes are no short message");
        let is_written = ready!(self.poll_attempts(cx, |handle| {
            handle.encode_exact(len, flush, &mut write, Reservation::commit)
        }))?;
        assert!(
            is_written,
            "a message of {len} bytes turned out to be shorter"
        );
        Poll::Ready(Ok(()))
    }

    /// The longest message that [`try_send_exact`](Self::try_send_exact) takes, in bytes.
    pub const SHORT_MAX: usize = INLINE_MAX as usize;

    /// Ends this direction without a message.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// The end is sent in the poll that returns, or not at all.
    pub async fn finish(&mut self) -> Result<(), SendError> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    /// Polls for the end of this direction to be sent; see [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_outgoing(cx, None, Flush::End)
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.handle.stream.reset(self.handle.session(), code);
    }

    /// A watch over this stream's end.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        StreamWatch {
            stream: Arc::clone(&self.handle.stream),
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let Handle { owner, stream } = &self.handle;
        if let Some(ticket) = self.waiting.ticket {
            owner.shared.forget(ticket);
        }
        if stream.stop_sending(&owner.shared) {
            stream.reset(&owner.shared, ABANDONED);
        }
    }
}

impl RecvHalf {
    pub(crate) fn parts(&self) -> (&Shared, &StreamShared) {
        (self.handle.session(), &self.handle.stream)
    }

    /// Whether the peer has to be woken now for what was sent before.
    pub(crate) fn take_wakes_peer(&mut self) -> bool {
        mem::take(&mut self.wakes_peer)
    }

    /// Receives the next message. `None` once the peer has ended its direction and all messages were taken.
    ///
    /// While it waits, it looks after the whole session if nobody else does.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]. What had arrived before is received first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message is taken in the poll that returns it.
    pub async fn recv(&mut self) -> Result<Option<RecvBuf>, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polls for the next message; see [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecvBuf>, RecvError>> {
        let waiter = Waiter::Receiver {
            wakes_peer: self.take_wakes_peer(),
        };
        let (session, stream) = (self.handle.session(), &self.handle.stream);
        session.poll_wait(
            cx,
            waiter,
            || stream.take(session),
            |waker| {
                stream.wait_to_recv(session, waker);
                if stream.id().is_none() {
                    session.tell_unheard(stream);
                }
            },
        )
    }

    /// Takes the next message if it is there. `None` if it is not; otherwise what [`recv`](Self::recv) would return.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn try_recv(&mut self) -> Option<Result<Option<RecvBuf>, RecvError>> {
        self.handle.stream.take(self.handle.session())
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.handle.stream.reset(self.handle.session(), code);
    }

    /// A watch over this stream's end.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        StreamWatch {
            stream: Arc::clone(&self.handle.stream),
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        let Handle { owner, stream } = &self.handle;
        if self.wakes_peer {
            owner.shared.link.wake_peer();
        }
        if stream.stop_receiving(&owner.shared) {
            stream.reset(&owner.shared, ABANDONED);
        }
    }
}
