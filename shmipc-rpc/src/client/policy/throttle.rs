use std::sync::atomic::{AtomicU32, Ordering};

use super::service_config::InvalidServiceConfig;

/// The most tokens, as in gRPC.
const TOKENS_MAX: f64 = 1000.0;

/// Tokens are counted in thousandths: gRPC knows three decimals.
const MILLI: f64 = 1000.0;

/// What keeps retries from finishing off a server that has enough to do: a bucket of tokens, shared by all calls of a
/// channel. A failure takes one token, a success brings back a part of one, and there are no retries unless the bucket is
/// more than half full.
#[derive(Debug)]
pub(crate) struct Throttle {
    // `Relaxed` throughout: the number is all that is communicated.
    milli_tokens: AtomicU32,
    settings: ThrottleSettings,
}

/// How large the bucket is, and how fast it fills, in thousandths of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThrottleSettings {
    max: u32,
    per_success: u32,
}

impl ThrottleSettings {
    pub(super) fn new(max_tokens: f64, token_ratio: f64) -> Result<Self, InvalidServiceConfig> {
        let max = milli(max_tokens).filter(|_| max_tokens <= TOKENS_MAX);
        match (max, milli(token_ratio)) {
            (Some(max), Some(per_success)) => Ok(Self { max, per_success }),
            _ => Err(InvalidServiceConfig::RetryThrottling),
        }
    }
}

/// Returns thousandths. `None`: less than one of them, or nothing sensible.
fn milli(tokens: f64) -> Option<u32> {
    // More than the bucket can ever hold need not be counted.
    let milli = (tokens.clamp(0.0, TOKENS_MAX) * MILLI).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 1 to a million"
    )]
    (1.0 <= milli).then_some(milli as u32)
}

impl Throttle {
    pub(super) fn new(settings: ThrottleSettings) -> Self {
        Self {
            milli_tokens: AtomicU32::new(settings.max),
            settings,
        }
    }

    /// Notes a failure, and tells whether it may be retried.
    pub(super) fn failed(&self) -> bool {
        const ONE: u32 = 1000;
        let take = |tokens: u32| Some(tokens.saturating_sub(ONE));
        let before = self
            .milli_tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .unwrap_or_else(|tokens| tokens);
        self.settings.max / 2 < before.saturating_sub(ONE)
    }

    /// Notes a success.
    pub(crate) fn succeeded(&self) {
        let ThrottleSettings { max, per_success } = self.settings;
        // A full bucket is the rule, and a load is cheaper than an exchange.
        if self.milli_tokens.load(Ordering::Relaxed) < max {
            let add = |tokens: u32| Some(tokens.saturating_add(per_success).min(max));
            // It cannot fail: `add` always returns something.
            let _ = self
                .milli_tokens
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn throttle(max: f64, ratio: f64) -> Throttle {
        Throttle::new(ThrottleSettings::new(max, ratio).expect("the settings are valid"))
    }

    #[test]
    fn failures_stop_retries_and_successes_allow_them_again() {
        // The threshold is 5: with 10 tokens, four failures leave 6.
        let throttle = throttle(10.0, 0.5);
        assert_eq!(
            [(); 5].map(|()| throttle.failed()),
            [true, true, true, true, false]
        );
        // 5 are left. Three successes make that 6.5; a failure leaves 5.5, the next one 4.5.
        for _ in 0..3 {
            throttle.succeeded();
        }
        assert!(throttle.failed());
        assert!(!throttle.failed());
    }

    #[test]
    fn an_odd_number_of_tokens_has_a_threshold_in_between() {
        // 3 tokens, threshold 1.5.
        let throttle = throttle(3.0, 1.0);
        assert_eq!([(); 3].map(|()| throttle.failed()), [true, false, false]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (max, ratio) in [
            (0.0, 0.1),
            (-1.0, 0.1),
            (1001.0, 0.1),
            (10.0, 0.0),
            (10.0, 0.0004),
            (10.0, -1.0),
            (f64::NAN, 0.1),
            (10.0, f64::NAN),
            (f64::INFINITY, 1.0),
        ] {
            assert_eq!(
                ThrottleSettings::new(max, ratio),
                Err(InvalidServiceConfig::RetryThrottling),
                "{max} {ratio}"
            );
        }
        assert!(ThrottleSettings::new(1000.0, 5000.0).is_ok());
    }

    proptest! {
        #[test]
        fn the_bucket_never_overflows(max in 1..=1000u32, ratio in 1..=3000u32, events: Vec<bool>) {
            let throttle = throttle(f64::from(max), f64::from(ratio) / 1000.0);
            let (mut tokens, full) = (i64::from(max) * 1000, i64::from(max) * 1000);
            let per_success = i64::from(throttle.settings.per_success);
            for succeeded in events {
                if succeeded {
                    throttle.succeeded();
                    tokens = (tokens + per_success).min(full);
                } else {
                    tokens = (tokens - 1000).max(0);
                    prop_assert_eq!(throttle.failed(), full < 2 * tokens);
                }
                prop_assert_eq!(i64::from(throttle.milli_tokens.load(Ordering::Relaxed)), tokens);
            }
        }

        #[test]
        fn however_it_starts_enough_successes_allow_retries(max in 1..=1000u32, failures in vec(Just(()), 0..2000)) {
            let throttle = throttle(f64::from(max), 1.0);
            for () in failures {
                throttle.failed();
            }
            for _ in 0..=max {
                throttle.succeeded();
            }
            // A bucket of one or two tokens is at most half full after one failure.
            prop_assert_eq!(throttle.failed(), 2 < max);
        }
    }
}
