//! What a server answers.

use std::{mem, task::Context};

use http::HeaderMap;
use shmipc_transport::{SendError, SendHalf};

use super::stream_reply::StreamReply;
use crate::{
    Body, Code, Status,
    body::{EncodeMessage, Encoded, ToSend},
    codec::Coding,
    frame::{Flags, FrameTooLarge, Outgoing, ResponseHeadRef, TrailersRef},
};

/// What a call came to.
pub(super) enum Outcome {
    /// Something that ends it in one frame.
    Reply(Reply),
    /// Messages that are yet to come.
    Stream(StreamReply),
}

/// The answer to a call in one frame, ready to be sent.
pub(super) enum Reply {
    Message {
        metadata: HeaderMap,
        message: Box<dyn EncodeMessage>,
        trailers: Option<Box<HeaderMap>>,
    },
    Failed(Status),
}

/// There is no message in a frame that only ends a call.
type NoMessage = Encoded<&'static [u8]>;

impl Outcome {
    /// Makes it of a response, each of whose messages may have `message_len_max` bytes. Of one that layers have made anew, it takes what
    /// is there already.
    pub(super) fn of(
        mut response: http::Response<Body>,
        message_len_max: usize,
        cx: &mut Context<'_>,
    ) -> Self {
        if let Some(status) = Status::of_response(&mut response) {
            return Self::Reply(Reply::Failed(status));
        }
        if response.body().is_foreign() {
            let coding = Coding::of_neighbour(response.headers());
            response.body_mut().set_coding(coding);
        }
        let content = response.body_mut().take_to_send(cx, message_len_max);
        let metadata = mem::take(response.headers_mut());
        match content {
            ToSend::One(message, trailers) => Self::Reply(Reply::Message {
                metadata,
                message,
                trailers,
            }),
            ToSend::Many(messages, trailers, watchers) => Self::Stream(StreamReply {
                metadata,
                messages,
                trailers,
                watchers,
            }),
            ToSend::Nothing(status) => Self::Reply(Reply::Failed(status)),
        }
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Reply(Reply::Failed(status))
    }
}

impl Reply {
    /// Returns how the call ended.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Message { .. } => Code::Ok,
            Self::Failed(status) => status.code(),
        }
    }

    /// Sends the reply if that can be done at once. Returns `false`, having sent nothing, if it takes waiting.
    ///
    /// A reply that is too large becomes one that says so.
    pub(super) fn try_send(
        &mut self,
        stream: &mut SendHalf,
        message_len_max: usize,
    ) -> Result<bool, SendError> {
        loop {
            *self = match self {
                Self::Message {
                    metadata,
                    message,
                    trailers,
                } => {
                    match response_frame(
                        metadata,
                        &mut **message,
                        trailers.as_deref(),
                        message_len_max,
                    ) {
                        Ok(mut frame) => return frame.try_send(stream),
                        Err(error) => Self::Failed(error.into()),
                    }
                }
                Self::Failed(status) => match failure_frame(status) {
                    Ok(mut frame) => return frame.try_send(stream),
                    Err(_) => Self::Failed(status.shortened()),
                },
            };
        }
    }

    /// Sends the reply. One for which the session has no memory becomes one that says so.
    pub(super) async fn send(self, stream: &mut SendHalf, message_len_max: usize) {
        let problem = match self.send_once(stream, message_len_max).await {
            Err(SendError::TooLarge { .. }) => {
                "the response is larger than the memory of the session"
            }
            Err(SendError::Memory(_)) => "there is no memory for the response",
            // A caller that has gone needs no answer.
            Ok(()) | Err(_) => return,
        };
        let failed = Self::Failed(Status::resource_exhausted(problem));
        let _ = failed.send_once(stream, message_len_max).await;
    }

    async fn send_once(
        mut self,
        stream: &mut SendHalf,
        message_len_max: usize,
    ) -> Result<(), SendError> {
        if self.try_send(stream, message_len_max)? {
            return Ok(());
        }
        // That was not for its size, which was mended if need be.
        match &mut self {
            Self::Message {
                metadata,
                message,
                trailers,
            } => {
                match response_frame(
                    metadata,
                    &mut **message,
                    trailers.as_deref(),
                    message_len_max,
                ) {
                    Ok(frame) => frame.send(stream).await,
                    Err(_) => Ok(()),
                }
            }
            Self::Failed(status) => match failure_frame(status) {
                Ok(frame) => frame.send(stream).await,
                Err(_) => Ok(()),
            },
        }
    }
}

fn response_frame<'a>(
    metadata: &'a HeaderMap,
    message: &'a mut (dyn EncodeMessage + 'static),
    trailers: Option<&'a HeaderMap>,
    message_len_max: usize,
) -> Result<Outgoing<'a, ResponseHeadRef<'a>, dyn EncodeMessage + 'static>, FrameTooLarge> {
    let trailers = trailers
        .filter(|trailers| !trailers.is_empty())
        .map(TrailersRef::ok);
    let flags = if trailers.is_some() {
        Flags::UNARY.with(Flags::TRAILERS)
    } else {
        Flags::UNARY
    };
    Outgoing::new(
        flags,
        ResponseHeadRef { metadata, trailers },
        Some(message),
        message_len_max,
    )
}

fn failure_frame(
    status: &Status,
) -> Result<Outgoing<'_, TrailersRef<'_>, NoMessage>, FrameTooLarge> {
    Outgoing::new(
        Flags::TRAILERS.with(Flags::END),
        TrailersRef::failed(status),
        None,
        0,
    )
}
