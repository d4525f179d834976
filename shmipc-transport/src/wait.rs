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

use crate::{config::Wait, core::sync::Gauge};

/// Waits in a row that may be looked out for in vain before the policy draws a conclusion: a hiccup of the scheduler is
/// none.
const TOLERATED: u32 = 3;

/// The most waits without looking at all.
const SKIP_MAX: u32 = 512;

/// The fewest and the most waits between two trials of spinning, while yielding pays.
const TRIAL_EVERY: std::ops::RangeInclusive<u32> = 64..=1024;

/// The most polls in a row that look for long in vain, before none does: with many sessions on a thread, each such look
/// costs all of them.
const BURST_CREDIT_MAX: u32 = 2;

/// What a poll earns that looked for long and was in time. One that was not costs 1, so that looking pays if it is in time
/// every second time.
const BURST_EARNS: u32 = 1;

/// The fewest and the most waits between two trials of looking for long.
const BURST_TRIAL_EVERY: std::ops::RangeInclusive<u32> = 16..=1024;

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
    /// For how much of that one poll may look, before it lets others run. Zero: one look.
    pub(crate) burst: Duration,
}

/// Sessions of this process whose drivers are looking.
static LOOKING: Gauge = Gauge::new();

/// Whether the driver of a session is going to look again without being woken, so that nobody else needs to arm the sleep
/// word.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    is_hot: bool,
}

impl Heat {
    pub(crate) fn is_hot(&self) -> bool {
        self.is_hot
    }

    pub(crate) fn set(&mut self, is_hot: bool) {
        if self.is_hot == is_hot {
            return;
        }
        self.is_hot = is_hot;
        if is_hot {
            LOOKING.add();
        } else {
            LOOKING.sub();
        }
    }

    /// Whether no other session of this process is looked after at this time.
    pub(crate) fn is_alone(&self) -> bool {
        LOOKING.get() <= usize::from(self.is_hot)
    }
}

impl Drop for Heat {
    fn drop(&mut self) {
        self.set(false);
    }
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
    bursts: Bursts,
}

/// Decides how long one poll may look, before it lets others run.
///
/// Where what is waited for comes later than that, looking for long in each poll only holds up other sessions. While there are
/// some that are looked after, a poll then looks once; but now and then one looks for long, because only that shows whether it
/// would pay again: without it a wait takes longer, by what it costs to let others run.
#[derive(Debug)]
struct Bursts {
    /// How many more polls may look for long in vain.
    credit: u32,
    /// Waits until the next trial, and how many there were before the last.
    until_trial: u32,
    trial_every: u32,
}

impl Bursts {
    fn new() -> Self {
        Self {
            credit: BURST_CREDIT_MAX,
            until_trial: 0,
            trial_every: *BURST_TRIAL_EVERY.start(),
        }
    }

    /// Begins a wait: how long its first poll may look. Zero: one look.
    fn begin(&mut self, is_alone: bool) -> Duration {
        let usual = self.usual(is_alone);
        if usual.is_zero() && self.until_trial == 0 {
            return BURST;
        }
        self.until_trial = self.until_trial.saturating_sub(1);
        usual
    }

    /// How long a poll may look that is no trial.
    fn usual(&self, is_alone: bool) -> Duration {
        if is_alone || 0 < self.credit {
            BURST
        } else {
            Duration::ZERO
        }
    }

    fn hit(&mut self) {
        self.credit = (self.credit + BURST_EARNS).min(BURST_CREDIT_MAX);
        self.trial_every = *BURST_TRIAL_EVERY.start();
    }

