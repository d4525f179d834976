//! The link that speaks shmipc's own protocol.
//!
//! Two *dialects* share its memory and its socket. Between two of our own processes, who find that out in the negotiation of version 4,
//! the upper bytes of an element's status say what kind of [record](Record) it is: ends of one direction, credit, pings and so on, as on
//! our own link. Towards anybody else (*native*) there is nothing but messages and closes: no end of one direction, so that the
//! end is told when a stream is dropped; no credit, so that memory is bounded by the region, and by what is taken from the socket; no
//! empty messages.
//!
//! Messages for which there is no shared memory fall back to the socket, in order: see [`outbound`]. Who waits for room in the
//! queue, or for slices, is not told by the protocol when there is some; so while anybody waits, the session looks now and then
//! ([`ShmipcLink::tick`]). Nor do others always tell when there is something to be taken, so that it looks once in a while for that, too
//! ([`ShmipcLink::may_miss_wakes`]).
//!
//! # Locks
//!
//! The session's `inbound`, then `pings`, then `tx`. All others are taken last, and none inside of them but `keeper` inside `bell`.

mod budget;
mod fallen;
mod figures;
mod inbound;
mod lent;
mod outbound;
mod progress;
mod quiet;
mod record;
mod reservation;
mod run;
mod settling;
#[cfg(test)]
mod tests;
mod unsent;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    task::Waker,
    time::Duration,
};

use budget::Budget;
pub(super) use inbound::ShmipcRx;
use inbound::Unread;
use lent::Lent;
pub(super) use outbound::ShmipcGuard;
use outbound::ShmipcTx;
use quiet::Quiet;
use record::{Record, wire_id};
pub(super) use reservation::ShmipcReservation;
pub(crate) use run::Run;

use super::Rx;
use crate::{
    Payloads, Peer, ShmipcMapping,
    core::{
        mem::{SharedRegion, Trust},
        num::{StreamId, index},
        outbox::Windows,
        shmipc::{
            ChainLimits, Ends, Pool, Queues,
            frames::FALLBACK_MAX,
            handshake::version_byte,
            terms::{Terms, Wakes},
        },
        sync::{AtomicBool, Ordering, lock},
    },
    error::PeerMisbehaved,
    stats::Counters,
    sys::{doorbell::PeerDoorbell, regions::NamedRegion, socket::ControlSocket},
};

/// How long to wait before another look, while somebody waits for what the protocol does not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long a server leaves a session alone in which no stream is open, if its client may forget to wake it: then it looks whether there is
/// one. Everything else that might be forgotten is looked for sooner, while a stream is open.
const LOOK_SELDOM: Duration = Duration::from_secs(5);

/// More messages than the kernel holds of a socket, unless somebody has told it to hold much more than it does by itself.
const SOCKET_MESSAGES_MAX: usize = 1 << 16;

/// What a session is made of that speaks shmipc's own protocol.
#[derive(Debug)]
pub(crate) struct ShmipcParts {
    pub(crate) version: u8,
    pub(crate) is_client: bool,
    pub(crate) terms: Terms,
    /// How the regions have reached the server.
    pub(crate) mapping: ShmipcMapping,
    pub(crate) pool: Pool<SharedRegion>,
    /// The user who made the buffer region.
    pub(crate) owner: u32,
    pub(crate) queues: Queues<SharedRegion>,
    /// What wakes the peer, if eventfds were agreed on.
    pub(crate) bell: Option<PeerDoorbell>,
    /// Files of ours that the peer may not have mapped yet.
    pub(crate) files: Vec<NamedRegion>,
}

/// A ping that counts as answered when the peer has taken what was sent before it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: u64,
    /// Elements that were published before.
    published: u64,
    /// Bytes that were to go over the socket before.
    pushed: u64,
}

