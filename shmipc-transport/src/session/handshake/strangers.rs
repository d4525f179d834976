//! Clients that are not admitted, for as long as it takes to tell them so.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many of them may be waited for at once.
const STRANGERS_MAX: usize = 16;

/// The clients of a listener that are not admitted and have not said anything yet. Clones count the same ones.
///
/// What they are told depends on what they speak, so each of them is waited for, as others are. That takes no place of those that are admitted: a
/// stranger that is silent keeps nobody else out. Where there are too many, the others are hung up on without a word.
#[derive(Clone, Debug)]
pub(crate) struct Strangers {
    places: Arc<Semaphore>,
    met: Arc<Notify>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(STRANGERS_MAX)),
            met: Arc::default(),
        }
    }
}

impl Strangers {
    /// One more is there until what is returned is dropped; `None` if there are too many.
    pub(crate) fn meet(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        self.met.notify_one();
        place
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        STRANGERS_MAX - self.places.available_permits()
    }

    /// Waits until there may be one more than when this was waited for last.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: none is missed.
    pub(crate) async fn met(&self) {
        self.met.notified().await;
    }
}
