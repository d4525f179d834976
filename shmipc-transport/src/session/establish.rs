//! From a socket to a session.

use std::{io, os::fd::OwnedFd, sync::Arc};

use tokio::net::UnixStream;

use super::{
    Session,
    driver::Driver,
    handshake::{self, Attach, AttachError, Established},
    shared::Shared,
};
use crate::{
    Address, Config,
    core::wire,
    error::{ConnectError, HandshakeError},
    link::{Link, Outbox, PeerOutbox},
    sys::doorbell,
};

/// Makes our outbox when the peer deserves one, and maps the peer's.
struct Join<'c> {
    config: &'c Config,
    own: Option<(Outbox, OwnedFd)>,
}

/// Both outboxes, and the doorbells.
struct Joined {
    own: Outbox,
    own_doorbell: OwnedFd,
    peer: PeerOutbox,
    peer_doorbell: OwnedFd,
}

impl Attach for Join<'_> {
    type Attached = Joined;

    fn create(&mut self) -> io::Result<wire::Outbox<OwnedFd>> {
        let outbox = Outbox::create(self.config.windows())?;
        let bell = doorbell::create()?;
        let theirs = wire::Outbox {
            len: outbox.len(),
            memory_max: u64::from(self.config.memory_max()),
            memory: outbox.fd().try_clone()?,
            doorbell: bell.try_clone()?,
        };
        self.own = Some((outbox, bell));
        Ok(theirs)
    }

    fn attach(&mut self, theirs: wire::Outbox<OwnedFd>) -> Result<Joined, AttachError> {
        let peer = PeerOutbox::open(&theirs.memory, theirs.len)?;
        let (own, own_doorbell) = self
            .own
            .take()
            .ok_or_else(|| io::Error::other("an outbox is attached once"))?;
        Ok(Joined {
            own,
            own_doorbell,
            peer,
            peer_doorbell: theirs.doorbell,
        })
    }
}

/// Connects, and starts the session.
pub(super) async fn connect(address: &Address, config: Config) -> Result<Session, ConnectError> {
    let mut join = Join {
        config: &config,
        own: None,
    };
    let established = handshake::connect(address, &config, &mut join).await?;
    start(established, config, true).map_err(|source| ConnectError::Io {
        action: "watch the session",
        source,
    })
}

/// Shakes hands with a client, and starts the session.
pub(super) async fn accept(stream: UnixStream, config: Config) -> Result<Session, HandshakeError> {
    let mut join = Join {
        config: &config,
        own: None,
    };
    let established = handshake::accept(stream, &config, &mut join).await?;
    start(established, config, false).map_err(|source| HandshakeError::Io {
        action: "watch the session",
        source,
    })
}

fn start(
    established: Established<Joined>,
    config: Config,
    connecting: bool,
) -> io::Result<Session> {
    let Established {
        socket,
        peer,
        process,
        attached,
    } = established;
    let Joined {
        own,
        own_doorbell,
        peer: outbox,
        peer_doorbell,
    } = attached;
    let (socket, windows) = (Arc::new(socket), outbox.windows);
    let trust = config.payloads().trust(&peer);
    let (link, rx) = Link::new(
        own,
        outbox,
        peer_doorbell,
        Arc::clone(&socket),
        config.memory_max(),
        trust,
    );
    let shared = Arc::new(Shared::new(link, rx, config, peer, windows, connecting));
    let driver = Driver::new(Arc::clone(&shared), socket, own_doorbell, process)?;
    tokio::spawn(driver);
    Ok(Session::new(shared))
}
