//! Errors of streams for those who know only those of the operating system.

use std::io::{self, ErrorKind};

use super::{AllocError, RecvError, SendError, SessionLost};

impl SessionLost {
    /// The kind of error that this would be of a socket.
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ClosedHere => ErrorKind::NotConnected,
            Self::ClosedByPeer => ErrorKind::ConnectionAborted,
            Self::PeerDied => ErrorKind::ConnectionReset,
            Self::PeerMisbehaved(_) => ErrorKind::InvalidData,
            Self::Unresponsive { .. } => ErrorKind::TimedOut,
            Self::Io { source, .. } => source.kind(),
        }
    }
}

/// The error itself is [`get_ref`](io::Error::get_ref) of what is made of it.
impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        let kind = match &error {
            SendError::Reset(_) => ErrorKind::ConnectionReset,
            SendError::TooLarge { .. } | SendError::OtherSession => ErrorKind::InvalidInput,
            SendError::Memory(source) => source.kind(),
            SendError::GoingAway => ErrorKind::ConnectionRefused,
            SendError::Finished => ErrorKind::BrokenPipe,
            SendError::TimedOut => ErrorKind::TimedOut,
            SendError::SessionLost(lost) => lost.kind(),
        };
        Self::new(kind, error)
    }
}

/// The error itself is [`get_ref`](io::Error::get_ref) of what is made of it.
impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> Self {
        let kind = match &error {
            RecvError::Reset(_) => ErrorKind::ConnectionReset,
            RecvError::Abandoned => ErrorKind::NotConnected,
            RecvError::TimedOut => ErrorKind::TimedOut,
            RecvError::SessionLost(lost) => lost.kind(),
        };
        Self::new(kind, error)
    }
}

/// The error itself is [`get_ref`](io::Error::get_ref) of what is made of it.
impl From<AllocError> for io::Error {
    fn from(error: AllocError) -> Self {
        let kind = match &error {
            AllocError::TooLarge { .. } => ErrorKind::InvalidInput,
            AllocError::Io(source) => source.kind(),
            AllocError::TimedOut => ErrorKind::TimedOut,
            AllocError::SessionLost(lost) => lost.kind(),
        };
        Self::new(kind, error)
    }
}

/// The error itself is [`get_ref`](io::Error::get_ref) of what is made of it.
impl From<SessionLost> for io::Error {
    fn from(error: SessionLost) -> Self {
        Self::new(error.kind(), error)
    }
}
