//! What received messages may take of private memory.
//!
//! shmipc's protocol has no credit. What lies in the region is bounded by the region; what came over the socket, or was copied out of
//! the region, is bounded here: above the limit, nothing more is taken from socket and queue, until some of it was dropped.

use std::{
    sync::{Arc, Mutex},
    task::Waker,
};

use bytes::Bytes;

use crate::core::sync::{AtomicU64, Ordering, lock};

/// The most bytes that are held before the session stops taking more. One message may exceed it.
const LIMIT: u64 = 64 << 20;

/// What a message takes beside its bytes, generously: its place in a queue, and the allocations that keep track of it. Without it, a peer
/// that sends single bytes to nobody could have us hold a hundred times the limit.
const OVERHEAD: u64 = 256;

/// Private memory of the messages of a session.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicU64,
    limit: AtomicU64,
    keeper: Mutex<Option<Waker>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            held: AtomicU64::new(0),
            limit: AtomicU64::new(LIMIT),
            keeper: Mutex::default(),
        }
    }
}

impl Budget {
    /// Has `waker` called when there is room again.
    pub(super) fn watch(&self, waker: &Waker) {
        *lock(&self.keeper) = Some(waker.clone());
    }

    /// Whether nothing more should be taken.
    pub(super) fn is_exceeded(&self) -> bool {
        self.limit.load(Ordering::Acquire) <= self.held.load(Ordering::Acquire)
    }

    /// Allows for what a peer that is gone can have left: `len` bytes in the region, and what the kernel holds of the socket. Nobody
    /// could take it later.
    pub(super) fn allow_rest(&self, len: u64) {
        let limit = self.held.load(Ordering::Acquire) + len + LIMIT;
        self.limit.store(limit, Ordering::Release);
    }

    /// Makes a buffer of `bytes`, which is counted until it is dropped.
    pub(super) fn charge(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        self.held.fetch_add(cost(&bytes), Ordering::AcqRel);
        Bytes::from_owner(Charged {
            bytes,
            budget: Arc::clone(self),
        })
    }
}

struct Charged {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
}

/// What a message counts for.
fn cost(bytes: &[u8]) -> u64 {
    OVERHEAD + bytes.len() as u64
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let cost = cost(&self.bytes);
        let before = self.budget.held.fetch_sub(cost, Ordering::AcqRel);
        let limit = self.budget.limit.load(Ordering::Acquire);
        if limit <= before && before - cost < limit {
            let keeper = lock(&self.budget.keeper).clone();
            if let Some(keeper) = keeper {
                keeper.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazard_h46_h75_what_is_held_is_counted_until_it_is_dropped() {
        let budget = Arc::new(Budget::default());
        let half = usize::try_from(LIMIT / 2).unwrap();
        let first = budget.charge(vec![0; half]);
        assert!(!budget.is_exceeded());
        let second = budget.charge(vec![0; half]);
        assert!(budget.is_exceeded());
        let part = second.slice(..10);
        drop(second);
        assert!(budget.is_exceeded(), "a part keeps the whole");
        drop(part);
        assert!(!budget.is_exceeded());
        drop(first);
        assert_eq!(budget.held.load(Ordering::Acquire), 0);
    }

    #[test]
    fn hazard_h46_a_short_message_counts_for_what_it_takes() {
        let budget = Arc::new(Budget::default());
        let most = LIMIT / OVERHEAD;
        let held: Vec<_> = (0..most).map(|_| budget.charge(vec![7])).collect();
        assert!(budget.is_exceeded());
        drop(held);
        assert_eq!(budget.held.load(Ordering::Acquire), 0);
    }
}
