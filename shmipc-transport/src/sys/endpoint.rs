//! Sockets before they carry anything: connecting, listening, taking over inherited ones.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::sys::{
    socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, bind,
        connect as connect_socket, getsockname, getsockopt, listen as listen_on, setsockopt,
        socket, sockopt,
    },
    stat::{Mode, fchmod},
};

use crate::error::InvalidAddress;

/// Connects without waiting: `WouldBlock` means that the server's queue is full.
pub(crate) fn connect(address: &UnixAddr) -> io::Result<UnixStream> {
    let socket = new_socket()?;
    connect_socket(socket.as_raw_fd(), address)?;
    Ok(socket.into())
}

/// Listens at an address where nobody is yet. A socket file is for its owner only.
///
/// Connections that nobody accepts yet wait in a queue as long as the system permits (`net.core.somaxconn`).
pub(crate) fn listen(address: &UnixAddr) -> io::Result<UnixListener> {
    let socket = new_socket()?;
    // The socket's mode becomes that of the file which `bind` makes, so there is no moment at which others may connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), address)?;
    listen_on(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// Takes over a listening socket that this process was given.
pub(crate) fn inherited_listener(fd: &OwnedFd) -> Result<UnixListener, InvalidAddress> {
    inherited(fd, true).map(UnixListener::from)
}

/// Takes over a connected socket that this process was given.
pub(crate) fn inherited_stream(fd: &OwnedFd) -> Result<UnixStream, InvalidAddress> {
    inherited(fd, false).map(UnixStream::from)
}

/// Returns a descriptor of our own for `fd`, non-blocking and closed on exec.
fn inherited(fd: &OwnedFd, listening: bool) -> Result<OwnedFd, InvalidAddress> {
    let expected = if listening { "listening" } else { "connected" };
    let not_a_socket = |_: io::Error| InvalidAddress::NotASocket { expected };
    let is = is_stream_socket(fd).map_err(not_a_socket)?
        && getsockopt(fd, sockopt::AcceptConn).map_err(|errno| not_a_socket(errno.into()))?
            == listening;
    let is_connected =
        || getsockopt(fd, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() != u32::MAX);
    if !is || !(listening || is_connected()) {
        return Err(InvalidAddress::NotASocket { expected });
    }
    // Credentials in control messages would take the place of descriptors. Accepted sockets inherit the setting.
    setsockopt(fd, sockopt::PassCred, &false).map_err(|errno| not_a_socket(errno.into()))?;
    let stream = UnixStream::from(fd.try_clone().map_err(not_a_socket)?);
    stream.set_nonblocking(true).map_err(not_a_socket)?;
    Ok(stream.into())
}

fn is_stream_socket(fd: &impl AsFd) -> io::Result<bool> {
    let family = getsockname::<UnixAddr>(fd.as_fd().as_raw_fd()).map(|address| address.family())?;
    Ok(family == Some(AddressFamily::Unix)
        && getsockopt(fd, sockopt::SockType)? == SockType::Stream)
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::TcpListener, os::unix::net::UnixDatagram};

    use super::*;

    fn listener() -> (tempfile::TempDir, UnixAddr, UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let address = UnixAddr::new(&directory.path().join("socket")).unwrap();
        let listener = listen(&address).unwrap();
        (directory, address, listener)
    }

    #[test]
    fn a_full_queue_would_block() {
        let (_directory, address, listener) = listener();
        listen_on(&listener, Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&address) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(listener.accept().unwrap());
        connect(&address).unwrap();
    }

    #[test]
    fn only_the_right_kind_of_socket_is_taken_over() {
        let (_directory, address, listener) = listener();
        let stream = connect(&address).unwrap();
        let (listening, connected) = (OwnedFd::from(listener), OwnedFd::from(stream));
        inherited_listener(&listening).unwrap();
        inherited_stream(&connected).unwrap();
        let others = [
            OwnedFd::from(File::open("/dev/null").unwrap()),
            OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()),
            OwnedFd::from(UnixDatagram::unbound().unwrap()),
            new_socket().unwrap(),
        ];
        for fd in others.iter().chain([&connected]) {
            assert_eq!(
                inherited_listener(fd).unwrap_err(),
                InvalidAddress::NotASocket {
                    expected: "listening"
                }
            );
        }
        for fd in others.iter().chain([&listening]) {
            assert_eq!(
                inherited_stream(fd).unwrap_err(),
                InvalidAddress::NotASocket {
                    expected: "connected"
                }
            );
        }
    }
}
