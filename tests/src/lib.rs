//! What the tests of the whole share: an honest echo, a hand-made peer that lies, and counts of what a process holds.

pub mod echo;
pub mod process;
pub mod villain;

use std::time::{Duration, Instant};

/// Longer than anything here takes, unless it hangs.
pub const LONG: Duration = Duration::from_secs(30);

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
