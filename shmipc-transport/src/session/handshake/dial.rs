//! From an address to a connection.

use std::{io, net::SocketAddr, os::unix::net::UnixStream as BareStream, thread, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout_at},
};

use super::drive::Clock;
use crate::{
    Address,
    error::{ConnectError, HandshakeStep, InvalidAddress},
    sys::{
        endpoint::{self, Connection},
        socket::Watched,
    },
};

/// Opens a connection over which nothing is said; waits while the server's queue is full.
pub(crate) async fn dial_plain(
    address: &Address,
    timeout: Duration,
) -> Result<UnixStream, ConnectError> {
    match dial(address, &Clock::start(), timeout).await? {
        Watched::Unix(stream) => Ok(stream),
        Watched::Tcp(_) => Err(not_unix(address).into()),
    }
}

/// Does what [`dial_plain`] does, in the calling thread.
pub(crate) fn dial_plain_blocking(
    address: &Address,
    timeout: Duration,
) -> Result<BareStream, ConnectError> {
    match dial_blocking(address, &Clock::start(), timeout)? {
        Connection::Unix(stream) => Ok(stream),
        Connection::Tcp(_) => Err(not_unix(address).into()),
    }
}

fn not_unix(address: &Address) -> InvalidAddress {
    let address = address.to_string();
    InvalidAddress::NotUnix { address }
}

/// Opens a connection; waits while the server's queue is full.
pub(super) async fn dial(
    address: &Address,
    clock: &Clock,
    timeout: Duration,
) -> Result<Watched, ConnectError> {
    let watch = |source| ConnectError::Io {
        action: "watch the socket",
        source,
    };
    if let Some(tcp) = address.to_tcp()? {
        let stream = dial_tcp(tcp, address, clock, timeout).await?;
        stream.set_nodelay(true).map_err(watch)?;
        return Ok(stream.into());
    }
    let mut dial = Dial::new(timeout);
    let connection = loop {
        match dial.attempt(address, clock)? {
            Ok(connection) => break connection,
            Err(pause) => sleep(pause).await,
        }
    };
    Watched::new(connection).map_err(watch)
}

async fn dial_tcp(
    tcp: SocketAddr,
    address: &Address,
    clock: &Clock,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let connect = async {
        let stream = TcpStream::connect(tcp).await?;
        endpoint::expect_another(stream.local_addr()?, stream.peer_addr()?)?;
        Ok(stream)
    };
    match timeout_at(clock.at(timeout), connect).await {
        Ok(connected) => connected.map_err(|source| cannot_connect(address, source)),
        Err(_elapsed) => Err(timed_out(timeout)),
    }
}

/// Opens a connection, as [`dial`] does, in the calling thread.
pub(super) fn dial_blocking(
    address: &Address,
    clock: &Clock,
    timeout: Duration,
) -> Result<Connection, ConnectError> {
    if let Some(tcp) = address.to_tcp()? {
        // Zero would be refused.
        let left = timeout.saturating_sub(clock.now());
        let connection =
            endpoint::connect_tcp(tcp, left.max(Duration::from_millis(1))).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::TimedOut => timed_out(timeout),
                    _ => cannot_connect(address, source),
                }
            })?;
        connection.prepare().map_err(|source| ConnectError::Io {
            action: "prepare the socket",
            source,
        })?;
        return Ok(connection);
    }
    let mut dial = Dial::new(timeout);
    loop {
        match dial.attempt(address, clock)? {
            Ok(connection) => return Ok(connection),
            Err(pause) => thread::sleep(pause),
        }
    }
}

/// Attempts to connect to a Unix socket.
struct Dial {
    timeout: Duration,
    pause: Duration,
}

impl Dial {
    const fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            pause: Duration::from_millis(1),
        }
    }

    /// Connects, or says how long to pause before the next attempt, because the server's queue is full.
    fn attempt(
        &mut self,
        address: &Address,
        clock: &Clock,
    ) -> Result<Result<Connection, Duration>, ConnectError> {
        let unix = match (address.to_unix()?, address) {
            (None, Address::Fd(fd)) => {
                return Ok(Ok(Connection::Unix(endpoint::inherited_stream(fd)?)));
            }
            (None, _) => unreachable!("every other address has a form for system calls"),
            (Some(unix), _) => unix,
        };
        match endpoint::connect(&unix) {
            Ok(stream) => Ok(Ok(Connection::Unix(stream))),
            // The kernel does not tell when there is room again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let pause = self.pause;
                if self.timeout <= clock.now() + pause {
                    return Err(timed_out(self.timeout));
                }
                self.pause = (pause * 2).min(Duration::from_millis(50));
                Ok(Err(pause))
            }
            Err(source) => Err(cannot_connect(address, source)),
        }
    }
}

const fn timed_out(timeout: Duration) -> ConnectError {
    ConnectError::TimedOut {
        step: HandshakeStep::Connection,
        timeout,
    }
}

fn cannot_connect(address: &Address, source: io::Error) -> ConnectError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ConnectError::NoServer { address, source }
        }
        _ => ConnectError::Unreachable { address, source },
    }
}