/// The link of a session that speaks shmipc's own protocol.
#[derive(Debug)]
pub(crate) struct ShmipcLink {
    /// Those who hold what was lent keep it beyond the end of the session.
    pool: Arc<Pool<SharedRegion>>,
    tx: Mutex<ShmipcTx>,
    socket: Arc<ControlSocket>,
    /// The peer's eventfd, until the session ends.
    bell: Mutex<Option<PeerDoorbell>>,
    pub(super) wakes: Wakes,
    quiet: Quiet,
    /// Settled in the handshake, as `wakes` is.
    pub(super) version: u8,
    pub(super) mapping: ShmipcMapping,
    version_byte: u8,
    /// Whether the peer knows our records.
    speaks_records: bool,
    is_client: bool,
    /// Whether the peer may know hot restarts, as shmipc has them. Those who speak version 4 do not: they hang up (C12).
    knows_restarts: bool,
    /// Files of ours that the peer may not have mapped yet, and whether there are any.
    files: Mutex<Vec<NamedRegion>>,
    has_files: AtomicBool,
    /// Set if what lies in the buffer region may be lent in place.
    trust: Option<Trust>,
    /// What is taken for a message, and sent as one.
    limits: ChainLimits,
    budget: Arc<Budget>,
    /// What the application has of the messages that came.
    lent: Lent,
    /// Who looks after the session, and must hear of what is to be done.
    keeper: Mutex<Option<Waker>>,
    /// Whether that is a task, which is there also while nobody waits.
    is_driven: AtomicBool,
    /// Whether anybody waits for progress of the peer's.
    starving: AtomicBool,
    /// Whether something was published for which the peer has not been woken.
    unwoken: AtomicBool,
    /// Whether bytes wait for the socket.
    unsent: AtomicBool,
    /// What was found out about the peer where nobody could end the session, and whether there is any such thing.
    broken: Mutex<Option<PeerMisbehaved>>,
    is_broken: AtomicBool,
    /// Pings that natively nobody would answer.
    pings: Mutex<VecDeque<Asked>>,
    /// Both queues, to be looked at.
    ours: Ends<SharedRegion>,
    theirs: Ends<SharedRegion>,
    pub(crate) counters: Counters,
}

impl ShmipcLink {
    /// Makes a link of its parts.
    pub(crate) fn new(
        parts: ShmipcParts,
        socket: Arc<ControlSocket>,
        payloads: Payloads,
        message_max: u32,
        peer: &Peer,
    ) -> (Self, Rx) {
        let Queues {
            to_server,
            to_client,
        } = parts.queues;
        let (ours, theirs): (Ends<SharedRegion>, Ends<SharedRegion>) = if parts.is_client {
            (to_server, to_client)
        } else {
            (to_client, to_server)
        };
        let (pool, limits) = (Arc::new(parts.pool), ChainLimits::of(message_max));
        let link = Self {
            pool: Arc::clone(&pool),
            tx: Mutex::new(ShmipcTx::new(ours.clone().into_producer())),
            socket,
            bell: Mutex::new(parts.bell),
            wakes: parts.terms.wakes,
            quiet: Quiet::default(),
            version: parts.version,
            mapping: parts.mapping,
            version_byte: version_byte(parts.version),
            speaks_records: parts.terms.windows.is_some(),
            is_client: parts.is_client,
            knows_restarts: parts.version < 4,
            has_files: AtomicBool::new(!parts.files.is_empty()),
            files: Mutex::new(parts.files),
            trust: payloads.trust(peer, Some(parts.owner)),
            limits,
            budget: Arc::default(),
            lent: Lent::default(),
            keeper: Mutex::new(None),
            is_driven: AtomicBool::new(false),
            starving: AtomicBool::new(false),
            unwoken: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            broken: Mutex::new(None),
            is_broken: AtomicBool::new(false),
            pings: Mutex::default(),
            ours,
            theirs: theirs.clone(),
            counters: Counters::default(),
        };
        let unread = Unread {
            pool,
            limits,
            speaks_records: link.speaks_records,
        };
        let rx = ShmipcRx::new(theirs.into_consumer(), unread);
        (link, Rx::Shmipc(Box::new(rx)))
    }

    /// Whether the peer knows nothing but what shmipc's protocol has. Then streams are opened by clients alone, numbered 2, 3, 4
    /// and so on; there is no end of one direction, no credit, and no goodbye.
    pub(crate) fn is_native(&self) -> bool {
        !self.speaks_records
    }

    /// The longest message that is sent: one that could go over the socket if it had to, if settings allow for it.
    pub(crate) fn message_max(&self) -> usize {
        FALLBACK_MAX.min(index(self.limits.bytes()))
    }

