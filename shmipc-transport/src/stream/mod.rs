//! Streams: sequences of messages in both directions, many to a session.

mod ends;
mod flush;
mod recv_buf;
mod rest;
mod send_buf;
mod shared;
mod unwritten;
mod watch;

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

pub use flush::Flush;
use flush::record_flags;
pub use recv_buf::RecvBuf;
pub use send_buf::{Reserved, SendBuf};
pub(crate) use shared::StreamShared;
use shared::{Clearance, StreamRef};
use unwritten::Unwritten;
pub use watch::{Abandoned, StreamWatch};

use crate::{
    core::{
        num::{StreamId, u32_len},
        outbox::INLINE_MAX,
        sync::lock,
    },
    error::{PeerMisbehaved, RecvError, SendError},
    link::{AllocFailure, Link, Outgoing, Reservation, TxGuard},
    session::{Lack, Owner, Shared, Waiter},
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
        let sent = self
            .send
            .encode_exact(len, flush, write, Reservation::commit_quietly)?;
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
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecvBuf>, RecvError>> {
        self.recv.poll_recv(cx)
    }

    /// Takes the next message if it is there; see [`RecvHalf::try_recv`].
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
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut SendBuf,
        flush: Flush,
    ) -> Poll<Result<(), SendError>> {
        let max = self.handle.session().link.message_max();
        match message.sealed() {
            Ok(outgoing) => self.poll_outgoing(cx, Some(outgoing), flush),
            Err(len) => Poll::Ready(Err(SendError::TooLarge { len, max })),
        }
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
        self.encode_exact(len, flush, write, Reservation::commit)
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
        loop {
            let mut written = true;
            let write = |space: &mut &mut [u8]| {
                write(space);
                written = space.is_empty();
            };
            if self.encode_exact(len, flush, write, Reservation::commit)? {
                return Poll::Ready(Ok(()));
            }
            assert!(written, "a message of {len} bytes turned out to be shorter");
            if self.must_wait(cx.waker(), true)? {
                return Poll::Pending;
            }
        }
    }

    /// Encodes a message of exactly `len` bytes into the ring, and publishes it by `commit`; `false` if that cannot be done now.
    fn encode_exact<'a>(
        &'a self,
        len: usize,
        flush: Flush,
        write: impl FnOnce(&mut &mut [u8]),
        commit: impl FnOnce(&mut Reservation<'a>, StreamId, u16),
    ) -> Result<bool, SendError> {
        if Self::SHORT_MAX < len {
            return Ok(false);
        }
        let len = u32_len(len);
        let was_open = self.handle.stream.id().is_some();
        let mut reserved = None;
        let id = self.reserve(Some(len), flush, |link, tx, id| {
            reserved = link.reserve(tx, len, id)?;
            Ok(reserved.is_some())
        })?;
        let (Some(id), Some(reservation)) = (id, &mut reserved) else {
            return Ok(false);
        };
        let mut unwritten = Unwritten {
            handle: &self.handle,
            len,
            opened: (!was_open).then_some(id),
            is_written: false,
        };
        let mut space = reservation.body();
        write(&mut space); // Which is the caller's code, and may panic.
        unwritten.is_written = space.is_empty();
        if unwritten.is_written {
            commit(reservation, id, record_flags(true, flush));
        }
        Ok(unwritten.is_written)
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

    fn poll_outgoing(
        &mut self,
        cx: &mut Context<'_>,
        mut message: Option<&mut Outgoing>,
        flush: Flush,
    ) -> Poll<Result<(), SendError>> {
        let waker = cx.waker();
        loop {
            if let Some(message) = message.as_deref_mut()
                && !self.unspill(message)?
            {
                if self.is_space_out(waker, Lack::Memory)? {
                    return Poll::Pending;
                }
                continue;
            }
            let has_message = message.is_some();
            let len = message.as_deref().map(|message| u32_len(message.len()));
            let mut empty = Outgoing::default();
            let outgoing = message.as_deref_mut().unwrap_or(&mut empty);
            let mut reserved = None;
            let id = self.reserve(len, flush, |link, tx, id| {
                reserved = link.reserve_for(tx, outgoing, id)?;
                let Some(reservation) = &mut reserved else {
                    return Ok(false);
                };
                reservation.compose(tx, outgoing)?;
                Ok(true)
            })?;
            if let (Some(id), Some(reservation)) = (id, &mut reserved) {
                reservation.commit(id, record_flags(has_message, flush));
                return Poll::Ready(Ok(()));
            }
            if self.must_wait(waker, has_message)? {
                return Poll::Pending;
            }
        }
    }

    /// Moves what was spilled into blocks. Returns whether all of it was.
    fn unspill(&self, message: &mut Outgoing) -> Result<bool, SendError> {
        let session = self.handle.session();
        let (len, max) = (message.len(), session.link.message_max());
        match session.link.prepare(message) {
            Ok(()) => Ok(true),
            Err(AllocFailure::Full) => match session.lost() {
                Some(lost) => Err(SendError::SessionLost(lost.clone())),
                None => Ok(false),
            },
            Err(AllocFailure::TooLarge) => Err(SendError::TooLarge { len, max }),
            Err(AllocFailure::Io(error)) => Err(SendError::Memory(Arc::new(error))),
            Err(AllocFailure::Misbehaved(misbehaved)) => {
                Err(SendError::SessionLost(session.blame(misbehaved)))
            }
        }
    }

    /// Takes credit, opens the stream if it is not open yet, and has `reserve` reserve a record, which returns whether it did. `None` if
    /// something of that is not to be had now; then nothing has changed.
    fn reserve<'a>(
        &'a self,
        len: Option<u32>,
        flush: Flush,
        reserve: impl FnOnce(&'a Link, &mut TxGuard<'a>, StreamId) -> Result<bool, PeerMisbehaved>,
    ) -> Result<Option<StreamId>, SendError> {
        let (session, stream) = (self.handle.session(), &self.handle.stream);
        let clearance = stream.clear_to_send(len, flush == Flush::End)?;
        let Clearance::Cleared { closed } = clearance else {
            return Ok(None);
        };
        let mut tx = session.link.tx();
        let opened = stream.id();
        let id = match opened {
            Some(id) => id,
            None => {
                // Under the sender's lock, so that ids appear in the ring in the order in which they were given.
                let mut streams = lock(&session.streams);
                let may_open = session.may_open(&streams);
                if !matches!(may_open, Ok(true)) {
                    stream.refund(len);
                    return may_open.map(|_| None);
                }
                let id = streams.open_local(Arc::clone(stream));
                stream.set_id(Some(id));
                id
            }
        };
        let reserved = reserve(&session.link, &mut tx, id);
        if matches!(reserved, Ok(true)) {
            if let Some(len) = len {
                session.link.counters().placed(len);
            }
        } else {
            if opened.is_none() {
                lock(&session.streams).unopen_local(id);
                stream.set_id(None);
            }
            stream.refund(len);
        }
        drop(tx);
        match reserved {
            Ok(true) => {
                if opened.is_none() {
                    session.stream_opened();
                }
                // Before the peer can see the end, and may open another stream in the place of this one.
                if let Some(is_watched) = closed {
                    session.close_stream(id);
                    if is_watched {
                        stream.tell_watchers();
                    }
                }
                Ok(Some(id))
            }
            Ok(false) => Ok(None),
            Err(misbehaved) => Err(SendError::SessionLost(session.blame(misbehaved))),
        }
    }

    /// Registers `waker` for whatever a message lacks. Returns `false` if it has come meanwhile.
    fn must_wait(&self, waker: &Waker, has_message: bool) -> Result<bool, SendError> {
        let (session, stream) = (self.handle.session(), &self.handle.stream);
        if has_message && stream.wait_for_credit(session, waker) {
            return Ok(true);
        }
        if stream.id().is_none() && !session.may_open(&lock(&session.streams))? {
            session.wait_to_open(waker);
            // A stream may have closed, or the session have ended, between the look and the registration.
            return Ok(!session.may_open(&lock(&session.streams))?);
        }
        self.is_space_out(waker, Lack::Ring)
    }

    /// Registers `waker` for space. Returns `false` if there is some meanwhile, or the session is over.
    fn is_space_out(&self, waker: &Waker, lack: Lack) -> Result<bool, SendError> {
        let session = self.handle.session();
        match session.link.wait_for_space(waker) {
            Ok(progress) => Ok(!progress && session.lost().is_none() && session.lacks(lack)),
            Err(misbehaved) => Err(SendError::SessionLost(session.blame(misbehaved))),
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let Handle { owner, stream } = &self.handle;
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
