//! The places for sessions, and what is decided about them.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{PoolConfig, PoolStats, Selection, SlotState, SlotStats, line::Line};
use crate::{
    Backoff, Session,
    core::{
        restart::{Act, Relocation},
        selection::{Breaker, Candidate, in_turn, least_loaded},
    },
    error::{ConnectError, PoolError},
};

/// A session that ends sooner, and without a message from the peer, counts as a failure, so that a server that takes sessions and
/// lets go of them is not run into as fast as it can.
const STEADY: Duration = Duration::from_millis(100);

/// What happened to a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Its server, which speaks shmipc's own protocol, restarts.
    Restarts(u64),
    /// Its peer wants no more streams.
    GoesAway,
    /// It is over.
    Lost,
}

#[derive(Debug)]
pub(super) struct State {
    began: Instant,
    slots: Vec<Slot>,
    /// Sessions that were replaced, and until when they are kept.
    leaving: Vec<(Arc<Line>, Instant)>,
    relocation: Relocation,
    /// Lines up to this number are to be replaced.
    move_up_to: u64,
    /// The number of the newest line, connected or not.
    newest: u64,
    /// Whose turn it is.
    next: usize,
    pub(super) is_closed: bool,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connected: u64,
    failed: u64,
    moved: u64,
    opened: u64,
    reused: u64,
}

#[derive(Debug)]
struct Slot {
    line: Option<Arc<Line>>,
    phase: Phase,
    /// Whether the line is to be replaced.
    wants_another: bool,
    /// Why the last attempt failed, if it did.
    error: Option<Arc<ConnectError>>,
    backoff: Backoff,
    breaker: Breaker,
}

/// What is being done about a session.
#[derive(Debug)]
enum Phase {
    /// Nothing. If there is no session, connecting begins at once.
    Idle,
    Connecting,
    /// The next attempt begins at this time.
    Waiting {
        until: Instant,
    },
}

/// What there is for somebody who wants a stream.
#[derive(Debug)]
pub(super) enum Choice {
    Line(Arc<Line>),
    /// No session. One is about to come if it is `hopeful`.
    None {
        is_hopeful: bool,
        error: Option<Arc<ConnectError>>,
    },
}

/// What there is to do for whoever keeps the pool up: a task, or the threads that use it.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Slots to connect, and the numbers of their lines.
    pub(super) connect: Vec<(usize, u64)>,
    /// When to look again.
    pub(super) again: Option<Instant>,
    /// Sessions in which to say that all have moved.
    acknowledge: Vec<Arc<Line>>,
    /// Sessions whose idle streams are to be ended, and which are perhaps to be dropped.
    done: Vec<Arc<Line>>,
}

impl Work {
    /// Does what may call others, and so is done where no lock is held.
    pub(super) fn settle(&mut self) {
        for line in self.acknowledge.drain(..) {
            line.session.acknowledge_restart();
        }
        for line in self.done.drain(..) {
            line.retire();
        }
    }

    /// Adds what is to be [settled](Self::settle) of another.
    pub(super) fn adopt(&mut self, other: Self) {
        self.acknowledge.extend(other.acknowledge);
        self.done.extend(other.done);
    }
}

impl Slot {
    /// Whether its session takes streams.
    fn is_ready(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.takes_streams())
    }

    /// Whether a session is about to come, as far as is known.
    fn is_hopeful(&self, now: Instant) -> bool {
        let soon = match self.phase {
            Phase::Idle | Phase::Connecting => true,
            Phase::Waiting { until } => until <= now + STEADY,
        };
        soon && self.error.is_none()
    }

    /// Whether an attempt to connect should begin.
    fn is_due(&self, move_up_to: u64, now: Instant) -> bool {
        let is_free = match self.phase {
            Phase::Idle => true,
            Phase::Connecting => false,
            Phase::Waiting { until } => until <= now,
        };
        is_free && self.lacks_line(move_up_to)
    }

    fn lacks_line(&self, move_up_to: u64) -> bool {
        self.wants_another || (self.line.as_ref()).is_none_or(|line| line.number <= move_up_to)
    }

    /// Its line is over, or to be replaced. Connecting begins at once, unless it has not been there for long.
    fn falls_short(&mut self, now: Instant) {
        let Some(line) = &self.line else { return };
        if !matches!(self.phase, Phase::Idle) || mem::replace(&mut self.wants_another, true) {
            return;
        }
        let has_answered = line.shared().link.counters().messages_received.get() != 0;
        if has_answered || STEADY <= now - line.since {
            self.backoff.reset();
        } else {
            self.phase = Phase::Waiting {
                until: now + self.backoff.next_delay(),
            };
        }
    }
}

