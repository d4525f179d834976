//! How threads wait on a session that has no task: one leads, the others follow.
//!
//! Who waits tries for the lock on the receiving half. Whoever gets it *leads*: does all that the [driver](super::driver)
//! does for a session with a task. It drains the ring for everybody, spins by the session's policy, and then sleeps on the
//! doorbell, the socket and the peer's process. It keeps the lock meanwhile, so that the others know that they are looked
//! after, and park until the leader wakes them. A leader that leaves, because its own wait is over, calls one of them
//! ([`core::succession`](crate::core::succession)).
//!
//! While nobody waits, nobody looks, and the sleep word says "awake": the peer makes no system call for us.
//!
//! A session of shmipc's own protocol also needs somebody who sends what the socket has not taken, who looks from time to time for
//! what nobody tells, or may forget to, and who waits with hanging up until the peer has taken everything. A leader does the first two;
//! the last is up to the thread that ends the session.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex},
    task::Waker,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    DOUBT, FAREWELL, Place, UNTOLD,
    shared::{Inbound, Shared},
};
use crate::{
    blocking::Parker,
    core::{
        succession::Succession,
        sync::{AtomicBool, AtomicU64, Ordering, lock, try_lock},
    },
    error::SessionLost,
    link::Link,
    sys::{
        clock,
        socket::ControlSocket,
        watch::{Concern, Seen, Watch, millis},
    },
    wait::{LOOKS_PER_CLOCK, Lookout, Way},
};

/// The deadline of a wait passed first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Elapsed;

/// Rounds of [`LOOKS_PER_CLOCK`] looks before a waker is registered: an answer that comes at once costs none.
const ROUNDS_UNREGISTERED: u32 = 8;

/// Rounds of looks between two looks at what shared memory does not tell, such as the peer's death: a system call each.
const ROUNDS_PER_TEND: u32 = 512;

/// How long a session may be used without such a look, in nanoseconds.
const UNTENDED_MAX: u64 = 10_000_000;

/// What a session needs whose users drive it.
#[derive(Debug)]
pub(crate) struct Lead {
    watch: Watch,
    socket: Arc<ControlSocket>,
    succession: Succession<Arc<Parker>>,
    /// When somebody last looked at everything, by the coarse clock.
    tended: AtomicU64,
    idle: Mutex<Option<Idle>>,
    has_hung_up: AtomicBool,
}

/// Memory that may be given back.
#[derive(Clone, Copy, Debug)]
struct Idle {
    /// Blocks that had been taken then.
    activity: u64,
    since: Instant,
}

/// The looks at the ring before a sleep.
struct Spin {
    lookout: Option<Lookout>,
    /// Set with the first reading of the clock, which comes after the first looks.
    began: Option<Instant>,
    rounds: u32,
}

/// What spinning came to.
enum Spun {
    /// A record is there.
    Ready,
    /// A waker should be registered, or was called.
    Register,
    /// It is time for a look at everything else.
    Tend,
    /// It does not pay any longer.
    Over,
    /// The deadline has passed.
    Late,
}

impl Lead {
    pub(crate) fn new(watch: Watch, socket: Arc<ControlSocket>) -> Self {
        Self {
            watch,
            socket,
            succession: Succession::new(),
            tended: AtomicU64::new(0),
            idle: Mutex::new(None),
            has_hung_up: AtomicBool::new(false),
        }
    }

    /// Tells the peer that the session is over.
    pub(super) fn hang_up(&self) {
        self.has_hung_up.store(true, Ordering::Relaxed);
        self.socket.hang_up();
    }

