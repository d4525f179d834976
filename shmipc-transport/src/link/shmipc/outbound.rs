//! The sending half.
//!
//! # Falling back, in order
//!
//! A message for which there are no slices goes over the socket, and with it all further ones of its stream: two channels are not
//! ordered against each other, and a stream that stays with one needs no order. So only the first such message must not overtake
//! what went through the queue before. Between two of our own the receiver sees to that, as it does for everybody (it takes what the queue
//! had when the message was read). Natively, a peer that is woken by the socket reads a `polling` message right before it, and takes the
//! queue then (H49); one that is not woken by the socket has two tasks for the two (C1), so the message waits until the
//! peer has taken all that was published, and has handed it out: then it sleeps or, if nobody wakes it, one more interval has passed, and 100 ms. Or
//! it has taken something that was published since. A peer that has nothing to take and does not go to sleep ends its session.
//!
//! What the socket does not take at once is kept, up to a limit at which senders wait, and answers to pings. A peer that lets too many
//! of those wait ends its session. Beyond the limit goes only what is said once for a stream that has fallen back, or for the session.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, MutexGuard},
    time::Instant,
};

use super::{
    Run, ShmipcLink,
    fallen::Fallen,
    is_full,
    record::wire_id,
    reservation::{Route, ShmipcReservation},
    settling::{Rest, Settling},
    unsent::Unsent,
};
use crate::{
    core::{
        mem::SharedRegion,
        num::{StreamId, index, u32_len},
        shmipc::{
            ELEMENT_LEN, Element, InvalidShmipc, Producer, Slice, Slices,
            frames::{Frame, fallback},
            terms::Wakes,
        },
        sync::{Ordering, lock},
        waiters::Waiters,
    },
    error::PeerMisbehaved,
    link::{Control, Outgoing, OutgoingPart},
};

/// What only one sender at a time may touch.
#[derive(Debug)]
pub(crate) struct ShmipcTx {
    pub(super) producer: Producer<SharedRegion>,
    /// Elements that are promised to reservations.
    pub(super) reserved: u32,
    /// What the socket has not taken yet.
    pub(super) unsent: Unsent,
    /// What a peer that is not woken by the socket has handed out.
    settling: Settling,
    /// Whether anything has ever fallen back to the socket.
    pub(super) has_fallen_back: bool,
    /// Streams that have fallen back to the socket.
    pub(super) fallen: Fallen,
    /// Records that wait for room. While there are any, no message overtakes them.
    pub(super) control: VecDeque<Control>,
    /// The restart that is to be acknowledged, once no message is promised any more that might open a stream.
    pub(super) acknowledging: Option<u64>,
    pub(super) waiters: Waiters,
    /// What there was when those who wait were last woken: elements not consumed, bytes not sent.
    pub(super) seen: (u32, usize),
    pub(super) severed: bool,
}

/// The sending half, locked.
pub(crate) type ShmipcGuard<'l> = MutexGuard<'l, ShmipcTx>;

impl ShmipcTx {
    pub(super) fn new(producer: Producer<SharedRegion>) -> Self {
        Self {
            settling: Settling::new(producer.published()),
            producer,
            reserved: 0,
            unsent: Unsent::default(),
            has_fallen_back: false,
            fallen: Fallen::default(),
            control: VecDeque::new(),
            acknowledging: None,
            waiters: Waiters::default(),
            seen: (0, 0),
            severed: false,
        }
    }

    /// Elements that the peer has not consumed. All of them, if it claims what cannot be.
    pub(crate) fn queue_fill(&mut self) -> u32 {
        self.producer.refresh().unwrap_or(u32::MAX)
    }

    /// Elements that the peer has consumed.
    pub(super) fn taken(&mut self) -> Result<u64, InvalidShmipc> {
        let untaken = self.producer.refresh()?;
        Ok(self.producer.published().saturating_sub(u64::from(untaken)))
    }

    pub(super) fn sever(&mut self) -> Waiters {
        self.severed = true;
        mem::take(&mut self.waiters)
    }

