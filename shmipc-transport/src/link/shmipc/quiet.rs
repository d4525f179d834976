//! How often to look at a queue for which nobody is woken.

use std::time::Duration;

use super::LOOK_AGAIN;
use crate::core::sync::{AtomicU32, AtomicU64, Ordering};

/// Looks in vain, one after the other, after which there are fewer of them.
const IN_VAIN_MAX: u32 = 100;

/// For how many looks nothing has come. Only for whoever looks after the session, one at a time.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Messages that had come by the last look.
    received: AtomicU64,
    in_vain: AtomicU32,
}

impl Quiet {
    /// It was time for a look, and `received` messages have come so far.
    pub(super) fn looked(&self, received: u64) {
        // Relaxed, here and below: whoever looks after the session holds a lock, or is the only one.
        let in_vain = if self.received.swap(received, Ordering::Relaxed) == received {
            let in_vain = self.in_vain.load(Ordering::Relaxed);
            in_vain.saturating_add(1).min(IN_VAIN_MAX)
        } else {
            0
        };
        self.in_vain.store(in_vain, Ordering::Relaxed);
    }

    /// After which time to look again, if it is to be `interval` while messages come.
    pub(super) fn stretch(&self, interval: Duration) -> Duration {
        if self.in_vain.load(Ordering::Relaxed) < IN_VAIN_MAX {
            interval
        } else {
            interval.max(LOOK_AGAIN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_comes_looks_are_fewer_until_something_does() {
        const INTERVAL: Duration = Duration::from_micros(100);
        let quiet = Quiet::default();
        for look in 0..3 * IN_VAIN_MAX {
            let expected = if look < IN_VAIN_MAX {
                INTERVAL
            } else {
                LOOK_AGAIN
            };
            assert_eq!(quiet.stretch(INTERVAL), expected, "{look}");
            quiet.looked(0);
        }
        let rare = Duration::from_secs(1);
        assert_eq!(quiet.stretch(rare), rare);
        quiet.looked(1);
        assert_eq!(quiet.stretch(INTERVAL), INTERVAL);
    }
}
