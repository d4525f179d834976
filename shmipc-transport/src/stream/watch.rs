//! Watching a stream's end from outside of it.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use super::shared::StreamRef;
use crate::error::SessionLost;

/// How a stream ended. See [`StreamWatch`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Abandoned {
    /// The peer gave it up, with this code.
    Reset(u32),
    /// The session is over.
    SessionLost(SessionLost),
    /// Both sides have sent their end, or this side has given it up.
    Closed,
}

/// Tells when a stream has ended, without taking part in it.
#[derive(Clone, Debug)]
pub struct StreamWatch {
    pub(super) stream: StreamRef,
}

impl StreamWatch {
    /// Waits until the stream has ended, and says how.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub async fn abandoned(&self) -> Abandoned {
        poll_fn(|cx| self.poll_abandoned(cx)).await
    }

    /// Polls for the stream's end; see [`abandoned`](Self::abandoned).
    pub fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<Abandoned> {
        self.stream.poll_abandoned(cx)
    }
}
