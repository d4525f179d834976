//! Drives a handshake over a socket: the shell around [`core::handshake`](crate::core::handshake).
//!
//! [`Drive`] goes on as far as it can without waiting. Who waits is its caller: a task here, a thread in [`blocking`].

pub(crate) mod blocking;
mod drive;
pub(crate) mod shmipc;

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream as BareStream, time::Duration};

use tokio::{
    net::UnixStream,
    time::{sleep, timeout_at},
};

use self::drive::Clock;
pub(crate) use self::drive::{Advance, Drive, Links, Wants};
use crate::{
    Address, Config, Peer,
    core::{
        handshake::Shmipc,
        shmipc::frames::Frame,
        wire::{Outbox, negotiation::DoorbellKind},
    },
    error::{ConnectError, HandshakeError, HandshakeStep, PeerMisbehaved},
    sys::{self, socket::ControlSocket},
};

/// What a handshake needs of a session: memory, its own and the peer's.
pub(crate) trait Attach {
    /// What [`attach`](Self::attach) makes.
    type Attached;

    /// The kind of doorbell that we insist on with this peer.
    fn doorbell(&self, peer: &Peer) -> DoorbellKind;

    /// Creates our outbox (H9). Called once, after the peer was authorised and has agreed on this link, and on a kind of
    /// doorbell for both sides.
    ///
    /// The descriptors are those to send; they are closed afterwards.
    fn create(&mut self, doorbell: DoorbellKind) -> io::Result<Outbox<OwnedFd>>;

    /// Verifies and maps the peer's outbox. Called at most once, after [`create`](Self::create).
    fn attach(&mut self, theirs: Outbox<OwnedFd>) -> Result<Self::Attached, AttachError>;
}

/// Why an outbox could not be mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("the peer misbehaved")]
    Misbehaved(#[from] PeerMisbehaved),
    #[error("could not map the peer's outbox")]
    Io(#[from] io::Error),
}

/// The result of a handshake.
#[derive(Debug)]
pub(crate) struct Established<T> {
    pub(crate) socket: ControlSocket,
    pub(crate) peer: Peer,
    /// Becomes readable when the peer's process ends. Only on the accepting side, and where the kernel has such a thing.
    pub(crate) process: Option<OwnedFd>,
    /// Whether both sides have agreed that memory may be passed on.
    pub(crate) forwards: bool,
    pub(crate) attached: T,
}

/// A handshake that goes on with shmipc's own protocol.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) socket: ControlSocket,
    pub(crate) peer: Peer,
    /// As for [`Established`].
    pub(crate) process: Option<OwnedFd>,
    pub(crate) clock: Clock,
    pub(crate) shmipc: Shmipc,
}

/// What a handshake came to.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Outbox(Established<T>),
    Shmipc(Switched),
}

impl<T> Outcome<T> {
    fn new(drive: Drive<T>, ended: Ended<T>) -> Self {
        match ended {
            Ended::Outbox(attached) => Self::Outbox(Established::new(drive, attached)),
            Ended::Shmipc(shmipc) => Self::Shmipc(Switched {
                socket: drive.socket,
                peer: drive.peer,
                process: drive.process,
                clock: drive.clock,
                shmipc,
            }),
        }
    }
}

#[cfg(test)]
impl<T> Outcome<T> {
    /// What there is if nothing but our own link was agreed on.
    pub(crate) fn unwrap_outbox(self) -> Established<T> {
        match self {
            Self::Outbox(established) => established,
            Self::Shmipc(_) => panic!("it goes on with shmipc's protocol"),
        }
    }
}

/// How the common part of a handshake ended.
enum Ended<T> {
    Outbox(T),
    Shmipc(Shmipc),
}

impl<T> Established<T> {
    fn new(drive: Drive<T>, attached: T) -> Self {
        Self {
            forwards: drive.forwards(),
            socket: drive.socket,
            peer: drive.peer,
            process: drive.process,
            attached,
        }
    }
}

/// Connects to a server and shakes hands, within the configured time.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn connect<A: Attach>(
    address: &Address,
    config: &Config,
    attach: &mut A,
) -> Result<Outcome<A::Attached>, ConnectError> {
    let clock = Clock::start();
    let stream = dial(address, &clock, config.handshake_timeout()).await?;
    let socket = ControlSocket::new(stream);
    let mut drive = Drive::client(socket, clock, config, attach, Links::All)?;
    let ended = run(&mut drive, attach).await?;
    Ok(Outcome::new(drive, ended))
}

