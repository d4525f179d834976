//! Errors of the front door: addresses, connecting, listening, shaking hands.

use std::{fmt, io, sync::Arc, time::Duration};

use super::PeerMisbehaved;
use crate::{Address, Peer, core::handshake::Failure};

/// Why a session could not be opened.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be that of a socket. Nothing was tried.
    #[error("the address cannot be used")]
    Address(#[from] InvalidAddress),
    /// Nobody listens at the address. It may be worth trying again once the server has been started.
    #[error("no server listens at {address}")]
    NoServer {
        /// Where it was looked for.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// None of the configured [links](crate::ConfigBuilder::links) can be had at this address: over TCP, only shmipc's own can, because
    /// descriptors cannot be passed, and only those that were named. Name one of them.
    #[error("none of the configured links can be had at {address}")]
    NoLink {
        /// Where there was to be a session.
        address: Address,
    },
    /// The operating system does not let us connect; for lack of permissions, for example.
    #[error("could not connect to {address}")]
    Unreachable {
        /// Where the server was looked for.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused something else; `action` says what we were doing.
    #[error("could not {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server answered, and said no.
    #[error("the server refused the session: {0}")]
    Refused(Refusal),
    /// The server speaks shmipc's protocol, and none of the configured [links](crate::ConfigBuilder::links). Configure more of them.
    #[error(
        "the server speaks version {protocol} of shmipc's protocol, and none of the configured links"
    )]
    NotSupported {
        /// The version that the server has selected, or its newest.
        protocol: u8,
    },
    /// The process behind the address is not one that [`authorize`](crate::ConfigBuilder::authorize) admits.
    #[error("the server, {0}, is not one that this client accepts")]
    ServerNotAuthorized(Peer),
    /// The server did not answer in time. It may be overloaded or stopped.
    #[error("the server did not answer within {timeout:?}, {step}")]
    TimedOut {
        /// What was being waited for.
        step: HandshakeStep,
        /// The configured time for the whole handshake.
        timeout: Duration,
    },
    /// The server hung up. It may be shutting down, it does not speak this protocol, or it does not admit this process: versions 2 and 3 of
    /// shmipc's protocol have no words for that, so whoever begins with them is just hung up on. Whom a server admits is set by its
    /// [`authorize`](crate::ConfigBuilder::authorize).
    #[error(
        "the server hung up, {step}: it may be shutting down, speak another protocol, or not admit this process"
    )]
    Closed {
        /// What was being waited for.
        step: HandshakeStep,
    },
    /// The server broke the protocol.
    #[error("the server misbehaved")]
    PeerMisbehaved(#[source] PeerMisbehaved),
}

/// Why an address cannot be listened on.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be that of a socket.
    #[error("the address cannot be used")]
    Address(#[from] InvalidAddress),
    /// Somebody else is there: another server, or a file that is not a socket. It was left alone.
    #[error("{address} is in use")]
    InUse {
        /// The address in question.
        address: Address,
    },
    /// None of the configured [links](crate::ConfigBuilder::links) can be had at this address: over TCP, only shmipc's own can, because
    /// descriptors cannot be passed, and only those that were named. Name one of them.
    #[error("none of the configured links can be had at {address}")]
    NoLink {
        /// The address in question.
        address: Address,
    },
    /// The operating system refused something; `action` says what we were doing.
    #[error("could not {action} at {address}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The address in question.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no tokio runtime in which connections could be accepted.
    #[error("a listener needs a tokio runtime: bind it inside of one")]
    NoRuntime,
}

