//! The sending half of a link.

use std::{
    collections::VecDeque,
    io, mem,
    ops::{Deref, DerefMut},
    os::fd::AsFd,
    sync::MutexGuard,
    task::Waker,
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Control, Lease, OutboxLink, Outgoing, OutgoingPart};
use crate::{
    core::{
        mem::{Block, Exhausted, RetiredRegion, Supply},
        num::{Capacity, RegionId, StreamId, index},
        outbox::{
            Flight, Flights, Kind, Part, Producer, RecordHead, ReturnReader, Segment, SleepWord,
            Slot,
        },
        sync::{Ordering, lock},
        waiters::{Ticket, Waiters},
        wire::Region,
    },
    error::PeerMisbehaved,
    sys::memfd,
};

/// Bytes of blocks that are taken between two looks at what has come back. A look fetches a cache line that the peer writes with each
/// block that it returns, so looking for each short block costs both sides; memory that is touched meanwhile still fits into a
/// second-level cache.
const TAKEN_BETWEEN_COLLECTIONS: u32 = 64 << 10;

/// More control records than ever wait for a peer that consumes at all.
const CONTROL_MAX: usize = 1 << 17;

/// What only one sender at a time may touch.
#[derive(Debug)]
pub(crate) struct Tx {
    pub(super) producer: Producer,
    pub(super) flights: Flights,
    returns: ReturnReader,
    starved: SleepWord,
    /// Records that wait for space. While there are any, no message overtakes them.
    pub(super) control: VecDeque<Control>,
    pub(super) waiters: Waiters,
    /// The peer has made progress that those who wait have not been told of: whoever sees it may be somebody else.
    has_progressed: bool,
    /// Segments of other sessions that are under way: others wait for them.
    foreign: u32,
    /// Segments in which others have a share and that have come back, to be dropped without the lock.
    landed: SmallVec<[Flight; 2]>,
    /// Set when the session is over: nothing departs any more that nobody would return.
    severed: bool,
}

/// The sending half, locked. What has come back of memory in which others have a share is dropped after it was unlocked, because that
/// may run what a user has written, or take the locks of another session.
#[derive(Debug)]
pub(crate) struct OutboxGuard<'l>(Option<MutexGuard<'l, Tx>>);

impl<'l> OutboxGuard<'l> {
    pub(super) fn new(guard: MutexGuard<'l, Tx>) -> Self {
        Self(Some(guard))
    }
}

impl Deref for OutboxGuard<'_> {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        self.0.as_ref().expect(LOCKED)
    }
}

impl DerefMut for OutboxGuard<'_> {
    fn deref_mut(&mut self) -> &mut Tx {
        self.0.as_mut().expect(LOCKED)
    }
}

impl Drop for OutboxGuard<'_> {
    fn drop(&mut self) {
        if !self.landed.is_empty() {
            let landed = mem::take(&mut self.landed);
            self.0 = None;
            drop(landed);
        }
    }
}

const LOCKED: &str = "it is locked until it is dropped";

/// Why there is no block.
#[derive(Debug)]
pub(crate) enum AllocFailure {
    /// All memory is in use; some will come back, or has by now, if the supply is another.
    Full(Supply),
    /// It could never be had.
    TooLarge,
    /// The system refused.
    Io(io::Error),
    /// The peer broke the protocol, which shows when its returns are collected.
    Misbehaved(PeerMisbehaved),
}

/// A reserved record in our ring. Dropped without being committed, it becomes a pad.
#[derive(Debug)]
pub(crate) struct OutboxReservation<'l> {
    link: &'l OutboxLink,
    slot: Option<Slot>,
    segments: u16,
    /// Memory of the peer's that the message names. Our shares in it may only go once the record is there, and with no
    /// lock held, since the last of them sends a record of its own.
    sent_back: Vec<(Bytes, Lease)>,
}

