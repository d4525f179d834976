//! From a socket to a session.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as BareStream},
    sync::Arc,
    time::Duration,
};

use nix::poll::PollFd;
use tokio::net::UnixStream;

use super::{
    Session,
    driver::Driver,
    handshake::{self, Attach, AttachError, Established, Outcome, blocking::Shaking},
    lead::Lead,
    shared::Shared,
};
use crate::{
    Address, Config, LinkKind, Peer,
    config::is_own_user,
    core::{
        handshake::Shmipc,
        outbox::Windows,
        wire::{self, negotiation::DoorbellKind},
    },
    error::{ConnectError, HandshakeError, HandshakeStep, PeerMisbehaved, RefusalCode},
    link::{Link, Outbox, OutboxLink, PeerOutbox, Rx, ShmipcLink, Standing},
    sys::{
        doorbell::{Doorbell, PeerDoorbell},
        socket::ControlSocket,
        watch::Watch,
    },
};

/// Makes our outbox when the peer deserves one, and maps the peer's.
#[derive(Debug)]
struct Join {
    config: Config,
    /// Whether a peer is of another user than we are.
    is_foreign: fn(&Peer) -> bool,
    own: Option<Own>,
}

/// What we have made for this session.
#[derive(Debug)]
struct Own {
    outbox: Outbox,
    doorbell: Doorbell,
    /// The kind of doorbell that was agreed on.
    kind: DoorbellKind,
}

/// Both outboxes, and the doorbells.
#[derive(Debug)]
struct Joined {
    own: Outbox,
    own_doorbell: Doorbell,
    peer: PeerOutbox,
    peer_doorbell: PeerDoorbell,
}

impl Join {
    fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            is_foreign: |peer| !is_own_user(peer),
            own: None,
        }
    }
}

