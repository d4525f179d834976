//! How a message gets its place, and what it waits for while there is none.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{Flush, SendHalf, flush::record_flags, shared::Clearance, unwritten::Unwritten};
use crate::{
    core::{
        num::{StreamId, u32_len},
        sync::lock,
    },
    error::{PeerMisbehaved, SendError},
    link::{AllocFailure, Link, Outgoing, Reservation, TxGuard},
    session::Lack,
};

impl SendHalf {
    /// Encodes a message of exactly `len` bytes into the ring, and publishes it by `commit`; `false` if that cannot be done now.
    pub(super) fn encode_exact<'a>(
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

    /// Polls for a message to be sent, or an end without one.
    pub(super) fn poll_outgoing(
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
    pub(super) fn must_wait(&self, waker: &Waker, has_message: bool) -> Result<bool, SendError> {
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
