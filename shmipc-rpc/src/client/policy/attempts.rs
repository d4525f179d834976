use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{retry::RetryPolicy, throttle::Throttle};
use crate::{Idempotency, Status};

/// How often the call was made before: sent with each retry, and put into the metadata of its response.
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// By which a server says when to retry, or that it does not want it.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    throttle: Option<&'a Throttle>,
    idempotency: Idempotency,
    /// How many attempts have failed.
    failed: u32,
    /// How many pauses there were since the server last said how long to wait.
    pauses: u32,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure<'a> {
    /// With a status, of the server or of our own. `seen`: the server may have begun with it.
    Status { status: &'a Status, seen: bool },
    /// It took longer than one attempt may.
    Timeout,
}

/// What the server said about retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushback {
    None,
    After(Duration),
    Never,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        policy: &'a RetryPolicy,
        throttle: Option<&'a Throttle>,
        idempotency: Idempotency,
    ) -> Self {
        Self {
            policy,
            throttle,
            idempotency,
            failed: 0,
            pauses: 0,
        }
    }

    /// Returns how many attempts have failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Returns how long the next attempt may take until its answer begins.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.policy.timeout_of_attempt()
    }

    /// Notes the number of earlier attempts in `metadata`, if there are any.
    pub(crate) fn note(&self, metadata: &mut HeaderMap) {
        if 0 < self.failed {
            // What a full map cannot hold is left out.
            let _ = metadata.try_insert(PREVIOUS_ATTEMPTS, HeaderValue::from(self.failed));
        }
    }

    /// Returns how long to wait before the next attempt, after one failed that had brought no part of a response. `None`:
    /// there is none, and the call has failed.
    ///
    /// `left` is the time until the call's deadline, `chance` a random number from 0 to 1.
    pub(crate) fn next(
        &mut self,
        failure: Failure<'_>,
        left: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        let (retryable, pushback, seen) = match failure {
            Failure::Status { status, seen } => {
                let retryable = self.policy.allows(status.code());
                (retryable, Pushback::read(status.metadata()), seen)
            }
            Failure::Timeout => (true, Pushback::None, true),
        };
        self.failed += 1;
        // A call that never arrived was no burden to the server, and its retry is none more than a first call.
        let counts = seen && (retryable || pushback == Pushback::Never);
        let throttled = counts && self.throttle.is_some_and(|throttle| !throttle.failed());
        let harmless =
            !seen || self.policy.is_for_all() || self.idempotency != Idempotency::Unknown;
        if !retryable || throttled || !harmless || self.policy.attempts_max() <= self.failed {
            return None;
        }
        let pause = match pushback {
            Pushback::Never => return None,
            Pushback::After(pause) => {
                self.pauses = 0;
                pause
            }
            Pushback::None => {
                self.pauses += 1;
                self.policy.pause(self.pauses - 1, chance)
            }
        };
        // A retry that the deadline prevents would only hide why the call failed.
        left.is_none_or(|left| pause < left).then_some(pause)
    }
}

