//! The part of a handshake that all links have in common, moved on without ever waiting.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::warn;

use super::{Attach, AttachError, Strangers};
use crate::{
    Config, LinkKind, Peer,
    config::is_own_user,
    core::{
        handshake::{Event, Failure, Handshake, ServerTerms, Shmipc, ShmipcGrant},
        shmipc::terms::Terms,
        wire::{
            Transmit,
            negotiation::{DoorbellKind, Offer},
        },
    },
    error::{ConnectError, HandshakeError, Refusal, RefusalCode},
    sys::{
        self,
        socket::{Arrival, ControlSocket, ReceiveError},
    },
};

/// A connection, and who is at its other end.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: ControlSocket,
    pub(crate) peer: Peer,
    /// Becomes readable when the peer's process ends. Only on the accepting side, and where the kernel has such a thing.
    pub(crate) process: Option<OwnedFd>,
    pub(super) clock: Clock,
}

impl Line {
    /// That of a client, to a server that it is ready to talk to.
    pub(super) fn to_server(
        socket: ControlSocket,
        clock: Clock,
        config: &Config,
    ) -> Result<Self, ConnectError> {
        let peer = sys::peer::of(&socket).map_err(|source| ConnectError::Io {
            action: "learn who the server is",
            source,
        })?;
        if !config.admits(&peer) {
            return Err(ConnectError::ServerNotAuthorized(peer));
        }
        Ok(Self {
            socket,
            peer,
            process: None,
            clock,
        })
    }

    /// That of a server, to whoever has connected.
    fn to_client(socket: ControlSocket) -> Result<Self, HandshakeError> {
        let peer = sys::peer::of(&socket).map_err(|source| HandshakeError::Io {
            action: "learn who the client is",
            source,
        })?;
        Ok(Self {
            process: sys::peer::process(&socket, &peer),
            socket,
            peer,
            clock: Clock::start(),
        })
    }
}

/// The first part of a handshake, which all links have in common, with all that it moves.
#[derive(Debug)]
pub(crate) struct Drive<T> {
    handshake: Handshake<OwnedFd>,
    pub(super) line: Line,
    /// The message of which a part may have been sent.
    sending: Option<Sending>,
    /// The peer takes nothing any more; what it said before may still be there to read (H10).
    hung_up: bool,
    attached: Option<T>,
    /// Held for a client that is not admitted.
    _stranger: Option<OwnedSemaphorePermit>,
}

/// How far a handshake has come.
#[derive(Debug)]
pub(crate) enum Advance<T> {
    Done(T),
    /// It goes on with shmipc's own protocol.
    Shmipc(Shmipc),
    /// It goes on once the socket is ready for this, or once its [deadline](Drive::deadline) has passed.
    Wants(Wants),
}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wants {
    Readable,
    Writable,
}

/// What a client asks for, of the links that it is configured for.
fn offer(config: &Config, line: &Line, doorbell: DoorbellKind) -> Offer {
    let asks = |link| config.has_link(link, line.socket.passes_descriptors());
    Offer {
        outbox: asks(LinkKind::Outbox).then_some(doorbell),
        shmipc: asks(LinkKind::ShmipcV4).then(|| Terms {
            wakes: config.shmipc().asked_wakes(is_own_user(&line.peer)),
            windows: Some(config.windows()),
        }),
    }
}

