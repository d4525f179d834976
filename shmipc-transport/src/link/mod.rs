//! The seam between a session and the memory that carries its records.
//!
//! There are two links: our own, the outbox, here; and [`shmipc`]'s. [`Link`] is either of them; above it, only one match tells them
//! apart for each operation.
//!
//! Above it there are streams and messages, below it rings, blocks and cursors. A session asks a link to
//! [reserve](OutboxLink::reserve_for) a record for a message, to [compose](OutboxReservation::compose) it there and to
//! [commit](OutboxReservation::commit) it, to [take](OutboxLink::take) the next arrival, to [arm](OutboxLink::arm) and
//! [disarm](OutboxLink::disarm) the sleep flag, and leaves to it who needs a ring of the doorbell.
//!
//! # Locks
//!
//! In this order, where one is taken inside another: `growing`, `Inbound` (the session's, holds [`OutboxRx`]), `tx`, the session's
//! streams, `back`, the heap's. `forwards` and `kept` are taken inside none but `growing`, and none inside them. `doorbell` and `keeper`
//! are taken last. A lock of one
//! link is never taken while one of another link's is held, which is why what lands is dropped by [`OutboxGuard`]. None is held across an `await`, and none but `Inbound` and `growing` while code of
//! users runs: what drops memory of theirs that has come back, and wakes them, may be whoever drains the ring or adds a region. So such
//! code must not wait for the same session in the same thread.

mod control;
mod dump;
mod either;
mod figures;
mod forward;
mod inbound;
mod info;
mod lease;
mod leases;
mod outbound;
mod outgoing;
mod shmipc;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    task::Waker,
};

pub(crate) use control::Control;
pub(crate) use dump::{CONTROL_LISTED_MAX, LinkDump};
pub(crate) use either::{Link, Reservation, Rx, TxGuard};
pub(crate) use figures::{Fill, LinkFigures};
use forward::{FORWARDED_MAX, Forwards};
pub(crate) use forward::{Forwarded, ForwardedPart};
pub(crate) use inbound::Arrival;
use inbound::OutboxRx;
pub use info::LinkInfo;
use lease::Back;
pub(crate) use lease::{Guarded, Lease};
pub(crate) use outbound::AllocFailure;
use outbound::{OutboxGuard, OutboxReservation, Tx};
pub(crate) use outgoing::{Outgoing, OutgoingPart};
pub(crate) use shmipc::{Run, ShmipcLink, ShmipcParts};

use crate::{
    Payloads, Peer,
    config::is_own_user,
    core::{
        mem::{Heap, HeapFigures, OwnRing, OwnedRegion, PeerRegion, PeerRing},
        num::index,
        outbox::{Bell, Geometry, Header, RecordHead, Windows},
        sync::{AtomicBool, AtomicU32, Ordering, lock, try_lock},
        wire::negotiation::DoorbellKind,
    },
    error::PeerMisbehaved,
    stats::Counters,
    sys::{doorbell::PeerDoorbell, memfd, socket::ControlSocket},
};

/// The outbox link: our outbox, the peer's, and the way between them.
#[derive(Debug)]
pub(crate) struct OutboxLink {
    own: OwnedRegion,
    own_layout: Geometry,
    own_ring: OwnRing,
    peer: PeerRegion,
    peer_layout: Geometry,
    peer_ring: PeerRing,
    heap: Arc<Heap>,
    tx: Mutex<Tx>,
    back: Mutex<Back>,
    /// Held while a region is passed and announced.
    growing: Mutex<()>,
    /// Whether anybody waits for progress of the peer's: ring space, returned blocks.
    starving: AtomicBool,
    /// Bytes of blocks that were taken since somebody last looked for what has come back.
    taken: AtomicU32,
    /// Whether the ring should be [prepared](Self::prepare).
    is_low: AtomicBool,
    bell: Bell,
    space_bell: Bell,
    /// The peer's doorbell, until the session ends.
    doorbell: Mutex<Option<PeerDoorbell>>,
    socket: Arc<ControlSocket>,
    /// Who gives idle memory back, and so must hear when there is any.
    keeper: Mutex<Option<Waker>>,
    standing: Standing,
    /// Whether what others lend us may be passed on to this peer, once somebody has allowed for it.
    may_forward: bool,
    forwards: Mutex<Forwards>,
    /// Leases of ours that are kept for readers in other sessions, which are over.
    kept: Mutex<Vec<(Lease, Arc<Forwarded>)>>,
    /// The longest message that the peer can send, in bytes.
    peer_message_max: u64,
    /// The longest message that is copied out of the peer's memory: as long as any of ours, whatever the peer has announced.
    copied_message_max: u64,
    pub(crate) counters: Counters,
}

/// What decides how far the peer is trusted, and with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) payloads: Payloads,
    pub(crate) peer: Peer,
    /// Whether both sides have agreed that memory may be passed on (H17).
    pub(crate) forwards: bool,
    /// What both sides are woken by.
    pub(crate) doorbell: DoorbellKind,
}

/// Our own outbox, before there is a peer.
#[derive(Debug)]
pub(crate) struct Outbox {
    region: OwnedRegion,
    fd: OwnedFd,
}

impl Outbox {
    /// Makes a sealed outbox that describes itself.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn create(windows: Windows) -> std::io::Result<Self> {
        let (region, fd) = memfd::create_sealed(crate::core::outbox::OUTBOX_LEN)?;
        region.layout::<Header>(0).constants.0.describe(windows);
        Ok(Self { region, fd })
    }

    /// The descriptor to pass to the peer.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.region.len() as u64
    }
}

