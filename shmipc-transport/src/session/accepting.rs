//! Streams that the peer opens, on their way to whoever takes them.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;

use super::shared::{Shared, Waiter};
use crate::{
    core::{num::index, sync::lock},
    error::SessionLost,
    stream::StreamShared,
};

/// Streams that nobody has taken yet, and those who wait for some.
#[derive(Default)]
pub(super) struct AcceptQueue {
    pub(super) streams: VecDeque<Arc<StreamShared>>,
    // Mostly one task, with each stream anew: then there is nothing to allocate.
    wakers: SmallVec<[Waker; 1]>,
    /// Woken as well, but not counted among those who wait.
    bystanders: SmallVec<[Waker; 1]>,
}

impl Shared {
    /// Waits for a stream that the peer opens.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<StreamShared>, SessionLost>> {
        let register = |waker: &Waker| self.wait_to_accept(waker);
        self.poll_wait(cx, Waiter::Acceptor, || self.try_accept(), register)
    }

    /// As [`poll_accept`](Self::poll_accept), for a task that expects none: nobody looks at the ring on its account, so a stream is
    /// found when somebody looks for another reason, or the doorbell rings.
    pub(crate) fn poll_unexpected(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<StreamShared>, SessionLost>> {
        if let Some(accepted) = self.try_accept() {
            return Poll::Ready(accepted);
        }
        {
            let bystanders = &mut lock(&self.accept).bystanders;
            if !bystanders.iter().any(|known| known.will_wake(cx.waker())) {
                bystanders.push(cx.waker().clone());
            }
        }
        // One that came before we registered, we see now.
        self.try_accept().map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes a stream that the peer has opened, or says why there will be none; `None` if there is none yet.
    pub(crate) fn try_accept(&self) -> Option<Result<Arc<StreamShared>, SessionLost>> {
        match lock(&self.accept).streams.pop_front() {
            Some(stream) => Some(Ok(stream)),
            None => self.lost().cloned().map(Err),
        }
    }

    /// Has `waker` called when [`try_accept`](Self::try_accept) has something.
    pub(crate) fn wait_to_accept(&self, waker: &Waker) {
        let mut accept = lock(&self.accept);
        if !accept.wakers.iter().any(|known| known.will_wake(waker)) {
            accept.wakers.push(waker.clone());
            self.count_waiting(true);
        }
    }

    /// Leaves a stream for whoever accepts. A peer may reset streams and open others as fast as it likes, so those that
    /// it has reset are dropped before the queue holds more than may be open.
    pub(super) fn queue_to_accept(&self, stream: Arc<StreamShared>) {
        {
            let mut accept = lock(&self.accept);
            let most = self.config.windows().streams_max;
            if index(most) <= accept.streams.len() {
                accept.streams.retain(|waiting| !waiting.is_over());
            }
            accept.streams.push_back(stream);
        }
        self.wake_acceptors();
    }

    pub(super) fn wake_acceptors(&self) {
        let (acceptors, bystanders) = {
            let mut accept = lock(&self.accept);
            let acceptors = mem::take(&mut accept.wakers);
            (acceptors, mem::take(&mut accept.bystanders))
        };
        for waker in acceptors {
            self.count_waiting(false);
            waker.wake();
        }
        bystanders.into_iter().for_each(Waker::wake);
    }
}
