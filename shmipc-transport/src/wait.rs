//! When to look at shared memory, and when to sleep.
//!
//! Two processes that spin answer each other in a fraction of a microsecond; waking one that sleeps costs tens. So a
//! wait begins with looking, *if* that has paid lately, in one of two ways:
//!
//! - [`Way::Spin`]: look again and again. Right where the peer runs on another CPU.
//! - [`Way::Yield`]: let the kernel run somebody else between looks. Right where the peer shares our CPU and cannot answer
//!   while we look; much cheaper than sleeping and being woken.
//!
//! The policy learns from outcomes, not from guesses about the load. It begins with spinning. After [`TOLERATED`] waits in a
//! row that were looked out for in vain it tries yielding, and if that is in vain, too, it lets waits pass without any
//! looking, twice as many each time, up to [`SKIP_MAX`]. A wait that ends while we look sets all of that back.
//!
//! While yielding pays, there is a trial now and then: one wait is slept through, because being woken is what lets the
//! scheduler place us on another CPU, and the next is spun for, which shows whether it did.

use std::time::Duration;

use crate::config::Wait;

/// Waits in a row that may be looked out for in vain before the policy draws a conclusion: a hiccup of the scheduler is
/// none.
const TOLERATED: u32 = 3;

/// The most waits without looking at all.
const SKIP_MAX: u32 = 512;

/// The fewest and the most waits between two trials of spinning, while yielding pays.
const TRIAL_EVERY: std::ops::RangeInclusive<u32> = 64..=1024;

/// Polls in a row that looked for long in vain, before none does: with many sessions on a thread, each such look costs all of them.
const LATE_TOLERATED: u32 = 1;

/// Waits in a row that end in time for one poll, before polls look for long again.
const PROMPT_MIN: u32 = 8;

/// Looks between two readings of the clock.
pub(crate) const LOOKS_PER_CLOCK: u32 = 32;

/// The longest that one poll of a future looks, so that its runtime's other tasks are not held up for longer.
pub(crate) const BURST: Duration = Duration::from_micros(10);

/// How to look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Keep the CPU.
    Spin,
    /// Offer the CPU to others between looks.
    Yield,
}

/// How to begin a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lookout {
    pub(crate) way: Way,
    /// How long to look. `Duration::MAX` means until something comes.
    pub(crate) budget: Duration,
}

/// Decides for each wait of a session whether to look, and how.
#[derive(Debug)]
pub(crate) struct WaitPolicy {
    wait: Wait,
    budget: Duration,
    /// The way that paid last, or that is being tried.
    way: Way,
    /// Waits in a row that were looked out for in vain.
    missed: u32,
    /// Waits to let pass before the next lookout, and how many passed before the last.
    skip: u32,
    skipped_last: u32,
    /// Waits until spinning is tried again while yielding pays, and how many there were before the last trial.
    until_trial: u32,
    trial_every: u32,
    /// Whether a trial has begun by sleeping.
    in_trial: bool,
    /// How long a wait took that ended while yielding, smoothed over several.
    yielded_for: Duration,
    /// Polls in a row that looked for [`BURST`] in vain, and waits in a row that ended within it all the same.
    late: u32,
    prompt: u32,
}

impl WaitPolicy {
    pub(crate) fn new(wait: Wait, budget: Duration) -> Self {
        Self {
            wait,
            budget,
            way: Way::Spin,
            missed: 0,
            skip: 0,
            skipped_last: 0,
            until_trial: 0,
            trial_every: *TRIAL_EVERY.start(),
            in_trial: false,
            yielded_for: Duration::ZERO,
            late: 0,
            prompt: 0,
        }
    }

    /// How long one poll may look, before it lets others run. Zero: one look.
    ///
    /// Where what is waited for comes later than that, looking for long in each poll only holds up other tasks, and other
    /// sessions of the same thread first of all.
    pub(crate) fn burst(&self) -> Duration {
        let pays = self.late <= LATE_TOLERATED || self.wait == Wait::Busy;
        if pays { BURST } else { Duration::ZERO }
    }

    /// A poll has looked for as long as it may, in vain.
    pub(crate) fn late(&mut self) {
        self.late = self.late.saturating_add(1);
        self.prompt = 0;
    }

    /// What was waited for came after this long.
    pub(crate) fn came(&mut self, waited: Duration) {
        if BURST < waited {
            self.late();
        } else {
            self.prompt = self.prompt.saturating_add(1);
            if self.late <= LATE_TOLERATED || PROMPT_MIN <= self.prompt {
                self.late = 0;
            }
        }
    }

