//! Drives a handshake over a socket: the shell around [`core::handshake`](crate::core::handshake).

use std::{io, os::fd::OwnedFd, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};
use tracing::warn;

use crate::{
    Address, Config, Peer,
    core::{
        handshake::{Event, Handshake},
        wire::{Outbox, negotiation::DoorbellKind},
    },
    error::{ConnectError, HandshakeError, HandshakeStep, PeerMisbehaved, Refusal, RefusalCode},
    sys::{
        self,
        socket::{Arrival, ControlSocket, ReceiveError},
    },
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
    pub(crate) attached: T,
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
) -> Result<Established<A::Attached>, ConnectError> {
    let clock = Clock::start();
    let timeout = config.handshake_timeout();
    let stream = dial(address, &clock, timeout).await?;
    let socket = ControlSocket::new(stream);
    let peer = sys::peer::credentials(&socket).map_err(|source| ConnectError::Io {
        action: "learn who the server is",
        source,
    })?;
    if !config.authorize().allows(&peer) {
        return Err(ConnectError::ServerNotAuthorized(peer));
    }
    let mut drive = Drive {
        handshake: Handshake::client(Duration::ZERO, timeout, attach.doorbell(&peer)),
        clock,
        socket,
        hung_up: false,
        attached: None,
    };
    let attached = drive.run(attach).await?;
    Ok(Established {
        socket: drive.socket,
        peer,
        process: None,
        attached,
    })
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
) -> Result<Established<A::Attached>, HandshakeError> {
    let socket = ControlSocket::new(stream);
    let peer = sys::peer::credentials(&socket).map_err(|source| HandshakeError::Io {
        action: "learn who the client is",
        source,
    })?;
    let doorbell = attach.doorbell(&peer);
    let mut handshake = Handshake::server(Duration::ZERO, config.handshake_timeout(), doorbell);
    if !config.authorize().allows(&peer) {
        let message = format!("user {} is not admitted", peer.uid());
        handshake.decline(Refusal::new(RefusalCode::Unauthorized, &message));
    }
    let process = sys::peer::process(&socket, &peer);
    let mut drive = Drive {
        handshake,
        clock: Clock::start(),
        socket,
        hung_up: false,
        attached: None,
    };
    let attached = drive.run(attach).await?;
    Ok(Established {
        socket: drive.socket,
        peer,
        process,
        attached,
    })
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
    let stream = match (address.to_unix()?, address) {
        (None, Address::Fd(fd)) => sys::endpoint::inherited_stream(fd)?,
        (None, _) => unreachable!("every other address has a form for system calls"),
        (Some(unix), _) => {
            let mut pause = Duration::from_millis(1);
            loop {
                match sys::endpoint::connect(&unix) {
                    Ok(stream) => break stream,
                    // The server's queue is full. The kernel does not tell when there is room again.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if timeout <= clock.now() + pause {
                            return Err(ConnectError::TimedOut {
                                step: HandshakeStep::Connection,
                                timeout,
                            });
                        }
                        sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_millis(50));
                    }
                    Err(source) => return Err(cannot_connect(address, source)),
                }
            }
        }
    };
    UnixStream::from_std(stream).map_err(|source| ConnectError::Io {
        action: "watch the socket",
        source,
    })
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

/// A monotonic clock that starts at zero.
#[derive(Debug)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn at(&self, time: Duration) -> Instant {
        self.0 + time
    }
}

/// A handshake with all that it moves.
#[derive(Debug)]
struct Drive<T> {
    handshake: Handshake<OwnedFd>,
    clock: Clock,
    socket: ControlSocket,
    /// The peer takes nothing any more; what it said before may still be there to read (H10).
    hung_up: bool,
    attached: Option<T>,
}

impl<T> Drive<T> {
    async fn run(&mut self, attach: &mut impl Attach<Attached = T>) -> Result<T, HandshakeError> {
        loop {
            self.transmit().await?;
            match self.handshake.poll_event() {
                None => self.receive().await?,
                Some(Event::Failed(failure)) => return Err(failure.into()),
                Some(Event::Established) => {
                    return Ok(self
                        .attached
                        .take()
                        .expect("nothing is established that was not mapped"));
                }
                Some(Event::CreateOutbox(doorbell)) => match attach.create(doorbell) {
                    Ok(outbox) => self.handshake.outbox_created(outbox),
                    Err(source) => self.cannot_create(source)?,
                },
                Some(Event::MapOutbox(theirs)) => match attach.attach(theirs) {
                    Ok(attached) => {
                        self.attached = Some(attached);
                        self.handshake.peer_mapped();
                    }
                    Err(AttachError::Misbehaved(reason)) => self.handshake.peer_misbehaved(reason),
                    Err(AttachError::Io(source)) => {
                        return Err(HandshakeError::Io {
                            action: "map the peer's outbox",
                            source,
                        });
                    }
                },
            }
        }
    }

    /// A server tells the client to try again later; a client has nobody to tell but its caller.
    fn cannot_create(&mut self, source: io::Error) -> Result<(), HandshakeError> {
        if !self.handshake.may_decline() {
            return Err(HandshakeError::Io {
                action: "create an outbox",
                source,
            });
        }
        warn!(error = %source, "cannot create an outbox, so a client is turned away");
        self.handshake.decline(Refusal::new(
            RefusalCode::Busy,
            "the server lacks memory or file descriptors",
        ));
        Ok(())
    }

    async fn transmit(&mut self) -> Result<(), HandshakeError> {
        while let Some(transmit) = self.handshake.poll_transmit() {
            if self.hung_up {
                continue;
            }
            let deadline = self.deadline();
            match timeout_at(deadline, self.socket.send(transmit)).await {
                Ok(Ok(())) => {}
                Ok(Err(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    self.hung_up = true;
                }
                Ok(Err(source)) => {
                    return Err(HandshakeError::Io {
                        action: "send to the peer",
                        source,
                    });
                }
                Err(_elapsed) => {
                    self.hung_up = true; // It has a part of a message and will not get the rest.
                    self.handshake.handle_timeout(self.clock.now());
                }
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), HandshakeError> {
        match timeout_at(self.deadline(), self.socket.recv()).await {
            Ok(Ok(Arrival::Message(message))) => {
                self.handshake.handle_message(self.clock.now(), message)
            }
            Ok(Ok(Arrival::Closed)) => self.handshake.handle_closed(),
            Ok(Ok(Arrival::Nothing)) => {}
            Ok(Err(ReceiveError::Misbehaved(reason))) => self.handshake.peer_misbehaved(reason),
            Ok(Err(ReceiveError::Io(source))) => {
                return Err(HandshakeError::Io {
                    action: "receive from the peer",
                    source,
                });
            }
            Err(_elapsed) => self.handshake.handle_timeout(self.clock.now()),
        }
        Ok(())
    }

    /// The moment at which all is over. A refusal, sent when the handshake is over already, must not wait at all.
    fn deadline(&self) -> Instant {
        self.clock
            .at(self.handshake.poll_timeout().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
