//! What comes back.

use bytes::Buf;
use http::HeaderMap;
use shmipc_transport::{RecvBuf, RecvError, SendError, SessionLost};

use crate::{
    Status,
    error::BoxError,
    frame::{self, Flags, InvalidFrame, Prefix, ResponseHead, Trailers},
};

/// The answer to a call that went well.
#[derive(Debug)]
pub(super) struct Answer {
    /// The message, encoded.
    pub(super) message: RecvBuf,
    /// The metadata that came before the message.
    pub(super) metadata: HeaderMap,
    /// The metadata that came after the message, if there was any.
    pub(super) trailers: Option<Box<HeaderMap>>,
}

/// What the head of an answer comes down to: metadata and trailing metadata, or a failure.
type ReadHead = Result<(HeaderMap, Option<Box<HeaderMap>>), Status>;

impl Answer {
    /// Reads the frame that ends a call (R3). The inner error is what the server says went wrong, the outer one what went wrong
    /// here.
    pub(super) fn read(
        mut frame: RecvBuf,
        message_len_max: usize,
    ) -> Result<Result<Self, Status>, Status> {
        let read = frame::open(&mut frame, read_head);
        match read.map_err(|error| Status::internal(error.to_string()))? {
            Ok(_) if message_len_max < frame.remaining() => {
                Err(frame::message_too_large(frame.remaining(), message_len_max))
            }
            Ok((metadata, trailers)) => Ok(Ok(Self {
                message: frame,
                metadata,
                trailers,
            })),
            Err(status) => Ok(Err(status)),
        }
    }
}

fn read_head(prefix: Prefix, head: &[u8]) -> Result<ReadHead, InvalidFrame> {
    let flags = prefix.flags;
    if flags == Flags::UNARY {
        return Ok(Ok((ResponseHead::decode(head)?.metadata, None)));
    }
    if flags == Flags::UNARY.with(Flags::TRAILERS) {
        let ResponseHead { metadata, trailers } = ResponseHead::decode(head)?;
        let trailers = trailers.map(|trailers| trailers.into_result()).transpose();
        return Ok(trailers.map(|trailers| (metadata, trailers.map(Box::new))));
    }
    if flags == Flags::TRAILERS.with(Flags::END) {
        return Ok(Err(match Trailers::decode(head)?.into_result() {
            Ok(_) => Status::internal("the server says that all went well, but sent no message"),
            Err(status) => status,
        }));
    }
    if flags.contains(Flags::CANCEL) {
        return Ok(Err(Status::cancelled("the server gave the call up")));
    }
    Err(InvalidFrame::UnexpectedFlags(flags))
}

/// The status of a call whose stream ended without an answer (R3).
pub(super) fn no_answer() -> Status {
    Status::internal("the server ended the call without an answer")
}

/// The status of a call whose request could not be sent.
pub(super) fn not_sent(error: SendError) -> Status {
    match error {
        SendError::Reset(code) => given_up(code),
        SendError::SessionLost(lost) => session_lost(lost),
        SendError::TooLarge { .. } => {
            Status::resource_exhausted("the request is larger than the memory of the session")
                .with_boxed(error)
        }
        SendError::Memory(_) => {
            Status::resource_exhausted("there is no memory for the request").with_boxed(error)
        }
        error => Status::internal("the request could not be sent").with_boxed(error),
    }
}

/// The status of a call whose answer could not be received.
pub(super) fn not_received(error: RecvError) -> Status {
    match error {
        RecvError::Reset(code) => given_up(code),
        RecvError::SessionLost(lost) => session_lost(lost),
        error => Status::internal("the response could not be received").with_boxed(error),
    }
}

fn given_up(code: u32) -> Status {
    Status::cancelled(format!("the server gave the call up (code {code})"))
}

/// The status of a call whose session ended (R9).
fn session_lost(lost: SessionLost) -> Status {
    Status::unavailable("the connection ended before the call did").with_boxed(lost)
}

impl Status {
    fn with_boxed(self, source: impl Into<BoxError>) -> Self {
        self.with_source(source.into())
    }
}
