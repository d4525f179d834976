//! What can go wrong, and whose fault it is.

mod convert;
mod front;

use std::{io, sync::Arc, time::Duration};

pub use front::*;

use crate::core::{
    mem::OutOfRegion,
    outbox::{HeadOverrun, InvalidGeometry, InvalidRecord, ReturnsOverrun},
    shmipc::InvalidShmipc,
    wire::InvalidMessage,
};

/// Why a session is over. Open a new one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionLost {
    /// [`Session::close`](crate::Session::close) was called here, or all of its handles were dropped.
    #[error("the session was closed on this side")]
    ClosedHere,
    /// The peer closed the session in good order.
    ///
    /// In version 2 of shmipc's protocol a server never answers, so a client has a session before it is known whether it is admitted: one
    /// that is not is closed at once.
    #[error("the peer closed the session")]
    ClosedByPeer,
    /// The peer's process ended, or dropped the connection without closing the session.
    #[error("the peer's process is gone")]
    PeerDied,
    /// The peer broke the protocol. Do not trust what it says; this side is unharmed.
    #[error("the peer broke the protocol")]
    PeerMisbehaved(#[source] PeerMisbehaved),
    /// The peer's process lives, but does not look after the session: it may be stopped, or busy beyond measure. See
    /// [`ConfigBuilder::keepalive`](crate::ConfigBuilder::keepalive).
    #[error("the peer did not answer a ping within {timeout:?}")]
    Unresponsive {
        /// How long it was given.
        timeout: Duration,
    },
    /// The operating system refused something that the session cannot do without.
    #[error("could not {action}")]
    Io {
        /// What we were doing.
        action: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl SessionLost {
    /// Whether the peer is to blame for more than leaving.
    #[must_use]
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::PeerMisbehaved(_))
    }
}