/// Why a listening socket was not [handed over](crate::HandOver). The listener is as it was.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Successors cannot be waited for at the address that was given for them.
    #[error("could not wait for a successor")]
    Bind(#[from] BindError),
    /// The operating system refused something that it takes; most likely the process lacks descriptors.
    #[error("the socket cannot be handed over")]
    Socket(#[source] io::Error),
}

/// Why no listening socket was [inherited](crate::Listener::inherit_with) from a predecessor. If there is one, it goes on.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Nobody offers anything there. Perhaps there is no predecessor: bind the address.
    #[error("could not reach the predecessor")]
    Connect(#[from] ConnectError),
    /// Whoever listens there is another user's, who could have clients connect to whatever it likes.
    #[error("{0} is not of our own user, and cannot be succeeded")]
    NotOwnUser(Peer),
    /// The predecessor hung up: it has ended, or gave up waiting for us.
    #[error("the predecessor hung up")]
    Closed,
    /// The predecessor did not pass its socket on in time.
    #[error("the predecessor did not pass its socket on within {timeout:?}")]
    TimedOut {
        /// How long it was given.
        timeout: Duration,
    },
    /// Whoever listens there says something else. Is it the address for successors?
    #[error("what was said there is no hand-over")]
    NotAPredecessor,
    /// What was passed on is no socket that could be listened at.
    #[error("what was passed on cannot be used")]
    Socket(#[from] InvalidAddress),
    /// The socket was passed on, and cannot be used here.
    #[error("could not listen at the predecessor's socket")]
    Listen(#[source] BindError),
    /// The operating system refused something that it takes.
    #[error("could not take the predecessor's socket")]
    Io(#[source] io::Error),
}

/// Why a listener accepts no more sessions.
///
/// What goes wrong with a single client never ends up here: it is logged, and the listener goes on.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcceptError {
    /// The listening socket does not work any more. Bind a new one.
    #[error("the listening socket failed")]
    Socket(#[source] Arc<io::Error>),
    /// A blocking listener was [stopped](crate::blocking::Stopper::stop).
    #[error("the listener was stopped")]
    Stopped,
}

/// Why a [`SessionPool`](crate::SessionPool) has no stream.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// The pool was [closed](crate::SessionPool::close) on this side.
    #[error("the pool was closed on this side")]
    Closed,
    /// There is no session, and there was none for as long as
    /// [patience](crate::PoolConfigBuilder::patience) lasts. The pool goes on connecting: try again later.
    #[error("there is no session with the server")]
    Unavailable {
        /// Why the last attempt failed, if it did: the server may also have let go of each session soon.
        source: Option<Arc<ConnectError>>,
    },
    /// The first message could not be sent. See [`SessionPool::stream_with`](crate::SessionPool::stream_with).
    #[error("the first message could not be sent")]
    Send(#[source] super::SendError),
}

/// Why a hot restart did not begin. See [`Clients::hot_restart`](crate::Clients::hot_restart).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RestartError {
    /// Another one is under way. Wait for it.
    #[error("the restart with epoch {epoch} is still under way")]
    UnderWay {
        /// Its epoch.
        epoch: u64,
    },
    /// The epoch is 0, or that of the last restart, so that clients could not tell the two apart. Choose another.
    #[error("{epoch} cannot be the epoch of this restart: it is 0, or that of the last one")]
    Epoch {
        /// The epoch.
        epoch: u64,
    },
}

/// Why an address cannot be that of a socket.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAddress {
    /// The name or path is empty.
    #[error("empty address")]
    Empty,
    /// The name or path is longer than the operating system can store in an address.
    #[error("{address:?} has {len} bytes, and the address of a socket at most {max}")]
    TooLong {
        /// The name or path, unprintable parts replaced.
        address: String,
        /// Its length in bytes.
        len: usize,
        /// The greatest length in bytes.
        max: usize,
    },
    /// The path contains a NUL byte.
    #[error("{address:?} contains a NUL byte")]
    Nul {
        /// The path, unprintable parts replaced.
        address: String,
    },
    /// What follows `tcp://` is not an IP address with a port.
    #[error("{address:?} is not `tcp://`, an IP address, a colon and a port")]
    Tcp {
        /// The address, unprintable parts replaced.
        address: String,
    },
    /// Other hosts could be reached there, or could reach us, and do not see the memory of this one.
    #[error("{address} is not an address of the loopback interface")]
    NotLoopback {
        /// The address in question.
        address: String,
    },
    /// It is a TCP address, where only Unix sockets are of use.
    #[error("{address} is not the address of a Unix socket")]
    NotUnix {
        /// The address in question.
        address: String,
    },
    /// The inherited file descriptor is not a Unix stream socket in the state that is needed.
    #[error("the inherited file descriptor is not a {expected} Unix stream socket")]
    NotASocket {
        /// The state in which it should be.
        expected: &'static str,
    },
}

/// A server's answer that there will be no session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    code: RefusalCode,
    message: String,
}

impl Refusal {
    /// Bounds what somebody else can have us log.
    const MESSAGE_CHARS_MAX: usize = 200;

    pub(crate) fn new(code: RefusalCode, message: &str) -> Self {
        let printable = |c: char| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        Self {
            code,
            message: message
                .chars()
                .take(Self::MESSAGE_CHARS_MAX)
                .map(printable)
                .collect(),
        }
    }

    /// Reads what a server sent.
    pub(crate) fn from_wire(code: &str, message: &str) -> Self {
        match RefusalCode::from_wire(code) {
            Some(code) => Self::new(code, message),
            None => Self::new(RefusalCode::Other, &format!("{code}: {message}")),
        }
    }

    /// Returns the kind of refusal.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        self.code
    }

    /// Returns the server's explanation, shortened to 200 characters and without control characters.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

/// The kinds of [`Refusal`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalCode {
    /// `BUSY`: the server lacks memory or file descriptors at the moment. Trying again later may help.
    Busy,
    /// `FEATURE_NOT_SUPPORTED`: the server and this client have no link in common.
    FeatureNotSupported,
    /// `JSON_PARSE_ERROR`: the server could not read the request.
    JsonParseError,
    /// A code that this version does not know. The message begins with it.
    Other,
    /// `UNAUTHORIZED`: the server does not admit the user that this process runs as.
    Unauthorized,
    /// `VERSION_NOT_SUPPORTED`: the server and this client have no protocol version in common.
    VersionNotSupported,
}

