use std::{sync::Arc, time::Instant};

use super::session::block_on;
use crate::{
    Flush, RecvBuf, SendBuf, StreamWatch,
    error::{RecvError, SendError},
};

/// A [stream](crate::Stream) for threads: a sequence of messages in each direction.
///
/// Each direction ends by itself ([`Flush::End`], [`finish`](Self::finish)); either side may give up both at any time
/// ([`reset`](Self::reset)). Dropping a stream that has not ended in both directions resets it with code
/// [`ABANDONED`](crate::ABANDONED).
#[derive(Debug)]
pub struct Stream {
    inner: crate::Stream,
}

/// The sending half of a [`Stream`]. Dropping it before the end was sent resets the stream.
#[derive(Debug)]
pub struct SendHalf {
    inner: crate::SendHalf,
}

/// The receiving half of a [`Stream`]. Dropping it drops what still arrives; the sending half goes on. Once both halves are
/// dropped, a stream that has not ended is reset.
#[derive(Debug)]
pub struct RecvHalf {
    inner: crate::RecvHalf,
}

impl Stream {
    pub(crate) fn new(inner: crate::Stream) -> Self {
        Self { inner }
    }

    /// The number of the stream within its session; `None` until the first message was sent.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.inner.id()
    }

    /// Separates the directions, so that two threads can use them.
    #[must_use]
    pub fn split(self) -> (SendHalf, RecvHalf) {
        let (send, recv) = self.inner.split();
        (SendHalf { inner: send }, RecvHalf { inner: recv })
    }

    /// Begins a message; see [`SendHalf::buffer`].
    #[must_use]
    pub fn buffer(&self, size_hint: usize) -> SendBuf {
        self.inner.buffer(size_hint)
    }

    /// Sends a message; see [`SendHalf::send`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send(&mut self, message: SendBuf, flush: Flush) -> Result<(), SendError> {
        self.send_until(message, flush, None)
    }

    /// Sends a message, waiting no longer than until `deadline`; see [`SendHalf::send_until`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send_until(
        &mut self,
        message: SendBuf,
        flush: Flush,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        send(self.inner.halves_mut().0, message, flush, deadline)
    }

    /// Ends the sending direction without a message; see [`SendHalf::finish`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.finish_until(None)
    }

    /// As [`finish`](Self::finish), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn finish_until(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        finish(self.inner.halves_mut().0, deadline)
    }

    /// Receives the next message; see [`RecvHalf::recv`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn recv(&mut self) -> Result<Option<RecvBuf>, RecvError> {
        self.recv_until(None)
    }

    /// Receives the next message, waiting no longer than until `deadline`; see [`RecvHalf::recv_until`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Option<RecvBuf>, RecvError> {
        recv(self.inner.halves_mut().1, deadline)
    }

    /// Takes the next message if it is there; `None` if it is not. Does not look whether one has come meanwhile.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn try_recv(&mut self) -> Option<Result<Option<RecvBuf>, RecvError>> {
        self.inner.try_recv()
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.inner.reset(code);
    }

    /// A watch over this stream's end. It only learns of it while a thread waits on the session.
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.inner.watch()
    }

    /// Returns the stream as tasks know it; see [`as_async`](Self::as_async).
    #[must_use]
    pub fn into_async(self) -> crate::Stream {
        self.inner
    }

    /// The stream as tasks know it, for what it does at once. Its futures only make progress while a thread waits on the
    /// session.
    pub fn as_async(&mut self) -> &mut crate::Stream {
        &mut self.inner
    }
}

impl SendHalf {
    /// Begins a message that will have about `size_hint` bytes. The hint saves copies and memory; it binds to nothing.
    #[must_use]
    pub fn buffer(&self, size_hint: usize) -> SendBuf {
        self.inner.buffer(size_hint)
    }

