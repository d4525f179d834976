//! Whether a peer whom nobody wakes has handed out what it has taken.

use std::time::{Duration, Instant};

/// What is known of a consumer that looks at its queue now and then.
///
/// It says what it has taken before it hands that out, and it reads the socket in another task (C1). So what was taken counts as handed
/// out when one more interval has passed since.
#[derive(Debug)]
pub(super) struct Settling {
    /// Elements of which that is known.
    settled: u64,
    /// Since when as many as these have been known to be taken.
    taken: Option<(u64, Instant)>,
}

impl Settling {
    /// Of `published` elements, none is ours.
    pub(super) fn new(published: u64) -> Self {
        Self {
            settled: published,
            taken: None,
        }
    }

    /// Whether nothing is left of `published` elements, of which `waiting` have not been taken at `now`.
    pub(super) fn is_over(
        &mut self,
        published: u64,
        waiting: u32,
        interval: Duration,
        now: Instant,
    ) -> bool {
        if published == self.settled {
            return true;
        }
        if waiting != 0 {
            return false;
        }
        let since = match self.taken {
            Some((taken, since)) if taken == published => since,
            _ => {
                self.taken = Some((published, now));
                now
            }
        };
        if now.saturating_duration_since(since) < interval {
            return false;
        }
        self.settled = published;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazard_c1_what_was_taken_is_handed_out_an_interval_later() {
        const INTERVAL: Duration = Duration::from_millis(5);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut settling = Settling::new(7);
        let mut is_over =
            |published, waiting, ms| settling.is_over(published, waiting, INTERVAL, at(ms));
        assert!(is_over(7, 0, 0), "nothing was published");
        assert!(!is_over(8, 1, 0));
        assert!(!is_over(8, 0, 100), "it has just been taken");
        assert!(!is_over(8, 0, 104));
        assert!(is_over(8, 0, 105));
        assert!(is_over(8, 0, 105), "for good");
        assert!(!is_over(9, 1, 200));
        assert!(!is_over(9, 0, 210));
        assert!(!is_over(10, 0, 216), "there is more since");
        assert!(is_over(10, 0, 221));
    }
}
