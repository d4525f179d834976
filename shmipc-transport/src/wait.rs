//! When to look at shared memory, and when to sleep.
//!
//! Two processes that spin answer each other in a fraction of a microsecond; waking one that sleeps costs tens. So a
//! wait begins with looking, *if* that has paid lately. The policy learns from outcomes, not from guesses about the load:
//! a wait that was spun for in vain doubles the number of waits that are not spun for at all, up to [`SKIP_MAX`]; one that
//! ended while spinning sets it back to none. Two sides that share one CPU therefore stop spinning after a few waits (the
//! peer cannot answer while we look), and an occasional trial finds out when that has changed. A trial lasts for the
//! whole budget, because it must outlast a peer that has to wake up first.

use std::time::Duration;

use crate::config::Wait;

/// The most waits without a trial.
const SKIP_MAX: u32 = 512;

/// Looks between two readings of the clock.
pub(crate) const LOOKS_PER_CLOCK: u32 = 32;

/// The longest that one poll of a future spins, so that its runtime's other tasks are not held up for longer.
pub(crate) const BURST: Duration = Duration::from_micros(10);

/// Decides for each wait of a session whether to spin.
#[derive(Debug)]
pub(crate) struct WaitPolicy {
    wait: Wait,
    budget: Duration,
    /// Waits to let pass before the next trial.
    skip: u32,
    /// How many were skipped after the last trial.
    skipped_last: u32,
}

impl WaitPolicy {
    /// `single_cpu` says that this process may run on one CPU only, where looking keeps everybody else from acting.
    pub(crate) fn new(wait: Wait, budget: Duration, single_cpu: bool) -> Self {
        let wait = if single_cpu && wait == Wait::Adaptive {
            Wait::Block
        } else {
            wait
        };
        Self {
            wait,
            budget,
            skip: 0,
            skipped_last: 0,
        }
    }

    /// Begins a wait: how long to spin, if at all. `Duration::MAX` means until something comes.
    pub(crate) fn begin(&mut self) -> Option<Duration> {
        match self.wait {
            Wait::Block => None,
            Wait::Busy => Some(Duration::MAX),
            Wait::Adaptive if 0 < self.skip => {
                self.skip -= 1;
                None
            }
            Wait::Adaptive => Some(self.budget),
        }
    }

    /// The wait ended while we were spinning.
    pub(crate) fn hit(&mut self) {
        (self.skip, self.skipped_last) = (0, 0);
    }

    /// The budget ran out.
    pub(crate) fn miss(&mut self) {
        self.skipped_last = (2 * self.skipped_last + 1).min(SKIP_MAX);
        self.skip = self.skipped_last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    #[test]
    fn spins_that_do_not_pay_become_rare_and_one_that_pays_brings_them_back() {
        let mut policy = WaitPolicy::new(Wait::Adaptive, BUDGET, false);
        let mut trials = 0;
        for _ in 0..10_000 {
            if policy.begin().is_some() {
                trials += 1;
                policy.miss();
            }
        }
        assert!(trials < 40, "{trials} trials in 10,000 waits");
        while policy.begin().is_none() {}
        policy.hit();
        assert_eq!(policy.begin(), Some(BUDGET));
        assert_eq!(policy.begin(), Some(BUDGET));
    }

    #[test]
    fn a_single_cpu_is_never_spun_on() {
        assert_eq!(WaitPolicy::new(Wait::Adaptive, BUDGET, true).begin(), None);
        assert_eq!(WaitPolicy::new(Wait::Block, BUDGET, false).begin(), None);
        assert_eq!(
            WaitPolicy::new(Wait::Busy, BUDGET, true).begin(),
            Some(Duration::MAX)
        );
    }
}
