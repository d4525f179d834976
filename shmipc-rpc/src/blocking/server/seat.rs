//! Who takes the calls of a session, and how that thread is relieved if a handler keeps it.
//!
//! A session's thread runs quick handlers itself. One that turns out to be slow would hold up its neighbours, and cannot be
//! interrupted. So there is a *watchman*, a thread per server that looks at the seats now and then: if a thread has been in
//! the same handler at two looks, another one takes its seat and the session goes on; the first sends its answer when the
//! handler is done, and ends. The watchman sleeps while no handlers run.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use super::{pool::Other, routes::MethodId};
use crate::server::CallPermit;

/// The time between two looks.
const TICK: Duration = Duration::from_millis(1);

/// Looks in a row at which nothing had happened, before the watchman lies down, and before he sleeps.
const QUIET_TICKS: [u32; 2] = [100, 102];

/// The seat of the thread that takes a session's calls.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Counts up when a handler begins and when it ends: odd while one runs.
    turn: AtomicU64,
    /// Which method's handler began last.
    method: AtomicUsize,
    /// Once the seat was taken away: counts the call that its thread is left with, for as long as that has the seat.
    held: Mutex<Option<CallPermit>>,
    /// And the thread.
    other: OnceLock<Other>,
}

/// The seat was given to somebody else.
const TAKEN: u64 = u64::MAX;

impl Seat {
    /// A handler of `method` begins.
    pub(super) fn begin(&self, method: MethodId) {
        self.method.store(method.0, Ordering::Relaxed);
        // Only its thread changes it, but for `take`. `Relaxed`: the number is all that is communicated.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Release);
    }

    /// The method whose handler runs, or ran last.
    pub(super) fn method(&self) -> MethodId {
        MethodId(self.method.load(Ordering::Relaxed))
    }

    /// Leaves the call to the thread that lost the seat.
    pub(super) fn leave(&self, permit: CallPermit) {
        let held = self.held.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    /// Counts the thread that lost the seat.
    pub(super) fn count(&self, other: Other) {
        // It is lost once.
        let _ = self.other.set(other);
    }

    /// The handler has ended. Returns `false` if the seat was given to somebody else.
    pub(super) fn end(&self) -> bool {
        let turn = self.turn.load(Ordering::Relaxed);
        let ended = |turn| {
            self.turn
                .compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed)
        };
        turn != TAKEN && ended(turn).is_ok()
    }

    /// Whether a handler runs.
    pub(super) fn is_busy(&self) -> bool {
        self.turn.load(Ordering::Relaxed) % 2 == 1
    }

    /// Takes the seat away from a thread that is in the handler of this turn.
    fn take(&self, turn: u64) -> bool {
        self.turn
            .compare_exchange(turn, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

/// Looks after the seats of a server.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    seats: Mutex<HashMap<u64, Watched>>,
    is_asleep: AtomicBool,
    is_over: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// A seat, and what was seen there last.
#[derive(Debug)]
struct Watched {
    seat: Arc<Seat>,
    seen: u64,
}

impl Watchman {
    /// Watches the seat of a session, in the place of any that it had before.
    pub(super) fn watch(&self, session: u64, seat: Arc<Seat>) {
        let watched = Watched { seat, seen: 0 };
        self.seats().insert(session, watched);
    }

    /// Watches the seat of a session no longer.
    pub(super) fn forget(&self, session: u64) {
        self.seats().remove(&session);
    }

    /// Wakes him if he sleeps. To be called when a handler begins.
    pub(super) fn notice(&self) {
        if self.is_asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Ends his work.
    pub(super) fn dismiss(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.wake();
    }

    #[cold]
    fn wake(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
        let thread = self.thread.lock();
        if let Some(thread) = &*thread.unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    /// Looks until he is dismissed. `relieve` has another thread take the seat of a session.
    pub(super) fn run(&self, relieve: impl Fn(u64)) {
        let thread = self.thread.lock();
        *thread.unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        let [lie_down, sleep] = QUIET_TICKS;
        let mut quiet = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let (has_changed, taken) = self.look();
            taken.into_iter().for_each(&relieve);
            quiet = if has_changed { 0 } else { quiet + 1 };
            // Who begins a handler looks at this after the seat was changed, and we look at the seats again some time after
            // this was changed: one of us sees the other.
            if quiet == lie_down {
                self.is_asleep.store(true, Ordering::Relaxed);
            } else if quiet == 0 {
                self.is_asleep.store(false, Ordering::Relaxed);
            }
            if sleep <= quiet && self.is_asleep.load(Ordering::Relaxed) {
                thread::park();
                quiet = 0;
            } else {
                thread::park_timeout(TICK);
            }
        }
    }

    /// Looks at all seats. Returns whether anything has happened, and the sessions whose seats were taken away.
    fn look(&self) -> (bool, Vec<u64>) {
        let mut has_changed = false;
        let mut taken = Vec::new();
        for (&session, watched) in self.seats().iter_mut() {
            let turn = watched.seat.turn.load(Ordering::Relaxed);
            if turn == TAKEN {
                continue;
            }
            if turn != watched.seen {
                watched.seen = turn;
                has_changed = true;
            } else if turn % 2 == 1 && watched.seat.take(turn) {
                has_changed = true;
                taken.push(session);
            }
        }
        (has_changed, taken)
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        // No code of users runs under it.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_taken_from_who_is_in_the_same_handler_at_two_looks() {
        let watchman = Watchman::default();
        let seat = Arc::new(Seat::default());
        watchman.watch(7, Arc::clone(&seat));
        for _ in 0..3 {
            seat.begin(MethodId(0));
            assert_eq!(watchman.look(), (true, vec![]));
            assert!(seat.end());
            assert_eq!(watchman.look(), (true, vec![]));
            assert_eq!(watchman.look(), (false, vec![]), "it idles");
        }
        seat.begin(MethodId(0));
        assert_eq!(watchman.look(), (true, vec![]));
        assert!(seat.is_busy());
        assert_eq!(watchman.look(), (true, vec![7]));
        assert_eq!(watchman.look(), (false, vec![]), "once");
        assert!(!seat.end(), "it notices when it is done");
    }

    #[test]
    fn he_sleeps_while_nothing_happens_and_is_woken() {
        let watchman = Arc::new(Watchman::default());
        let seat = Arc::new(Seat::default());
        watchman.watch(1, Arc::clone(&seat));
        let (send, relieved) = std::sync::mpsc::channel();
        let thread = {
            let watchman = Arc::clone(&watchman);
            thread::spawn(move || watchman.run(|session| send.send(session).unwrap()))
        };
        while !watchman.is_asleep.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        seat.begin(MethodId(0));
        watchman.notice();
        let relieved = relieved.recv_timeout(Duration::from_secs(60));
        assert_eq!(relieved, Ok(1));
        watchman.dismiss();
        thread.join().unwrap();
    }
}