impl OutboxReservation<'_> {
    /// The body, to be written.
    pub(crate) fn body(&mut self) -> &mut [u8] {
        self.slot
            .as_mut()
            .map_or(&mut [], |slot| self.link.own_ring.body(slot))
    }

    /// Writes a composed message, for which the record was [reserved](OutboxLink::reserve_for).
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn compose(
        &mut self,
        tx: &mut Tx,
        message: &mut Outgoing,
    ) -> Result<(), PeerMisbehaved> {
        let link = self.link;
        let segments = usize::from(self.segments);
        let mut sent_back = Vec::new();
        let (head, tail) = self.body().split_at_mut(segments * 16);
        tail.copy_from_slice(&message.inline);
        if segments != 0 {
            for (target, part) in head.chunks_exact_mut(16).zip(message.parts.drain(..)) {
                target.copy_from_slice(&link.depart(tx, part, &mut sent_back).encode());
            }
        }
        self.sent_back = sent_back;
        if tx.foreign != 0 && !link.starving.load(Ordering::Relaxed) {
            // Nobody here waits for what has been passed on, but its owner does: the peer is to tell us when it comes back.
            link.starve(tx)?;
        }
        Ok(())
    }

    /// Publishes the record, and wakes the peer if it must be woken.
    pub(crate) fn commit(&mut self, stream: StreamId, record_flags: u16) {
        self.commit_quietly(stream, record_flags);
        self.link.wake_peer();
    }

    /// Publishes the record. The caller [wakes the peer](OutboxLink::wake_peer) soon.
    pub(crate) fn commit_quietly(&mut self, stream: StreamId, record_flags: u16) {
        if let Some(slot) = self.slot.take() {
            let (body_len, segments) = (slot.body_len(), self.segments);
            let head = RecordHead {
                kind: Kind::Data,
                body_len,
                flags: record_flags,
                segments,
                stream,
            };
            slot.commit(&self.link.own_ring, &head);
        }
    }
}

impl Drop for OutboxReservation<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.abandon(&self.link.own_ring);
            // What others have published behind it could not be taken before.
            self.link.wake_peer();
        }
    }
}

impl Tx {
    pub(super) fn new(ring: Capacity, returns: Capacity) -> Self {
        Self {
            producer: Producer::new(ring),
            flights: Flights::default(),
            returns: ReturnReader::new(returns),
            starved: SleepWord::default(),
            control: VecDeque::new(),
            waiters: Waiters::default(),
            has_progressed: false,
            foreign: 0,
            landed: SmallVec::new(),
            severed: false,
        }
    }

    pub(super) fn sever(&mut self) -> (Vec<Flight>, Waiters) {
        self.severed = true;
        self.control.clear();
        (self.flights.clear(), mem::take(&mut self.waiters))
    }

    /// Takes a segment back. Returns whether it was under way.
    pub(super) fn land(&mut self, token: u32) -> bool {
        let Some(flight) = self.flights.land(token) else {
            return false;
        };
        self.foreign -= u32::from(flight.is_foreign());
        if flight.is_shared() {
            self.landed.push(flight);
        }
        // Otherwise its block goes back to the heap here, which wakes those who wait for one.
        true
    }

    /// A flight of ours that the peer sends back; see [`Flights::share`].
    pub(super) fn flights(&mut self) -> &mut Flights {
        &mut self.flights
    }
}

