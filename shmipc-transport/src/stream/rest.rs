//! Streams that others may go on with.

use std::task::{Context, Waker};

use super::{Handle, Stream};

impl Stream {
    /// Whether others may go on with it as if they had just opened it: both ends are open, nothing waits to be received, and its
    /// messages go through shared memory.
    pub(crate) fn is_at_rest(&self) -> bool {
        let Handle { owner, stream } = &self.send.handle;
        let session = &owner.shared;
        let has_fallen = |id| session.link.has_fallen(id);
        stream.is_at_rest()
            && session.lost().is_none()
            && stream.id().is_some_and(|id| !has_fallen(id))
    }

    /// Leaves nothing undone, and says whether it is [at rest](Self::is_at_rest).
    pub(crate) fn comes_to_rest(&mut self) -> bool {
        if self.recv.take_wakes_peer() {
            self.send.handle.session().link.wake_peer();
        }
        self.is_at_rest()
    }

    /// Ends both directions, so that the peer sees an end where that is what comes next, and not a reset.
    pub(crate) fn end(mut self) {
        if self.id().is_some() {
            // If there is no room for that, it is a reset all the same.
            let _ = self
                .send
                .poll_finish(&mut Context::from_waker(Waker::noop()));
        }
    }
}