impl RefusalCode {
    /// Returns the code as it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "BUSY",
            Self::FeatureNotSupported => "FEATURE_NOT_SUPPORTED",
            Self::JsonParseError => "JSON_PARSE_ERROR",
            Self::Other => "OTHER",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::VersionNotSupported => "VERSION_NOT_SUPPORTED",
        }
    }

    fn from_wire(code: &str) -> Option<Self> {
        [
            Self::Busy,
            Self::FeatureNotSupported,
            Self::JsonParseError,
            Self::Unauthorized,
            Self::VersionNotSupported,
        ]
        .into_iter()
        .find(|known| known.as_str() == code)
    }
}

/// The parts of a handshake, each named by what a side waits for.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeStep {
    /// A connection to the server, or a place in its queue of them.
    Connection,
    /// The peer's half of the negotiation.
    Negotiation,
    /// The peer's outbox.
    Outbox,
    /// The peer's word that it has mapped our outbox.
    Ready,
    /// The client's regions, with shmipc's own protocol.
    Regions,
    /// The server's word that it has mapped our regions, with shmipc's own protocol.
    Mapped,
}

impl fmt::Display for HandshakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "while a connection to it was made",
            Self::Negotiation => "while its half of the negotiation was awaited",
            Self::Outbox => "while its outbox was awaited",
            Self::Ready => "while it was to map our outbox",
            Self::Regions => "while its regions were awaited",
            Self::Mapped => "while it was to map our regions",
        })
    }
}

/// Why a handshake came to nothing, on either side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("could not {action}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
}

impl From<HandshakeError> for ConnectError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io { action, source } => Self::Io { action, source },
            HandshakeError::Failed(failure) => match failure {
                Failure::TimedOut { step, timeout } => Self::TimedOut { step, timeout },
                Failure::Closed { step } => Self::Closed { step },
                Failure::Refused(refusal) | Failure::Declined(refusal) => Self::Refused(refusal),
                Failure::NotSupported { protocol } => Self::NotSupported { protocol },
                Failure::Misbehaved(reason) => Self::PeerMisbehaved(reason),
            },
        }
    }
}
