use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The wait after the first failed attempt.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// The longest wait between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(2);

/// How long to wait before the next attempt to connect: twice as long after each failure, with jitter, so that the clients
/// of a server that comes back do not all come at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Whether a failure was counted.
    pub(crate) fn has_failed(self) -> bool {
        self.failures != 0
    }

    /// Counts a failure and returns the wait that it calls for.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let delay = DELAY_MIN.saturating_mul(factor).min(DELAY_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between one half and all of it, but not below the least.
        let jittered = delay / 2 + delay.mul_f64(random_fraction()) / 2;
        jittered.max(DELAY_MIN)
    }
}

/// Returns a number from 0 to 1. The standard library seeds its hashers randomly, which is random enough here.
pub(super) fn random_fraction() -> f64 {
    let [r0, r1, r2, r3, ..] = RandomState::new().hash_one(0).to_le_bytes();
    f64::from(u32::from_le_bytes([r0, r1, r2, r3])) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_within_bounds() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        assert_eq!(delays[0], DELAY_MIN);
        assert!(
            delays
                .iter()
                .all(|delay| (DELAY_MIN..=DELAY_MAX).contains(delay))
        );
        assert!(delays[10..].iter().all(|delay| DELAY_MAX / 2 <= *delay));
    }
}
