//! Where a call is polled first.
//!
//! A handler that is ready at once is best polled within the task that reads the session: no task is made, and no other
//! thread is woken. But a handler that computes for long would hold up its neighbours there. So a method must prove itself:
//! while it is on probation, its handlers run in tasks of their own, where the first poll is timed. Calls that return in time
//! count it down; one that takes long starts it anew.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

/// How long a first poll may take to count as short: a few times what a task switch costs.
const SHORT_MAX: Duration = Duration::from_micros(50);

/// How many short polls in a row a new method must show.
const PROBATION_AT_FIRST: u8 = 4;

/// How many short polls in a row a method must show after a long one.
const PROBATION_AFTER_LONG: u8 = 64;

/// A method's record. Updates may be lost when calls end at once; that only prolongs the probation.
#[derive(Debug)]
pub(super) struct Pace {
    /// Short polls to go.
    probation: AtomicU8,
}

impl Pace {
    /// Tells whether the next handler may be polled in the session's task.
    pub(super) fn is_proven(&self) -> bool {
        self.probation.load(Ordering::Relaxed) == 0
    }

    /// Records how long a first poll took.
    pub(super) fn record(&self, first_poll: Duration) {
        if SHORT_MAX < first_poll {
            self.probation
                .store(PROBATION_AFTER_LONG, Ordering::Relaxed);
            return;
        }
        let probation = self.probation.load(Ordering::Relaxed);
        if probation != 0 {
            self.probation.store(probation - 1, Ordering::Relaxed);
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            probation: AtomicU8::new(PROBATION_AT_FIRST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_proves_itself_with_short_polls_and_loses_that_with_a_long_one() {
        let pace = Pace::default();
        for _ in 0..PROBATION_AT_FIRST {
            assert!(!pace.is_proven());
            pace.record(Duration::ZERO);
        }
        assert!(pace.is_proven());

        pace.record(SHORT_MAX * 2);
        for _ in 0..PROBATION_AFTER_LONG {
            assert!(!pace.is_proven());
            pace.record(SHORT_MAX);
        }
        assert!(pace.is_proven());
    }
}