impl Attach for Join {
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
        let peer = PeerOutbox::open(theirs.memory, theirs.len, theirs.memory_max)?;
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

/// Connects over the best link that both sides know, and starts the session.
pub(super) async fn connect(address: &Address, config: Config) -> Result<Session, ConnectError> {
    let failed = |source| ConnectError::Io {
        action: "watch the session",
        source,
    };
    let has = |link| config.has_link(link);
    // An inherited connection can be used once.
    let may_redial = !matches!(address, Address::Fd(_));
    let older: Vec<u8> = [(LinkKind::ShmipcV3, 3), (LinkKind::ShmipcV2, 2)]
        .into_iter()
        .filter_map(|(link, version)| has(link).then_some(version))
        .collect();
    let mut last = None;
    if has(LinkKind::Outbox) || has(LinkKind::ShmipcV4) {
        let may_fall_back = may_redial && !older.is_empty();
        match negotiate(address, &config, may_fall_back).await {
            Ok(Outcome::Outbox(established)) => {
                return start(established, config, true).map_err(failed);
            }
            Ok(Outcome::Shmipc(switched)) => {
                let Shmipc::Negotiated(terms) = switched.shmipc else {
                    unreachable!("what was negotiated is version 4")
                };
                let joined = handshake::shmipc::connect(switched, &config, 4, Some(terms)).await?;
                return start_shmipc(joined, config, true).map_err(failed);
            }
            Err(error) if may_fall_back && knows_no_negotiation(&error) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    for version in older {
        match handshake::connect_legacy(address, &config, version).await {
            Ok(joined) => return start_shmipc(joined, config, true).map_err(failed),
            Err(error) if may_redial && knows_no_negotiation(&error) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("there is at least one link"))
}

/// Asks the server for our own link, and for version 4 of shmipc's. If there is something to fall back to, the server is given less
/// time: some do not hang up on what they do not understand (H41).
async fn negotiate(
    address: &Address,
    config: &Config,
    may_fall_back: bool,
) -> Result<Outcome<Joined>, ConnectError> {
    let mut join = Join::new(config);
    if !may_fall_back {
        return handshake::connect(address, config, &mut join).await;
    }
    let patience = PATIENCE.min(config.handshake_timeout() / 2);
    let config = config.with_handshake_timeout(patience);
    handshake::connect(address, &config, &mut join).await
}

/// How long a server may take to answer a negotiation that it may not know.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the server does not seem to know what it was asked for: it hung up, said something else, or nothing, or that it does not.
fn knows_no_negotiation(error: &ConnectError) -> bool {
    if let ConnectError::Refused(refusal) = error {
        return matches!(
            refusal.code(),
            RefusalCode::FeatureNotSupported | RefusalCode::VersionNotSupported
        );
    }
    matches!(
        error,
        ConnectError::Closed {
            step: HandshakeStep::Negotiation
        } | ConnectError::TimedOut {
            step: HandshakeStep::Negotiation,
            ..
        } | ConnectError::PeerMisbehaved(PeerMisbehaved::Socket(_))
    )
}

/// Shakes hands with a client, and starts the session.
pub(super) async fn accept(stream: UnixStream, config: Config) -> Result<Session, HandshakeError> {
    let mut join = Join::new(&config);
    let failed = |source| HandshakeError::Io {
        action: "watch the session",
        source,
    };
    match handshake::accept(stream, &config, &mut join).await? {
        Outcome::Outbox(established) => start(established, config, false).map_err(failed),
        Outcome::Shmipc(switched) => {
            let joined = handshake::shmipc::accept(switched, &config).await?;
            start_shmipc(joined, config, false).map_err(failed)
        }
    }
}

/// Starts a session that speaks shmipc's own protocol.
fn start_shmipc(
    joined: handshake::shmipc::Joined,
    config: Config,
    connecting: bool,
) -> io::Result<Session> {
    let handshake::shmipc::Joined {
        parts,
        socket,
        peer,
        process,
        doorbell,
    } = joined;
    let socket = Arc::new(socket);
    let windows = parts.terms.windows.unwrap_or(Windows::UNLIMITED);
    let payloads = config.payloads();
    let (link, rx) = ShmipcLink::new(parts, Arc::clone(&socket), payloads, &peer);
    let link = Link::Shmipc(Arc::new(link));
    let shared = Arc::new(Shared::new(
        link, rx, config, peer, windows, connecting, None,
    ));
    let driver = Driver::new(Arc::clone(&shared), socket, doorbell, process)?;
    tokio::spawn(driver);
    Ok(Session::new(shared))
}

/// Connects, and starts a session without a task. Waits in the kernel.
pub(super) fn connect_blocking(address: &Address, config: Config) -> Result<Session, ConnectError> {
    let mut join = Join::new(&config);
    let established = handshake::blocking::connect(address, &config, &mut join)?;
    start_blocking(established, config, true).map_err(|source| ConnectError::Io {
        action: "watch the session",
        source,
    })
}

/// A handshake with a client, at whose end there is a session without a task.
#[derive(Debug)]
pub(crate) struct Joining(Shaking<Join>);

impl Joining {
    /// Begins with a client that has connected.
    pub(crate) fn begin(stream: BareStream, config: &Config) -> Result<Self, HandshakeError> {
        Shaking::begin(stream, config, Join::new(config)).map(Self)
    }

    /// Goes on as far as that takes no waiting. Returns itself if it is not done.
    pub(crate) fn advance(self, config: &Config) -> Result<Result<Session, Self>, HandshakeError> {
        match self.0.advance()? {
            Err(shaking) => Ok(Err(Self(shaking))),
            Ok(established) => {
                let session = start_blocking(established, config.clone(), false);
                session.map(Ok).map_err(|source| HandshakeError::Io {
                    action: "watch the session",
                    source,
                })
            }
        }
    }

    /// What to wait for, and for how long, before it can go on.
    pub(crate) fn wants(&self) -> (PollFd<'_>, Duration) {
        self.0.wants()
    }
}

fn start(
    established: Established<Joined>,
    config: Config,
    connecting: bool,
) -> io::Result<Session> {
    let parts = Parts::of(established, &config);
    let socket = Arc::clone(&parts.socket);
    let shared = Arc::new(Shared::new(
        parts.link,
        parts.rx,
        config,
        parts.peer,
        parts.windows,
        connecting,
        None,
    ));
    let driver = Driver::new(
        Arc::clone(&shared),
        socket,
        Some(parts.doorbell),
        parts.process,
    )?;
    tokio::spawn(driver);
    Ok(Session::new(shared))
}

fn start_blocking(
    established: Established<Joined>,
    config: Config,
    connecting: bool,
) -> io::Result<Session> {
    let parts = Parts::of(established, &config);
    let watch = Watch::new(parts.doorbell, &*parts.socket, parts.process)?;
    let shared = Arc::new(Shared::new(
        parts.link,
        parts.rx,
        config,
        parts.peer,
        parts.windows,
        connecting,
        Some(Lead::new(watch, parts.socket)),
    ));
    #[cfg(feature = "metrics")]
    shared.report();
    Ok(Session::new(shared))
}

/// What a session is made of.
struct Parts {
    link: Link,
    rx: Rx,
    peer: Peer,
    windows: Windows,
    socket: Arc<ControlSocket>,
    doorbell: Doorbell,
    process: Option<OwnedFd>,
}

impl Parts {
    fn of(established: Established<Joined>, config: &Config) -> Self {
        let Established {
            socket,
            peer,
            process,
            forwards,
            attached,
        } = established;
        let Joined {
            own,
            own_doorbell,
            peer: outbox,
            peer_doorbell,
        } = attached;
        let (socket, windows) = (Arc::new(socket), outbox.windows);
        let standing = Standing {
            payloads: config.payloads(),
            peer,
            forwards,
        };
        let (link, rx) = OutboxLink::new(
            own,
            outbox,
            peer_doorbell,
            Arc::clone(&socket),
            config.memory_max(),
            standing,
        );
        Self {
            link: Link::Outbox(Arc::new(link)),
            rx: Rx::Outbox(rx),
            peer,
            windows,
            socket,
            doorbell: own_doorbell,
            process,
        }
    }
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
            start(client.unwrap().unwrap_outbox(), config.clone(), true).unwrap(),
            start(server.unwrap().unwrap_outbox(), config.clone(), false).unwrap(),
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
