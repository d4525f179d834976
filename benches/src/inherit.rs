//! File descriptors that a process of the benchmark is born with.

#![expect(
    unsafe_code,
    reason = "a number becomes an owned descriptor here, and nowhere else"
)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::Result;

static CLAIMED: AtomicBool = AtomicBool::new(false);

/// Takes ownership of the descriptors that the parent process left open for this one.
///
/// # Errors
///
/// Fails if a number names no open descriptor, names a standard stream, or comes twice, and when called again: the
/// descriptors have an owner by then.
pub fn claim(numbers: &[RawFd]) -> Result<Vec<OwnedFd>> {
    if CLAIMED.swap(true, Relaxed) {
        return Err("the inherited descriptors were claimed before".into());
    }
    for (position, number) in numbers.iter().enumerate() {
        let open = Path::new("/proc/self/fd").join(number.to_string()).exists();
        if *number <= 2 || !open || numbers[..position].contains(number) {
            return Err(format!("{number} is not a descriptor that the parent left open").into());
        }
    }
    Ok(numbers.iter().map(|number| own(*number)).collect())
}

fn own(number: RawFd) -> OwnedFd {
    // SAFETY:
    // - Open: `claim` has just seen it among the descriptors of this process.
    // - Not owned: it was open before `main` began, it is no standard stream, no other part of this program adopts
    //   descriptors by number, and `claim` gets this far only once.
    // - Closed by `close`: it is a memfd, an eventfd or a socket.
    unsafe { OwnedFd::from_raw_fd(number) }
}
