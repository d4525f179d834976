//! Pauses between attempts.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// How long to wait before the next attempt to connect: twice as long after each failure, with jitter, so that the clients of a
/// server that comes back do not all come at once.
///
/// ```
/// use std::time::Duration;
/// use shmipc_transport::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
/// assert_eq!(backoff.next_delay(), Duration::from_millis(10));
/// assert!(backoff.next_delay() <= Duration::from_millis(20));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// From 10 ms to 2 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_secs(2))
    }
}

impl Backoff {
    /// The first wait is `min`, and none is longer than `max`, unless `min` is.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Whether a failure was counted.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failures != 0
    }

    /// Counts a failure and returns the wait that it calls for.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let delay = self.min.saturating_mul(factor).min(self.max);
        self.failures = self.failures.saturating_add(1);
        // Between one half and all of it, but not below the least.
        let jittered = delay / 2 + (delay / 2).mul_f64(Self::random_fraction());
        jittered.max(self.min)
    }

    /// Forgets all failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns a number from 0 to 1, for jitter of other kinds. The standard library seeds its hashers randomly, which is random
    /// enough here.
    #[must_use]
    pub fn random_fraction() -> f64 {
        let [r0, r1, r2, r3, ..] = RandomState::new().hash_one(0).to_le_bytes();
        f64::from(u32::from_le_bytes([r0, r1, r2, r3])) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_within_bounds() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(2));
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        assert_eq!(delays[0], min);
        assert!(delays.iter().all(|delay| (min..=max).contains(delay)));
        assert!(delays[10..].iter().all(|delay| max / 2 <= *delay));
        backoff.reset();
        assert!(!backoff.has_failed());
        assert_eq!(backoff.next_delay(), min);
    }

    #[test]
    fn the_longest_there_are_do_no_harm() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(backoff.next_delay(), Duration::MAX);
    }
}
