//! The task that looks after a session when nobody else does.
//!
//! It sleeps on the doorbell, on the socket (whose closing is the peer's end) and on the peer's process; it drains the ring
//! for those who wait while no caller drains it itself; and it gives idle memory back.

use std::{
    io,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    time::{Sleep, sleep},
};

use super::{
    DOUBT, FAREWELL, UNTOLD,
    custody::Custody,
    pulse::Pulse,
    shared::{Inbound, Shared},
};
use crate::{
    error::SessionLost,
    sys::{
        doorbell::{self, Doorbell, WatchedDoorbell},
        socket::ControlSocket,
        timer::{Timer, WatchedTimer},
    },
    wait::{Lookout, Way},
};

/// Drives one session until it is over.
pub(super) struct Driver {
    shared: Arc<Shared>,
    socket: Arc<ControlSocket>,
    /// `None` if it is the socket that wakes us, or nothing.
    doorbell: Option<WatchedDoorbell>,
    /// Becomes readable when the peer's process ends.
    process: Option<AsyncFd<OwnedFd>>,
    /// Runs while there is memory that may be given back.
    idle: Option<Pin<Box<Sleep>>>,
    /// Runs while there is something that nobody will tell, or may forget to.
    tick: Option<Tick>,
    /// Does so in its place where nobody wakes anybody.
    timer: Option<WatchedTimer>,
    /// Runs while there is a stream, if the peer may forget to wake us.
    doubt: Option<Pin<Box<Sleep>>>,
    /// Whether there is no such timer until there is a stream.
    is_sure: bool,
    /// Until when to wait for the peer to take what was sent before a session was closed.
    linger: Option<Pin<Box<Sleep>>>,
    /// Regions and messages that there had been when the timer was set.
    activity: u64,
    spin: Option<Spin>,
    pulse: Option<Pulse>,
    custody: Custody,
    #[cfg(feature = "metrics")]
    beat: super::report::Beat,
}

/// When to look again.
struct Tick {
    /// After which time.
    after: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Tick {
    /// Waits for so long since it was waited for first, or for as long as before if that is less.
    fn poll(this: &mut Option<Self>, after: Duration, cx: &mut Context<'_>) -> Poll<()> {
        // What is to be looked for now may be more urgent.
        drop(this.take_if(|tick| after < tick.after));
        let tick = this.get_or_insert_with(|| Self {
            after,
            timer: Box::pin(sleep(after)),
        });
        ready!(tick.timer.as_mut().poll(cx));
        *this = None;
        Poll::Ready(())
    }
}

/// The longest that it takes to be polled again on a runtime where nobody else has anything to do.
const IDLE_TURN: Duration = Duration::from_micros(1);

/// A wait during which we look.
struct Spin {
    way: Way,
    /// How long one poll may look.
    burst: Duration,
    began: Instant,
    until: Option<Instant>,
    /// When this task was polled last, during this wait.
    polled: Option<Instant>,
}

/// What one look at the ring calls for.
enum Next {
    /// Sleep until somebody rings.
    Sleep,
    /// Look again, after those who were woken have run.
    AfterOthers,
    /// Look again, after everything else has run, including what waits for the kernel.
    AfterAll,
}

impl Spin {
    /// Whether others may have something to do, as far as the time since the last poll tells. Tasks that let others run now and then, and
    /// have more to do, must not wait for a long look each time.
    fn has_company(&mut self, now: Instant) -> bool {
        let last = self.polled.replace(now);
        last.is_none_or(|last| IDLE_TURN < now.saturating_duration_since(last))
    }

    /// Looks at the ring for as long as one poll may. Returns whether something is there.
    fn look(&mut self, shared: &Shared, inbound: &mut Inbound, now: Instant) -> bool {
        if self.burst.is_zero() {
            if self.way == Way::Yield {
                thread::yield_now();
            }
            return shared.link.is_ready(&inbound.rx);
        }
        let arrived = shared.look_until(inbound, self.way, now + self.burst);
        if arrived {
            inbound.policy.burst_hit();
        } else {
            self.burst = inbound.policy.burst_missed(inbound.driver.is_alone());
        }
        arrived
    }
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: Arc<ControlSocket>,
        doorbell: Option<Doorbell>,
        process: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let timer = shared.link.is_polled().then(Timer::new).transpose()?;
        Ok(Self {
            doorbell: doorbell.map(Doorbell::watch).transpose()?,
            process: process.map(doorbell::watch).transpose()?,
            socket,
            pulse: shared.config.keepalive().map(Pulse::new),
            shared,
            idle: None,
            tick: None,
            timer: timer.map(Timer::watch).transpose()?,
            doubt: None,
            is_sure: false,
            linger: None,
            activity: 0,
            spin: None,
            custody: Custody::default(),
            #[cfg(feature = "metrics")]
            beat: super::report::Beat::default(),
        })
    }

