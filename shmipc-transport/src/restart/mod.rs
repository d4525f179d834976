//! Hot restarts, from the server's side: its clients go to the process that has taken its place.
//!
//! Which clients there are is known to [`Clients`], without keeping any of them. What is decided is decided by
//! [`RollCall`](crate::core::restart::RollCall). The client's side is that of [`pool`](crate::SessionPool).

pub(crate) mod blocking;
mod clients;

pub use clients::Clients;

use crate::core::restart::Tally;

/// What has come of a hot restart. See [`Clients::hot_restart`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Restart {
    /// Its epoch.
    pub epoch: u64,
    /// Sessions whose clients have moved. Among ourselves these are over; with others they are there until they are closed.
    pub moved: usize,
    /// Sessions that ended before their clients said so: they left or died, or are of a kind that hangs up on what it does not know.
    pub ended: usize,
    /// Sessions whose peer knows no hot restarts, and was told nothing: the crate `shmipc` in version 4.
    pub untold: usize,
    /// Sessions that were told, and whose clients had not moved in time. They are served until they are closed.
    pub timed_out: usize,
}

impl Restart {
    pub(crate) const fn new(epoch: u64, tally: Tally) -> Self {
        let Tally {
            moved,
            ended,
            untold,
            waiting: timed_out,
        } = tally;
        Self {
            epoch,
            moved,
            ended,
            untold,
            timed_out,
        }
    }

    /// Whether nobody is left who would lose anything if all sessions were closed now, or drained.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.untold == 0 && self.timed_out == 0
    }
}
