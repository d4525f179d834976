//! Where a call is polled first.
//!
//! A handler that is ready at once is best polled within the task that reads the session: no task is made, and no other
//! thread is woken. But a handler that computes for long would hold up its neighbours there. So a method must prove itself:
//! while it is on probation, its handlers run in tasks of their own, where the first poll is timed. Polls that return in time
//! count the probation down; one that takes long starts it anew, twice as long as the last time. A single long poll, which may
//! be no more than a thread that lost its CPU, costs little; a method that computes for long soon stays out.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

/// How long a first poll may take to count as short: a few times what a task switch costs.
const SHORT_MAX: Duration = Duration::from_micros(50);

/// The shortest probation, and that of a new method: short polls in a row.
const PROBATION_MIN: u8 = 4;

/// The longest probation.
const PROBATION_MAX: u8 = 128;

/// A method's record. Updates may be lost when calls end at once, which does no harm.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Short polls to go.
    probation: AtomicU8,
    /// The length of the next probation.
    next: AtomicU8,
}

impl Pace {
    /// Tells whether the next handler may be polled in the session's task.
    pub(crate) fn is_proven(&self) -> bool {
        self.probation.load(Ordering::Relaxed) == 0
    }

    /// Records how long a first poll took.
    pub(crate) fn record(&self, first_poll: Duration) {
        let next = self.next.load(Ordering::Relaxed);
        if SHORT_MAX < first_poll {
            self.probation.store(next, Ordering::Relaxed);
            self.next
                .store(next.saturating_mul(2).min(PROBATION_MAX), Ordering::Relaxed);
            return;
        }
        let probation = self.probation.load(Ordering::Relaxed);
        if probation != 0 {
            self.probation.store(probation - 1, Ordering::Relaxed);
        } else if PROBATION_MIN < next {
            self.next.store(next - 1, Ordering::Relaxed);
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            probation: AtomicU8::new(PROBATION_MIN),
            next: AtomicU8::new(PROBATION_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the short polls until the method is proven.
    fn prove(pace: &Pace) -> u8 {
        let polls = (0..=u8::MAX).find(|_| {
            let proven = pace.is_proven();
            pace.record(SHORT_MAX);
            proven
        });
        polls.expect("no probation is that long")
    }

    #[test]
    fn a_method_proves_itself_with_short_polls() {
        assert_eq!(prove(&Pace::default()), PROBATION_MIN);
    }

    #[test]
    fn probations_grow_with_every_long_poll_and_shrink_with_short_ones() {
        let pace = Pace::default();
        pace.record(SHORT_MAX * 2);
        assert_eq!(prove(&pace), 4);
        pace.record(SHORT_MAX * 2);
        assert!((7..=8).contains(&prove(&pace)));
        (0..10).for_each(|_| pace.record(SHORT_MAX * 2));
        assert_eq!(prove(&pace), PROBATION_MAX);
        (0..PROBATION_MAX).for_each(|_| pace.record(SHORT_MAX));
        pace.record(SHORT_MAX * 2);
        assert_eq!(prove(&pace), PROBATION_MIN);
    }
}
