//! Who is on the other end of a socket.
#![expect(unsafe_code, reason = "pidfd_open has no wrapper in nix")]

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{getsockopt, sockopt},
};

use super::socket::ControlSocket;
use crate::Peer;

/// Returns whatever is known of the peer of a session's socket. Over TCP that is nothing.
pub(crate) fn of(socket: &ControlSocket) -> io::Result<Peer> {
    if socket.passes_descriptors() {
        credentials(socket)
    } else {
        Ok(Peer::UNKNOWN)
    }
}

/// Returns the credentials of the peer of a connected Unix socket (H6).
pub(crate) fn credentials(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
    Ok(Peer::new(
        credentials.pid(),
        credentials.uid(),
        credentials.gid(),
    ))
}

/// Returns a descriptor that becomes readable when the process that connected `socket` ends.
///
/// Returns `None` where the kernel cannot say: before Linux 5.3, for a process outside of our pid namespace, or for one
/// that is gone already. The closing of the socket tells of all these, except if a child of the peer holds on to it.
///
/// Only for the accepting side: a client would watch the process that began to *listen*, which need not be the server.
pub(crate) fn process(socket: &impl AsFd, peer: &Peer) -> Option<OwnedFd> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(process) => Some(process),
        // Before Linux 6.5. If the pid has passed on to another process since, then the peer is gone, its socket closed,
        // and the session over before anybody looks at this descriptor.
        Err(Errno::ENOPROTOOPT) => open_process(peer.pid()?).ok(),
        Err(_) => None,
    }
}

fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers, touches no memory of ours, and returns a descriptor or -1.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_pidfd_open,
            libc::c_long::from(pid),
            0 as libc::c_long,
        )
    };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, as always here), and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        process,
    };

    use nix::{
        fcntl::{FcntlArg, FdFlag, fcntl},
        poll::{PollFd, PollFlags, PollTimeout, poll},
        unistd::{Gid, Uid},
    };

    use super::*;
    use crate::sys::endpoint::Connection;

    #[test]
    fn we_know_ourselves() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = credentials(&ours).unwrap();
        assert_eq!(peer.pid(), i32::try_from(process::id()).ok());
        assert_eq!(peer.uid(), Some(Uid::effective().as_raw()));
        assert_eq!(peer.gid(), Some(Gid::effective().as_raw()));
    }

    #[test]
    fn over_tcp_nobody_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let socket = ControlSocket::bare(Connection::Tcp(server));
        let peer = of(&socket).unwrap();
        assert_eq!(peer, Peer::UNKNOWN);
        assert!(super::process(&socket, &peer).is_none());
    }

    #[test]
    fn a_living_process_is_not_readable() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = credentials(&ours).unwrap();
        for process in [
            super::process(&ours, &peer),
            open_process(peer.pid().unwrap()).ok(),
        ]
        .into_iter()
        .flatten()
        {
            let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut polled, PollTimeout::ZERO).unwrap(), 0);
            let flags = FdFlag::from_bits_retain(fcntl(&process, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }

    #[test]
    fn the_end_of_a_process_is_readable() {
        let mut child = process::Command::new("cat")
            .stdin(process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = open_process(child.id().try_into().unwrap());
        drop(child.stdin.take());
        // Before Linux 5.3 there is none.
        if let Ok(process) = &process {
            let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut polled, PollTimeout::NONE).unwrap(), 1);
        }
        child.wait().unwrap();
    }
}