/// How a peer broke the protocol. The session with it ends; nothing else is affected (O21).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// Its memory could shrink or be written to by others.
    #[error("its memory lacks the seals we rely on (it has {seals:#x})")]
    Unsealed {
        /// The seals it has, as `F_GET_SEALS` returns them.
        seals: i32,
    },
    /// Its memory does not have the length that it announced.
    #[error("it announced memory of {claimed} bytes and passed one of {actual}")]
    RegionLength {
        /// Announced bytes.
        claimed: u64,
        /// Bytes of the file.
        actual: u64,
    },
    /// A region of shmipc's own link is longer than [`Shmipc::region_max`](crate::Shmipc::region_max) allows for.
    #[error(
        "a region of {len} bytes is longer than the {max} that `Shmipc::region_max` allows for"
    )]
    RegionTooLong {
        /// Its length in bytes.
        len: u64,
        /// The most bytes of a region.
        max: u32,
    },
    /// Its memory cannot be mapped.
    #[error("its memory cannot be mapped (errno {errno})")]
    Unmappable {
        /// What `mmap` said.
        errno: i32,
    },
    /// What it wants to be woken by is something that could make us wait: neither a Unix socket nor, between processes of
    /// one user, an eventfd.
    #[error("its doorbell is of a kind that is not acceptable")]
    Doorbell,
    /// What it passed along with memory of somebody else's, for us to close when we are done with it, is no Unix socket.
    #[error("its anchor is of a kind that is not acceptable")]
    Anchor,
    /// Its outbox is not laid out as agreed.
    #[error("its outbox is malformed")]
    Geometry(#[from] InvalidGeometry),
    /// Its ring holds something that is not a record.
    #[error("its ring holds an invalid record")]
    Record(#[from] InvalidRecord),
    /// It names memory outside its region.
    #[error("it refers to memory that is not there")]
    OutOfRegion(#[from] OutOfRegion),
    /// It names a region that it never announced, or has dropped.
    #[error("it refers to region {region}, which does not exist")]
    UnknownRegion {
        /// The region's number.
        region: u32,
    },
    /// It announced a region whose memory it did not pass, or twice, or too many of them.
    #[error("it announced region {region} wrongly")]
    RegionAnnouncement {
        /// The region's number.
        region: u32,
    },
    /// It consumed what was never sent.
    #[error("its progress is impossible")]
    Head(#[from] HeadOverrun),
    /// It returned more segments than it had.
    #[error("its returns are impossible")]
    Returns(#[from] ReturnsOverrun),
    /// It returned, or sent back, a segment that it does not hold.
    #[error("it does not hold segment {token:#010x}")]
    UnknownToken {
        /// The segment's token.
        token: u32,
    },
    /// It sent more than it had credit for.
    #[error("it exceeded the credit of stream {stream}")]
    CreditExceeded {
        /// The stream's number.
        stream: u64,
    },
    /// It granted more credit than its own window.
    #[error("it granted impossible credit on stream {stream}")]
    CreditOverflow {
        /// The stream's number.
        stream: u64,
    },
    /// It named a stream that it may not open.
    #[error("it may not open stream {stream}")]
    StreamId {
        /// The stream's number.
        stream: u64,
    },
    /// It opened more streams than it may.
    #[error("it has more than {max} streams open")]
    TooManyStreams {
        /// The agreed maximum.
        max: u32,
    },
    /// It sent on a stream that it had ended.
    #[error("it sent on stream {stream} after ending it")]
    SentAfterEnd {
        /// The stream's number.
        stream: u64,
    },
    /// It has more segments under way than can be returned.
    #[error("it has more than {max} segments under way")]
    TooManySegments {
        /// The agreed maximum.
        max: u32,
    },
    /// It has not consumed anything for so long that our own records to it pile up.
    #[error("it lets {waiting} control records wait without consuming any")]
    NotConsuming {
        /// How many are waiting.
        waiting: usize,
    },
    /// A message is longer than any may be: than what the peer has announced of its memory or, if it must be
    /// [copied](crate::Payloads::Guarded), than our own [`memory_max`](crate::ConfigBuilder::memory_max).
    #[error("a message of {len} bytes is longer than any may be")]
    MessageLength {
        /// The sum of its segments.
        len: u64,
    },
    /// It answered a ping that was never sent.
    #[error("it answered ping {nonce}, which was never sent")]
    Pong {
        /// What it answered.
        nonce: u64,
    },
    /// The memory that it shares by shmipc's own protocol is not what it should be.
    #[error("its shared memory is invalid")]
    Shmipc(#[from] InvalidShmipc),
    /// It named a file that is not in the [allowed directory](crate::Shmipc::directory), or is none of its own.
    #[error("it named {path:?}, which is not a file of its own in the allowed directory")]
    Path {
        /// What it named, shortened to 200 characters.
        path: String,
    },
    /// It sent something on the socket that makes no sense there.
    #[error("it sent an invalid message on the socket")]
    Socket(#[from] InvalidMessage),
}

/// Why a message could not be sent. The message is dropped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer gave the stream up and reads no further.
    #[error("the peer reset the stream with code {0}")]
    Reset(u32),
    /// The message could never be sent: it exceeds the configured memory; over shmipc's own link, 32 MiB or
    /// [`Shmipc::message_max`](crate::Shmipc::message_max).
    #[error(
        "a message of {len} bytes exceeds the {max} bytes that `memory_max`, or shmipc's own link, allows"
    )]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The most that the configuration, or the link, allows.
        max: usize,
    },
    /// The operating system refused to provide memory. The same message may succeed later.
    #[error("could not add memory")]
    Memory(#[source] Arc<io::Error>),
    /// The message was begun for another session, whose memory it lies in. Begin it with [`buffer`](crate::SendHalf::buffer) of a stream of
    /// this one.
    #[error("the message was begun for another session: begin it with `buffer` of this stream")]
    OtherSession,
    /// The peer wants no further streams, and this one is not open yet. Open it in another session; nothing was sent.
    #[error("the peer accepts no further streams in this session")]
    GoingAway,
    /// This side ended or reset the stream before.
    #[error("the stream was ended on this side")]
    Finished,
    /// The deadline of a [blocking](crate::blocking) call passed. Nothing was sent.
    #[error("the message could not be sent in time")]
    TimedOut,
    /// The session is over.
    #[error("the session is over")]
    SessionLost(#[source] SessionLost),
}

/// Why nothing more can be received.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The peer gave the stream up.
    #[error("the peer reset the stream with code {0}")]
    Reset(u32),
    /// This side reset the stream before.
    #[error("the stream was reset on this side")]
    Abandoned,
    /// The deadline of a [blocking](crate::blocking) call passed. It may be called again.
    #[error("nothing arrived in time")]
    TimedOut,
    /// The session is over. What had arrived before has been received.
    #[error("the session is over")]
    SessionLost(#[source] SessionLost),
}

/// Why no memory was lent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// The block could never be sent: it exceeds the configured memory; over shmipc's own link, 32 MiB or
    /// [`Shmipc::message_max`](crate::Shmipc::message_max).
    #[error("{len} bytes exceed the {max} bytes that `memory_max`, or shmipc's own link, allows")]
    TooLarge {
        /// The wanted length in bytes.
        len: usize,
        /// The most that the configuration, or the link, allows.
        max: usize,
    },
    /// The operating system refused to provide memory.
    #[error("could not add memory")]
    Io(#[source] Arc<io::Error>),
    /// The deadline of a [blocking](crate::blocking) call passed, while all memory was in use.
    #[error("no memory came back in time")]
    TimedOut,
    /// The session is over.
    #[error("the session is over")]
    SessionLost(#[source] SessionLost),
}
