//! When a peer that does not answer counts as gone.

use std::time::Duration;

/// How peers are found out that live and do not answer, because they are stopped or stuck. See
/// [`ConfigBuilder::keepalive`](crate::ConfigBuilder::keepalive).
///
/// A peer answers a ping whenever it looks after the session, whatever its handlers wait for. Only one that blocks its thread, for
/// longer than the timeout, may look as if it were stuck, as it does to its neighbours on that thread: such work belongs on a
/// thread of its own (`tokio::task::spawn_blocking`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
    while_idle: bool,
}

impl Keepalive {
    /// Sends a ping when nothing was heard from the peer for `interval` while streams are open, and ends the session if
    /// there is no answer within `timeout`. Less than 1 ms counts as that, and more than ten years as those.
    #[must_use]
    pub const fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval: usable(interval),
            timeout: usable(timeout),
            while_idle: false,
        }
    }

    /// Whether pings are also sent while no stream is open. Default: `false`, so that a session that nobody uses costs
    /// nothing.
    #[must_use]
    pub const fn while_idle(mut self, while_idle: bool) -> Self {
        self.while_idle = while_idle;
        self
    }

    /// How long nothing is heard before a ping is sent.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// How long the peer has to answer.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether pings are also sent while no stream is open.
    #[must_use]
    pub const fn pings_while_idle(&self) -> bool {
        self.while_idle
    }
}

/// Times that timers can deal with: what is added to the present must be a time, too.
const fn usable(time: Duration) -> Duration {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    if time.as_millis() == 0 {
        Duration::from_millis(1)
    } else if time.as_millis() < TEN_YEARS.as_millis() {
        time
    } else {
        TEN_YEARS
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn whatever_is_asked_for_a_timer_can_do() {
        let shortest = Keepalive::new(Duration::ZERO, Duration::from_nanos(1));
        let millisecond = Duration::from_millis(1);
        assert_eq!(
            (shortest.interval(), shortest.timeout()),
            (millisecond, millisecond)
        );
        let longest = Keepalive::new(Duration::MAX, Duration::MAX);
        for time in [longest.interval(), longest.timeout()] {
            assert!(Instant::now().checked_add(time).is_some(), "{time:?}");
        }
        let hour = Duration::from_secs(3600);
        let usual = Keepalive::new(hour, hour);
        assert_eq!((usual.interval(), usual.timeout()), (hour, hour));
    }
}