/// The peer's outbox, verified.
#[derive(Debug)]
pub(crate) struct PeerOutbox {
    region: PeerRegion,
    layout: Geometry,
    pub(crate) windows: Windows,
    /// What its regions may come to, in bytes, as it announced.
    memory_max: u64,
}

impl PeerOutbox {
    /// Maps and verifies what the peer passed: an outbox of `len` bytes, and that its regions come to `memory_max` at most.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with it.
    pub(crate) fn open(fd: OwnedFd, len: u64, memory_max: u64) -> Result<Self, PeerMisbehaved> {
        let region = memfd::open_sealed(fd, len)?.into_region();
        let (layout, windows) = Geometry::read(&region)?;
        Ok(Self {
            region,
            layout,
            windows,
            memory_max,
        })
    }
}

impl OutboxLink {
    /// Joins two outboxes. `memory_max` bounds our arena, and messages that are copied out of the peer's.
    pub(crate) fn new(
        own: Outbox,
        peer: PeerOutbox,
        doorbell: PeerDoorbell,
        socket: Arc<ControlSocket>,
        memory_max: u32,
        standing: Standing,
    ) -> (Self, OutboxRx) {
        let own_layout = Geometry::ours();
        let link = Self {
            own_ring: OwnRing::new(own.region.clone(), &own_layout),
            own: own.region,
            own_layout,
            peer_ring: PeerRing::new(peer.region.clone(), &peer.layout),
            heap: Arc::new(Heap::new(memory_max)),
            tx: Mutex::new(Tx::new(own_layout.ring, peer.layout.returns)),
            growing: Mutex::new(()),
            back: Mutex::new(Back::new(own_layout.returns)),
            starving: AtomicBool::new(false),
            taken: AtomicU32::new(0),
            is_low: AtomicBool::new(false),
            bell: Bell::default(),
            space_bell: Bell::default(),
            doorbell: Mutex::new(Some(doorbell)),
            socket,
            keeper: Mutex::new(None),
            // A process of our own user sees nothing by it that it could not read by `ptrace`.
            may_forward: standing.forwards && is_own_user(&standing.peer),
            standing,
            forwards: Mutex::default(),
            kept: Mutex::default(),
            // Lengths are counted in 32 bits.
            peer_message_max: peer.memory_max.min(u64::from(u32::MAX)),
            copied_message_max: u64::from(memory_max),
            counters: Counters::default(),
            peer_layout: peer.layout,
            peer: peer.region,
        };
        let rx = OutboxRx::new(peer.layout.ring);
        (link, rx)
    }

    /// Has `waker` called whenever memory is added.
    pub(crate) fn watch_growth(&self, waker: &Waker) {
        *lock(&self.keeper) = Some(waker.clone());
    }

    /// What the arena holds.
    pub(crate) fn heap_figures(&self) -> HeapFigures {
        self.heap.figures()
    }

    /// The longest message there can be.
    pub(crate) fn message_max(&self) -> usize {
        usize::try_from(self.heap.max()).unwrap_or(usize::MAX)
    }

    /// The most records that the peer's ring can hold at once.
    pub(crate) fn records_max(&self) -> usize {
        index(self.peer_layout.ring.get() / RecordHead::stride(0))
    }

    /// Ends the link: nobody is rung any more, nothing is kept for the peer, and all who wait are woken.
    pub(crate) fn sever(&self) {
        lock(&self.doorbell).take();
        // What the peer has returned is not held by it. If it misbehaves again, that changes nothing now.
        drop(self.collect_returns(&mut self.tx()));
        // What is dropped from here on has not been returned by anybody.
        self.end_forwards();
        self.heap.close();
        drop(lock(&self.back).sever());
        let (flights, waiters) = self.tx().sever();
        drop(flights);
        waiters.wake();
        drop(self.take_kept());
    }

    fn own_header(&self) -> &Header {
        self.own.layout(0)
    }

    fn peer_header(&self) -> &Header {
        self.peer
            .layout(0)
            .expect("verified when the peer's outbox was opened")
    }

    pub(crate) fn tx(&self) -> OutboxGuard<'_> {
        OutboxGuard::new(lock(&self.tx))
    }

    /// Wakes who looks after memory that is no longer used.
    fn wake_keeper(&self) {
        let keeper = lock(&self.keeper).clone();
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }

    /// Wakes the peer if it sleeps and a record has been published (O10).
    pub(crate) fn wake_peer(&self) {
        Bell::fence();
        let sleep = self.peer_header().sleep.0.load(Ordering::Relaxed);
        if self.bell.must_ring(sleep) {
            self.ring();
        }
        self.prepare();
    }

    /// Prepares the ring for the next records, if that is due: now the peer is busy with the last one.
    fn prepare(&self) {
        // Relaxed: a hint. Whoever else holds the lock is about to send, and sees to it if need be.
        if self.is_low.load(Ordering::Relaxed)
            && let Some(mut tx) = try_lock(&self.tx)
        {
            self.is_low.store(false, Ordering::Relaxed);
            tx.producer.prepare(&self.own_ring);
        }
    }

    /// Wakes the peer if it waits for space that we have just given it (O11).
    fn offer_space(&self) {
        Bell::fence();
        let starved = self.peer_header().starved.0.load(Ordering::Relaxed);
        if self.space_bell.must_ring(starved) {
            self.counters.rung_for_space.add(1);
            self.ring();
        }
    }

    fn ring(&self) {
        if let Some(doorbell) = &*lock(&self.doorbell) {
            self.counters.doorbells_rung.add(1);
            doorbell.ring();
        }
    }
}

impl Drop for OutboxLink {
    fn drop(&mut self) {
        // What has departed since the session was over; nobody has returned that either.
        self.end_forwards();
    }
}
