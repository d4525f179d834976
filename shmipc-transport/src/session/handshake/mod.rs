//! Drives a handshake over a socket: the shell around [`core::handshake`](crate::core::handshake).
//!
//! [`Shaking`] goes on as far as it can without waiting. Who waits is its caller: a task here, a thread in [`blocking`].

pub(crate) mod blocking;
mod dial;
mod drive;
mod plan;
mod shaking;
mod shmipc;
mod strangers;

use std::{io, os::fd::OwnedFd};

use tokio::time::timeout_at;

pub(crate) use self::{
    dial::{dial_plain, dial_plain_blocking},
    drive::Clock,
    plan::{Attempt, Plan},
    shaking::{Outcome, Shaking},
    shmipc::Joined,
    strangers::Strangers,
};
use self::{
    drive::{Advance, Drive, Wants},
    shmipc::Conversation,
};
use crate::{
    Address, Config, Peer,
    core::wire::{Outbox, negotiation::DoorbellKind},
    error::{ConnectError, HandshakeError, PeerMisbehaved},
    sys::socket::{ControlSocket, Watched},
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

#[cfg(test)]
impl<A: Attach> Attach for &mut A {
    type Attached = A::Attached;

    fn doorbell(&self, peer: &Peer) -> DoorbellKind {
        (**self).doorbell(peer)
    }

    fn create(&mut self, doorbell: DoorbellKind) -> io::Result<Outbox<OwnedFd>> {
        (**self).create(doorbell)
    }

    fn attach(&mut self, theirs: Outbox<OwnedFd>) -> Result<Self::Attached, AttachError> {
        (**self).attach(theirs)
    }
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

impl<T> Established<T> {
    fn new(drive: Drive<T>, attached: T) -> Self {
        Self {
            forwards: drive.forwards(),
            socket: drive.line.socket,
            peer: drive.line.peer,
            process: drive.line.process,
            attached,
        }
    }
}

/// Connects to a server and shakes hands, within the configured time since `clock` was started.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn connect<A: Attach>(
    address: &Address,
    config: &Config,
    clock: Clock,
    attempt: Attempt,
    attach: A,
) -> Result<Outcome<A::Attached>, ConnectError> {
    let stream = dial::dial(address, &clock, config.handshake_timeout()).await?;
    let socket = ControlSocket::new(stream);
    let shaking = Shaking::client(socket, clock, config, attempt, attach)?;
    Ok(run(shaking).await?)
}

/// Shakes hands with a client that has connected, within the configured time. If it is not admitted, it is one of `strangers`.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn accept<A: Attach>(
    stream: impl Into<Watched>,
    config: &Config,
    attach: A,
    strangers: &Strangers,
) -> Result<Outcome<A::Attached>, HandshakeError> {
    let socket = ControlSocket::new(stream);
    run(Shaking::server(socket, config, attach, strangers)?).await
}

async fn run<A: Attach>(mut shaking: Shaking<A>) -> Result<Outcome<A::Attached>, HandshakeError> {
    loop {
        shaking = match shaking.advance()? {
            Ok(outcome) => return Ok(outcome),
            Err(waiting) => waiting,
        };
        let (socket, wants) = (shaking.socket(), shaking.wants());
        let ready = async {
            match wants {
                Wants::Readable => socket.readable().await,
                Wants::Writable => socket.writable().await,
            }
        };
        match timeout_at(shaking.deadline(), ready).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                return Err(HandshakeError::Io {
                    action: "wait for the peer",
                    source,
                });
            }
            Err(_elapsed) => shaking.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests;
