//! How a message gets its place, and what it waits for while there is none.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{Flush, Handle, SendHalf, flush::record_flags, unwritten::Unwritten};
use crate::{
    core::{
        num::{StreamId, u32_len},
        sync::lock,
        waiters::Ticket,
    },
    error::{PeerMisbehaved, SendError},
    link::{AllocFailure, Control, Link, Outgoing, Reservation, TxGuard},
    session::Lack,
};

/// What a sender knows of its waiting.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Its place among those who wait, once it had to. It may be there although it waits for nothing any more.
    pub(super) ticket: Option<Ticket>,
    /// What it waits for that was counted.
    counted: Option<Lack>,
}

/// What came of an attempt that has changed nothing if something was lacking.
type Attempt<T> = Result<Result<T, Lack>, SendError>;

impl SendHalf {
    /// Polls for a message to be sent, or an end without one.
    pub(super) fn poll_outgoing(
        &mut self,
        cx: &mut Context<'_>,
        mut message: Option<&mut Outgoing>,
        flush: Flush,
    ) -> Poll<Result<(), SendError>> {
        if let Some(message) = message.as_deref_mut()
            && self.poll_unspill(cx, message)?.is_pending()
        {
            return Poll::Pending;
        }
        self.poll_attempts(cx, |handle| handle.place(message.as_deref_mut(), flush))
    }

    /// Attempts it until something is lacking that has not come when it is attempted again after this was registered for it.
    pub(super) fn poll_attempts<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&Handle) -> Attempt<T>,
    ) -> Poll<Result<T, SendError>> {
        let mut registered = None;
        loop {
            let lack = match attempt(&self.handle)? {
                Ok(done) => {
                    self.waiting.counted = None;
                    return Poll::Ready(Ok(done));
                }
                Err(lack) => lack,
            };
            if registered == Some(lack) {
                self.count(lack);
                return Poll::Pending;
            }
            self.register(lack, cx.waker())?;
            registered = Some(lack);
        }
    }

    /// Polls for blocks for what was spilled.
    fn poll_unspill(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing,
    ) -> Poll<Result<(), SendError>> {
        if !message.is_spilled() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let session = self.handle.session();
            if let Some(ticket) = self.waiting.ticket {
                // What it gives back because it is not enough must not wake itself.
                session.forget(ticket);
            }
            let (len, max) = (message.len(), session.link.message_max());
            let supply = match session.link.prepare(message) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(AllocFailure::Full(supply)) => supply,
                Err(AllocFailure::TooLarge) => {
                    return Poll::Ready(Err(SendError::TooLarge { len, max }));
                }
                Err(AllocFailure::Io(error)) => {
                    return Poll::Ready(Err(SendError::Memory(Arc::new(error))));
                }
                Err(AllocFailure::Misbehaved(misbehaved)) => {
                    return Poll::Ready(Err(SendError::SessionLost(session.blame(misbehaved))));
                }
            };
            self.register(Lack::Memory, cx.waker())?;
            if self.handle.session().link.supply() == supply {
                self.count(Lack::Memory);
                return Poll::Pending;
            }
        }
    }

    /// Has `waker` woken when there may be what is lacking, which may have come before.
    ///
    /// # Errors
    ///
    /// Returns why it never will be.
    fn register(&mut self, lack: Lack, waker: &Waker) -> Result<(), SendError> {
        let (session, stream) = (self.handle.session(), &self.handle.stream);
        let mut ticket = || *self.waiting.ticket.get_or_insert_with(|| session.ticket());
        match lack {
            Lack::Credit => stream.wait_for_credit(session, waker),
            Lack::Stream => session.wait_to_open(ticket(), waker),
            Lack::Ring | Lack::Memory => session
                .link
                .wait_for_space(ticket(), waker)
                .map_err(|misbehaved| SendError::SessionLost(session.blame(misbehaved)))?,
        }
        // Whoever ended it before has not woken this one.
        match session.lost() {
            Some(lost) => Err(SendError::SessionLost(lost.clone())),
            None => Ok(()),
        }
    }

    /// Counts the wait. One that is polled again without having got anything waits on.
    fn count(&mut self, lack: Lack) {
        if self.waiting.counted.replace(lack) != Some(lack) {
            self.handle.session().lacks(lack);
        }
    }
}

