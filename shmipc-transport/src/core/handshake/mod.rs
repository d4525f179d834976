//! How a session begins, as a value: it is told what arrived and what time it is, and says what to do.
//!
//! ```text
//! client                                server
//!   | negotiation request ---------------> |  authorised? understood?
//!   |                                      |  create an outbox
//!   | <-------------- negotiation response |  or an error object, and the end
//!   | <-- outbox [memory, doorbell] ------ |
//!   | create an outbox                     |
//!   | --- outbox [memory, doorbell] -----> |
//!   | verify, map                          |  verify, map
//!   | ready -----------------------------> |
//!   | <------------------------------ ready|
//! established                           established
//! ```
//!
//! Who is not admitted says what it speaks before it is turned away: versions 2 and 3 know no answer that could be read as a refusal, so
//! their clients are hung up on (H8).
//!
//! Once both have negotiated, the two directions do not wait for each other (H11). A side is established when it has mapped
//! the peer's outbox, said so, and heard the same from the peer (H12). One deadline covers everything (H15).
//!
//! Time is a [`Duration`] since any fixed moment of the caller's choice.

use core::time::Duration;
use std::collections::VecDeque;

use crate::{
    core::outbox::Windows,
    core::shmipc::{
        frames::Frame,
        handshake::{NEGOTIATED, Speaks},
        terms::{Terms as ShmipcTerms, Wakes},
    },
    core::wire::{
        InvalidMessage, Message, Outbox, Transmit,
        negotiation::{Accepts, Answer, Choice, DoorbellKind, Offer, Request, Response, Terms},
    },
    error::{HandshakeStep, PeerMisbehaved, Refusal, RefusalCode},
};

/// One side of a handshake. `Fd` is whatever stands for a file descriptor.
#[derive(Debug)]
pub(crate) struct Handshake<Fd> {
    role: Role,
    state: State,
    /// The kind of doorbell that we insist on; once both have negotiated, the one that was agreed on.
    doorbell: DoorbellKind,
    /// What the client has asked for.
    offer: Offer,
    /// What the server would agree to.
    terms: ServerTerms,
    /// Whether the peer has said that memory may be passed on to it.
    forwards: bool,
    timeout: Duration,
    deadline: Duration,
    /// Until when the server may begin to answer, if that is less.
    answer_by: Duration,
    /// Why the client is turned away as soon as it is known what it speaks.
    unwelcome: Option<Refusal>,
    transmits: VecDeque<Transmit<Fd>>,
    events: VecDeque<Event<Fd>>,
}

/// The links that a server accepts, and on which terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ServerTerms {
    /// The kind of doorbell that it insists on, if it accepts our own link.
    pub(crate) outbox: Option<DoorbellKind>,
    /// What it grants at most of shmipc's, if it accepts that.
    pub(crate) shmipc: Option<ShmipcGrant>,
    /// Whether clients may begin with version 2, and with version 3.
    pub(crate) versions: [bool; 2],
}

impl ServerTerms {
    /// What to say to clients that ask which version we speak.
    fn speaks(&self) -> Speaks {
        let [_, has_3] = self.versions;
        let negotiates = self.outbox.is_some() || self.shmipc.is_some();
        Speaks {
            newest: match (negotiates, has_3) {
                (true, _) => NEGOTIATED,
                (false, true) => 3,
                (false, false) => 2,
            },
            goes_on: has_3 || !negotiates,
        }
    }
}

#[cfg(any(test, fuzzing))]
impl ServerTerms {
    /// Nothing but our own link.
    pub(crate) const fn outbox(doorbell: DoorbellKind) -> Self {
        Self {
            outbox: Some(doorbell),
            shmipc: None,
            versions: [false; 2],
        }
    }
}

/// What a server grants those who ask for shmipc's own link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ShmipcGrant {
    /// Whether it may be woken by an eventfd of this client's.
    pub(crate) eventfd: bool,
    /// How much it is ready to receive on a stream, from clients that know our records.
    pub(crate) windows: Windows,
}