    /// Whether the peer is gone.
    fn poll_peer_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(process) = &self.process
            && process.poll_read_ready(cx).is_ready()
        {
            return Poll::Ready(());
        }
        while !self.shared.link.is_paused() && self.socket.poll_readable(cx).is_ready() {
            let inbound = &mut *self.shared.inbound();
            if !self.shared.take_regions(inbound) {
                return Poll::Ready(());
            }
            // Only so much is taken before it is delivered.
            if self.shared.link.delivers_from_socket() {
                self.shared.drain(inbound);
            }
        }
        Poll::Pending
    }

    /// Sends what the socket has not taken before.
    fn poll_unsent(&self, cx: &mut Context<'_>) {
        let link = &self.shared.link;
        while link.has_unsent() && self.socket.poll_writable(cx).is_ready() {
            link.send_unsent();
        }
    }

    /// Ready each time that `time` has passed.
    fn poll_ticked(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            if let Err(source) = ready!(timer.poll_elapsed(cx, time)) {
                self.shared.lose(SessionLost::Io {
                    action: "wait for the peer",
                    source: Arc::new(source),
                });
                return Poll::Pending;
            }
            return Poll::Ready(());
        }
        Tick::poll(&mut self.tick, time, cx)
    }

    /// Looks, from time to time, for what nobody tells.
    fn poll_tick(&mut self, cx: &mut Context<'_>) {
        while let Some(time) = self.shared.link.tick() {
            if self.poll_ticked(cx, time).is_pending() {
                return;
            }
            if let Err(misbehaved) = self.shared.link.ticked() {
                self.shared.blame(misbehaved);
                return;
            }
        }
        self.tick = None;
    }

    /// Has the queue looked at now and then, by polling this task, although nobody was woken.
    fn poll_doubt(&mut self, cx: &mut Context<'_>) {
        if !self.shared.link.may_miss_wakes() {
            return;
        }
        loop {
            let Some(timer) = &mut self.doubt else {
                // As for the keepalive, streams that follow each other wake this task once in a while, and not once each.
                self.is_sure = if self.is_sure {
                    self.shared.awaits_streams()
                } else {
                    self.shared.await_streams()
                };
                if self.is_sure {
                    return;
                }
                self.doubt = Some(Box::pin(sleep(DOUBT)));
                continue;
            };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.doubt = None;
        }
    }

    /// Whether a session that is over need not be kept for the peer's sake any more.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let link = &self.shared.link;
        if !matches!(self.shared.lost(), Some(SessionLost::ClosedHere)) {
            return Poll::Ready(());
        }
        loop {
            self.poll_unsent(cx);
            if !link.lingers() {
                return Poll::Ready(());
            }
            let farewell = self.linger.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
            if farewell.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            ready!(Tick::poll(&mut self.tick, UNTOLD, cx));
        }
    }

    /// Gives memory back that has not been used for a while.
    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let link = &self.shared.link;
        loop {
            let activity = link.counters().blocks_taken.get();
            let Some(timer) = &mut self.idle else {
                if link.heap_figures().mapped == 0 && !link.has_forwarded() {
                    return;
                }
                self.activity = activity;
                self.idle = Some(Box::pin(sleep(self.shared.config.memory_idle())));
                continue;
            };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.idle = None;
            let mut outcome = link.sweep_forwarded();
            if activity == self.activity {
                outcome = outcome.and_then(|()| link.retire_idle().map(drop));
            }
            if let Err(misbehaved) = outcome {
                self.shared.blame(misbehaved);
                return;
            }
        }
    }

    /// Ends the session if the peer does not answer.
    fn poll_pulse(&mut self, cx: &mut Context<'_>) {
        let shared = &self.shared;
        let Some(pulse) = &mut self.pulse else {
            return;
        };
        let catch_up = || {
            shared.drain(&mut shared.inbound());
        };
        if let Poll::Ready(reason) = pulse.poll(cx, shared, catch_up) {
            shared.lose(reason);
        }
    }

    /// Looks at the ring, for as long as that seems to pay.
    fn look(&mut self) -> Next {
        let shared = Arc::clone(&self.shared);
        // Not `try_lock`: a caller that looks at the ring now may be leaving the rest of its wait to us.
        let inbound = &mut *shared.inbound();
        shared.link.disarm(&mut inbound.rx);
        let found = shared.drain(inbound) != 0;
        if found {
            self.found(inbound);
        }
        let next = self.decide(inbound, found);
        inbound.driver.set(!matches!(next, Next::Sleep));
        if !inbound.driver.is_hot() {
            self.spin = None;
            inbound.inherited = None;
            shared.rest(inbound);
        }
        next
    }

    fn decide(&mut self, inbound: &mut Inbound, found: bool) -> Next {
        let shared = &self.shared;
        let is_waited_for = shared.is_anyone_waiting();
        if shared.lost().is_some() {
            return Next::Sleep;
        }
        if !is_waited_for && !shared.is_anyone_engaged() {
            return if shared.take_yields() {
                Next::AfterAll
            } else {
                Next::Sleep
            };
        }
        let now = Instant::now();
        let spin = match &mut self.spin {
            Some(spin) => spin,
            none => {
                let Some(lookout) = inbound.inherited.take().or_else(|| {
                    let is_alone = inbound.driver.is_alone();
                    inbound.policy.begin(is_alone)
                }) else {
                    return Next::Sleep;
                };
                let Lookout { way, budget, burst } = lookout;
                none.insert(Spin {
                    way,
                    burst,
                    began: now,
                    until: now.checked_add(budget),
                    polled: None,
                })
            }
        };
        if found {
            return Next::AfterOthers;
        }
        // On more threads than one, another takes over who is kept waiting.
        let keeps_waiting = shared.is_current_thread && !spin.burst.is_zero();
        if is_waited_for && keeps_waiting && spin.has_company(now) {
            return Next::AfterOthers;
        }
        // While those who were woken have not run yet, they are what is waited for.
        if is_waited_for && spin.look(shared, inbound, now) {
            shared.drain(inbound);
            self.found(inbound);
            return Next::AfterOthers;
        }
        let Spin { way, until, .. } = *spin;
        if until.is_some_and(|until| until <= Instant::now()) {
            inbound.policy.miss(way);
            self.shared.link.counters().spins_missed.add_locked(1);
            return Next::Sleep;
        }
        Next::AfterAll
    }

    /// A look has paid: the next one begins a new wait.
    fn found(&mut self, inbound: &mut Inbound) {
        if let Some(Spin { way, began, .. }) = self.spin.take() {
            inbound.policy.hit(way, || began.elapsed());
            self.shared.link.counters().spins_hit.add_locked(1);
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.register_driver(cx.waker());
        if this.shared.lost().is_some() {
            return this.poll_farewell(cx);
        }
        while let Some(doorbell) = &this.doorbell
            && doorbell.poll_rung(cx).is_ready()
        {
            this.shared.link.counters().doorbells_heard.add(1);
        }
        if this.poll_peer_gone(cx).is_ready() {
            this.shared.bury(&mut this.shared.inbound());
            return Poll::Ready(());
        }
        this.poll_unsent(cx);
        this.poll_idle(cx);
        this.poll_pulse(cx);
        // After the pulse: all three are woken by one word.
        this.poll_doubt(cx);
        #[cfg(feature = "metrics")]
        this.beat.poll(cx, &this.shared);
        this.custody.poll(&this.shared.link, cx);
        let next = this.look();
        this.poll_tick(cx);
        if this.shared.lost().is_some() {
            return this.poll_farewell(cx);
        }
        match next {
            Next::Sleep => {}
            Next::AfterOthers if this.shared.is_current_thread => cx.waker().wake_by_ref(),
            // On a runtime with several workers, a task that wakes itself also wakes an idle worker to steal it; a
            // yield does not.
            Next::AfterOthers | Next::AfterAll => {
                if pin!(tokio::task::yield_now()).poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.inbound().driver.set(false);
        // The session is over, or the runtime is: without a driver nobody would learn of the peer's end.
        self.shared.lose(SessionLost::ClosedHere);
        self.socket.hang_up();
        // A recorder may be what has panicked.
        #[cfg(feature = "metrics")]
        if !thread::panicking() {
            self.shared.report_end();
        }
    }
}
