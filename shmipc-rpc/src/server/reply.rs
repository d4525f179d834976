use std::{borrow::Cow, mem};

use http::HeaderMap;
use shmipc_transport::{SendError, Stream};

use crate::{
    Body, Code, Status,
    body::{EncodeMessage, Encoded},
    frame::{Flags, FrameTooLarge, Outgoing, ResponseHeadRef, TrailersRef},
};

/// The answer to a call, ready to be sent.
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

impl Reply {
    /// Makes a reply of a response, if that takes no waiting.
    ///
    /// Gives the response back if its body must be collected first: see [`collect`](Self::collect).
    #[expect(
        clippy::result_large_err,
        reason = "the response is given back to be used"
    )]
    pub(super) fn of(mut response: http::Response<Body>) -> Result<Self, http::Response<Body>> {
        if let Some(status) = Status::of_response(response.status(), response.headers_mut()) {
            return Ok(Self::Failed(status));
        }
        match response.body_mut().take_encode() {
            Some(Ok((message, trailers))) => Ok(Self::Message {
                metadata: mem::take(response.headers_mut()),
                message,
                trailers,
            }),
            Some(Err(status)) => Ok(Self::Failed(status)),
            None => Err(response),
        }
    }

    /// Makes a reply of a response whose body takes waiting.
    pub(super) async fn collect(response: http::Response<Body>, message_len_max: usize) -> Self {
        let (parts, body) = response.into_parts();
        match body.into_encode(message_len_max).await {
            Ok((message, trailers)) => Self::Message {
                metadata: parts.headers,
                message,
                trailers,
            },
            Err(status) => Self::Failed(status),
        }
    }

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
        stream: &mut Stream,
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
                    Err(_) => Self::Failed(shortened(status)),
                },
            };
        }
    }

    /// Sends the reply.
    pub(super) async fn send(
        mut self,
        stream: &mut Stream,
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

/// Returns the status without what made it too large to be sent.
fn shortened(status: &Status) -> Status {
    const MESSAGE_LEN_MAX: usize = 4096;

    let mut message = Cow::Borrowed(status.message());
    if MESSAGE_LEN_MAX < message.len() {
        let fits = |&end: &usize| message.is_char_boundary(end);
        let end = (0..=MESSAGE_LEN_MAX).rev().find(fits).unwrap_or(0);
        message = Cow::Owned(format!("{}…", &message[..end]));
    }
    Status::new(status.code(), message)
}
