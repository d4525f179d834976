//! Who is on the other side.

use std::fmt;

/// The process on the other side of a session, as the kernel vouches for it.
///
/// These are the credentials of the moment at which the client connected and, for the server, of the moment at which its
/// socket began to listen. A server that inherited its listening socket is therefore seen by its clients as the process
/// that made the socket.
///
/// Over TCP the kernel vouches for nobody, and all of them are `None`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    pid: Option<i32>,
    user: Option<User>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct User {
    uid: u32,
    gid: u32,
}

impl Peer {
    /// The peer of a TCP connection.
    pub(crate) const UNKNOWN: Self = Self {
        pid: None,
        user: None,
    };

    pub(crate) const fn new(pid: i32, uid: u32, gid: u32) -> Self {
        Self {
            pid: if 0 < pid { Some(pid) } else { None },
            user: Some(User { uid, gid }),
        }
    }

    /// Whether nothing is known of it, because it was met over TCP.
    pub(crate) const fn is_unknown(&self) -> bool {
        self.user.is_none()
    }

    /// Returns the process id in our own namespace, or `None` if the process has none there.
    ///
    /// Good for logs. It proves nothing: by the time it is looked at, it may belong to another process.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Returns the effective user id, or `None` over TCP.
    #[must_use]
    pub const fn uid(&self) -> Option<u32> {
        match self.user {
            Some(user) => Some(user.uid),
            None => None,
        }
    }

    /// Returns the effective group id, or `None` over TCP.
    #[must_use]
    pub const fn gid(&self) -> Option<u32> {
        match self.user {
            Some(user) => Some(user.gid),
            None => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.uid()) {
            (Some(pid), Some(uid)) => write!(f, "process {pid} of user {uid}"),
            (None, Some(uid)) => write!(f, "a process of user {uid}"),
            (_, None) => f.write_str("a process of an unknown user, over TCP"),
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
    #[test]
    fn over_tcp_nobody_is_known() {
        let peer = Peer::UNKNOWN;
        assert_eq!((peer.pid(), peer.uid(), peer.gid()), (None, None, None));
        assert_eq!(peer.to_string(), "a process of an unknown user, over TCP");
    }
}
