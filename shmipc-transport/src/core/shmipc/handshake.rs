//! How a session of shmipc's own protocol begins, as a value: it is told what arrived and what time it is, and says what to do.
//!
//! ```text
//! client                                       server
//!   | version 2:  paths of files ----------------> |  map; no answer
//!
//!   | version 3:  version -----------------------> |
//!   | <----------------------------------- version |  the server's newest; whoever knows no newer one takes any for 3
//!   | version 4:  negotiation -------------------> |  by `core::handshake`; this begins after it
//!   | <------------------------------- negotiation |
//!   | paths of files ----------------------------> |  map
//!   |   or                                         |
//!   | names of memory files ---------------------> |
//!   | <----------------------- ready to be passed  |
//!   | one byte with the files -------------------> |  map
//!   | <------------------------------------ mapped |
//! established                                  established
//! ```
//!
//! Time is a [`Duration`] since any fixed moment of the caller's choice.

use core::time::Duration;
use std::collections::VecDeque;

use super::frames::{Frame, Paths};
use crate::{
    core::{handshake::Failure, wire::InvalidMessage},
    error::{HandshakeStep, PeerMisbehaved},
};

/// The version since which there is a negotiation.
pub(crate) const NEGOTIATED: u8 = 4;

/// What a server says to a client that asks which version it speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Speaks {
    /// Its newest version.
    pub(crate) newest: u8,
    /// Whether the client may go on with that, or with version 3 if that is older.
    pub(crate) goes_on: bool,
}

/// When a client that has asked for the server's version goes on with version 3, over the same connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GoesOn {
    /// Not at all: it wanted to know, and connects again.
    Never,
    /// If that is the server's newest.
    IfNewest,
    /// If the server knows it.
    IfKnown,
}

impl GoesOn {
    /// Whether it does with a server whose newest version is this.
    const fn with(self, newest: u8) -> bool {
        match self {
            Self::Never => false,
            Self::IfNewest => newest == 3,
            Self::IfKnown => 3 <= newest,
        }
    }
}

/// How a client's regions reach the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mapping {
    /// By the paths of files.
    File,
    /// As memory files, over the Unix socket.
    Memfd,
}

/// What the client has made, as the server gets it. `Fd` is whatever stands for a file descriptor.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Regions<Fd> {
    Files(Paths),
    Memfds {
        buffer: Fd,
        queue: Fd,
        /// What wakes the server, and what wakes the client; only if that was agreed on.
        eventfds: Option<(Fd, Fd)>,
    },
}

