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
    Address, Config, Peer,
    config::is_own_user,
    core::wire::{self, negotiation::DoorbellKind},
    error::{ConnectError, HandshakeError},
    link::{Link, Outbox, PeerOutbox},
    sys::doorbell::{Doorbell, PeerDoorbell},
};

/// Makes our outbox when the peer deserves one, and maps the peer's.
struct Join<'c> {
    config: &'c Config,
    /// Whether a peer is of another user than we are.
    is_foreign: fn(&Peer) -> bool,
    own: Option<Own>,
}

/// What we have made for this session.
struct Own {
    outbox: Outbox,
    doorbell: Doorbell,
    /// The kind of doorbell that was agreed on.
    kind: DoorbellKind,
}

/// Both outboxes, and the doorbells.
struct Joined {
    own: Outbox,
    own_doorbell: Doorbell,
    peer: PeerOutbox,
    peer_doorbell: PeerDoorbell,
}

impl<'c> Join<'c> {
    fn new(config: &'c Config) -> Self {
        Self {
            config,
            is_foreign: |peer| !is_own_user(peer),
            own: None,
        }
    }
}

impl Attach for Join<'_> {
    type Attached = Joined;

    fn doorbell(&self, peer: &Peer) -> DoorbellKind {
        if (self.is_foreign)(peer) {
            DoorbellKind::Socket
        } else {
            DoorbellKind::EventFd
        }
    }

    fn create(&mut self, kind: DoorbellKind) -> io::Result<wire::Outbox<OwnedFd>> {
        let outbox = Outbox::create(self.config.windows())?;
        let (doorbell, theirs) = Doorbell::create(kind)?;
        let theirs = wire::Outbox {
            len: outbox.len(),
            memory_max: u64::from(self.config.memory_max()),
            memory: outbox.fd().try_clone()?,
            doorbell: theirs,
        };
        self.own = Some(Own {
            outbox,
            doorbell,
            kind,
        });
        Ok(theirs)
    }

    fn attach(&mut self, theirs: wire::Outbox<OwnedFd>) -> Result<Joined, AttachError> {
        let peer = PeerOutbox::open(&theirs.memory, theirs.len, theirs.memory_max)?;
        let Own {
            outbox: own,
            doorbell: own_doorbell,
            kind,
        } = self
            .own
            .take()
            .ok_or_else(|| io::Error::other("an outbox is attached once"))?;
        let peer_doorbell = PeerDoorbell::accept(theirs.doorbell, kind)?;
        Ok(Joined {
            own,
            own_doorbell,
            peer,
            peer_doorbell,
        })
    }
}

/// Connects, and starts the session.
pub(super) async fn connect(address: &Address, config: Config) -> Result<Session, ConnectError> {
    let mut join = Join::new(&config);
    let established = handshake::connect(address, &config, &mut join).await?;
    start(established, config, true).map_err(|source| ConnectError::Io {
        action: "watch the session",
        source,
    })
}

/// Shakes hands with a client, and starts the session.
pub(super) async fn accept(stream: UnixStream, config: Config) -> Result<Session, HandshakeError> {
    let mut join = Join::new(&config);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::{Buf, BufMut};
    use tokio::time::timeout;

    use super::*;
    use crate::{Flush, Wait};

    /// Joins two sides, each of which may take the other for another user's.
    async fn join(foreign: [bool; 2]) -> (Session, Session) {
        let config = Config::builder().wait(Wait::Block).build().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let address = Address::from(OwnedFd::from(ours.into_std().unwrap()));
        let [mut client, mut server] = foreign.map(|foreign| Join {
            is_foreign: if foreign { |_| true } else { |_| false },
            ..Join::new(&config)
        });
        let (client, server) = tokio::join!(
            handshake::connect(&address, &config, &mut client),
            handshake::accept(theirs, &config, &mut server)
        );
        (
            start(client.unwrap(), config.clone(), true).unwrap(),
            start(server.unwrap(), config.clone(), false).unwrap(),
        )
    }

    #[tokio::test]
    async fn whatever_the_sides_take_each_other_for_each_wakes_the_other() {
        for foreign in [[false, false], [true, false], [false, true], [true, true]] {
            let (client, server) = join(foreign).await;
            let serving = server.clone();
            let echo = tokio::spawn(async move {
                let mut stream = serving.accept_stream().await.unwrap();
                while let Ok(Some(request)) = stream.recv().await {
                    let mut reply = stream.buffer(request.len());
                    reply.put(request);
                    stream.send(reply, Flush::More).await.unwrap();
                }
            });
            let mut stream = client.open_stream().unwrap();
            for round in 0..100 {
                let mut request = stream.buffer(4);
                request.put_u32(round);
                stream.send(request, Flush::More).await.unwrap();
                let reply = timeout(Duration::from_secs(60), stream.recv()).await;
                let mut reply = reply.expect("somebody was not woken").unwrap().unwrap();
                assert_eq!(reply.get_u32(), round);
            }
            stream.finish().await.unwrap();
            echo.await.unwrap();
            assert_ne!(client.stats().doorbells_heard, 0, "{foreign:?}");
            assert_ne!(server.stats().doorbells_heard, 0, "{foreign:?}");
        }
    }
}
