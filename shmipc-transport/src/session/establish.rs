//! From a socket to a session.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::PollFd;
use tracing::debug;

use super::{
    Session,
    driver::Driver,
    handshake::{self, Attach, AttachError, Clock, Established, Outcome, Plan, Shaking, Strangers},
    lead::Lead,
    shared::Shared,
};
use crate::{
    Address, Config, Peer,
    config::is_own_user,
    core::{
        outbox::Windows,
        wire::{self, negotiation::DoorbellKind},
    },
    error::{ConnectError, HandshakeError},
    link::{Link, Outbox, OutboxLink, PeerOutbox, Rx, ShmipcLink, Standing},
    sys::{
        doorbell::{Doorbell, PeerDoorbell},
        endpoint::Connection,
        socket::{ControlSocket, Watched},
        timer::Timer,
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
    /// The kind of both doorbells.
    kind: DoorbellKind,
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
            kind,
            peer,
            peer_doorbell,
        })
    }
}

/// Connects over the best link that both sides know, and starts the session. All attempts have the configured time together.
pub(super) async fn connect(address: &Address, config: Config) -> Result<Session, ConnectError> {
    let (mut plan, clock) = (Plan::new(&config, address)?, Clock::start());
    loop {
        let join = Join::new(&config);
        match handshake::connect(address, &config, clock, plan.next(), join).await {
            Ok(outcome) => return start(outcome, config, true).map_err(unwatched),
            Err(error) => plan.failed(error)?,
        }
    }
}

/// Connects as [`connect`] does, but not for longer than until `deadline`, and starts a session without a task. Waits in the kernel.
pub(super) fn connect_blocking(
    address: &Address,
    config: Config,
    deadline: Option<Instant>,
) -> Result<Session, ConnectError> {
    let (hurried, clock) = (config.hurried(deadline), Clock::start());
    let mut plan = Plan::new(&hurried, address)?;
    loop {
        let join = Join::new(&config);
        match handshake::blocking::connect(address, &hurried, clock, plan.next(), join) {
            Ok(outcome) => return start_blocking(outcome, config, true).map_err(unwatched),
            Err(error) => plan.failed(error)?,
        }
    }
}

fn unwatched<E: From<HandshakeError>>(source: io::Error) -> E {
    HandshakeError::Io {
        action: "watch the session",
        source,
    }
    .into()
}

/// Shakes hands with a client, and starts the session.
pub(super) async fn accept(
    stream: impl Into<Watched>,
    config: Config,
    strangers: &Strangers,
) -> Result<Session, HandshakeError> {
    let outcome = handshake::accept(stream, &config, Join::new(&config), strangers).await?;
    start(outcome, config, false).map_err(unwatched)
}

/// A handshake with a client, at whose end there is a session without a task.
#[derive(Debug)]
pub(crate) struct Joining(Shaking<Join>);

impl Joining {
    /// Begins with a client that has connected.
    pub(crate) fn begin(
        connection: Connection,
        config: &Config,
        strangers: &Strangers,
    ) -> Result<Self, HandshakeError> {
        Shaking::with_client(connection, config, Join::new(config), strangers).map(Self)
    }

    /// Goes on as far as that takes no waiting. Returns itself if it is not done.
    pub(crate) fn advance(
        mut self,
        config: &Config,
    ) -> Result<Result<Session, Self>, HandshakeError> {
        self.0.check_time();
        match self.0.advance()? {
            Err(shaking) => Ok(Err(Self(shaking))),
            Ok(outcome) => start_blocking(outcome, config.clone(), false)
                .map(Ok)
                .map_err(unwatched),
        }
    }

    /// Does not count so much time, in which nobody has looked after it.
    pub(crate) fn forgive(&mut self, time: Duration) {
        self.0.forgive(time);
    }

    /// What to wait for, and for how long, before it can go on.
    pub(crate) fn wants(&self) -> (PollFd<'_>, Duration) {
        self.0.poll_fd()
    }
}

