//! What the handles, the streams and the driver of a session share.

use std::{
    fmt, mem, ptr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Notify,
};

use super::{accepting::AcceptQueue, lead::Lead, presence::Presence};
use crate::{
    Config, Peer,
    core::{
        outbox::Windows,
        streams::StreamTable,
        sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, lock, try_lock},
        waiters::{Ticket, Waiters},
    },
    error::{PeerMisbehaved, SessionLost},
    link::{Control, Link, Rx, ShmipcLink},
    stream::StreamShared,
    wait::{Heat, LOOKS_PER_CLOCK, Lookout, WaitPolicy, Way},
};

/// Arrivals taken before whoever drains lets others run.
///
/// Keeps one busy session from starving its neighbours on a shared runtime, and is more than a ring of small messages
/// brings while they are being handled.
const ARRIVALS_PER_DRAIN: usize = 256;

/// Times that something has arrived again when we were about to stop looking, before we stop all the same.
const DRAINS_BEFORE_REST: usize = 4;

/// Messages of the socket that are read before what they say is delivered, at least, if there are as many.
const FRAMES_PER_LOOK: usize = 64;

/// Waits in a row that may end at once before one of them yields to the runtime, for the same reason.
const READY_IN_A_ROW: u32 = 256;

/// The state of a session.
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) config: Config,
    pub(crate) peer: Peer,
    /// How much we are ready to receive.
    pub(crate) windows: Windows,
    /// How much the peer is ready to receive.
    pub(crate) peer_windows: Windows,
    pub(crate) streams: Mutex<StreamTable<StreamShared>>,
    /// Streams of ours that somebody receives on before the peer has heard of them: they are in no table.
    unheard: Mutex<Vec<Weak<StreamShared>>>,
    pub(super) inbound: Mutex<Inbound>,
    pub(super) accept: Mutex<AcceptQueue>,
    /// Streams of ours that wait until the peer accepts one more.
    open_waiters: Mutex<Waiters>,
    /// How many tickets were given out.
    tickets: AtomicU64,
    lost: OnceLock<SessionLost>,
    /// Told when the session is lost, when the peer goes away, and when the last stream is over while we do.
    pub(crate) changed: Notify,
    pub(super) presence: Presence,
    /// Tasks that wait for something to arrive. While there are none, nobody needs to look.
    waiting: AtomicU32,
    /// Those, and tasks for which something has arrived that they have not taken yet.
    engaged: AtomicU32,
    /// Waits that ended at once, one after the other.
    ready_in_a_row: AtomicU32,
    /// Whether a task has yielded that is not done waiting.
    yields: AtomicBool,
    /// Whether the driver runs on the only thread of its runtime.
    pub(crate) is_current_thread: bool,
    driver: DriverSignal,
    /// What takes the driver's place in a session whose users are threads.
    pub(super) lead: Option<Lead>,
    #[cfg(feature = "metrics")]
    pub(super) reporter: super::report::Reporter,
}

/// Held by whoever drains the ring.
pub(crate) struct Inbound {
    pub(crate) rx: Rx,
    pub(crate) policy: WaitPolicy,
    pub(crate) driver: Heat,
    /// What is left of a wait that a caller began to spin for and leaves to the driver.
    pub(crate) inherited: Option<Lookout>,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiter {
    /// A stream that the peer opens. Its task goes on to look after other streams, and comes back.
    Acceptor,
    /// A message on its own stream. `wakes_peer` says that the peer may have to be woken for what was sent before.
    Receiver { wakes_peer: bool },
}

/// How the driver is woken from within the process.
#[derive(Default)]
struct DriverSignal {
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    /// Without a `lead`, it must be called on the runtime that will drive the session.
    pub(crate) fn new(
        link: Link,
        rx: Rx,
        config: Config,
        peer: Peer,
        peer_windows: Windows,
        connecting: bool,
        lead: Option<Lead>,
    ) -> Self {
        let policy = WaitPolicy::new(config.wait(), config.spin_budget());
        let mut windows = config.windows();
        let streams_max = windows.streams_max;
        let streams = match &link {
            Link::Outbox(_) => StreamTable::new(connecting, peer_windows.streams_max, streams_max),
            Link::Shmipc(link) if link.is_native() => {
                windows = ShmipcLink::native_windows(streams_max);
                StreamTable::opened_by_client(connecting, streams_max)
            }
            Link::Shmipc(_) => {
                StreamTable::with_short_ids(connecting, peer_windows.streams_max, streams_max)
            }
        };
        Self {
            link,
            config,
            windows,
            peer,
            peer_windows,
            streams: Mutex::new(streams),
            unheard: Mutex::default(),
            inbound: Mutex::new(Inbound {
                rx,
                policy,
                driver: Heat::default(),
                inherited: None,
            }),
            accept: Mutex::default(),
            open_waiters: Mutex::default(),
            tickets: AtomicU64::new(0),
            lost: OnceLock::new(),
            changed: Notify::new(),
            presence: Presence::default(),
            waiting: AtomicU32::new(0),
            engaged: AtomicU32::new(0),
            ready_in_a_row: AtomicU32::new(0),
            yields: AtomicBool::new(false),
            is_current_thread: lead.is_none()
                && Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread,
            driver: DriverSignal::default(),
            lead,
            #[cfg(feature = "metrics")]
            reporter: super::report::Reporter::default(),
        }
    }

