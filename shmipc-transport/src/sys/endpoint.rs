//! Sockets before they carry anything: connecting, listening, taking over inherited ones.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
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

/// A connection that no runtime watches.
#[derive(Debug)]
pub(crate) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A socket that listens, and that no runtime watches.
#[derive(Debug)]
pub(crate) enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Connection {
    pub(crate) const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Makes it ready for use: calls on it do not wait, and what is sent leaves at once.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Listening {
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// Takes the next connection.
    pub(crate) fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => listener
                .accept()
                .map(|(stream, _)| Connection::Unix(stream)),
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Connection::Tcp(stream)),
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Connects over TCP. Waits in the kernel for at most `timeout`, which must not be zero.
pub(crate) fn connect_tcp(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    expect_another(stream.local_addr()?, stream.peer_addr()?)?;
    Ok(Connection::Tcp(stream))
}

/// Refuses a connection to itself. Where nobody listens, a client may happen to be given the very port that it connects to, and TCP
/// joins the two.
pub(crate) fn expect_another(local: SocketAddr, peer: SocketAddr) -> io::Result<()> {
    if local == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

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

/// Takes over a socket that listens over TCP, which this process was given.
pub(crate) fn inherited_tcp_listener(fd: &OwnedFd) -> Result<TcpListener, InvalidAddress> {
    let expected = "listening";
    let not_a_socket = |_: io::Error| InvalidAddress::NotASocket { expected };
    if !getsockopt(fd, sockopt::AcceptConn).map_err(|errno| not_a_socket(errno.into()))? {
        return Err(InvalidAddress::NotASocket { expected });
    }
    let listener = TcpListener::from(fd.try_clone().map_err(not_a_socket)?);
    let local = listener.local_addr().map_err(not_a_socket)?;
    if !local.ip().to_canonical().is_loopback() {
        let address = local.to_string();
        return Err(InvalidAddress::NotLoopback { address });
    }
    Ok(listener)
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
    fn nobody_is_connected_to_oneself() {
        let [own, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        expect_another(own, other).unwrap();
        let refused = expect_another(own, own).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
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