impl State {
    pub(super) fn new(config: &PoolConfig, now: Instant) -> Self {
        let slot = || Slot {
            line: None,
            phase: Phase::Idle,
            wants_another: false,
            error: None,
            backoff: config.backoff(),
            breaker: Breaker::default(),
        };
        Self {
            began: now,
            slots: std::iter::repeat_with(slot).take(config.size).collect(),
            leaving: Vec::new(),
            relocation: Relocation::new(config.size, config.restart_timeout),
            move_up_to: 0,
            newest: 0,
            next: 0,
            is_closed: false,
            counts: Counts::default(),
        }
    }

    /// Begins with a session that was connected before.
    pub(super) fn start(&mut self, slot: usize, session: Session, config: &PoolConfig) {
        self.newest += 1;
        let number = self.newest;
        self.connected(slot, number, session, config);
    }

    /// Chooses a session for a stream, which it counts. Returns as well whether one was found that takes none any more, of which nobody
    /// knew.
    pub(super) fn lend(
        &mut self,
        config: &PoolConfig,
        now: Instant,
    ) -> Result<(Choice, bool), PoolError> {
        if self.is_closed {
            return Err(PoolError::Closed);
        }
        let (choice, is_news) = self.choose(config, now);
        if let Choice::Line(line) = &choice {
            // Under the lock, so that the next one sees it.
            line.lent.add();
        }
        Ok((choice, is_news))
    }

    /// Counts a stream that was lent.
    pub(super) fn lent(&mut self, is_reused: bool) {
        if is_reused {
            self.counts.reused += 1;
        } else {
            self.counts.opened += 1;
        }
    }