/// How it goes on with shmipc's own link, by another state machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Shmipc {
    /// In version 4, on the terms of the peer (its windows) and those that were agreed on.
    Negotiated(ShmipcTerms),
    /// In version 2 or 3: a client begins with this.
    Legacy(Frame, Speaks),
}

/// What the caller has to do, or to know.
#[derive(Debug)]
pub(crate) enum Event<Fd> {
    /// The peer is worth an outbox: create one, with such a doorbell, then call [`Handshake::outbox_created`].
    CreateOutbox(DoorbellKind),
    /// Verify and map this, then call [`Handshake::peer_mapped`] or [`Handshake::peer_misbehaved`].
    MapOutbox(Outbox<Fd>),
    /// The session may begin, once all that [`Handshake::poll_transmit`] returns has been sent.
    Established,
    /// It goes on with shmipc's own link, once all that [`Handshake::poll_transmit`] returns has been sent.
    Shmipc(Shmipc),
    /// It came to nothing. A refusal may be left for [`Handshake::poll_transmit`] to hand out.
    Failed(Failure),
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("timed out after {timeout:?}, {step}")]
    TimedOut {
        step: HandshakeStep,
        timeout: Duration,
    },
    #[error("the peer hung up, {step}")]
    Closed { step: HandshakeStep },
    /// The server said no to us.
    #[error("refused by the server: {0}")]
    Refused(Refusal),
    /// We, the server, said no.
    #[error("refused: {0}")]
    Declined(Refusal),
    /// The server speaks this version of the protocol, and none of the links that we ask for, or go on with.
    #[error("the server speaks protocol {protocol}, and none of the links that were asked for")]
    NotSupported { protocol: u8 },
    #[error("the peer misbehaved")]
    Misbehaved(#[source] PeerMisbehaved),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The client waits for the response.
    AwaitingResponse,
    /// The server waits for the request.
    AwaitingRequest,
    /// The caller creates our outbox.
    Creating,
    /// Both outboxes are on their way.
    Exchanging(Exchange),
    /// This, or what it goes on with.
    Established,
    Failed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Client,
    Server,
}

/// What happened of the part in which both sides do the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Exchange {
    theirs: Theirs,
    /// The peer has mapped our outbox.
    peer_ready: bool,
}

/// How far we are with the peer's outbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Theirs {
    Awaited,
    /// The caller maps it.
    Mapping,
    /// It is mapped, and the peer was told.
    Mapped,
}

impl<Fd> Handshake<Fd> {
    /// Begins as the side that connected. There is something to transmit at once.
    pub(crate) fn client(now: Duration, timeout: Duration, offer: Offer) -> Self {
        let begin = State::AwaitingResponse;
        let mut handshake = Self::new(Role::Client, begin, now, timeout);
        handshake.offer = offer;
        handshake.doorbell = offer.outbox.unwrap_or(DoorbellKind::EventFd);
        handshake.transmit(Message::Negotiation(Request::new(&offer).encode()));
        handshake
    }

    /// Gives up at `time` if the server has not answered by then. From then on, it has all the time that there is.
    pub(crate) fn answer_by(&mut self, time: Duration) {
        self.answer_by = time;
    }

    /// Begins as the side that accepted.
    pub(crate) fn server(now: Duration, timeout: Duration, terms: ServerTerms) -> Self {
        let mut handshake = Self::new(Role::Server, State::AwaitingRequest, now, timeout);
        handshake.doorbell = terms.outbox.unwrap_or(DoorbellKind::EventFd);
        handshake.terms = terms;
        handshake
    }