/// Starts a session with a task.
fn start(outcome: Outcome<Joined>, config: Config, connecting: bool) -> io::Result<Session> {
    let Parts {
        link,
        rx,
        peer,
        windows,
        socket,
        doorbell,
        process,
    } = Parts::of(outcome, &config);
    if let Link::Shmipc(link) = &link {
        link.mark_driven();
    }
    let shared = Shared::new(link, rx, config, peer, windows, connecting, None);
    let shared = Arc::new(shared);
    log_established(&shared);
    let driver = Driver::new(Arc::clone(&shared), socket, doorbell, process)?;
    tokio::spawn(driver);
    Ok(Session::new(shared))
}

/// Starts a session without a task.
fn start_blocking(
    outcome: Outcome<Joined>,
    config: Config,
    connecting: bool,
) -> io::Result<Session> {
    let Parts {
        link,
        rx,
        peer,
        windows,
        socket,
        doorbell,
        process,
    } = Parts::of(outcome, &config);
    let timer = link.is_polled().then(Timer::new).transpose()?;
    let watch = Watch::new(doorbell, &*socket, process, timer)?;
    let lead = Lead::new(watch, socket);
    if link.delivers_from_socket() {
        // A leader that sleeps must hear of what it is to look for.
        link.watch_growth(&lead.waker());
    }
    let shared = Shared::new(link, rx, config, peer, windows, connecting, Some(lead));
    log_established(&shared);
    #[cfg(feature = "metrics")]
    shared.report();
    Ok(Session::new(Arc::new(shared)))
}

fn log_established(shared: &Shared) {
    debug!(peer = %shared.peer, link = %shared.link.info(), "a session is established");
}

/// What a session is made of.
struct Parts {
    link: Link,
    rx: Rx,
    peer: Peer,
    windows: Windows,
    socket: Arc<ControlSocket>,
    /// What wakes us, if it is not the socket.
    doorbell: Option<Doorbell>,
    process: Option<OwnedFd>,
}

impl Parts {
    fn of(outcome: Outcome<Joined>, config: &Config) -> Self {
        match outcome {
            Outcome::Outbox(established) => Self::of_outbox(established, config),
            Outcome::Shmipc(joined) => Self::of_shmipc(*joined, config),
        }
    }

    fn of_outbox(established: Established<Joined>, config: &Config) -> Self {
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
            kind,
            peer: outbox,
            peer_doorbell,
        } = attached;
        let (socket, windows) = (Arc::new(socket), outbox.windows);
        let standing = Standing {
            payloads: config.payloads(),
            peer,
            forwards,
            doorbell: kind,
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
            doorbell: Some(own_doorbell),
            process,
        }
    }

    fn of_shmipc(joined: handshake::Joined, config: &Config) -> Self {
        let handshake::Joined {
            parts,
            socket,
            peer,
            process,
            doorbell,
        } = joined;
        let socket = Arc::new(socket);
        let windows = parts.terms.windows.unwrap_or(Windows::UNLIMITED);
        let (payloads, message_max) = (config.payloads(), config.shmipc().longest_message());
        let (link, rx) = ShmipcLink::new(parts, Arc::clone(&socket), payloads, message_max, &peer);
        Self {
            link: Link::Shmipc(Arc::new(link)),
            rx,
            peer,
            windows,
            socket,
            doorbell,
            process,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::{Buf, BufMut};
    use tokio::{net::UnixStream, time::timeout};

    use super::*;
    use crate::{Flush, Wait, session::handshake::Attempt};

    const NEGOTIATE: Attempt = Attempt::Negotiate { patience: None };

    /// Joins two sides, each of which may take the other for another user's.
    async fn join(foreign: [bool; 2]) -> (Session, Session) {
        let config = Config::builder().wait(Wait::Block).build().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let address = Address::from(OwnedFd::from(ours.into_std().unwrap()));
        let [client, server] = foreign.map(|foreign| Join {
            is_foreign: if foreign { |_| true } else { |_| false },
            ..Join::new(&config)
        });
        let strangers = Strangers::default();
        let (client, server) = tokio::join!(
            handshake::connect(&address, &config, Clock::start(), NEGOTIATE, client),
            handshake::accept(theirs, &config, server, &strangers)
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