    /// Wakes whoever leads, or the next to sleep.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(self.watch.interrupt()))
    }

    /// Waits until the peer has taken everything that was sent, or is gone, at most for [`FAREWELL`].
    fn linger(&self, link: &Link) {
        let until = Instant::now() + FAREWELL;
        while link.lingers() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_peer_gone() {
                return;
            }
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if link.has_unsent() {
                fds[0].set_events(PollFlags::POLLIN | PollFlags::POLLOUT);
            }
            let timeout = PollTimeout::try_from(millis(left.min(UNTOLD)));
            // Whatever becomes of it, the next look tells.
            let _ = poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX));
            link.send_unsent();
        }
    }

    /// Whether the peer has hung up. What it still says is of interest to nobody.
    fn is_peer_gone(&self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Calls the next to lead. Only after the lead was given up.
    pub(super) fn hand_over(&self) {
        while let Some(next) = self.succession.next() {
            // One that was woken already takes part by itself, and is not to be waited for.
            let was_woken = next.is_woken();
            Waker::from(next).wake();
            if !was_woken {
                return;
            }
        }
    }
}

impl Shared {
    /// Waits for what `look` looks for, and looks after the whole session while nobody else does.
    ///
    /// `look` is given a waker to register before it looks, or none if it need not. `wakes_peer` says that the peer may
    /// have to be woken for what was sent before.
    pub(crate) fn wait<T>(
        &self,
        lead: &Lead,
        wakes_peer: bool,
        deadline: Option<Instant>,
        mut look: impl FnMut(Option<&Waker>) -> Option<T>,
    ) -> Result<T, Elapsed> {
        let Some(mut inbound) = try_lock(&self.inbound) else {
            if wakes_peer {
                self.link.wake_peer();
            }
            return self.follow(lead, deadline, &mut look);
        };
        self.link.disarm(&mut inbound.rx);
        if wakes_peer {
            self.link.wake_peer();
        }
        let result = self.look_after(lead, &mut inbound, deadline, &mut look);
        drop(inbound);
        lead.hand_over();
        result
    }

    /// Hangs up after a session was closed here: once the peer has taken what was sent, which it might lose otherwise.
    pub(crate) fn farewell(&self) {
        let Some(lead) = &self.lead else {
            return;
        };
        // Relaxed: whoever does not see it finds the peer gone.
        let has_hung_up = lead.has_hung_up.load(Ordering::Relaxed);
        if !has_hung_up && matches!(self.lost(), Some(SessionLost::ClosedHere)) {
            lead.linger(&self.link);
        }
        lead.hang_up();
    }

    /// Waits until `deadline` for the socket to take what was given to it. While nobody waits, nobody would see to that.
    pub(crate) fn see_off(&self, deadline: Option<Instant>) {
        let Some(lead) = self.lead.as_ref().filter(|_| self.link.has_unsent()) else {
            return;
        };
        let mut place = Place::new(self);
        let sent = self.wait(lead, false, deadline, |waker| {
            if let Some(waker) = waker {
                // It fails with the session, which is seen next.
                let _ = self.link.wait_for_space(place.ticket(), waker);
            }
            (!self.link.has_unsent() || self.lost().is_some()).then_some(())
        });
        // Late or not, it is on its way.
        let (Ok(()) | Err(Elapsed)) = sent;
    }

