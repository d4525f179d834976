//! What the tests of the whole share: an honest echo, a hand-made peer that lies, and counts of what a process holds.

pub mod echo;
pub mod interop;
pub mod other;
pub mod process;
pub mod service;
pub mod streams;
pub mod villain;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

/// Longer than anything here takes, unless it hangs.
pub const LONG: Duration = Duration::from_secs(30);

/// Runs a test on a runtime of its own while no other test of this program runs, because it counts what the process
/// holds, and a runtime holds descriptors too.
///
/// # Panics
///
/// If the test does, or the kernel refuses a runtime.
pub fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed says nothing about the next.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}

/// Fails instead of hanging.
///
/// # Panics
///
/// If `future` takes longer than [`LONG`].
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LONG, future).await {
        Ok(output) => output,
        Err(_) => panic!("it hangs: {what}"),
    }
}

/// Lets everything else run until `check` holds.
///
/// # Panics
///
/// If it does not hold within [`LONG`].
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < LONG, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Polls a future as often as it asks for it, but no more than `most` times. `None` if it was dropped unfinished.
pub async fn poll_at_most<F: Future>(most: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = most;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Polls a future that cannot go on a number of times, and drops it.
///
/// # Panics
///
/// If it could go on.
pub async fn poll_in_vain<F: Future>(times: usize, future: F) {
    let mut future = pin!(future);
    for _ in 0..times {
        let is_ready = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        assert!(!is_ready, "it was to wait");
        tokio::task::yield_now().await;
    }
}