    /// Why the session is over, if it is.
    pub(crate) fn lost(&self) -> Option<&SessionLost> {
        self.lost.get()
    }

    /// Ends the session. The first reason stands.
    pub(crate) fn lose(&self, reason: SessionLost) {
        if self.lost.set(reason.clone()).is_err() {
            return;
        }
        if let SessionLost::PeerMisbehaved(misbehaviour) = &reason {
            tracing::warn!(peer = %self.peer, %misbehaviour, "ended a session, because the peer broke the protocol");
        }
        self.link.sever();
        let unheard = mem::take(&mut *lock(&self.unheard));
        let unheard = unheard.iter().filter_map(Weak::upgrade);
        // Out of its lock first: those who wait are woken, whatever that makes them do.
        let streams = lock(&self.streams).clear();
        for stream in streams.into_iter().chain(unheard) {
            stream.lose(self, &reason);
        }
        self.wake_openers();
        self.wake_acceptors();
        self.changed.notify_waiters();
        self.kick_driver();
        // Whoever closes a session waits first until the peer has taken what was sent.
        let may_wait = matches!(reason, SessionLost::ClosedHere) && self.link.lingers();
        if let Some(lead) = self.lead.as_ref().filter(|_| !may_wait) {
            lead.hang_up();
        }
    }

    /// Has a stream that the peer has not heard of learn of the session's end all the same.
    pub(crate) fn tell_unheard(&self, stream: &Arc<StreamShared>) {
        {
            let mut unheard = lock(&self.unheard);
            // Looked at without being shared, so that none of them ends here, under the lock.
            let is_other = |known: &Weak<_>| !ptr::eq(known.as_ptr(), Arc::as_ptr(stream));
            unheard.retain(|known| known.strong_count() != 0 && is_other(known));
            unheard.push(Arc::downgrade(stream));
        }
        // Whoever ended the session before that has not seen it.
        if let Some(reason) = self.lost() {
            stream.lose(self, reason);
        }
    }

    /// What takes the driver's place in a session whose users are threads.
    pub(crate) fn lead(&self) -> Option<&Lead> {
        self.lead.as_ref()
    }

    /// Ends the session because of the peer, and returns the reason.
    pub(crate) fn blame(&self, misbehaved: PeerMisbehaved) -> SessionLost {
        self.lose(SessionLost::PeerMisbehaved(misbehaved));
        self.reason()
    }

    /// Why the session is over.
    pub(crate) fn reason(&self) -> SessionLost {
        self.lost().cloned().unwrap_or(SessionLost::ClosedHere)
    }

    /// Sends a control record, unless the session is over.
    pub(crate) fn control(&self, control: Control) {
        if self.lost().is_none()
            && let Err(misbehaved) = self.link.control(control)
        {
            self.blame(misbehaved);
        }
    }