    fn new(role: Role, state: State, now: Duration, timeout: Duration) -> Self {
        Self {
            role,
            state,
            doorbell: DoorbellKind::EventFd,
            offer: Offer {
                outbox: None,
                shmipc: None,
            },
            terms: ServerTerms {
                outbox: None,
                shmipc: None,
                versions: [false; 2],
            },
            forwards: false,
            timeout,
            deadline: now.saturating_add(timeout),
            answer_by: Duration::MAX,
            unwelcome: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes a message that arrived.
    ///
    /// All events that were there before must have been handled. After the end of the handshake, messages are ignored.
    pub(crate) fn handle_message(&mut self, now: Duration, message: Message<Fd>) {
        self.handle_timeout(now);
        match (self.state, message) {
            (State::Established | State::Failed, _) => {}
            (State::AwaitingRequest, message) if self.unwelcome.is_some() => {
                self.show_out(&message);
            }
            (State::AwaitingRequest, Message::Negotiation(json)) => self.handle_request(&json),
            // Whoever asks for our version is told (H18). Paths come from clients of version 2.
            (State::AwaitingRequest, Message::Legacy(first))
                if self.terms.versions[0] || matches!(first, Frame::Version(_)) =>
            {
                self.switch(Shmipc::Legacy(first, self.terms.speaks()));
            }
            (State::AwaitingResponse, Message::Negotiation(json)) => self.handle_response(&json),
            (
                State::Exchanging(
                    exchange @ Exchange {
                        theirs: Theirs::Awaited,
                        ..
                    },
                ),
                Message::Outbox(outbox),
            ) => {
                self.state = State::Exchanging(Exchange {
                    theirs: Theirs::Mapping,
                    ..exchange
                });
                self.events.push_back(Event::MapOutbox(outbox));
            }
            (
                State::Exchanging(Exchange {
                    theirs: theirs @ (Theirs::Mapping | Theirs::Mapped),
                    peer_ready: false,
                }),
                Message::Ready,
            ) => self.advance(Exchange {
                theirs,
                peer_ready: true,
            }),
            (_, message) => {
                let when = match self.step() {
                    HandshakeStep::Connection | HandshakeStep::Negotiation => {
                        "during the negotiation"
                    }
                    HandshakeStep::Outbox => "before the outbox",
                    HandshakeStep::Ready | HandshakeStep::Regions | HandshakeStep::Mapped => {
                        "after the outbox"
                    }
                };
                self.peer_misbehaved(
                    InvalidMessage::OutOfTurn {
                        message: message.name(),
                        when,
                    }
                    .into(),
                );
            }
        }
    }

    /// Takes note that the peer has closed its side.
    pub(crate) fn handle_closed(&mut self) {
        if self.is_under_way() {
            self.fail(Failure::Closed { step: self.step() });
        }
    }

    /// Lets the deadline take effect if it has passed.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let late = Failure::TimedOut {
                step: self.step(),
                timeout: self.timeout,
            };
            let failure = self.unwelcome.take().map_or(late, Failure::Declined);
            self.fail(failure);
        }
    }

    /// Goes on with our outbox, after [`Event::CreateOutbox`].
    ///
    /// # Panics
    ///
    /// If there was no such event.
    pub(crate) fn outbox_created(&mut self, outbox: Outbox<Fd>) {
        assert!(self.state == State::Creating, "nobody asked for an outbox");
        if self.role == Role::Server {
            let terms = Terms {
                doorbell: self.doorbell,
                forwards: self.forwards,
            };
            self.transmit(Message::Negotiation(Response::outbox(terms).encode()));
        }
        self.transmit(Message::Outbox(outbox));
        self.state = State::Exchanging(Exchange {
            theirs: Theirs::Awaited,
            peer_ready: false,
        });
    }

    /// Goes on after [`Event::MapOutbox`], with the peer's outbox verified and mapped.
    ///
    /// # Panics
    ///
    /// If there was no such event.
    pub(crate) fn peer_mapped(&mut self) {
        let State::Exchanging(
            exchange @ Exchange {
                theirs: Theirs::Mapping,
                ..
            },
        ) = self.state
        else {
            panic!("there was no outbox to map")
        };
        self.transmit(Message::Ready);
        self.advance(Exchange {
            theirs: Theirs::Mapped,
            ..exchange
        });
    }

    /// Ends the handshake because of something that the caller found out about the peer.
    pub(crate) fn peer_misbehaved(&mut self, reason: PeerMisbehaved) {
        if self.is_under_way() {
            self.fail(Failure::Misbehaved(reason));
        }
    }

    /// Refuses the client, on a server that has not yet agreed.
    ///
    /// # Panics
    ///
    /// On a client, and after [`outbox_created`](Self::outbox_created).
    pub(crate) fn decline(&mut self, refusal: Refusal) {
        assert!(
            self.may_decline(),
            "only a server that has not yet agreed may refuse"
        );
        self.transmit(Message::Negotiation(Response::refusal(&refusal).encode()));
        self.fail(Failure::Declined(refusal));
    }

    /// Turns the client away, on a server, once it has said what it speaks: whoever negotiates is told why, and others are hung up on.
    pub(crate) fn turn_away(&mut self, refusal: Refusal) {
        self.unwelcome = Some(refusal);
    }

    /// Whether both sides have agreed that memory may be passed on (H17). Known once both have negotiated.
    pub(crate) fn forwards(&self) -> bool {
        self.forwards
    }

    /// Says whether [`decline`](Self::decline) may be called.
    pub(crate) fn may_decline(&self) -> bool {
        self.role == Role::Server && matches!(self.state, State::AwaitingRequest | State::Creating)
    }

    /// The next thing to send. Call until it returns `None`, before waiting for anything.
    #[must_use]
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit<Fd>> {
        self.transmits.pop_front()
    }

    /// The next thing to do. Call until it returns `None`, before waiting for anything.
    #[must_use]
    pub(crate) fn poll_event(&mut self) -> Option<Event<Fd>> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` once the handshake is over.
    #[must_use]
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let deadline = match self.state {
            State::AwaitingResponse => self.deadline.min(self.answer_by),
            _ => self.deadline,
        };
        self.is_under_way().then_some(deadline)
    }

    /// Ends it with a client that is not admitted, which has said what it speaks.
    fn show_out(&mut self, first: &Message<Fd>) {
        let Some(refusal) = self.unwelcome.take() else {
            return;
        };
        match first {
            Message::Negotiation(_) => self.decline(refusal),
            // Whatever else there is knows no refusal, and would take ours for misbehaviour.
            _ => self.fail(Failure::Declined(refusal)),
        }
    }

    fn handle_request(&mut self, json: &[u8]) {
        let mut hangs_up = false;
        let verdict = match Request::decode(json) {
            Ok(request) => {
                hangs_up = request.is_foreign() && self.terms.versions.contains(&true);
                // A server grants what its client insists on, and may insist on more.
                let Terms { doorbell, forwards } = request.terms();
                self.doorbell = self.doorbell.max(doorbell);
                self.forwards = forwards;
                let accepts = Accepts {
                    outbox: self.terms.outbox.is_some(),
                    shmipc: self.terms.shmipc.is_some(),
                };
                request.judge(accepts)
            }
            Err(error) => Err(Refusal::new(
                RefusalCode::JsonParseError,
                &error.to_string(),
            )),
        };
        match verdict {
            Ok(Choice::Outbox) => self.create(),
            Ok(Choice::Shmipc(asked)) => self.grant(asked),
            // Others' clients go on with version 3 or 2 if they are hung up on, and give up if they are answered.
            Err(refusal) if hangs_up => self.fail(Failure::Declined(refusal)),
            Err(refusal) => self.decline(refusal),
        }
    }

    fn handle_response(&mut self, json: &[u8]) {
        match Response::decode(json).map(|response| response.answer(&self.offer)) {
            Ok(Answer::Outbox(Terms { doorbell, forwards })) => {
                self.doorbell = self.doorbell.max(doorbell);
                self.forwards = forwards;
                self.create();
            }
            Ok(Answer::Shmipc(terms)) => self.switch(Shmipc::Negotiated(terms)),
            Ok(Answer::Refused(refusal)) => self.fail(Failure::Refused(refusal)),
            Ok(Answer::Other { protocol }) => self.fail(Failure::NotSupported { protocol }),
            Err(invalid) => self.peer_misbehaved(invalid.into()),
        }
    }

    /// Agrees to shmipc's own link, with as much of what the client asks for as this server grants.
    fn grant(&mut self, asked: ShmipcTerms) {
        let Some(grant) = self.terms.shmipc else {
            return;
        };
        let wakes = match asked.wakes {
            Wakes::EventFd if !grant.eventfd => Wakes::Socket,
            wakes => wakes,
        };
        let ours = ShmipcTerms {
            wakes,
            windows: asked.windows.map(|_| grant.windows),
        };
        self.transmit(Message::Negotiation(Response::shmipc(&ours).encode()));
        self.switch(Shmipc::Negotiated(ShmipcTerms { wakes, ..asked }));
    }

    fn switch(&mut self, shmipc: Shmipc) {
        self.state = State::Established;
        self.events.push_back(Event::Shmipc(shmipc));
    }

    fn create(&mut self) {
        self.state = State::Creating;
        self.events.push_back(Event::CreateOutbox(self.doorbell));
    }

    fn advance(&mut self, exchange: Exchange) {
        self.state = if exchange
            == (Exchange {
                theirs: Theirs::Mapped,
                peer_ready: true,
            }) {
            self.events.push_back(Event::Established);
            State::Established
        } else {
            State::Exchanging(exchange)
        };
    }

    fn fail(&mut self, failure: Failure) {
        self.state = State::Failed;
        self.events.push_back(Event::Failed(failure));
    }

    fn transmit(&mut self, message: Message<Fd>) {
        self.transmits.push_back(message.encode());
    }

    fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Established | State::Failed)
    }

    /// What we are waiting for.
    fn step(&self) -> HandshakeStep {
        match self.state {
            State::AwaitingResponse | State::AwaitingRequest => HandshakeStep::Negotiation,
            State::Creating
            | State::Exchanging(Exchange {
                theirs: Theirs::Awaited,
                ..
            }) => HandshakeStep::Outbox,
            State::Exchanging(_) | State::Established | State::Failed => HandshakeStep::Ready,
        }
    }
}

/// Says whatever `data` holds to a handshake: the body of the fuzz target for this module.
///
/// The first byte chooses the side, and then one at a time how many descriptors come with the next message.
#[cfg(any(test, fuzzing))]
pub fn fuzz_handshake(data: &[u8]) {
    let Some((side, mut data)) = data.split_first() else {
        return;
    };
    let (now, timeout) = (Duration::ZERO, Duration::from_secs(1));
    let mut handshake = if side % 2 == 0 {
        Handshake::server(now, timeout, ServerTerms::outbox(DoorbellKind::EventFd))
    } else {
        Handshake::client(now, timeout, Offer::outbox(DoorbellKind::EventFd))
    };
    let mut deframer = crate::core::wire::Deframer::new();
    while let Some((fds, rest)) = data.split_first() {
        let (bytes, rest) = rest.split_at(deframer.wanted().min(rest.len()));
        data = rest;
        match deframer.push(bytes, (0..fds % 4).map(u32::from)) {
            Ok(None) => {}
            Ok(Some(message)) => handshake.handle_message(Duration::from_millis(1), message),
            Err(invalid) => handshake.peer_misbehaved(invalid.into()),
        }
        while handshake.poll_transmit().is_some() {}
        while let Some(event) = handshake.poll_event() {
            let ours = Outbox {
                len: 1,
                memory_max: 1,
                memory: 1,
                doorbell: 1,
            };
            match event {
                Event::CreateOutbox(_) => handshake.outbox_created(ours),
                Event::MapOutbox(_) => handshake.peer_mapped(),
                Event::Established | Event::Shmipc(_) | Event::Failed(_) => return,
            }
        }
    }
    handshake.handle_closed();
    assert!(
        matches!(handshake.poll_event(), Some(Event::Failed(_))),
        "a peer that hangs up ends it"
    );
}

#[cfg(test)]
mod tests;