/// What the caller has to do, or to know.
#[derive(Debug)]
pub(crate) enum Event<Fd> {
    /// Send one byte with the descriptors, before anything else: the buffer region, the queue region, and then, if eventfds were
    /// agreed on, the one that wakes the server, and the one that wakes the client.
    PassDescriptors,
    /// Verify and map these, then call [`Handshake::mapped`] or [`Handshake::peer_misbehaved`].
    Map(Regions<Fd>),
    /// The session may begin, once all that [`Handshake::poll_transmit`] returns has been sent.
    Established,
    /// It came to nothing.
    Failed(Failure),
}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wants {
    /// A message.
    Frame,
    /// One byte that comes with this many descriptors.
    Descriptors(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The client of version 3 waits for the server's version.
    AwaitingVersion,
    /// The client waits until the server is ready for descriptors.
    AwaitingReady,
    /// The client waits until the server has mapped its regions.
    AwaitingMapped,
    /// The server of version 3 or 4 waits for paths or names.
    AwaitingRegions,
    /// The server waits for this many descriptors.
    AwaitingDescriptors(usize),
    /// The caller maps them. Whether the client waits to be told.
    Mapping {
        acknowledges: bool,
    },
    Established,
    Failed,
}

/// One side of a handshake.
#[derive(Debug)]
pub(crate) struct Handshake<Fd> {
    state: State,
    version: u8,
    /// When the client goes on, in version 3.
    goes_on: GoesOn,
    mapping: Mapping,
    /// Whether the server takes regions of its client.
    takes_regions: bool,
    /// The client's paths or names.
    paths: Option<Paths>,
    /// Whether eventfds come with the regions.
    has_eventfds: bool,
    timeout: Duration,
    deadline: Duration,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event<Fd>>,
}

impl<Fd> Handshake<Fd> {
    /// Begins as the client, in protocol `version`; with version 4 after the negotiation. There is something to transmit at once.
    ///
    /// # Panics
    ///
    /// If memory files are to be used with version 2, which has none, or eventfds with anything but version 4 and memory files.
    pub(crate) fn client(
        deadline: Duration,
        timeout: Duration,
        version: u8,
        mapping: Mapping,
        paths: Paths,
        has_eventfds: bool,
    ) -> Self {
        assert!(
            version != 2 || mapping == Mapping::File,
            "version 2 has files only"
        );
        assert!(
            !has_eventfds || version == 4 && mapping == Mapping::Memfd,
            "eventfds are passed along with memory files"
        );
        let mut handshake = Self::new(version, deadline, timeout);
        handshake.mapping = mapping;
        handshake.has_eventfds = has_eventfds;
        handshake.paths = Some(paths);
        if version == 3 {
            handshake.state = State::AwaitingVersion;
            handshake.transmit(&Frame::Version(3));
        } else {
            handshake.send_paths();
        }
        handshake
    }

    /// Goes on with version 3 only then.
    pub(crate) fn that_goes_on(mut self, goes_on: GoesOn) -> Self {
        self.goes_on = goes_on;
        self
    }

    /// Begins as the server of a client whose first message was `first`: paths, or a version.
    pub(crate) fn server(
        deadline: Duration,
        timeout: Duration,
        first: Frame,
        speaks: Speaks,
    ) -> Self {
        let mut handshake = Self::new(2, deadline, timeout);
        match first {
            Frame::FilePaths(paths) => handshake.map(Regions::Files(paths), false),
            Frame::Version(version) if 3 <= version => {
                handshake.version = speaks.newest.min(3);
                handshake.takes_regions = speaks.goes_on;
                handshake.state = State::AwaitingRegions;
                handshake.transmit(&Frame::Version(speaks.newest));
            }
            other => handshake.out_of_turn(&other),
        }
        handshake
    }

    /// Begins as the server, after the negotiation of version 4.
    pub(crate) fn negotiated_server(
        deadline: Duration,
        timeout: Duration,
        has_eventfds: bool,
    ) -> Self {
        let mut handshake = Self::new(4, deadline, timeout);
        handshake.has_eventfds = has_eventfds;
        handshake.state = State::AwaitingRegions;
        handshake
    }

    fn new(version: u8, deadline: Duration, timeout: Duration) -> Self {
        Self {
            state: State::Failed,
            version,
            goes_on: GoesOn::IfKnown,
            mapping: Mapping::File,
            takes_regions: true,
            paths: None,
            has_eventfds: false,
            timeout,
            deadline,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The version that is spoken.
    pub(crate) fn version(&self) -> u8 {
        self.version
    }

    /// The version byte of all messages in this session.
    pub(crate) fn version_byte(&self) -> u8 {
        version_byte(self.version)
    }

    /// What it waits for.
    pub(crate) fn wants(&self) -> Wants {
        match self.state {
            State::AwaitingDescriptors(count) => Wants::Descriptors(count),
            _ => Wants::Frame,
        }
    }

    /// Takes a message that arrived. All events that were there before must have been handled.
    pub(crate) fn handle_frame(&mut self, now: Duration, frame: Frame) {
        self.handle_timeout(now);
        match (self.state, frame) {
            (State::Established | State::Failed, _) => {}
            (State::AwaitingVersion, Frame::Version(version)) => self.handle_version(version),
            (State::AwaitingReady, Frame::ReadyForDescriptors) => {
                self.state = State::AwaitingMapped;
                self.events.push_back(Event::PassDescriptors);
            }
            (State::AwaitingMapped, Frame::Mapped) => self.establish(),
            (State::AwaitingRegions, Frame::FilePaths(paths))
                if self.takes_regions && !self.has_eventfds =>
            {
                self.map(Regions::Files(paths), self.version != 2);
            }
            (State::AwaitingRegions, Frame::MemfdNames(_))
                if self.takes_regions && self.version != 2 =>
            {
                self.transmit(&Frame::ReadyForDescriptors);
                self.state = State::AwaitingDescriptors(if self.has_eventfds { 4 } else { 2 });
            }
            (_, frame) => self.out_of_turn(&frame),
        }
    }

    /// Takes the descriptors that came with the one byte (V11). Surplus ones are dropped, and so closed.
    pub(crate) fn handle_descriptors(&mut self, now: Duration, fds: Vec<Fd>) {
        self.handle_timeout(now);
        let State::AwaitingDescriptors(expected) = self.state else {
            return;
        };
        let received = fds.len();
        let mut fds = fds.into_iter();
        let (Some(buffer), Some(queue)) = (fds.next(), fds.next()) else {
            return self.lacks_descriptors(expected, received);
        };
        let eventfds = if self.has_eventfds {
            let (Some(to_server), Some(to_client)) = (fds.next(), fds.next()) else {
                return self.lacks_descriptors(expected, received);
            };
            Some((to_server, to_client))
        } else {
            None
        };
        let regions = Regions::Memfds {
            buffer,
            queue,
            eventfds,
        };
        self.map(regions, true);
    }

    fn lacks_descriptors(&mut self, expected: usize, received: usize) {
        let message = "memory files";
        self.peer_misbehaved(
            InvalidMessage::Descriptors {
                message,
                expected,
                received,
            }
            .into(),
        );
    }

    /// Goes on after [`Event::Map`].
    ///
    /// # Panics
    ///
    /// If there was no such event.
    pub(crate) fn mapped(&mut self) {
        let State::Mapping { acknowledges } = self.state else {
            panic!("there was nothing to map")
        };
        if acknowledges {
            self.transmit(&Frame::Mapped);
        }
        self.establish();
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
            self.fail(Failure::TimedOut {
                step: self.step(),
                timeout: self.timeout,
            });
        }
    }

    /// Ends the handshake because of something that the caller found out about the peer.
    pub(crate) fn peer_misbehaved(&mut self, reason: PeerMisbehaved) {
        if self.is_under_way() {
            self.fail(Failure::Misbehaved(reason));
        }
    }

    /// The next message to send. Call until it returns `None`, before waiting for anything.
    #[must_use]
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
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
        self.is_under_way().then_some(self.deadline)
    }

    fn handle_version(&mut self, version: u8) {
        if self.goes_on.with(version) {
            self.send_paths();
        } else {
            self.fail(Failure::NotSupported { protocol: version });
        }
    }

    fn send_paths(&mut self) {
        let paths = self.paths.take().expect("paths are sent once");
        let (frame, next) = match self.mapping {
            Mapping::File => (Frame::FilePaths(paths), State::AwaitingMapped),
            Mapping::Memfd => (Frame::MemfdNames(paths), State::AwaitingReady),
        };
        self.transmit(&frame);
        if self.version == 2 {
            // Nobody will tell whether they could be mapped (H42).
            self.establish();
        } else {
            self.state = next;
        }
    }

    fn map(&mut self, regions: Regions<Fd>, acknowledges: bool) {
        self.state = State::Mapping { acknowledges };
        self.events.push_back(Event::Map(regions));
    }

    fn establish(&mut self) {
        self.state = State::Established;
        self.events.push_back(Event::Established);
    }

    fn fail(&mut self, failure: Failure) {
        self.state = State::Failed;
        self.events.push_back(Event::Failed(failure));
    }

    fn out_of_turn(&mut self, frame: &Frame) {
        let message = frame.name();
        let when = "during the handshake";
        self.fail(Failure::Misbehaved(
            InvalidMessage::OutOfTurn { message, when }.into(),
        ));
    }

    fn transmit(&mut self, frame: &Frame) {
        self.transmits.push_back(frame.encode(self.version_byte()));
    }

    fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Established | State::Failed)
    }

    /// What we are waiting for.
    fn step(&self) -> HandshakeStep {
        match self.state {
            State::AwaitingVersion => HandshakeStep::Negotiation,
            State::AwaitingRegions | State::AwaitingDescriptors(_) | State::Mapping { .. } => {
                HandshakeStep::Regions
            }
            State::AwaitingReady | State::AwaitingMapped | State::Established | State::Failed => {
                HandshakeStep::Mapped
            }
        }
    }
}

/// The version byte of messages in a session of a protocol version: 0 since version 4.
pub(crate) const fn version_byte(version: u8) -> u8 {
    if version < 4 { version } else { 0 }
}