    fn choose(&mut self, config: &PoolConfig, now: Instant) -> (Choice, bool) {
        let since = now - self.began;
        let mut candidates = Vec::with_capacity(self.slots.len());
        let mut is_exhausted = false;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(line) = &slot.line else { continue };
            if line.takes_streams() {
                let counters = line.shared().link.counters();
                let is_resting = config.fallback_rest.is_some_and(|rest| {
                    slot.breaker
                        .is_open(counters.fallbacks_sent.get(), since, rest)
                });
                candidates.push(Candidate {
                    slot: index,
                    load: line.lent.get(),
                    is_resting,
                });
            } else if !slot.wants_another {
                is_exhausted = true;
                slot.falls_short(now);
            }
        }
        let chosen = match config.selection {
            Selection::RoundRobin => in_turn(&candidates, self.next),
            Selection::LeastLoaded => least_loaded(&candidates, self.next),
        };
        let Some(chosen) = chosen else {
            return (self.outlook(now), is_exhausted);
        };
        self.next = (chosen + 1) % self.slots.len();
        let line = self.slots[chosen].line.as_ref().map(Arc::clone);
        let choice = line.map_or_else(|| self.outlook(now), Choice::Line);
        (choice, is_exhausted)
    }

    fn outlook(&self, now: Instant) -> Choice {
        Choice::None {
            is_hopeful: self.slots.iter().any(|slot| slot.is_hopeful(now)),
            error: self.slots.iter().find_map(|slot| slot.error.clone()),
        }
    }

    /// What is to be done now, with so many attempts to connect at most, and when to look again.
    pub(super) fn work(&mut self, config: &PoolConfig, now: Instant, attempts_max: usize) -> Work {
        let mut work = Work::default();
        if self.is_closed {
            return work;
        }
        let acts = self.relocation.poll(self.newest, now - self.began);
        self.act(acts, config, now, &mut work);
        let slots = self.slots.iter_mut().enumerate();
        let due = slots.filter(|(_, slot)| slot.is_due(self.move_up_to, now));
        for (index, slot) in due.take(attempts_max) {
            slot.phase = Phase::Connecting;
            self.newest += 1;
            work.connect.push((index, self.newest));
        }
        for (line, until) in mem::take(&mut self.leaving) {
            if until <= now {
                work.done.push(line);
            } else {
                self.leaving.push((line, until));
            }
        }
        work.again = self.next_look(now);
        work
    }

    /// When there is something to do next, unless something happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let attempt = |slot: &Slot| match slot.phase {
            _ if !slot.lacks_line(self.move_up_to) => None,
            Phase::Idle => Some(now),
            Phase::Connecting => None,
            Phase::Waiting { until } => Some(until),
        };
        let attempts = self.slots.iter().filter_map(attempt);
        let leaving = self.leaving.iter().map(|(_, until)| *until);
        let giving_up = self.relocation.deadline().map(|after| self.began + after);
        attempts.chain(leaving).chain(giving_up).min()
    }

    fn act(&mut self, acts: Vec<Act>, config: &PoolConfig, now: Instant, work: &mut Work) {
        for act in acts {
            match act {
                Act::Move { up_to } => self.move_lines(up_to, now),
                Act::Acknowledge { session } => {
                    let mut leaving = self.leaving.iter_mut();
                    if let Some((line, until)) = leaving.find(|(line, _)| line.number == session) {
                        work.acknowledge.push(Arc::clone(line));
                        // Others lose what they are told right before a session is closed (H45), so that is left to the server for
                        // a while.
                        *until = now + config.restart_timeout;
                    }
                }
                Act::GiveUp { sessions } => self.let_go(&sessions, work),
            }
        }
    }

    /// Keeps these no longer: they go on for as long as their streams do.
    fn let_go(&mut self, sessions: &[u64], work: &mut Work) {
        for (line, until) in mem::take(&mut self.leaving) {
            if sessions.contains(&line.number) {
                work.done.push(line);
            } else {
                self.leaving.push((line, until));
            }
        }
    }

    fn move_lines(&mut self, up_to: u64, now: Instant) {
        self.move_up_to = self.move_up_to.max(up_to);
        for slot in &mut self.slots {
            if slot.lacks_line(up_to) {
                slot.falls_short(now);
            }
        }
    }

    /// A session was connected. Returns its line.
    pub(super) fn connected(
        &mut self,
        slot: usize,
        number: u64,
        session: Session,
        config: &PoolConfig,
    ) -> (Arc<Line>, Work) {
        let now = Instant::now();
        let line = Line::new(number, session, config.idle_streams_max);
        let place = &mut self.slots[slot];
        place.phase = Phase::Idle;
        place.wants_another = false;
        place.error = None;
        place.breaker = Breaker::default();
        let old = place.line.replace(Arc::clone(&line));
        self.counts.connected += 1;
        self.counts.moved += u64::from(old.is_some());
        self.relocation.moved(slot, number);
        let mut work = Work::default();
        if let Some(old) = old {
            if old.is_native() && !old.session.is_closed() {
                // It may still be told, and acknowledge.
                self.leaving
                    .push((Arc::clone(&old), now + config.restart_timeout));
            }
            work.done.push(old);
        }
        (line, work)
    }

    /// An attempt to connect has failed.
    pub(super) fn failed(&mut self, slot: usize, error: Arc<ConnectError>) {
        self.counts.failed += 1;
        let slot = &mut self.slots[slot];
        slot.error = Some(error);
        slot.phase = Phase::Waiting {
            until: Instant::now() + slot.backoff.next_delay(),
        };
    }

    /// As [`failed`](Self::failed), where slots are connected one after the other: what was found holds for those that are due as well.
    pub(super) fn failed_for_all(&mut self, slot: usize, error: &Arc<ConnectError>) {
        self.failed(slot, Arc::clone(error));
        let (now, move_up_to) = (Instant::now(), self.move_up_to);
        let slots = self.slots.iter_mut();
        for slot in slots.filter(|slot| slot.is_due(move_up_to, now)) {
            slot.error = Some(Arc::clone(error));
            slot.phase = Phase::Waiting {
                until: now + slot.backoff.next_delay(),
            };
        }
    }

    /// An attempt to connect came to nothing, which says nothing of the server. If there are others to be had, it is not made again at
    /// once.
    pub(super) fn broken_off(&mut self, slot: usize) {
        let has_another = self.has_ready();
        let slot = &mut self.slots[slot];
        slot.phase = if has_another {
            Phase::Waiting {
                until: Instant::now() + slot.backoff.next_delay(),
            }
        } else {
            Phase::Idle
        };
    }

    /// Whether some session takes streams.
    pub(super) fn has_ready(&self) -> bool {
        self.slots.iter().any(Slot::is_ready)
    }

    /// Something happened to a session.
    pub(super) fn happened(&mut self, number: u64, event: Event, config: &PoolConfig) -> Work {
        let now = Instant::now();
        let mut work = Work::default();
        let mut slots = self.slots.iter_mut();
        let place = slots.find(|slot| {
            let line = slot.line.as_ref();
            line.is_some_and(|line| line.number == number)
        });
        match event {
            Event::Restarts(epoch) => {
                let told = (self.relocation).told(number, epoch, self.newest, now - self.began);
                self.act(told.into_iter().collect(), config, now, &mut work);
            }
            Event::GoesAway => {
                if let Some(slot) = place {
                    slot.falls_short(now);
                    // What nobody uses is not waited for.
                    work.done.extend(slot.line.clone());
                }
            }
            Event::Lost => {
                if let Some(slot) = place {
                    slot.falls_short(now);
                    slot.wants_another = false;
                    work.done.extend(slot.line.take());
                }
                self.relocation.ended(number);
                self.let_go(&[number], &mut work);
            }
        }
        work
    }

    pub(super) fn stats(&self) -> PoolStats {
        let now = Instant::now();
        let slot = |slot: &Slot| SlotStats {
            state: match &slot.phase {
                Phase::Connecting if slot.is_ready() => SlotState::Moving,
                _ if slot.is_ready() => SlotState::Ready,
                Phase::Waiting { until } => SlotState::Waiting(*until - now),
                Phase::Idle | Phase::Connecting => SlotState::Connecting,
            },
            streams_lent: slot.line.as_ref().map_or(0, |line| line.lent.get()),
            streams_idle: slot.line.as_ref().map_or(0, |line| line.idle()),
        };
        let (restarts, restarts_given_up) = self.relocation.counts();
        PoolStats {
            slots: self.slots.iter().map(slot).collect(),
            leaving: self.leaving.len(),
            connected: self.counts.connected,
            failed: self.counts.failed,
            restarts,
            restarts_given_up,
            moved: self.counts.moved,
            streams_opened: self.counts.opened,
            streams_reused: self.counts.reused,
        }
    }

    /// The sessions that take streams.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Session> {
        let ready = self.slots.iter().filter(|slot| slot.is_ready());
        ready.filter_map(|slot| Some(&slot.line.as_ref()?.session))
    }

    /// The sessions that there are.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.slots.iter().filter_map(|slot| slot.line.as_ref())
    }

    /// Hands out all that there is, for good.
    pub(super) fn close(&mut self) -> Vec<Arc<Line>> {
        self.is_closed = true;
        let leaving = mem::take(&mut self.leaving)
            .into_iter()
            .map(|(line, _)| line);
        let current = self.slots.iter_mut().filter_map(|slot| slot.line.take());
        leaving.chain(current).collect()
    }
}
