//! The allocator of every process of the benchmark: the system's, counted, and on request with the place of each call.
//!
//! Each thread counts for itself, with plain loads and stores, so that counting costs next to nothing. A thread that serves the
//! benchmark rather than the peer (the control thread of the server) exempts itself with [`exempt_this_thread`].

#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; this one only forwards to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One for each thread; those that come late share the last.
static COUNTERS: [Counters; THREADS] = [const { Counters::new() }; THREADS];
static THREADS_SEEN: AtomicUsize = AtomicUsize::new(0);
const THREADS: usize = 64;
static TRACING: AtomicBool = AtomicBool::new(false);
static TRACED: Mutex<Vec<Traced>> = Mutex::new(Vec::new());

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
    static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// What one thread has asked for, on a cache line of its own.
#[repr(align(128))]
struct Counters {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

/// What the process has asked of its heap since it began.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Allocations {
    /// Calls of `alloc`, `alloc_zeroed` and `realloc`.
    pub count: u64,
    /// Bytes these calls asked for; for `realloc`, the new size.
    pub bytes: u64,
}

impl Sub for Allocations {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            count: self.count - earlier.count,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// One allocation, and where it was made.
#[derive(Debug)]
pub struct Traced {
    /// Bytes asked for.
    pub size: usize,
    /// The stack at that moment, not yet resolved to names.
    pub backtrace: Backtrace,
}

/// The counters as they stand.
#[must_use]
pub fn so_far() -> Allocations {
    let sum = |counter: fn(&Counters) -> &AtomicU64| {
        COUNTERS.iter().map(|own| counter(own).load(Relaxed)).sum()
    };
    Allocations {
        count: sum(|own| &own.count),
        bytes: sum(|own| &own.bytes),
    }
}

/// Leaves this thread's allocations out of the counters and the trace, from now on.
pub fn exempt_this_thread() {
    EXEMPT.set(true);
}

/// Starts to note the place of each allocation, in all threads.
pub fn start_trace() {
    TRACING.store(true, Relaxed);
}

/// Stops noting, and returns what was noted.
#[must_use]
pub fn stop_trace() -> Vec<Traced> {
    TRACING.store(false, Relaxed);
    std::mem::take(&mut *TRACED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Counts one allocation, unless the thread is exempt.
fn note(size: usize) {
    // A thread whose locals are already gone is about to end; what it allocates then belongs to no call.
    if EXEMPT.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    let own = OWN.try_with(own_counters).unwrap_or(THREADS - 1);
    let (counters, bytes) = (&COUNTERS[own], size as u64);
    if own == THREADS - 1 {
        counters.count.fetch_add(1, Relaxed);
        counters.bytes.fetch_add(bytes, Relaxed);
    } else {
        // No other thread writes these.
        counters
            .count
            .store(counters.count.load(Relaxed) + 1, Relaxed);
        counters
            .bytes
            .store(counters.bytes.load(Relaxed) + bytes, Relaxed);
    }
    if TRACING.load(Relaxed) {
        trace(size);
    }
}

/// The place of this thread's counters.
fn own_counters(own: &Cell<usize>) -> usize {
    if own.get() == usize::MAX {
        own.set(THREADS_SEEN.fetch_add(1, Relaxed).min(THREADS - 1));
    }
    own.get()
}

/// Notes the stack of one allocation. The note's own allocations are exempt.
#[cold]
fn trace(size: usize) {
    EXEMPT.set(true);
    let backtrace = Backtrace::force_capture();
    TRACED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Traced { size, backtrace });
    EXEMPT.set(false);
}

struct Counting;

// SAFETY: Every method passes its arguments to `System` unchanged and returns what `System` returns; `note` does not
// unwind, and what it allocates it allocates through this same allocator with the thread exempted, so it does not
// recurse.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: The caller's promise (a layout of non-zero size) is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: As in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: The caller's promise (`block` came from this allocator with `layout`, `new_size` is not zero and does
        // not overflow) is the one `System` asks for, because all blocks of this allocator are `System`'s.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: As in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_counted_with_its_size() {
        let before = so_far();
        let block = std::hint::black_box(Vec::<u8>::with_capacity(12_345));
        let spent = so_far() - before;
        drop(block);
        assert!(1 <= spent.count, "{spent:?}");
        assert!(12_345 <= spent.bytes, "{spent:?}");
    }
}
