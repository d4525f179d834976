use std::time::Duration;

use super::service_config::InvalidServiceConfig;
use crate::Code;

/// The most attempts that a policy may allow, as in gRPC.
const ATTEMPTS_MAX: u32 = 5;

/// How far a pause may be from what the policy says, as a part of it, so that the callers of a server that stumbles do not
/// all come back at once.
const JITTER: f64 = 0.2;

/// When a failed call is made again, and how often.
///
/// A call is made again if it failed with one of the policy's codes, no part of a response had arrived, attempts are left,
/// its deadline leaves the time, and nothing [forbids](Self::even_if_not_idempotent) it. The first retry begins after the
/// initial backoff, each further one after `multiplier` times the pause before it, but not after more than the maximum,
/// all of it ±20 %. A server that sends the metadata `grpc-retry-pushback-ms` decides instead: a number of milliseconds is
/// how long to wait, anything else means that it wants no retry.
///
/// Requests that are streamed are not kept. So a call of many requests is made again only while nothing of it has left this
/// process: because no server could be reached, or the one that was found took no more calls. Once it has begun, a failure is
/// final, whatever its code.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shmipc_rpc::{Code, client::RetryPolicy};
///
/// let policy = RetryPolicy::new([Code::Unavailable])
///     .max_attempts(3)
///     .backoff(Duration::from_millis(5), Duration::from_secs(1))
///     .multiplier(2.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    codes: Codes,
    attempts_max: u32,
    backoff_initial: Duration,
    backoff_max: Duration,
    multiplier: f64,
    attempt_timeout: Option<Duration>,
    even_if_not_idempotent: bool,
}

impl RetryPolicy {
    /// Makes a policy that retries calls that failed with one of `codes`.
    pub fn new(codes: impl IntoIterator<Item = Code>) -> Self {
        Self {
            codes: codes.into_iter().collect(),
            attempts_max: 3,
            backoff_initial: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            multiplier: 2.0,
            attempt_timeout: None,
            even_if_not_idempotent: false,
        }
    }

    /// How often a call is made at most, the first time included: from 2 to 5. Default: 3.
    ///
    /// More than 5 counts as 5, as in gRPC.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.min(ATTEMPTS_MAX);
        self
    }

    /// The pause before the first retry, and the longest before any. Default: 10 ms and 1 s; neither may be zero.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff_initial = initial;
        self.backoff_max = max;
        self
    }

    /// How much longer each pause is than the one before. Default: 2; any finite number greater than zero.
    #[must_use]
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// How long one attempt may take until the server begins to answer. Default: as long as the call; it may not be zero.
    ///
    /// An attempt that takes longer is given up, and has failed as if with one of the codes. If it was the last one, the call fails
    /// with [`Code::DeadlineExceeded`].
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Retries any method, even where the server may have begun with the failed attempt and the method's `.proto` file does not
    /// say that this does no harm. Default: `false`.
    ///
    /// Without this, such a method is retried only if the server has certainly not seen the call. Methods with the option
    /// `idempotency_level`, [`Idempotent`](crate::Idempotency::Idempotent) or
    /// [`NoSideEffects`](crate::Idempotency::NoSideEffects), need no permission.
    ///
    /// It is right for codes by which the server says that it did nothing, and for methods that are idempotent although they
    /// do not say so. [`Code::Unavailable`] is not such a code: the server may have died half-way.
    #[must_use]
    pub fn even_if_not_idempotent(mut self) -> Self {
        self.even_if_not_idempotent = true;
        self
    }

    pub(super) fn check(&self) -> Result<(), InvalidServiceConfig> {
        let fault = if self.codes.is_empty() {
            "a retry policy needs a code to retry"
        } else if self.codes.contains(Code::Ok) {
            "OK is no failure that could be retried"
        } else if self.attempts_max < 2 {
            "a retry policy allows at least two attempts"
        } else if self.backoff_initial.is_zero() || self.backoff_max.is_zero() {
            "the backoff must not be zero"
        } else if !(self.multiplier.is_finite() && 0.0 < self.multiplier) {
            "the multiplier must be a number greater than zero"
        } else if self
            .attempt_timeout
            .is_some_and(|timeout| timeout.is_zero())
        {
            "the timeout of an attempt must not be zero"
        } else {
            return Ok(());
        };
        Err(InvalidServiceConfig::RetryPolicy(fault))
    }

    pub(super) fn allows(&self, code: Code) -> bool {
        self.codes.contains(code)
    }

    pub(super) fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    pub(super) fn is_for_all(&self) -> bool {
        self.even_if_not_idempotent
    }

    pub(crate) fn timeout_of_attempt(&self) -> Option<Duration> {
        self.attempt_timeout
    }

    /// Returns the pause after `before` pauses in a row. `chance` lies between 0 and 1.
    pub(super) fn pause(&self, before: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(before).unwrap_or(i32::MAX);
        let factor = self.multiplier.powi(exponent);
        let max = self.backoff_max.as_secs_f64();
        // A product that overflows is infinite, and the lesser of it and `max` is `max`.
        let pause = (self.backoff_initial.as_secs_f64() * factor).min(max);
        let jitter = 1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(pause * jitter).unwrap_or(self.backoff_max)
    }
}

/// A set of codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Codes(u32);

impl Codes {
    fn contains(self, code: Code) -> bool {
        self.0 & (1 << code.as_u32()) != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Self(
            codes
                .into_iter()
                .fold(0, |set, code| set | 1 << code.as_u32()),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn pauses_grow_up_to_the_maximum() {
        let policy = RetryPolicy::new([Code::Unavailable])
            .backoff(millis(100), millis(1000))
            .multiplier(3.0);
        let pauses: Vec<_> = (0..4).map(|before| policy.pause(before, 0.5)).collect();
        assert_eq!(
            pauses,
            [millis(100), millis(300), millis(900), millis(1000)]
        );
        assert_eq!(policy.pause(0, 0.0), millis(80));
        assert_eq!(policy.pause(0, 1.0), millis(120));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = RetryPolicy::new([Code::Unavailable]);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.clone().max_attempts(100).attempts_max(), 5);
        for bad in [
            RetryPolicy::new([]),
            RetryPolicy::new([Code::Ok, Code::Unavailable]),
            good.clone().max_attempts(1),
            good.clone().backoff(Duration::ZERO, millis(1)),
            good.clone().backoff(millis(1), Duration::ZERO),
            good.clone().multiplier(0.0),
            good.clone().multiplier(f64::NAN),
            good.clone().multiplier(f64::INFINITY),
            good.clone().attempt_timeout(Duration::ZERO),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_set_of_codes_has_exactly_those() {
        for code in Code::ALL {
            let policy = RetryPolicy::new([code]);
            for other in Code::ALL {
                assert_eq!(policy.allows(other), code == other);
            }
        }
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(
            initial in 1..10_000_000u64,
            max in 1..10_000_000u64,
            multiplier in 0.01..1000.0f64,
            before: u32,
            chance in 0.0..=1.0f64,
        ) {
            let (initial, max) = (Duration::from_micros(initial), Duration::from_micros(max));
            let policy = RetryPolicy::new([Code::Unavailable]).backoff(initial, max).multiplier(multiplier);
            prop_assert!(policy.check().is_ok());
            let pause = policy.pause(before, chance);
            prop_assert!(pause <= max.mul_f64(1.2) + Duration::from_nanos(1));
            if 1.0 <= multiplier {
                let least = initial.min(max).mul_f64(0.8);
                prop_assert!(least <= pause + Duration::from_nanos(1));
            }
        }
    }
}