    fn missed(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        if self.credit == 0 {
            self.until_trial = self.trial_every;
            self.trial_every = (2 * self.trial_every).min(*BURST_TRIAL_EVERY.end());
        }
    }
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
            bursts: Bursts::new(),
        }
    }

    /// How the next wait begins, in words.
    pub(crate) fn describe(&self) -> String {
        let Self {
            wait,
            way,
            missed,
            skip,
            ..
        } = self;
        match wait {
            Wait::Block => "always sleeps".to_owned(),
            Wait::Busy => "always spins".to_owned(),
            Wait::Adaptive if *skip != 0 => format!("sleeps, {skip} more waits without looking"),
            Wait::Adaptive => {
                let way = match way {
                    Way::Spin => "spins",
                    Way::Yield => "yields",
                };
                format!("{way}, in vain {missed} times in a row")
            }
        }
    }

    /// The answer came while one poll looked for it.
    pub(crate) fn burst_hit(&mut self) {
        self.bursts.hit();
    }

    /// A poll has looked for as long as it may, in vain. Returns how long further polls of the same wait may look.
    pub(crate) fn burst_missed(&mut self, is_alone: bool) -> Duration {
        self.bursts.missed();
        match self.wait {
            Wait::Busy => BURST,
            Wait::Adaptive | Wait::Block => self.bursts.usual(is_alone),
        }
    }

    /// Begins a wait: how to look, if at all. `is_alone` says that no other session is looked after at this time.
    pub(crate) fn begin(&mut self, is_alone: bool) -> Option<Lookout> {
        match self.wait {
            Wait::Block => None,
            Wait::Busy => Some(Lookout {
                way: Way::Spin,
                budget: Duration::MAX,
                burst: BURST,
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
                    burst: BURST,
                })
            }
            Wait::Adaptive if self.way == Way::Yield && self.until_trial == 0 => {
                self.until_trial = self.trial_every;
                self.in_trial = true;
                None
            }
            Wait::Adaptive => {
                if self.way == Way::Yield {
                    self.until_trial -= 1;
                }
                Some(Lookout {
                    way: self.way,
                    budget: self.budget,
                    burst: self.bursts.begin(is_alone),
                })
            }
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
            if let Some(lookout) = policy.begin(false) {
                lookouts += 1;
                policy.miss(lookout.way);
            }
        }
        assert!(lookouts < 70, "{lookouts} lookouts in 10,000 waits");
        let lookout = std::iter::repeat_with(|| policy.begin(false))
            .flatten()
            .next()
            .unwrap();
        policy.hit(lookout.way, || BURST);
        assert!((0..100).all(|_| policy.begin(false).is_some()));
    }

    #[test]
    fn where_only_yielding_pays_it_is_done_and_spinning_tried_now_and_then() {
        let mut policy = policy(Wait::Adaptive);
        let (mut yields, mut spins, mut sleeps) = (0, 0, 0);
        for _ in 0..10_000 {
            match policy.begin(false) {
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
        while policy.begin(false)
            != Some(Lookout {
                way: Way::Spin,
                budget: BURST,
                burst: BURST,
            })
        {}
        policy.hit(Way::Spin, || BURST);
        assert_eq!(
            policy.begin(false),
            Some(Lookout {
                way: Way::Spin,
                budget: BUDGET,
                burst: BURST,
            })
        );
    }

    #[test]
    fn polls_look_for_long_only_where_that_is_in_time() {
        let mut policy = policy(Wait::Adaptive);
        let burst = |policy: &mut WaitPolicy| policy.begin(false).unwrap().burst;
        for _ in 0..1000 {
            policy.burst_missed(false);
            assert_eq!(burst(&mut policy), BURST, "a hiccup");
            policy.burst_hit();
        }
        while policy.burst_missed(false) == BURST {}
        assert_eq!(policy.burst_missed(true), BURST, "nobody is held up");
        assert_eq!(policy.begin(true).unwrap().burst, BURST);
        let mut trials = 0;
        for _ in 0..10_000 {
            if burst(&mut policy) == BURST {
                trials += 1;
                assert_eq!(policy.burst_missed(false), Duration::ZERO);
            }
        }
        assert!(
            (10..=20).contains(&trials),
            "{trials} trials in 10,000 waits"
        );
        // The answer comes in time again. However long a wait without a burst takes, a trial finds out.
        while burst(&mut policy) != BURST {
            policy.hit(Way::Spin, || 100 * BURST);
        }
        policy.burst_hit();
        assert_eq!(burst(&mut policy), BURST);
    }

    #[test]
    fn the_other_policies_never_learn() {
        assert_eq!(policy(Wait::Block).begin(false), None);
        assert_eq!(
            policy(Wait::Busy).begin(false),
            Some(Lookout {
                way: Way::Spin,
                budget: Duration::MAX,
                burst: BURST,
            })
        );
    }
}
