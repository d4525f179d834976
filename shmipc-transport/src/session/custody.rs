//! What a session keeps for readers in other sessions, until they let go of it (O23).

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::unix::AsyncFd;

use crate::{
    link::{Forwarded, Lease, Link},
    sys::doorbell,
};

/// Segments that were lent to us and passed on, and whose readers we can no longer hear.
#[derive(Debug, Default)]
pub(super) struct Custody {
    kept: Vec<Kept>,
}

/// What the reader of one region may still look at.
#[derive(Debug)]
struct Kept {
    region: Arc<Forwarded>,
    /// `None` if the system would not have it watched. Then it is kept for as long as the session lasts.
    watch: Option<AsyncFd<OwnedFd>>,
    leases: Vec<Lease>,
}

impl Custody {
    /// Takes what has been left to the session, and ends the leases of those readers that have let go.
    pub(super) fn poll(&mut self, link: &Link, cx: &mut Context<'_>) {
        for (lease, region) in link.take_kept() {
            let known = self
                .kept
                .iter_mut()
                .find(|kept| Arc::ptr_eq(&kept.region, &region));
            match known {
                Some(kept) => kept.leases.push(lease),
                None => self.kept.push(Kept {
                    watch: region.watch().and_then(doorbell::watch).ok(),
                    leases: vec![lease],
                    region,
                }),
            }
        }
        self.kept.retain(|kept| !kept.poll_released(cx));
    }
}

impl Kept {
    /// Whether the reader has let go. If not, the task is woken when it does.
    fn poll_released(&self, cx: &mut Context<'_>) -> bool {
        let Some(watch) = &self.watch else {
            return self.region.is_released();
        };
        // An error is the runtime's end.
        while let Poll::Ready(Ok(mut ready)) = watch.poll_read_ready(cx) {
            if self.region.is_released() {
                return true;
            }
            ready.clear_ready();
        }
        false
    }
}