    /// Takes note of what the peer has said or done, if nobody has for a while.
    pub(crate) fn attend(&self, lead: &Lead) {
        // Coarse, because it is read at every call; a few milliseconds are exact enough.
        let now = u64::try_from(clock::coarse().as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: it orders nothing, and two who look at once do no harm.
        if now.saturating_sub(lead.tended.load(Ordering::Relaxed)) < UNTENDED_MAX {
            return;
        }
        let Some(mut inbound) = try_lock(&self.inbound) else {
            return; // Somebody leads.
        };
        lead.tended.store(now, Ordering::Relaxed);
        self.drain(&mut inbound);
        self.tend(lead, &mut inbound, Some(Duration::ZERO));
        drop(inbound);
        lead.hand_over();
    }

    /// Waits while somebody else leads, and leads when nobody does any more.
    fn follow<T>(
        &self,
        lead: &Lead,
        deadline: Option<Instant>,
        look: &mut impl FnMut(Option<&Waker>) -> Option<T>,
    ) -> Result<T, Elapsed> {
        Parker::with(|parker, waker| {
            loop {
                parker.reset();
                if let Some(found) = look(Some(waker)) {
                    return Ok(found);
                }
                lead.succession.enlist(Arc::clone(parker));
                let is_me = |follower: &Arc<Parker>| Arc::ptr_eq(follower, parker);
                if let Some(mut inbound) = try_lock(&self.inbound) {
                    lead.succession.withdraw(is_me);
                    self.link.disarm(&mut inbound.rx);
                    let result = self.look_after(lead, &mut inbound, deadline, look);
                    drop(inbound);
                    lead.hand_over();
                    return result;
                }
                let in_time = parker.park(deadline);
                let was_called = !lead.succession.withdraw(is_me);
                let found = look(None);
                if found.is_some() || !in_time {
                    if was_called {
                        lead.hand_over(); // The call was for somebody who stays.
                    }
                    return found.ok_or(Elapsed);
                }
            }
        })
    }

    /// Looks after the session until `look` finds something.
    fn look_after<T>(
        &self,
        lead: &Lead,
        inbound: &mut Inbound,
        deadline: Option<Instant>,
        look: &mut impl FnMut(Option<&Waker>) -> Option<T>,
    ) -> Result<T, Elapsed> {
        let mut spin = Spin::begin(inbound);
        loop {
            let arrived = self.drain(inbound) != 0;
            if let Some(found) = look(None) {
                self.hit(inbound, &spin);
                return Ok(found);
            }
            if arrived && is_late(deadline) {
                return Err(Elapsed);
            }
            match self.spin(inbound, &mut spin, deadline) {
                Spun::Ready => {}
                Spun::Tend => drop(self.tend(lead, inbound, Some(Duration::ZERO))),
                Spun::Register => {
                    if let Some(found) = Parker::with(|parker, waker| {
                        parker.reset();
                        look(Some(waker))
                    }) {
                        return Ok(found);
                    }
                }
                Spun::Late => return look(None).ok_or(Elapsed),
                Spun::Over => {
                    self.miss(inbound, &spin);
                    let slept = self.sleep(lead, inbound, deadline, look)?;
                    match slept {
                        Slept::Found(found) => return Ok(found),
                        Slept::Rung => spin = Spin::begin(inbound),
                        Slept::Roused => spin.lookout = None,
                    }
                }
            }
        }
    }

    /// Looks at the ring for as long as that pays.
    fn spin(&self, inbound: &Inbound, spin: &mut Spin, deadline: Option<Instant>) -> Spun {
        // A thread holds up nobody: it looks for as long as it may.
        let Some(Lookout { way, budget, .. }) = spin.lookout else {
            return Spun::Over;
        };
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.link.is_ready(&inbound.rx) {
                    return Spun::Ready;
                }
                match way {
                    Way::Spin => std::hint::spin_loop(),
                    Way::Yield => {
                        std::thread::yield_now();
                        break;
                    }
                }
            }
            spin.rounds = spin.rounds.wrapping_add(1);
            let was_woken =
                || ROUNDS_UNREGISTERED < spin.rounds && Parker::with(|parker, _| parker.is_woken());
            if spin.rounds == ROUNDS_UNREGISTERED || self.lost().is_some() || was_woken() {
                return Spun::Register;
            }
            if spin.rounds.is_multiple_of(ROUNDS_PER_TEND) {
                return Spun::Tend;
            }
            if budget == Duration::MAX && deadline.is_none() {
                continue;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Spun::Late;
            }
            let began = *spin.began.get_or_insert(now);
            if budget <= now.duration_since(began) {
                return Spun::Over;
            }
        }
    }

    fn hit(&self, inbound: &mut Inbound, spin: &Spin) {
        if let Some(Lookout { way, .. }) = spin.lookout {
            let waited = || spin.began.map_or(Duration::ZERO, |began| began.elapsed());
            inbound.policy.hit(way, waited);
            self.link.counters().spins_hit.add_locked(1);
        }
    }

    fn miss(&self, inbound: &mut Inbound, spin: &Spin) {
        if let Some(Lookout { way, .. }) = spin.lookout {
            inbound.policy.miss(way);
            self.link.counters().spins_missed.add_locked(1);
        }
    }

    /// Sleeps in the kernel until something happens, unless there is something already.
    fn sleep<T>(
        &self,
        lead: &Lead,
        inbound: &mut Inbound,
        deadline: Option<Instant>,
        look: &mut impl FnMut(Option<&Waker>) -> Option<T>,
    ) -> Result<Slept<T>, Elapsed> {
        Parker::with(|parker, waker| {
            parker.reset();
            if let Some(found) = look(Some(waker)) {
                return Ok(Slept::Found(found));
            }
            if is_late(deadline) {
                return Err(Elapsed);
            }
            if !self.link.arm(&mut inbound.rx) {
                self.link.disarm(&mut inbound.rx);
                return Ok(Slept::Rung);
            }
            let until_deadline =
                deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let may_miss_wakes = self.link.may_miss_wakes() && !self.is_idle();
            let doubt = may_miss_wakes.then_some(DOUBT);
            let timeout = [until_deadline, self.trim(lead), self.link.tick(), doubt]
                .into_iter()
                .flatten()
                .min();
            let rung = parker.sleep(lead.watch.interrupt(), || self.tend(lead, inbound, timeout));
            self.link.disarm(&mut inbound.rx);
            Ok(match rung {
                Some(true) => Slept::Rung,
                Some(false) | None => Slept::Roused,
            })
        })
    }

    /// Waits for what shared memory does not tell, and sees to it. Returns whether the peer has woken us.
    fn tend(&self, lead: &Lead, inbound: &mut Inbound, timeout: Option<Duration>) -> bool {
        let link = &self.link;
        let concern = Concern {
            reading: !link.is_paused(),
            writing: link.has_unsent(),
        };
        let asked = lead.watch.concern(&*lead.socket, concern);
        let Seen {
            doorbell,
            socket,
            writable,
            process,
        } = match asked.and_then(|()| lead.watch.sleep(timeout)) {
            Ok(seen) => seen,
            Err(source) => {
                self.lose(SessionLost::Io {
                    action: "wait for the peer",
                    source: Arc::new(source),
                });
                return false;
            }
        };
        if doorbell {
            link.counters().doorbells_heard.add(1);
        }
        if writable {
            link.send_unsent();
        }
        if process || socket && !self.take_regions(inbound) {
            self.bury(inbound);
        }
        if link.tick().is_some()
            && let Err(misbehaved) = link.ticked()
        {
            self.blame(misbehaved);
        }
        if timeout == Some(Duration::ZERO) {
            self.trim(lead);
        }
        doorbell || socket && link.delivers_from_socket()
    }

    /// Gives memory back that has not been used for a while. Returns when there may be more to give back.
    fn trim(&self, lead: &Lead) -> Option<Duration> {
        let link = &self.link;
        if link.heap_figures().mapped == 0 {
            return None;
        }
        let (activity, patience) = (
            link.counters().blocks_taken.get(),
            self.config.memory_idle(),
        );
        let now = Instant::now();
        let mut idle = lock(&lead.idle);
        match &mut *idle {
            Some(idle) if idle.activity == activity => {
                let left = patience.saturating_sub(now.duration_since(idle.since));
                if !left.is_zero() {
                    return Some(left);
                }
                idle.since = now;
            }
            idle => {
                *idle = Some(Idle {
                    activity,
                    since: now,
                });
                return Some(patience);
            }
        }
        drop(idle);
        if let Err(misbehaved) = link.retire_idle() {
            self.blame(misbehaved);
        }
        Some(patience)
    }
}

/// How a sleep ended.
enum Slept<T> {
    /// There was no need for it.
    Found(T),
    /// The peer has something to say.
    Rung,
    /// Something else happened, or nothing.
    Roused,
}

impl Spin {
    fn begin(inbound: &mut Inbound) -> Self {
        Self {
            lookout: inbound.policy.begin(true),
            began: None,
            rounds: 0,
        }
    }
}

fn is_late(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}