/// What a server agrees to, of the links that it is configured for.
fn server_terms(config: &Config, line: &Line, doorbell: DoorbellKind) -> ServerTerms {
    let accepts = |link| config.has_link(link, line.socket.passes_descriptors());
    ServerTerms {
        outbox: accepts(LinkKind::Outbox).then_some(doorbell),
        shmipc: accepts(LinkKind::ShmipcV4).then(|| ShmipcGrant {
            eventfd: is_own_user(&line.peer),
            windows: config.windows(),
        }),
        versions: [accepts(LinkKind::ShmipcV2), accepts(LinkKind::ShmipcV3)],
    }
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Sending {
    transmit: Transmit<OwnedFd>,
    sent: usize,
}

/// How much of a message was sent.
pub(super) enum Sent {
    All,
    /// As much as the socket takes now.
    Part,
    /// The peer takes nothing any more; what it said before may still be there to read.
    HungUp,
}

impl<T> Drive<T> {
    /// Begins as the side that connected. A server that may not know the negotiation is given `patience` for its answer.
    pub(crate) fn client<A: Attach<Attached = T>>(
        line: Line,
        config: &Config,
        attach: &A,
        patience: Option<Duration>,
    ) -> Self {
        let offer = offer(config, &line, attach.doorbell(&line.peer));
        let timeout = config.handshake_timeout();
        let mut handshake = Handshake::client(Duration::ZERO, timeout, offer);
        if let Some(patience) = patience {
            handshake.answer_by(line.clock.now() + patience.min(timeout / 2));
        }
        Self::new(handshake, line)
    }

    /// Begins as the side that accepted. A client that is not admitted is one of `strangers` until it was told so.
    pub(crate) fn server<A: Attach<Attached = T>>(
        socket: ControlSocket,
        config: &Config,
        attach: &A,
        strangers: &Strangers,
    ) -> Result<Self, HandshakeError> {
        let line = Line::to_client(socket)?;
        let terms = server_terms(config, &line, attach.doorbell(&line.peer));
        let handshake = Handshake::server(Duration::ZERO, config.handshake_timeout(), terms);
        let is_admitted = config.admits(&line.peer);
        let mut drive = Self::new(handshake, line);
        if !is_admitted {
            let message = format!("{} is not admitted", drive.line.peer);
            let refusal = Refusal::new(RefusalCode::Unauthorized, &message);
            match strangers.meet() {
                None => return Err(Failure::Declined(refusal).into()),
                stranger => drive._stranger = stranger,
            }
            drive.handshake.turn_away(refusal);
        }
        Ok(drive)
    }

    fn new(handshake: Handshake<OwnedFd>, line: Line) -> Self {
        Self {
            handshake,
            line,
            sending: None,
            hung_up: false,
            attached: None,
            _stranger: None,
        }
    }

    /// Goes on as far as that takes no waiting.
    pub(crate) fn advance(
        &mut self,
        attach: &mut impl Attach<Attached = T>,
    ) -> Result<Advance<T>, HandshakeError> {
        loop {
            if !self.transmit()? {
                return Ok(Advance::Wants(Wants::Writable));
            }
            match self.handshake.poll_event() {
                None => {
                    if !self.receive()? {
                        return Ok(Advance::Wants(Wants::Readable));
                    }
                }
                Some(Event::Failed(failure)) => return Err(failure.into()),
                Some(Event::Shmipc(shmipc)) => return Ok(Advance::Shmipc(shmipc)),
                Some(Event::Established) => {
                    let attached = self.attached.take();
                    return Ok(Advance::Done(
                        attached.expect("nothing is established that was not mapped"),
                    ));
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

    /// Whether both sides have agreed that memory may be passed on.
    pub(super) fn forwards(&self) -> bool {
        self.handshake.forwards()
    }

    /// The moment at which all is over. A refusal, sent when the handshake is over already, must not wait at all.
    pub(crate) fn deadline(&self) -> Instant {
        let deadline = self.handshake.poll_timeout().unwrap_or_default();
        self.line.clock.at(deadline)
    }

    /// Takes note that the deadline has passed.
    pub(crate) fn elapsed(&mut self) {
        if self.sending.take().is_some() {
            self.hung_up = true; // It has a part of a message and will not get the rest.
        }
        self.handshake.handle_timeout(self.line.clock.now());
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

    /// Sends what is to be sent. Returns whether that was all.
    fn transmit(&mut self) -> Result<bool, HandshakeError> {
        loop {
            let sending = match &mut self.sending {
                Some(sending) => sending,
                none => {
                    let Some(transmit) = self.handshake.poll_transmit() else {
                        return Ok(true);
                    };
                    if self.hung_up {
                        continue;
                    }
                    none.insert(Sending::new(transmit))
                }
            };
            match sending.go_on(&self.line.socket)? {
                Sent::All => {}
                Sent::Part => return Ok(false),
                Sent::HungUp => self.hung_up = true,
            }
            self.sending = None;
        }
    }

    /// Takes the next message. Returns whether there was anything.
    fn receive(&mut self) -> Result<bool, HandshakeError> {
        match self.line.socket.try_recv() {
            Ok(Arrival::Message(message)) => {
                self.handshake
                    .handle_message(self.line.clock.now(), message);
            }
            Ok(Arrival::Closed) => self.handshake.handle_closed(),
            Ok(Arrival::Nothing) => return Ok(false),
            Err(ReceiveError::Misbehaved(reason)) => self.handshake.peer_misbehaved(reason),
            Err(ReceiveError::Io(source)) => {
                return Err(HandshakeError::Io {
                    action: "receive from the peer",
                    source,
                });
            }
        }
        Ok(true)
    }
}

impl Sending {
    pub(super) const fn new(transmit: Transmit<OwnedFd>) -> Self {
        Self { transmit, sent: 0 }
    }

    /// Sends more of it. The descriptors travel with the first byte.
    pub(super) fn go_on(&mut self, socket: &ControlSocket) -> Result<Sent, HandshakeError> {
        let Transmit { bytes, fds } = &self.transmit;
        while self.sent < bytes.len() {
            let fds: Vec<BorrowedFd<'_>> = match self.sent {
                0 => fds.iter().map(AsFd::as_fd).collect(),
                _ => Vec::new(),
            };
            match socket.try_send(&bytes[self.sent..], &fds) {
                Ok(sent) => self.sent += sent,
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(Sent::Part),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                            Ok(Sent::HungUp)
                        }
                        _ => Err(HandshakeError::Io {
                            action: "send to the peer",
                            source: error,
                        }),
                    };
                }
            }
        }
        Ok(Sent::All)
    }
}

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    pub(super) fn at(&self, time: Duration) -> Instant {
        self.0 + time
    }

    /// Counts for nothing that so much time has passed.
    pub(super) fn forgive(&mut self, time: Duration) {
        self.0 += time;
    }
}
