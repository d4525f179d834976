//! Anchors: by which one process learns that another has let go of a mapping, or died.
//!
//! An anchor is one end of a pair of Unix sockets, of which the other is watched. Nothing is ever sent. The kernel tells the
//! watcher when the last descriptor of the anchor is closed, by whatever end its holder comes to.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair},
};

use super::doorbell::is_unix_socket;
use crate::error::PeerMisbehaved;

/// Makes an anchor: the end to watch, and the one to pass on.
///
/// # Errors
///
/// Whatever the kernel says.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        flags,
    )?)
}

/// Takes an anchor that the peer has passed. We only ever close it, which for a Unix socket does not wait for anybody.
///
/// # Errors
///
/// Returns [`PeerMisbehaved::Anchor`] if it is anything else.
pub(crate) fn accept(fd: OwnedFd) -> Result<OwnedFd, PeerMisbehaved> {
    if is_unix_socket(&fd) {
        Ok(fd)
    } else {
        Err(PeerMisbehaved::Anchor)
    }
}

/// Whether the anchor that belongs to `watch` is closed.
///
/// A holder that sends something, which it has no reason to, is taken to have closed it. It deceives only itself.
pub(crate) fn is_released(watch: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        match recv(watch.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return false,
            // What was in flight when its holder died is lost, and reported as an error.
            Ok(_) | Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_released_with_its_last_descriptor() {
        let (watch, anchor) = pair().unwrap();
        let anchor = accept(anchor).unwrap();
        let other = anchor.try_clone().unwrap();
        assert!(!is_released(&watch));
        drop(anchor);
        assert!(!is_released(&watch), "somebody else holds it");
        drop(other);
        assert!(is_released(&watch));
    }

    #[test]
    fn only_a_unix_socket_is_an_anchor() {
        let file = tempfile::tempfile().unwrap();
        let (pipe, _) = std::io::pipe().unwrap();
        for fd in [OwnedFd::from(file), pipe.into()] {
            assert!(matches!(accept(fd), Err(PeerMisbehaved::Anchor)));
        }
    }
}
