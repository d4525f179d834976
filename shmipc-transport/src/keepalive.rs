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
    /// there is no answer within `timeout`. Less than 1 ms counts as that.
    #[must_use]
    pub const fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval: at_least_1_ms(interval),
            timeout: at_least_1_ms(timeout),
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

const fn at_least_1_ms(time: Duration) -> Duration {
    if time.as_millis() == 0 {
        Duration::from_millis(1)
    } else {
        time
    }
}