/// Connects to a server that knows nothing of negotiations, to begin with version 2 or 3 of shmipc's protocol.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn connect_legacy(
    address: &Address,
    config: &Config,
    version: u8,
) -> Result<shmipc::Joined, ConnectError> {
    let clock = Clock::start();
    let stream = dial(address, &clock, config.handshake_timeout()).await?;
    let socket = ControlSocket::new(stream);
    let peer = sys::peer::credentials(&socket).map_err(|source| ConnectError::Io {
        action: "learn who the server is",
        source,
    })?;
    if !config.authorize().allows(&peer) {
        return Err(ConnectError::ServerNotAuthorized(peer));
    }
    let switched = Switched {
        socket,
        peer,
        process: None,
        clock,
        shmipc: Shmipc::Legacy(Frame::Version(version)),
    };
    Ok(shmipc::connect(switched, config, version, None).await?)
}

/// Shakes hands with a client that has connected, within the configured time.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn accept<A: Attach>(
    stream: UnixStream,
    config: &Config,
    attach: &mut A,
) -> Result<Outcome<A::Attached>, HandshakeError> {
    let socket = ControlSocket::new(stream);
    let mut drive = Drive::server(socket, config, attach, Links::All)?;
    let ended = run(&mut drive, attach).await?;
    Ok(Outcome::new(drive, ended))
}

async fn run<T>(
    drive: &mut Drive<T>,
    attach: &mut impl Attach<Attached = T>,
) -> Result<Ended<T>, HandshakeError> {
    loop {
        let wants = match drive.advance(attach)? {
            Advance::Done(attached) => return Ok(Ended::Outbox(attached)),
            Advance::Shmipc(shmipc) => return Ok(Ended::Shmipc(shmipc)),
            Advance::Wants(wants) => wants,
        };
        let deadline = drive.deadline();
        let ready = async {
            match wants {
                Wants::Readable => drive.socket.readable().await,
                Wants::Writable => drive.socket.writable().await,
            }
        };
        match timeout_at(deadline, ready).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                return Err(HandshakeError::Io {
                    action: "wait for the peer",
                    source,
                });
            }
            Err(_elapsed) => drive.elapsed(),
        }
    }
}

/// Opens a connection over which nothing is said; waits while the server's queue is full.
pub(crate) async fn dial_plain(
    address: &Address,
    timeout: Duration,
) -> Result<UnixStream, ConnectError> {
    dial(address, &Clock::start(), timeout).await
}

/// Opens a connection; waits while the server's queue is full.
async fn dial(
    address: &Address,
    clock: &Clock,
    timeout: Duration,
) -> Result<UnixStream, ConnectError> {
    let mut dial = Dial::new(timeout);
    let stream = loop {
        match dial.attempt(address, clock)? {
            Ok(stream) => break stream,
            Err(pause) => sleep(pause).await,
        }
    };
    UnixStream::from_std(stream).map_err(|source| ConnectError::Io {
        action: "watch the socket",
        source,
    })
}

/// Attempts to connect.
struct Dial {
    timeout: Duration,
    pause: Duration,
}

impl Dial {
    fn new(timeout: Duration) -> Self {
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
    ) -> Result<Result<BareStream, Duration>, ConnectError> {
        let unix = match (address.to_unix()?, address) {
            (None, Address::Fd(fd)) => return Ok(Ok(sys::endpoint::inherited_stream(fd)?)),
            (None, _) => unreachable!("every other address has a form for system calls"),
            (Some(unix), _) => unix,
        };
        match sys::endpoint::connect(&unix) {
            Ok(stream) => Ok(Ok(stream)),
            // The kernel does not tell when there is room again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let pause = self.pause;
                if self.timeout <= clock.now() + pause {
                    return Err(ConnectError::TimedOut {
                        step: HandshakeStep::Connection,
                        timeout: self.timeout,
                    });
                }
                self.pause = (pause * 2).min(Duration::from_millis(50));
                Ok(Err(pause))
            }
            Err(source) => Err(cannot_connect(address, source)),
        }
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

#[cfg(test)]
mod tests;
