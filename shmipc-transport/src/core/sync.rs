//! The only module that names an atomic type. Loom replaces them when we ask it to.

#[cfg(not(shmipc_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(shmipc_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
// Statistics and one-way flags carry no synchronisation of their own, so loom need not see them.
#[cfg(shmipc_loom)]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

/// A lock that loom sees. Within others, no atomic that loom sees may be touched.
#[cfg(not(shmipc_loom))]
pub(crate) use std::sync::Mutex as ModelMutex;

#[cfg(shmipc_loom)]
pub(crate) use loom::sync::Mutex as ModelMutex;

/// Remembers the last value that it was told, for all threads of this process. Orders nothing else.
///
/// Each answer depends on this one word only, which loom need not explore.
#[derive(Debug, Default)]
pub(crate) struct LastTold(std::sync::atomic::AtomicU32);

impl LastTold {
    /// Tells it `value`. Returns whether that is news; of several threads that tell the same, one hears so.
    pub(crate) fn is_news(&self, value: u32) -> bool {
        // Relaxed: nothing else is published by this.
        self.0.swap(value, std::sync::atomic::Ordering::Relaxed) != value
    }
}

/// Counts for all threads of this process, as a hint. Orders nothing, so loom need not see it.
#[derive(Debug)]
pub(crate) struct Gauge(std::sync::atomic::AtomicUsize);

impl Gauge {
    pub(crate) const fn new() -> Self {
        Self(std::sync::atomic::AtomicUsize::new(0))
    }

    pub(crate) fn get(&self) -> usize {
        // Relaxed, here and below: nothing else is published by this.
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn add(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn sub(&self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Locks `mutex`, whether or not a thread panicked while it held it.
///
/// No code of users runs under our locks and every critical section leaves its data consistent at each step, so a
/// poisoned lock tells of a bug elsewhere and not of broken data.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `mutex` if nobody else holds it.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Runs `scenario` under every interleaving, or just once when loom is off.
#[cfg(test)]
pub(crate) fn model(scenario: impl Fn() + Send + Sync + 'static) {
    #[cfg(shmipc_loom)]
    loom::model(scenario);
    #[cfg(not(shmipc_loom))]
    scenario();
}

/// Threads, and what they wait on, for scenarios of [`model`].
#[cfg(test)]
pub(crate) mod thread {
    #[cfg(shmipc_loom)]
    pub(crate) use loom::{
        sync::{Condvar, Mutex},
        thread::{spawn, yield_now},
    };
    #[cfg(not(shmipc_loom))]
    pub(crate) use std::{
        sync::{Condvar, Mutex},
        thread::{spawn, yield_now},
    };
}