impl OutboxLink {
    /// Reserves a record with a body of `body_len` bytes, or says that there is no room now.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible.
    pub(crate) fn reserve(
        &self,
        tx: &mut Tx,
        body_len: u32,
    ) -> Result<Option<OutboxReservation<'_>>, PeerMisbehaved> {
        if !tx.control.is_empty() && !self.flush_control(tx)? {
            return Ok(None);
        }
        let slot = self.slot(tx, body_len)?;
        Ok(slot.map(|slot| OutboxReservation {
            link: self,
            slot: Some(slot),
            segments: 0,
            sent_back: Vec::new(),
        }))
    }

    /// Reserves a record for a composed message, to be [written](OutboxReservation::compose) next, or says that there is no room now.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn reserve_for(
        &self,
        tx: &mut Tx,
        message: &Outgoing,
    ) -> Result<Option<OutboxReservation<'_>>, PeerMisbehaved> {
        let segments = if message.is_inline() {
            0
        } else {
            message.parts.len()
        };
        if tx.severed {
            return Ok(None);
        }
        if !tx.flights.has_room(segments)
            && (!self.collect_returns(tx)? || !tx.flights.has_room(segments))
        {
            return Ok(None);
        }
        let Some(mut reservation) = self.reserve(tx, message.body_len())? else {
            return Ok(None);
        };
        reservation.segments = u16::try_from(segments).expect("bounded as parts are added");
        Ok(Some(reservation))
    }

    /// Sends a control record, now or as soon as there is room.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible, or if it has long stopped consuming.
    pub(crate) fn control(&self, control: Control) -> Result<(), PeerMisbehaved> {
        {
            let mut tx = self.tx();
            if CONTROL_MAX <= tx.control.len() {
                return Err(PeerMisbehaved::NotConsuming {
                    waiting: CONTROL_MAX,
                });
            }
            tx.control.push_back(control);
            if !self.flush_control(&mut tx)? {
                self.starve(&mut tx)?;
            }
        }
        self.wake_peer();
        Ok(())
    }

    /// Has `waker` called when the peer has made progress, or memory has come back. What the caller lacks it may have got meanwhile.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn wait_for_space(
        &self,
        ticket: Ticket,
        waker: &Waker,
    ) -> Result<(), PeerMisbehaved> {
        self.heap.wait(ticket, waker);
        let mut tx = self.tx();
        let replaced = tx.waiters.add(ticket, waker);
        let starved = self.starve(&mut tx).map(drop);
        drop(tx);
        drop(replaced);
        starved
    }

    /// This one waits no more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.heap.forget(ticket);
        let forgotten = self.tx().waiters.forget(ticket);
        drop(forgotten);
    }

    /// Looks for progress of the peer's on behalf of those who wait for it.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn relieve(&self) -> Result<(), PeerMisbehaved> {
        if !self.starving.load(Ordering::Acquire) {
            return Ok(());
        }
        let (waiters, flushed) = {
            let mut tx = self.tx();
            // If there is no progress to be told of, somebody may have rung for nothing, and the peer rings again for a new
            // value only.
            self.refresh(&mut tx)?;
            if !tx.has_progressed && !self.starve(&mut tx)? {
                return Ok(());
            }
            tx.has_progressed = false;
            let had_control = !tx.control.is_empty();
            if self.flush_control(&mut tx)? && tx.foreign == 0 {
                tx.starved.disarm(&self.own_header().starved.0);
                self.starving.store(false, Ordering::Release);
            } else {
                self.starve(&mut tx)?;
            }
            (mem::take(&mut tx.waiters), had_control)
        };
        if flushed {
            self.wake_peer();
        }
        waiters.wake();
        Ok(())
    }

    /// Takes out a block of `len` bytes, adding a region if none has room.
    ///
    /// # Errors
    ///
    /// See [`AllocFailure`].
    pub(crate) fn alloc(&self, len: u32) -> Result<Block, AllocFailure> {
        // Relaxed, here and below: a hint; who takes one at the same time counts for nothing.
        let taken = self.taken.load(Ordering::Relaxed).saturating_add(len);
        if taken < TAKEN_BETWEEN_COLLECTIONS
            && let Some(block) = self.heap.take(len)
        {
            self.taken.store(taken, Ordering::Relaxed);
            self.counters.blocks_taken.add(1);
            return Ok(block);
        }
        self.taken.store(0, Ordering::Relaxed);
        let block = self.alloc_by(|| self.heap.alloc(len))?;
        self.counters.blocks_taken.add(1);
        Ok(block)
    }

    /// As [`alloc`](Self::alloc), for several at once, or none.
    ///
    /// # Errors
    ///
    /// See [`AllocFailure`].
    pub(crate) fn alloc_all(&self, lens: &[u32]) -> Result<Vec<Block>, AllocFailure> {
        let blocks = self.alloc_by(|| self.heap.alloc_all(lens))?;
        self.counters.blocks_taken.add(blocks.len() as u64);
        Ok(blocks)
    }

    /// Takes what `take` takes, adding regions if none has room.
    fn alloc_by<T>(
        &self,
        mut take: impl FnMut() -> Result<T, Exhausted>,
    ) -> Result<T, AllocFailure> {
        let mut retired = false;
        loop {
            // First what has come back, before more memory is touched.
            self.collect_returns(&mut self.tx())
                .map_err(AllocFailure::Misbehaved)?;
            match take() {
                Ok(taken) => return Ok(taken),
                Err(Exhausted::TooLarge) => return Err(AllocFailure::TooLarge),
                Err(Exhausted::Full(_)) if !retired && self.heap.has_idle_region() => {
                    retired = true;
                    self.retire_idle().map_err(AllocFailure::Misbehaved)?;
                }
                Err(Exhausted::Full(supply)) => return Err(AllocFailure::Full(supply)),
                Err(Exhausted::NeedsRegion { id, len }) => {
                    if let Err(failure) = self.add_region(id, len) {
                        self.heap.cancel_region(len);
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// How often there was more memory to be had than before.
    pub(crate) fn supply(&self) -> Supply {
        self.heap.supply()
    }

    /// Gives regions that are not in use back to the system. Returns whether any is left.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn retire_idle(&self) -> Result<bool, PeerMisbehaved> {
        self.collect_returns(&mut self.tx())?;
        for RetiredRegion { id, .. } in self.heap.retire_idle() {
            self.control(Control::RegionDropped { id })?;
        }
        Ok(self.heap.has_regions())
    }

    /// Where `bytes` lies in our arena, if it does.
    pub(crate) fn locate_own(&self, bytes: &[u8]) -> Option<(RegionId, u32)> {
        self.heap.locate(bytes)
    }

    /// Makes a region, passes it to the peer over the socket, and announces it in the ring (O12).
    fn add_region(&self, id: RegionId, len: u32) -> Result<(), AllocFailure> {
        // The peer takes descriptors and announcements in the order in which they come, so both must go in the same one.
        let _growing = lock(&self.growing);
        let (region, fd) = memfd::create_sealed(len).map_err(AllocFailure::Io)?;
        if !self
            .socket
            .send_region(Region {
                id,
                len: u64::from(len),
                memory: fd.as_fd(),
                anchor: None,
            })
            .map_err(AllocFailure::Io)?
        {
            return Err(AllocFailure::Io(io::ErrorKind::WouldBlock.into()));
        }
        // The descriptor is under way before the announcement is, so the peer finds it when it reads the record.
        self.control(Control::RegionAdded { id, len })
            .map_err(AllocFailure::Misbehaved)?;
        self.heap.add_region(id, region);
        self.counters.regions_added.add(1);
        self.wake_keeper();
        Ok(())
    }

    /// Registers a part as under way and returns the segment that names it.
    fn depart(
        &self,
        tx: &mut Tx,
        part: OutgoingPart,
        sent_back: &mut Vec<(Bytes, Lease)>,
    ) -> Segment {
        if part.is_linked() {
            self.counters.bytes_linked.add(part.len() as u64);
        }
        let flight = match part {
            OutgoingPart::Inline(len) => return Segment::Inline { len },
            OutgoingPart::Theirs { part, bytes, lease } => {
                lease.sent_back(&mut lock(&self.back));
                sent_back.push((bytes, lease));
                return Segment::Yours(part);
            }
            OutgoingPart::Forwarded {
                region,
                offset,
                bytes,
            } => {
                tx.foreign += 1;
                self.counters.segments_forwarded.add(1);
                self.counters.bytes_forwarded.add(bytes.len() as u64);
                Flight::foreign(region, offset, bytes)
            }
            OutgoingPart::Block(block) => Flight::block(block),
            OutgoingPart::Own {
                region,
                offset,
                bytes,
            } => Flight::shared(region, offset, bytes),
            OutgoingPart::Run(_) => unreachable!("slices belong to the other link"),
            OutgoingPart::Spilled(_) => {
                unreachable!("spilled parts are moved into blocks before a message is published")
            }
        };
        let (region, offset, len) = (flight.region, flight.offset, flight.len);
        let token = tx.flights.depart(flight);
        Segment::Theirs(Part {
            region,
            token,
            offset,
            len,
        })
    }

    fn slot(&self, tx: &mut Tx, body_len: u32) -> Result<Option<Slot>, PeerMisbehaved> {
        if let Some(slot) = tx.producer.reserve(&self.own_ring, body_len) {
            if tx.producer.is_low() {
                self.is_low.store(true, Ordering::Relaxed);
            }
            return Ok(Some(slot));
        }
        if !tx.producer.refresh(&self.peer_header().head.0)? {
            return Ok(None);
        }
        tx.has_progressed = true;
        Ok(tx.producer.reserve(&self.own_ring, body_len))
    }

    /// Publishes waiting control records. Returns whether none is left.
    fn flush_control(&self, tx: &mut Tx) -> Result<bool, PeerMisbehaved> {
        while let Some(&control) = tx.control.front() {
            let (head, body) = control.encode();
            let Some(mut slot) = self.slot(tx, head.body_len)? else {
                return Ok(false);
            };
            self.own_ring
                .body(&mut slot)
                .copy_from_slice(&body[..index(head.body_len)]);
            slot.commit(&self.own_ring, &head);
            tx.control.pop_front();
        }
        Ok(true)
    }

    /// Says that we wait for progress, and looks once more. Returns whether there was some.
    fn starve(&self, tx: &mut Tx) -> Result<bool, PeerMisbehaved> {
        self.starving.store(true, Ordering::Release);
        let word = &self.own_header().starved.0;
        // A new value each time, so that the peer rings again even if it rang for the last one.
        tx.starved.disarm(word);
        tx.starved.arm(word);
        self.refresh(tx)
    }

    fn refresh(&self, tx: &mut Tx) -> Result<bool, PeerMisbehaved> {
        let consumed = tx.producer.refresh(&self.peer_header().head.0)?;
        tx.has_progressed |= consumed;
        let returned = self.collect_returns(tx)?;
        Ok(consumed || returned)
    }

    /// Takes back what the peer has returned. Returns whether there was anything.
    pub(super) fn collect_returns(&self, tx: &mut Tx) -> Result<bool, PeerMisbehaved> {
        if tx.flights.count() == 0 {
            return Ok(false);
        }
        let returned = self.peer_header().returned.0.load(Ordering::Relaxed);
        let count = tx.returns.refresh(returned, tx.flights.count())?;
        tx.has_progressed |= count != 0;
        let entries = self.peer_layout.returns_offset;
        while let Some(token) = tx.returns.pop(|slot| self.peer.load(entries + 4 * slot))? {
            if !tx.land(token) {
                // Not everybody who looks can end the session: a `SendBuf` that grows cannot.
                tx.returns.put_back();
                return Err(PeerMisbehaved::UnknownToken { token });
            }
        }
        Ok(count != 0)
    }
}