    /// Sends a message. Waits while the peer grants no credit on this stream, accepts no further stream, or while ring or
    /// memory are full; meanwhile it looks after the whole session if nobody else does.
    ///
    /// Returns once the message is where the peer finds it, whether or not it has looked.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send(&mut self, message: SendBuf, flush: Flush) -> Result<(), SendError> {
        self.send_until(message, flush, None)
    }

    /// Sends a message, waiting no longer than until `deadline`. After [`SendError::TimedOut`], nothing was sent, and the
    /// message is dropped.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send_until(
        &mut self,
        message: SendBuf,
        flush: Flush,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        send(&mut self.inner, message, flush, deadline)
    }

    /// Ends this direction without a message.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.finish_until(None)
    }

    /// As [`finish`](Self::finish), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn finish_until(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        finish(&mut self.inner, deadline)
    }

    /// Gives up both directions. The peer learns `code`; what it has not received yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.inner.reset(code);
    }

    /// A watch over this stream's end; see [`Stream::watch`].
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.inner.watch()
    }

    /// The half as tasks know it; see [`Stream::as_async`].
    pub fn as_async(&mut self) -> &mut crate::SendHalf {
        &mut self.inner
    }
}

impl RecvHalf {
    /// Receives the next message. `None` once the peer has ended its direction and all messages were taken.
    ///
    /// While it waits, it looks after the whole session if nobody else does.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]. What had arrived before is received first.
    pub fn recv(&mut self) -> Result<Option<RecvBuf>, RecvError> {
        self.recv_until(None)
    }

    /// Receives the next message, waiting no longer than until `deadline`. After [`RecvError::TimedOut`], nothing was taken,
    /// and it may be called again.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Option<RecvBuf>, RecvError> {
        recv(&mut self.inner, deadline)
    }

    /// Takes the next message if it is there; see [`Stream::try_recv`].
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    pub fn try_recv(&mut self) -> Option<Result<Option<RecvBuf>, RecvError>> {
        self.inner.try_recv()
    }

    /// A watch over this stream's end; see [`Stream::watch`].
    #[must_use]
    pub fn watch(&self) -> StreamWatch {
        self.inner.watch()
    }

    /// The half as tasks know it; see [`Stream::as_async`].
    pub fn as_async(&mut self) -> &mut crate::RecvHalf {
        &mut self.inner
    }

    /// Receives the next message of a half that is known as tasks know it; see [`recv_until`](Self::recv_until).
    ///
    /// # Errors
    ///
    /// See [`RecvError`]; and [`RecvError::Abandoned`] if the session was not made for threads.
    pub fn recv_on(
        half: &mut crate::RecvHalf,
        deadline: Option<Instant>,
    ) -> Result<Option<RecvBuf>, RecvError> {
        recv(half, deadline)
    }
}

fn send(
    half: &mut crate::SendHalf,
    message: SendBuf,
    flush: Flush,
    deadline: Option<Instant>,
) -> Result<(), SendError> {
    let owner = Arc::clone(half.owner());
    let sent = block_on(&owner.shared, deadline, half.send(message, flush));
    owner.shared.see_off(deadline);
    sent.unwrap_or(Err(SendError::TimedOut))
}

fn finish(half: &mut crate::SendHalf, deadline: Option<Instant>) -> Result<(), SendError> {
    let owner = Arc::clone(half.owner());
    let sent = block_on(&owner.shared, deadline, half.finish());
    owner.shared.see_off(deadline);
    sent.unwrap_or(Err(SendError::TimedOut))
}

pub(super) fn recv(
    half: &mut crate::RecvHalf,
    deadline: Option<Instant>,
) -> Result<Option<RecvBuf>, RecvError> {
    let wakes_peer = half.take_wakes_peer();
    let (session, stream) = half.parts();
    // After a request there is hardly an answer yet.
    if !wakes_peer && let Some(taken) = stream.take(session) {
        return taken;
    }
    let Some(lead) = session.lead() else {
        return Err(RecvError::Abandoned);
    };
    let received = session.wait(lead, wakes_peer, deadline, |waker| {
        if let Some(waker) = waker {
            stream.wait_to_recv(session, waker);
        }
        stream.take(session)
    });
    received.unwrap_or(Err(RecvError::TimedOut))
}
