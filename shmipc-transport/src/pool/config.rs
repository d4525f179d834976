//! What users set.

use std::time::Duration;

use crate::{Backoff, Config, InvalidConfig};

/// Which session of a [`SessionPool`](crate::SessionPool) gets the next stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Selection {
    /// Each in turn. The default.
    #[default]
    RoundRobin,
    /// The one that has the fewest streams of the pool in use.
    LeastLoaded,
}

/// Settings of a [`SessionPool`](crate::SessionPool), known to make sense.
///
/// ```
/// use std::time::Duration;
/// use shmipc_transport::{PoolConfig, Selection};
///
/// let config = PoolConfig::builder()
///     .size(4)
///     .selection(Selection::LeastLoaded)
///     .patience(Duration::from_secs(1))
///     .build()?;
/// # Ok::<(), shmipc_transport::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(super) session: Config,
    pub(super) size: usize,
    pub(super) selection: Selection,
    pub(super) idle_streams_max: usize,
    pub(super) backoff: (Duration, Duration),
    pub(super) patience: Duration,
    pub(super) restart_timeout: Duration,
    pub(super) fallback_rest: Option<Duration>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            session: Config::default(),
            size: 1,
            selection: Selection::default(),
            idle_streams_max: 4096,
            backoff: (Duration::from_millis(10), Duration::from_secs(2)),
            patience: Duration::ZERO,
            restart_timeout: Duration::from_secs(2),
            fallback_rest: None,
        }
    }
}

impl PoolConfig {
    /// Starts from the defaults.
    pub fn builder() -> PoolConfigBuilder {
        PoolConfigBuilder {
            config: Self::default(),
        }
    }

    pub(super) fn backoff(&self) -> Backoff {
        let (min, max) = self.backoff;
        Backoff::new(min, max)
    }
}

/// Collects settings; [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
#[must_use = "settings take effect in the `PoolConfig` that `build` returns"]
pub struct PoolConfigBuilder {
    config: PoolConfig,
}

impl PoolConfigBuilder {
    /// Settings of the sessions. Default: those of [`Config`].
    pub fn session(mut self, config: Config) -> Self {
        self.config.session = config;
        self
    }

    /// How many sessions there are. Default: 1; up to 1,024. Each costs what a [`Session`](crate::Session) does.
    pub fn size(mut self, sessions: usize) -> Self {
        self.config.size = sessions;
        self
    }

    /// Which session gets the next stream. Default: [`Selection::RoundRobin`].
    pub fn selection(mut self, selection: Selection) -> Self {
        self.config.selection = selection;
        self
    }

    /// How many streams that were given back are kept for reuse, for each session. Default: 4,096. 0: none.
    ///
    /// Each counts as open, for either side; see [`streams_max`](crate::ConfigBuilder::streams_max).
    pub fn idle_streams_max(mut self, streams: usize) -> Self {
        self.config.idle_streams_max = streams;
        self
    }

    /// The wait after the first failed attempt to connect, and the longest one: each is twice as long as the one before, with jitter.
    /// Default: 10 ms and 2 s; from 1 ms to 1 h.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.config.backoff = (min, max);
        self
    }

    /// For how long [`stream`](crate::SessionPool::stream) waits for a session while there is none and connecting has failed. Default: not at
    /// all.
    ///
    /// An attempt that follows no failure is always waited for: the first one, and that after a session was lost or its server has
    /// restarted.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.config.patience = patience;
        self
    }

    /// How long moving to the successor of a server that restarts may take before it is not acknowledged any more. Default: 2 s, as in
    /// others; from 1 ms to 1 h. It concerns shmipc's own protocol alone. Sessions that have not moved by then go on trying.
    ///
    /// For as long a session that has moved is kept, for its server to close it.
    pub fn restart_timeout(mut self, timeout: Duration) -> Self {
        self.config.restart_timeout = timeout;
        self
    }

    /// For how long a session gets no new streams, while there are others to be had, after one of its messages had to go over the socket
    /// for want of shared memory. Default: `None`, it makes no difference.
    ///
    /// It concerns shmipc's own link alone. Others have it as a circuit breaker of 30 s that refuses streams altogether.
    pub fn fallback_rest(mut self, rest: Option<Duration>) -> Self {
        self.config.fallback_rest = rest;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidConfig`], which names the setting at fault and what it may be.
    pub fn build(self) -> Result<PoolConfig, InvalidConfig> {
        const LEAST: Duration = Duration::from_millis(1);
        const MOST: Duration = Duration::from_secs(3600);
        let c = &self.config;
        let (min, max) = c.backoff;
        InvalidConfig::check([
            ("size", (1..=1024).contains(&c.size), "from 1 to 1,024"),
            (
                "backoff",
                LEAST <= min && min <= max && max <= MOST,
                "two pauses from 1 ms to 1 h, of which the second is no shorter than the first",
            ),
            (
                "restart_timeout",
                (LEAST..=MOST).contains(&c.restart_timeout),
                "from 1 ms to 1 h",
            ),
        ])?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_names_the_setting() {
        let second = Duration::from_secs(1);
        let builder = PoolConfig::builder;
        let nonsense = [
            (builder().size(0), "size"),
            (builder().size(1025), "size"),
            (builder().backoff(Duration::ZERO, second), "backoff"),
            (builder().backoff(second * 2, second), "backoff"),
            (builder().backoff(second, Duration::MAX), "backoff"),
            (builder().restart_timeout(Duration::ZERO), "restart_timeout"),
            (builder().restart_timeout(Duration::MAX), "restart_timeout"),
        ];
        for (builder, setting) in nonsense {
            assert_eq!(builder.build().unwrap_err().setting, setting);
        }
        assert!(builder().build().is_ok());
        let hour = second * 3600;
        let slow = builder().backoff(hour, hour).restart_timeout(hour);
        assert!(slow.build().is_ok());
    }
}