    /// The most elements that the peer's queue can hold at once, and messages that the kernel may hold of the socket.
    pub(crate) fn records_max(&self) -> usize {
        index(self.theirs.cap()) + SOCKET_MESSAGES_MAX
    }

    /// Has `waker` called when there is something for whoever looks after the session.
    pub(crate) fn watch_growth(&self, waker: &Waker) {
        *lock(&self.keeper) = Some(waker.clone());
        self.budget.watch(waker);
    }

    /// A task looks after the session: whenever it has looked, it says so before it sleeps.
    pub(crate) fn mark_driven(&self) {
        // Relaxed: a hint.
        self.is_driven.store(true, Ordering::Relaxed);
    }

    fn wake_keeper(&self) {
        let keeper = lock(&self.keeper).clone();
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }

    /// After which time to look again although nobody calls, if at all.
    pub(crate) fn tick(&self) -> Option<Duration> {
        if self.starving.load(Ordering::Acquire) || !lock(&self.pings).is_empty() {
            return Some(LOOK_AGAIN);
        }
        match self.wakes {
            Wakes::Polling(interval) => Some(self.quiet.stretch(interval)),
            // Whoever opens no streams hears nothing new while none is open.
            Wakes::Socket | Wakes::EventFd => {
                (self.may_miss_wakes() && !self.is_client).then_some(LOOK_SELDOM)
            }
        }
    }

    /// Whether both sides look at their queues from time to time, and wake nobody.
    pub(crate) fn is_polled(&self) -> bool {
        matches!(self.wakes, Wakes::Polling(_))
    }

    /// Whether the peer may forget to wake us: others do, now and then (H5, H50, C7).
    pub(crate) fn may_miss_wakes(&self) -> bool {
        self.is_native() && !matches!(self.wakes, Wakes::Polling(_))
    }

    /// Whether so much waits to be received that nothing more is taken from the socket or the queue.
    pub(crate) fn is_paused(&self) -> bool {
        self.budget.is_exceeded()
    }

    /// Takes from now on what the peer has left, which is gone, however much waits to be received.
    pub(crate) fn hear_out(&self) {
        self.budget.allow_rest(self.pool.memory().len() as u64);
    }

    /// Notes what was found out about the peer where the session cannot be ended: the next look at it does.
    fn blame(&self, misbehaved: PeerMisbehaved) {
        lock(&self.broken).get_or_insert(misbehaved);
        // Release: pairs with the acquire in `take`.
        self.is_broken.store(true, Ordering::Release);
        self.wake_keeper();
    }

    /// Ends the link: nobody is woken any more but those who wait here, and no slices are kept.
    pub(crate) fn sever(&self) {
        let waiters = lock(&self.tx).sever();
        self.pool.retire();
        waiters.wake();
    }

    /// Whether something that was sent would be lost if the socket were closed now. Others lose what they have not taken from the queue by
    /// then (H45); our own take all of it.
    pub(crate) fn lingers(&self) -> bool {
        let mut tx = self.tx();
        !tx.unsent.is_empty()
            || self.socket.has_unacknowledged()
            || self.is_native() && tx.queue_fill() != 0
    }

    /// The peer has mapped our files: their names are removed.
    fn forget_files(&self) {
        // Relaxed: the lock orders what there is to be ordered, and whoever is late finds nothing.
        if self.has_files.load(Ordering::Relaxed) {
            lock(&self.files).clear();
            self.has_files.store(false, Ordering::Relaxed);
        }
    }

    /// A message was dropped, since its stream is not open: that it has come is not kept.
    pub(crate) fn dropped(&self, stream: StreamId) {
        lock(&self.tx).fallen.dropped(wire_id(stream));
    }

    /// Forgets what is kept for a stream that is over.
    pub(crate) fn stream_over(&self, stream: StreamId) {
        lock(&self.tx).forget(stream);
    }

    /// Names or makes nothing: says how much a native peer may send, and be sent. There is no credit.
    pub(crate) const fn native_windows(streams_max: u32) -> Windows {
        Windows {
            streams_max,
            ..Windows::UNLIMITED
        }
    }
}

/// Bytes that were not sent because the socket is full, or because the peer is gone, which its reader learns.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