impl Pushback {
    fn read(metadata: &HeaderMap) -> Self {
        match metadata.get(PUSHBACK) {
            None => Self::None,
            Some(value) => {
                let millis = value
                    .to_str()
                    .ok()
                    .and_then(|value| value.parse::<i32>().ok());
                match millis.map(u64::try_from) {
                    Some(Ok(millis)) => Self::After(Duration::from_millis(millis)),
                    // Negative, or no number.
                    Some(Err(_)) | None => Self::Never,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::{super::throttle::ThrottleSettings, *};
    use crate::Code;

    const MIDDLE: f64 = 0.5;

    fn policy() -> RetryPolicy {
        RetryPolicy::new([Code::Unavailable, Code::Aborted])
            .max_attempts(4)
            .backoff(Duration::from_millis(10), Duration::from_millis(30))
    }

    fn seen(status: &Status) -> Failure<'_> {
        Failure::Status { status, seen: true }
    }

    fn with_pushback(value: &'static str) -> Status {
        let mut status = Status::unavailable("busy");
        status
            .metadata_mut()
            .insert(PUSHBACK, HeaderValue::from_static(value));
        status
    }

    fn millis(count: u64) -> Option<Duration> {
        Some(Duration::from_millis(count))
    }

    #[test]
    fn an_idempotent_call_is_retried_until_no_attempt_is_left() {
        let policy = policy();
        let mut attempts = Attempts::new(&policy, None, Idempotency::Idempotent);
        let status = Status::unavailable("down");
        let mut metadata = HeaderMap::new();
        attempts.note(&mut metadata);
        assert!(metadata.is_empty());
        for expected in [millis(10), millis(20), millis(30)] {
            assert_eq!(attempts.next(seen(&status), None, MIDDLE), expected);
        }
        attempts.note(&mut metadata);
        assert_eq!(metadata[PREVIOUS_ATTEMPTS], "3");
        assert_eq!(attempts.next(seen(&status), None, MIDDLE), None);
        assert_eq!(attempts.failed(), 4);
    }

    #[test]
    fn only_the_codes_of_the_policy_are_retried() {
        let policy = policy();
        for code in Code::ALL {
            let mut attempts = Attempts::new(&policy, None, Idempotency::NoSideEffects);
            let status = Status::new(code, "");
            let retried = attempts.next(seen(&status), None, MIDDLE).is_some();
            assert_eq!(
                retried,
                matches!(code, Code::Unavailable | Code::Aborted),
                "{code:?}"
            );
        }
    }

    #[test]
    fn what_may_have_had_an_effect_is_not_repeated_unasked() {
        let policy = policy();
        let status = Status::unavailable("down");
        let next = |policy: &RetryPolicy, idempotency, failure| {
            Attempts::new(policy, None, idempotency).next(failure, None, MIDDLE)
        };
        let unseen = Failure::Status {
            status: &status,
            seen: false,
        };
        assert_eq!(next(&policy, Idempotency::Unknown, seen(&status)), None);
        assert_eq!(next(&policy, Idempotency::Unknown, Failure::Timeout), None);
        assert_eq!(next(&policy, Idempotency::Unknown, unseen), millis(10));
        assert_eq!(
            next(&policy, Idempotency::Idempotent, Failure::Timeout),
            millis(10)
        );
        let policy = policy.even_if_not_idempotent();
        assert_eq!(
            next(&policy, Idempotency::Unknown, seen(&status)),
            millis(10)
        );
        assert_eq!(
            next(&policy, Idempotency::Unknown, Failure::Timeout),
            millis(10)
        );
    }

    #[test]
    fn the_server_decides_when_and_whether() {
        let policy = policy();
        let mut attempts = Attempts::new(&policy, None, Idempotency::Idempotent);
        let (plain, later) = (Status::unavailable("down"), with_pushback("700"));
        assert_eq!(attempts.next(seen(&plain), None, MIDDLE), millis(10));
        assert_eq!(attempts.next(seen(&later), None, MIDDLE), millis(700));
        // Its word resets the backoff.
        assert_eq!(attempts.next(seen(&plain), None, MIDDLE), millis(10));
        // But not the number of attempts.
        assert_eq!(attempts.next(seen(&later), None, MIDDLE), None);

        for never in [
            "-1",
            "",
            "soon",
            "1.5",
            "2147483648",
            "99999999999999999999",
        ] {
            let mut attempts = Attempts::new(&policy, None, Idempotency::Idempotent);
            assert_eq!(
                attempts.next(seen(&with_pushback(never)), None, MIDDLE),
                None,
                "{never}"
            );
        }
        let mut attempts = Attempts::new(&policy, None, Idempotency::Idempotent);
        assert_eq!(
            attempts.next(seen(&with_pushback("0")), None, MIDDLE),
            millis(0)
        );
    }

    #[test]
    fn there_is_no_retry_past_the_deadline() {
        let policy = policy();
        let mut attempts = Attempts::new(&policy, None, Idempotency::Idempotent);
        let status = Status::unavailable("down");
        assert_eq!(attempts.next(seen(&status), millis(11), MIDDLE), millis(10));
        assert_eq!(attempts.next(seen(&status), millis(20), MIDDLE), None);
    }

    #[test]
    fn the_throttle_counts_what_could_be_retried_and_what_was_refused() {
        let policy = policy();
        let settings = ThrottleSettings::new(4.0, 1.0).expect("the settings are valid");
        let throttle = Throttle::new(settings);
        let next = |failure| {
            Attempts::new(&policy, Some(&throttle), Idempotency::Idempotent)
                .next(failure, None, MIDDLE)
        };
        let (down, wrong) = (
            Status::unavailable("down"),
            Status::invalid_argument("wrong"),
        );
        let unseen = Failure::Status {
            status: &down,
            seen: false,
        };
        assert!(next(seen(&wrong)).is_none());
        assert!(next(unseen).is_some());
        // Neither took a token: of four, the first leaves three, which is more than half.
        assert!(next(seen(&down)).is_some());
        let refused = with_pushback("-1");
        assert!(next(seen(&refused)).is_none());
        assert!(next(seen(&down)).is_none());
        assert!(next(unseen).is_some());
    }

    proptest! {
        #[test]
        fn no_call_is_made_more_often_than_allowed(
            attempts_max in 2..20u32,
            failures in vec((0..17u32, option::of("-?[0-9]{1,12}"), any::<bool>()), 1..30),
            left in option::of(any::<Duration>()),
            chance in 0.0..=1.0f64,
        ) {
            let policy = policy().max_attempts(attempts_max);
            let mut attempts = Attempts::new(&policy, None, Idempotency::Unknown);
            let mut retries = 0;
            for (code, pushback, seen) in failures {
                let mut status = Status::new(Code::from_u32(code), "");
                if let Some(pushback) = pushback {
                    let value = HeaderValue::try_from(pushback).expect("digits");
                    status.metadata_mut().insert(PUSHBACK, value);
                }
                let Some(pause) = attempts.next(Failure::Status { status: &status, seen }, left, chance) else { break };
                prop_assert!(!seen);
                prop_assert!(policy.allows(status.code()));
                prop_assert!(left.is_none_or(|left| pause < left));
                retries += 1;
            }
            prop_assert!(retries < attempts_max.min(5));
        }
    }
}