    /// Begins a wait: how to look, if at all.
    pub(crate) fn begin(&mut self) -> Option<Lookout> {
        match self.wait {
            Wait::Block => None,
            Wait::Busy => Some(Lookout {
                way: Way::Spin,
                budget: Duration::MAX,
            }),
            Wait::Adaptive if 0 < self.skip => {
                self.skip -= 1;
                None
            }
            Wait::Adaptive if self.in_trial => {
                self.in_trial = false;
                // Both sides are awake, so from another CPU the answer would come at least as fast as it does now.
                let budget = (4 * self.yielded_for).max(BURST).min(self.budget);
                Some(Lookout {
                    way: Way::Spin,
                    budget,
                })
            }
            Wait::Adaptive if self.way == Way::Yield && self.until_trial == 0 => {
                self.until_trial = self.trial_every;
                self.in_trial = true;
                None
            }
            Wait::Adaptive if self.way == Way::Yield => {
                self.until_trial -= 1;
                Some(Lookout {
                    way: Way::Yield,
                    budget: self.budget,
                })
            }
            Wait::Adaptive => Some(Lookout {
                way: Way::Spin,
                budget: self.budget,
            }),
        }
    }

    /// The wait ended while we were looking in this way. `waited` is only asked where it matters.
    pub(crate) fn hit(&mut self, way: Way, waited: impl FnOnce() -> Duration) {
        (self.missed, self.skip, self.skipped_last) = (0, 0, 0);
        match way {
            Way::Spin => {
                self.way = Way::Spin;
                self.trial_every = *TRIAL_EVERY.start();
            }
            Way::Yield => self.yielded_for = (7 * self.yielded_for + waited()) / 8,
        }
    }

    /// We looked in this way until the budget ran out.
    pub(crate) fn miss(&mut self, way: Way) {
        if way != self.way {
            // A trial of spinning, while yielding pays.
            self.trial_every = (2 * self.trial_every).min(*TRIAL_EVERY.end());
            return;
        }
        self.missed = self.missed.saturating_add(1);
        if self.missed <= TOLERATED {
            return;
        }
        match way {
            Way::Spin => {
                self.way = Way::Yield;
                self.until_trial = self.trial_every;
            }
            Way::Yield => {
                self.way = Way::Spin;
                self.skipped_last = (2 * self.skipped_last + 1).min(SKIP_MAX);
                self.skip = self.skipped_last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(100);

    fn policy(wait: Wait) -> WaitPolicy {
        WaitPolicy::new(wait, BUDGET)
    }

    #[test]
    fn looking_in_vain_becomes_rare_and_one_hit_brings_it_back() {
        let mut policy = policy(Wait::Adaptive);
        let mut lookouts = 0;
        for _ in 0..10_000 {
            if let Some(lookout) = policy.begin() {
                lookouts += 1;
                policy.miss(lookout.way);
            }
        }
        assert!(lookouts < 70, "{lookouts} lookouts in 10,000 waits");
        let lookout = std::iter::repeat_with(|| policy.begin())
            .flatten()
            .next()
            .unwrap();
        policy.hit(lookout.way, || BURST);
        assert!((0..100).all(|_| policy.begin().is_some()));
    }

    #[test]
    fn where_only_yielding_pays_it_is_done_and_spinning_tried_now_and_then() {
        let mut policy = policy(Wait::Adaptive);
        let (mut yields, mut spins, mut sleeps) = (0, 0, 0);
        for _ in 0..10_000 {
            match policy.begin() {
                Some(Lookout {
                    way: Way::Yield, ..
                }) => {
                    yields += 1;
                    policy.hit(Way::Yield, || Duration::from_micros(2));
                }
                Some(Lookout { way: Way::Spin, .. }) => {
                    spins += 1;
                    policy.miss(Way::Spin);
                }
                None => sleeps += 1,
            }
        }
        assert!(
            9_900 < yields && (5..50).contains(&spins),
            "{yields} yields, {spins} spins"
        );
        assert!(sleeps <= spins, "{sleeps} sleeps for {spins} trials");
        // The peer moves to another CPU: the next trial finds out.
        while policy.begin()
            != Some(Lookout {
                way: Way::Spin,
                budget: BURST,
            })
        {}
        policy.hit(Way::Spin, || BURST);
        assert_eq!(
            policy.begin(),
            Some(Lookout {
                way: Way::Spin,
                budget: BUDGET
            })
        );
    }

    #[test]
    fn polls_look_for_long_only_where_that_is_in_time() {
        let mut policy = policy(Wait::Adaptive);
        (0..LATE_TOLERATED).for_each(|_| policy.late());
        policy.came(BURST);
        (0..LATE_TOLERATED).for_each(|_| policy.late());
        assert_eq!(policy.burst(), BURST, "a hiccup");
        policy.late();
        assert_eq!(policy.burst(), Duration::ZERO);
        (1..PROMPT_MIN).for_each(|_| policy.came(BURST));
        policy.came(2 * BURST);
        assert_eq!(policy.burst(), Duration::ZERO, "not in a row");
        (0..PROMPT_MIN).for_each(|_| policy.came(BURST));
        assert_eq!(policy.burst(), BURST);
    }

    #[test]
    fn the_other_policies_never_learn() {
        assert_eq!(policy(Wait::Block).begin(), None);
        assert_eq!(
            policy(Wait::Busy).begin(),
            Some(Lookout {
                way: Way::Spin,
                budget: Duration::MAX
            })
        );
    }
}