    /// Forgets a stream that is over, some time.
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.fallen.forget(wire_id(stream));
        self.settling.forget(wire_id(stream));
    }

    /// Whether there is room for one more element beside those that are promised.
    pub(super) fn has_room(&mut self) -> Result<bool, InvalidShmipc> {
        Ok(self.producer.room()? > self.reserved)
    }
}

impl ShmipcLink {
    /// Locks the sending half.
    pub(crate) fn tx(&self) -> ShmipcGuard<'_> {
        lock(&self.tx)
    }

    /// Takes slices for `len` bytes; `None` if they are not to be had, which includes a region that is broken, and slices so short that
    /// they would be more than the peer takes for a message.
    pub(super) fn take_slices(&self, len: u32) -> Option<Slices> {
        match self.pool.take_for(len) {
            Ok(Some(slices)) if !self.limits.allow(slices.len()) => {
                self.put_all([slices]);
                None
            }
            Ok(Some(slices)) => {
                self.counters.blocks_taken.add(1);
                Some(slices)
            }
            Ok(None) => None,
            Err(invalid) => {
                self.blame(invalid.into());
                None
            }
        }
    }

    /// Lets go of a slice that is neither sent nor read any more.
    pub(super) fn put_slice(&self, slice: Slice) {
        if let Err(invalid) = self.pool.recycle(slice) {
            self.blame(invalid.into());
        }
    }

    fn put_all(&self, slices: impl IntoIterator<Item = Slices>) {
        let slices = slices.into_iter().flatten();
        slices.for_each(|(slice, _)| self.put_slice(slice));
    }

    /// Whether the stream has fallen back to the socket, in either direction.
    pub(crate) fn has_fallen(&self, stream: StreamId) -> bool {
        self.tx().fallen.has_met(wire_id(stream))
    }

    /// Finds a place for a message of `len` bytes, which are written to it afterwards; `None` if there is none now.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn reserve(
        &self,
        tx: &mut ShmipcTx,
        len: u32,
        stream: StreamId,
    ) -> Result<Option<ShmipcReservation<'_>>, PeerMisbehaved> {
        if !self.has_place(tx)? {
            return Ok(None);
        }
        let slices = if len == 0 || tx.fallen.contains(wire_id(stream)) {
            None
        } else {
            self.take_slices(len)
        };
        let mut route = match slices {
            Some(slices) => Route::Shared(slices),
            None => match self.route_without_slices(tx, stream, len == 0)? {
                Some(route) => route,
                None => return Ok(None),
            },
        };
        let body = match &mut route {
            Route::Shared(slices) if self.trust.is_some() && slices.len() == 1 => {
                slices[0].1 = len; // Written in place.
                Vec::new()
            }
            _ => vec![0; index(len)],
        };
        Ok(Some(self.promise(tx, route, stream, index(len), body)))
    }

    /// Finds a place for a composed message; `None` if there is none now, and then `message` can be passed again.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn compose(
        &self,
        tx: &mut ShmipcTx,
        message: &mut Outgoing,
        stream: StreamId,
    ) -> Result<Option<ShmipcReservation<'_>>, PeerMisbehaved> {
        if !self.has_place(tx)? {
            return Ok(None);
        }
        let len = message.len();
        let is_fallen = tx.fallen.contains(wire_id(stream));
        let slices = if len == 0 || is_fallen {
            None
        } else {
            self.slices_of(message)
        };
        let route = match slices {
            Some(slices) => Route::Shared(slices),
            None => match self.route_without_slices(tx, stream, len == 0)? {
                None => return Ok(None),
                Some(Route::Socket(mut bytes)) => {
                    bytes.reserve_exact(len);
                    self.gather(message, &mut bytes);
                    Route::Socket(bytes)
                }
                Some(route) => route,
            },
        };
        Ok(Some(self.promise(tx, route, stream, len, Vec::new())))
    }

    fn promise(
        &self,
        tx: &mut ShmipcTx,
        route: Route,
        stream: StreamId,
        len: usize,
        body: Vec<u8>,
    ) -> ShmipcReservation<'_> {
        tx.reserved += 1;
        ShmipcReservation {
            link: self,
            route: Some(route),
            stream: wire_id(stream),
            body,
            len,
        }
    }

    /// Whether one more message could be published, whichever way it goes.
    fn has_place(&self, tx: &mut ShmipcTx) -> Result<bool, PeerMisbehaved> {
        if tx.severed || !self.flush_control(tx)? {
            return Ok(false);
        }
        let has_room = tx.has_room()?;
        if let Some(crowd) = tx.producer.crowd() {
            let fill = crowd.saturating_mul(ELEMENT_LEN);
            self.counters.ring_fill_max.raise(u64::from(fill));
        }
        Ok(has_room && !tx.unsent.is_full())
    }

    /// How a message goes for which there are no slices: over the socket, if it would overtake nothing.
    fn route_without_slices(
        &self,
        tx: &mut ShmipcTx,
        stream: StreamId,
        is_empty: bool,
    ) -> Result<Option<Route>, PeerMisbehaved> {
        let is_fallen = tx.fallen.contains(wire_id(stream));
        if is_empty && !(is_fallen && self.speaks_records) {
            return Ok(Some(Route::Nothing));
        }
        let may_overtake = self.is_native() && self.wakes != Wakes::Socket && !is_fallen;
        if may_overtake && !self.is_handed_out(tx, wire_id(stream))? {
            return Ok(None);
        }
        Ok(Some(Route::Socket(Vec::new())))
    }

    /// Whether the peer has taken all that was published of a stream, and has handed it out.
    fn is_handed_out(&self, tx: &mut ShmipcTx, stream: u32) -> Result<bool, InvalidShmipc> {
        let untaken = tx.producer.refresh()?;
        let rest = match self.wakes {
            Wakes::Polling(interval) => Rest::of_polled(interval),
            Wakes::Socket | Wakes::EventFd => Rest::Asleep(tx.producer.is_consumer_idle()),
        };
        let published = tx.producer.published();
        tx.settling
            .is_over(stream, published, untaken, rest, Instant::now())
    }

    /// The slices of a message, if all of it has some. If not, the message is as it was.
    fn slices_of(&self, message: &mut Outgoing) -> Option<Slices> {
        let mut taken: VecDeque<Slices> = VecDeque::new();
        let mut count = 0;
        for part in &message.parts {
            let slices = match part {
                OutgoingPart::Run(run) => {
                    count += run.slices();
                    continue;
                }
                part if part.len() == 0 => continue,
                part => self.take_slices(u32_len(part.len())),
            };
            match slices {
                Some(slices) => {
                    count += slices.len();
                    taken.push_back(slices);
                }
                None => {
                    self.put_all(taken);
                    return None;
                }
            }
        }
        if !self.limits.allow(count) {
            self.put_all(taken);
            return None;
        }
        let mut inline = message.inline.as_slice();
        let mut slices = Slices::new();
        for part in message.parts.drain(..) {
            match part {
                OutgoingPart::Run(run) => slices.extend(run.into_written()),
                part if part.len() == 0 => {}
                part => {
                    let mut fresh = taken.pop_front().unwrap_or_default();
                    part.look(&mut inline, |bytes| self.fill(&mut fresh, bytes));
                    slices.extend(fresh);
                }
            }
        }
        Some(slices)
    }

    /// Copies all of a message to the end of `target`, and lets go of what it held.
    fn gather(&self, message: &mut Outgoing, target: &mut Vec<u8>) {
        let mut inline = message.inline.as_slice();
        for part in message.parts.drain(..) {
            part.append_to(&mut inline, target);
        }
    }

    /// Copies `bytes` to slices that have room for all of them. Nothing is copied for none, which says that they are written.
    pub(super) fn fill(&self, slices: &mut Slices, mut bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        for (slice, written) in slices.iter_mut() {
            let (head, rest) = bytes.split_at(index(slice.capacity()).min(bytes.len()));
            self.pool.write(slice, 0, head);
            *written = u32_len(head.len());
            bytes = rest;
        }
        self.put_unwritten(slices);
    }

    /// Puts back the slices at the end to which nothing was written.
    pub(super) fn put_unwritten(&self, slices: &mut Slices) {
        while slices.last().is_some_and(|(_, written)| *written == 0)
            && let Some((slice, _)) = slices.pop()
        {
            self.put_slice(slice);
        }
    }

    /// A range of a slice's data, to be written in place; none if nobody has decided to rely on the peer.
    pub(super) fn place_mut<'s>(&'s self, slice: &'s mut Slice, at: u32, len: u32) -> &'s mut [u8] {
        match self.trust {
            Some(trust) => self.pool.place_mut(slice, at, len, trust),
            None => &mut [],
        }
    }

    pub(super) fn publish(&self, tx: &mut ShmipcTx, element: Element) {
        tx.settling.forget(element.stream);
        tx.producer.put(element);
        self.unwoken.store(true, Ordering::Release);
        if self.has_files.load(Ordering::Relaxed) {
            // Nobody tells that it was taken, which shows that they are mapped.
            self.starve();
        }
    }

    /// Sends a message over the socket. From then on, its stream stays there.
    pub(super) fn fall_back(&self, tx: &mut ShmipcTx, stream: u32, status: u32, bytes: &[u8]) {
        if self.is_native() && self.wakes == Wakes::Socket {
            self.say_wake(tx);
        }
        let frame = fallback(self.version_byte, stream, status, bytes.len(), |target| {
            target.extend_from_slice(bytes);
        });
        tx.has_fallen_back = true;
        tx.fallen.insert(stream);
        tx.unsent.push(&frame);
        self.push_unsent(tx);
    }

    pub(super) fn say(&self, tx: &mut ShmipcTx, frame: &Frame) {
        tx.unsent.push(&frame.encode(self.version_byte));
        self.push_unsent(tx);
    }

    /// Wakes the peer over the socket, and has it take the queue before what is said there next.
    fn say_wake(&self, tx: &mut ShmipcTx) {
        tx.unsent
            .push_wake(&Frame::Polling.encode(self.version_byte));
        self.push_unsent(tx);
    }

    /// Sends what the socket takes now. Whoever looks after the session sends the rest.
    fn push_unsent(&self, tx: &mut ShmipcTx) {
        while !tx.unsent.is_empty() {
            match self.socket.try_send(tx.unsent.rest(), &[]) {
                Ok(sent) => tx.unsent.took(sent),
                Err(error) if is_full(&error) => {
                    if !self.unsent.swap(true, Ordering::AcqRel) {
                        self.wake_keeper();
                    }
                    return;
                }
                // The peer is gone, which whoever reads from it learns.
                Err(_) => tx.unsent.clear(),
            }
        }
        self.unsent.store(false, Ordering::Release);
    }

    /// Whether bytes wait until the socket takes them.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire)
    }

    /// Sends what the socket takes.
    pub(crate) fn send_unsent(&self) {
        let mut tx = self.tx();
        // The flag is set again if that is not all.
        self.unsent.store(false, Ordering::Release);
        self.push_unsent(&mut tx);
    }

    /// Wakes the peer if it sleeps and something has been published.
    pub(crate) fn wake_peer(&self) {
        if !self.unwoken.load(Ordering::Acquire) || matches!(self.wakes, Wakes::Polling(_)) {
            return;
        }
        self.wake(&mut self.tx());
    }

    /// Wakes the peer if it sleeps and something has been published. Under one lock with the message, so that nobody else's is
    /// missing for whom the flag was found set (H50).
    pub(super) fn wake(&self, tx: &mut ShmipcTx) {
        if !self.unwoken.load(Ordering::Relaxed) || matches!(self.wakes, Wakes::Polling(_)) {
            return;
        }
        // Relaxed: it is set and taken back under this lock.
        self.unwoken.store(false, Ordering::Relaxed);
        if !tx.producer.must_wake() {
            return;
        }
        self.counters.doorbells_rung.add(1);
        match &*lock(&self.bell) {
            Some(bell) => bell.ring(),
            None => self.say_wake(tx),
        }
    }

    /// A run of slices for `len` bytes; `None` if they are not to be had.
    pub(crate) fn run(self: &Arc<Self>, len: usize) -> Option<Run> {
        Run::take(self, len)
    }
}