impl Handle {
    /// Encodes a message of exactly `len` bytes into the ring, and publishes it by `commit`; `false` if it is too long for that, or
    /// `write` wrote fewer bytes.
    pub(super) fn encode_exact<'a>(
        &'a self,
        len: usize,
        flush: Flush,
        write: impl FnOnce(&mut &mut [u8]),
        commit: impl FnOnce(&mut Reservation<'a>, StreamId, u16),
    ) -> Attempt<bool> {
        if SendHalf::SHORT_MAX < len {
            return Ok(Ok(false));
        }
        let len = u32_len(len);
        let mut reserved = None;
        let placed = self.reserve(Some(len), |link, tx, id| {
            reserved = link.reserve(tx, len, id)?;
            Ok(reserved.is_some())
        })?;
        let (placed, reservation) = match (placed, &mut reserved) {
            (Ok(placed), Some(reservation)) => (placed, reservation),
            (Err(lack), _) => return Ok(Err(lack)),
            (Ok(_), None) => return Ok(Err(Lack::Ring)),
        };
        let mut unwritten = Unwritten {
            handle: self,
            len,
            opened: placed.opens.then_some(placed.id),
            is_written: false,
        };
        let mut space = reservation.body();
        write(&mut space); // Which is the caller's code, and may panic.
        unwritten.is_written = space.is_empty();
        if unwritten.is_written {
            self.publish(placed, flush, || {
                commit(reservation, placed.id, record_flags(true, flush));
            });
        }
        Ok(Ok(unwritten.is_written))
    }

    /// Places a message that is ready for it, or an end without one, and publishes it.
    fn place(&self, message: Option<&mut Outgoing>, flush: Flush) -> Attempt<()> {
        let has_message = message.is_some();
        let len = message.as_deref().map(|message| u32_len(message.len()));
        let mut empty = Outgoing::default();
        let outgoing = message.unwrap_or(&mut empty);
        let mut reserved = None;
        let placed = self.reserve(len, |link, tx, id| {
            reserved = link.reserve_for(tx, outgoing, id)?;
            let Some(reservation) = &mut reserved else {
                return Ok(false);
            };
            reservation.compose(tx, outgoing)?;
            Ok(true)
        })?;
        Ok(match (placed, &mut reserved) {
            (Ok(placed), Some(reservation)) => {
                self.publish(placed, flush, || {
                    reservation.commit(placed.id, record_flags(has_message, flush));
                });
                Ok(())
            }
            (Ok(_), None) => Err(Lack::Ring),
            (Err(lack), _) => Err(lack),
        })
    }

    /// Takes credit, opens the stream if it is not open yet, and has `reserve` reserve a record, which returns whether it did. If
    /// something of that is not to be had now, nothing has changed.
    fn reserve<'a>(
        &'a self,
        len: Option<u32>,
        reserve: impl FnOnce(&'a Link, &mut TxGuard<'a>, StreamId) -> Result<bool, PeerMisbehaved>,
    ) -> Attempt<Placed> {
        let (session, stream) = (self.session(), &self.stream);
        if !stream.clear_to_send(len)? {
            return Ok(Err(Lack::Credit));
        }
        let mut tx = session.link.tx();
        let known = stream.id();
        let id = match known {
            Some(id) => id,
            None => {
                // Under the sender's lock, so that ids appear in the ring in the order in which they were given.
                let mut streams = lock(&session.streams);
                let may_open = session.may_open(&streams);
                if !matches!(may_open, Ok(true)) {
                    stream.refund(len);
                    return may_open.map(|_| Err(Lack::Stream));
                }
                let id = streams.open_local(Arc::clone(stream));
                stream.set_id(Some(id));
                id
            }
        };
        let opens = known.is_none();
        let reserved = reserve(&session.link, &mut tx, id);
        if matches!(reserved, Ok(true)) {
            if let Some(len) = len {
                session.link.counters().placed(len);
            }
            return Ok(Ok(Placed { id, opens }));
        }
        let others_may_open = opens && lock(&session.streams).unopen_local(id);
        if opens {
            stream.set_id(None);
        }
        drop(tx);
        stream.refund(len);
        if others_may_open {
            session.wake_openers();
        }
        if opens && stream.is_awaited() {
            session.tell_unheard(stream);
        }
        match reserved {
            Ok(_) => Ok(Err(Lack::Ring)),
            Err(misbehaved) => Err(SendError::SessionLost(session.blame(misbehaved))),
        }
    }

    /// Publishes a record, and notes what has changed by it.
    fn publish(&self, placed: Placed, flush: Flush, commit: impl FnOnce()) {
        let (session, stream) = (self.session(), &self.stream);
        let (Placed { id, opens }, ends) = (placed, flush == Flush::End);
        if ends {
            // As soon as the peer has seen it, it may open another stream in the place of this one.
            stream.begin_to_end();
        }
        commit();
        // The peer reads while we do the rest. Of our own streams, we may not open another one before that.
        if opens {
            session.stream_opened();
        }
        if (opens || ends)
            && let Some(code) = stream.announce(session, ends)
        {
            session.control(Control::Reset { stream: id, code });
            session.close_stream(id);
        }
    }
}

/// A record that has its place and is to be published.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: StreamId,
    /// Whether the peer learns of the stream by it.
    opens: bool,
}
