//! What can be seen of a pool.

use std::time::Duration;

/// A snapshot of a [`SessionPool`](crate::SessionPool).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct PoolStats {
    /// What is in each place for a session.
    pub slots: Vec<SlotStats>,
    /// Sessions that others have replaced, and that are still there for their servers to close.
    pub leaving: usize,
    /// Sessions that were connected.
    pub connected: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Hot restarts that were followed and acknowledged, with shmipc's own protocol.
    pub restarts: u64,
    /// Hot restarts that were not acknowledged, because moving took too long.
    pub restarts_given_up: u64,
    /// Sessions that were replaced because their servers go away or restart, whatever they speak.
    pub moved: u64,
    /// Streams that were opened.
    pub streams_opened: u64,
    /// Streams that were lent again.
    pub streams_reused: u64,
}

/// What is in a place for a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SlotStats {
    /// What it is doing.
    pub state: SlotState,
    /// Streams of its session that are lent.
    pub streams_lent: usize,
    /// Streams of its session that wait to be reused.
    pub streams_idle: usize,
}

/// What a place for a session is doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum SlotState {
    /// Its session takes streams.
    Ready,
    /// A session is being connected, and there is none.
    #[default]
    Connecting,
    /// Its session takes streams, and another is being connected, because the server restarts.
    Moving,
    /// There is no session. The next attempt begins after this time.
    Waiting(Duration),
}
