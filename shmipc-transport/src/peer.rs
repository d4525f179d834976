//! Who is on the other side.

use std::fmt;

/// The process on the other side of a session, as the kernel vouches for it.
///
/// These are the credentials of the moment at which the client connected and, for the server, of the moment at which its
/// socket began to listen. A server that inherited its listening socket is therefore seen by its clients as the process
/// that made the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    pid: Option<i32>,
    uid: u32,
    gid: u32,
}

impl Peer {
    pub(crate) const fn new(pid: i32, uid: u32, gid: u32) -> Self {
        Self {
            pid: if 0 < pid { Some(pid) } else { None },
            uid,
            gid,
        }
    }

    /// Returns the process id in our own namespace, or `None` if the process has none there.
    ///
    /// Good for logs. It proves nothing: by the time it is looked at, it may belong to another process.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Returns the effective user id.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the effective group id.
    #[must_use]
    pub const fn gid(&self) -> u32 {
        self.gid
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} of user {}", self.uid),
            None => write!(f, "a process of user {}", self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_outside_of_our_namespace_has_no_pid() {
        assert_eq!(Peer::new(0, 5, 6).pid(), None);
        assert_eq!(Peer::new(0, 5, 6).to_string(), "a process of user 5");
        assert_eq!(Peer::new(7, 5, 6).to_string(), "process 7 of user 5");
    }
}