    /// Counts a task that waits for an arrival, or one that no longer does.
    pub(crate) fn count_waiting(&self, waits: bool) {
        // Relaxed: a hint that only decides about spinning.
        if waits {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a task from when it begins to wait until it has taken what arrived.
    pub(crate) fn count_engaged(&self, is_engaged: bool) {
        // Relaxed: as above.
        if is_engaged {
            self.engaged.fetch_add(1, Ordering::Relaxed);
        } else {
            self.engaged.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What is known of those who wait, for a dump: those who wait to receive, those who are engaged, those who wait to open a stream,
    /// and streams that nobody has accepted.
    pub(super) fn waiters(&self) -> (u32, u32, usize, usize) {
        (
            self.waiting.load(Ordering::Relaxed),
            self.engaged.load(Ordering::Relaxed),
            lock(&self.open_waiters).count(),
            lock(&self.accept).streams.len(),
        )
    }

    pub(crate) fn is_anyone_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Whether a task has lately yielded in the middle of its work with the session, and will be back.
    pub(crate) fn take_yields(&self) -> bool {
        self.yields.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn is_anyone_engaged(&self) -> bool {
        self.engaged.load(Ordering::Relaxed) != 0
    }

    /// Whether the waiting task is all there is to the session, so that it keeps nobody from running when it looks at the
    /// ring instead of yielding.
    fn is_alone(&self, waiter: Waiter) -> bool {
        let own_streams = usize::from(waiter != Waiter::Acceptor);
        !self.is_anyone_engaged() && lock(&self.streams).len() <= own_streams
    }

    /// Registers the waker of the driver's task.
    pub(crate) fn register_driver(&self, waker: &Waker) {
        let mut known = lock(&self.driver.waker);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
            self.link.watch_growth(waker);
        }
    }

    /// Has the driver polled.
    pub(crate) fn kick_driver(&self) {
        let waker = lock(&self.driver.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn inbound(&self) -> MutexGuard<'_, Inbound> {
        lock(&self.inbound)
    }

    /// Waits for something to arrive, draining the ring while nobody else does.
    ///
    /// `check` says whether it has arrived; `register` has the waker called when it does. `waiter` says what
    /// for.
    pub(crate) fn poll_wait<T>(
        &self,
        cx: &mut Context<'_>,
        waiter: Waiter,
        mut check: impl FnMut() -> Option<T>,
        register: impl FnOnce(&Waker),
    ) -> Poll<T> {
        let wake_peer = || {
            if let Waiter::Receiver { wakes_peer: true } = waiter {
                self.link.wake_peer();
            }
        };
        if self.lead.is_some() {
            // Threads drain, when they wait.
            wake_peer();
            register(cx.waker());
            return check().map_or(Poll::Pending, Poll::Ready);
        }
        // Relaxed: it only has to grow. Several tasks may share it, and then yield in turns.
        if READY_IN_A_ROW < self.ready_in_a_row.fetch_add(1, Ordering::Relaxed) {
            self.ready_in_a_row.store(0, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            self.yields.store(true, Ordering::Relaxed);
            wake_peer();
            return Poll::Pending;
        }
        if let Some(ready) = check() {
            wake_peer();
            return Poll::Ready(ready);
        }
        let Some(mut inbound) = try_lock(&self.inbound) else {
            wake_peer();
            // Somebody else drains: what they have delivered before we registered, we see now; the rest wakes us.
            register(cx.waker());
            return check().map_or(Poll::Pending, Poll::Ready);
        };
        self.link.disarm(&mut inbound.rx);
        wake_peer();
        self.drain(&mut inbound);
        let mut arrived = check();
        if arrived.is_none() && self.is_alone(waiter) {
            arrived = self.spin_as_caller(&mut inbound, &mut check);
        }
        if arrived.is_none() {
            register(cx.waker());
        }
        if arrived.is_some() && (waiter == Waiter::Acceptor || self.is_current_thread) {
            self.hand_over(&mut inbound);
        }
        self.rest(&mut inbound);
        // Going to rest may have found more.
        let arrived = arrived.or_else(check);
        if arrived.is_none() {
            self.ready_in_a_row.store(0, Ordering::Relaxed);
        }
        arrived.map_or(Poll::Pending, Poll::Ready)
    }

    /// Leaves the next look to the driver, which needs no system call of the peer's to be woken. Worth it if the driver
    /// runs on this thread, once the current task yields, and so looks after more calls than one.
    fn hand_over(&self, inbound: &mut Inbound) {
        if !inbound.driver.is_hot() {
            inbound.driver.set(true);
            self.kick_driver();
        }
    }

    /// Looks for arrivals within one poll. What is left of the budget afterwards is for the driver, which lets other
    /// tasks run between its looks.
    fn spin_as_caller<T>(
        &self,
        inbound: &mut Inbound,
        check: &mut impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let lookout = inbound.policy.begin(inbound.driver.is_alone())?;
        if lookout.burst.is_zero() {
            inbound.inherited = Some(lookout);
            self.hand_over(inbound);
            return None;
        }
        let Lookout { way, budget, burst } = lookout;
        let began = Instant::now();
        let until = began + budget.min(burst);
        while self.look_until(inbound, way, until) {
            self.drain(inbound);
            if let Some(arrived) = check() {
                inbound.policy.hit(way, || began.elapsed());
                inbound.policy.burst_hit();
                self.link.counters().spins_hit.add_locked(1);
                return Some(arrived);
            }
            if until <= Instant::now() {
                break; // What arrives is for others, or for nobody.
            }
        }
        let left = budget.saturating_sub(burst);
        let burst = inbound.policy.burst_missed(inbound.driver.is_alone());
        if left.is_zero() {
            inbound.policy.miss(way);
            self.link.counters().spins_missed.add_locked(1);
        } else {
            inbound.inherited = Some(Lookout {
                way,
                budget: left,
                burst,
            });
            self.hand_over(inbound);
        }
        None
    }

    /// Looks at the ring until a record is there (`true`) or `until` has passed.
    pub(crate) fn look_until(&self, inbound: &Inbound, way: Way, until: Instant) -> bool {
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.link.is_ready(&inbound.rx) {
                    return true;
                }
                match way {
                    Way::Spin => std::hint::spin_loop(),
                    Way::Yield => {
                        std::thread::yield_now();
                        break;
                    }
                }
            }
            if until <= Instant::now() || self.lost().is_some() {
                return self.link.is_ready(&inbound.rx);
            }
        }
    }

    /// Delivers what has arrived. Returns how many records that were.
    pub(crate) fn drain(&self, inbound: &mut Inbound) -> usize {
        let mut count = 0;
        while count < ARRIVALS_PER_DRAIN && self.lost().is_none() {
            let outcome = match self.link.take(&mut inbound.rx) {
                Ok(Some(arrival)) => self.dispatch(arrival),
                Ok(None) => break,
                Err(misbehaved) => Err(misbehaved),
            };
            if let Err(misbehaved) = outcome {
                self.blame(misbehaved);
                break;
            }
            count += 1;
        }
        if let Err(misbehaved) = self.link.relieve() {
            self.blame(misbehaved);
        }
        count
    }

    /// Makes sure that the peer's next record is noticed, now that we stop looking.
    pub(crate) fn rest(&self, inbound: &mut Inbound) {
        for _ in 0..DRAINS_BEFORE_REST {
            if inbound.driver.is_hot() || self.lost().is_some() || self.link.arm(&mut inbound.rx) {
                return;
            }
            self.link.disarm(&mut inbound.rx);
            self.drain(inbound);
        }
        // There is no end to it. The driver goes on, after others.
        self.kick_driver();
    }

    /// Takes what has come over the socket. Returns whether the peer is still there.
    pub(super) fn take_regions(&self, inbound: &mut Inbound) -> bool {
        match self.link.receive_regions(&mut inbound.rx) {
            Ok(is_open) => is_open,
            Err(misbehaved) => {
                self.blame(misbehaved);
                false
            }
        }
    }

    /// Takes what the peer has left in its ring, and in the socket where messages come over that, too, and ends the session (O19).
    pub(super) fn bury(&self, inbound: &mut Inbound) {
        self.link.hear_out();
        // Once around the ring, and once through the socket: whatever comes after that has been there before, or is said by somebody
        // else who has what the peer had.
        let mut left = self.link.records_max();
        while left != 0 && self.lost().is_none() {
            // A process may have ended before anybody has read what it said last (H45).
            if self.link.delivers_from_socket() {
                self.take_regions(inbound);
            }
            let count = self.drain(inbound);
            if count == 0 && !self.link.has_read(&inbound.rx) {
                break;
            }
            left = left.saturating_sub(count.max(FRAMES_PER_LOOK));
        }
        self.lose(if self.presence.said_bye() {
            SessionLost::ClosedHere
        } else if self.link.is_native() {
            // Hanging up is how others say goodbye.
            SessionLost::ClosedByPeer
        } else {
            SessionLost::PeerDied
        });
    }

    pub(crate) fn wake_openers(&self) {
        let waiters = mem::take(&mut *lock(&self.open_waiters));
        waiters.wake();
    }

    /// Has `waker` called when the peer accepts one more stream, or none ever again.
    pub(crate) fn wait_to_open(&self, ticket: Ticket, waker: &Waker) {
        let replaced = lock(&self.open_waiters).add(ticket, waker);
        drop(replaced);
    }

    /// A ticket for somebody who has to wait, and who is to [forget](Self::forget) it when it does no more.
    pub(crate) fn ticket(&self) -> Ticket {
        // Relaxed: no two get the same, and that is all there is to it.
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// This one waits no more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.link.forget(ticket);
        let forgotten = lock(&self.open_waiters).forget(ticket);
        drop(forgotten);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("peer", &self.peer)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
