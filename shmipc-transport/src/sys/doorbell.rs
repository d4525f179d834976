//! The doorbell: an eventfd that its owner sleeps on and the peer writes to.
#![expect(
    unsafe_code,
    reason = "tokio wants a promise about the descriptor that it watches"
)]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
    unistd::write,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Makes a doorbell for us to sleep on.
///
/// # Errors
///
/// Whatever the kernel says.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into())
}

/// Rings a peer's doorbell.
///
/// Failure is not reported: `EAGAIN` says that it is ringing already, and whatever else a peer may have done to it, or
/// passed instead of it, only keeps that peer asleep.
pub(crate) fn ring(doorbell: &impl AsFd) {
    while let Err(Errno::EINTR) = write(doorbell, &1u64.to_ne_bytes()) {}
}

/// Watches a descriptor that becomes readable: a doorbell of ours, or the peer's process.
///
/// # Errors
///
/// Whatever the kernel says.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays the same descriptor until it is dropped, and is dropped by the `AsyncFd` only.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}
