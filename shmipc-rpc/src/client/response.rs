//! What comes back.

use std::{any::Any, future::poll_fn};

use http::HeaderMap;
#[cfg(feature = "grpc")]
use http::HeaderValue;
use shmipc_transport::{RecvBuf, SendError};

#[cfg(feature = "grpc")]
use super::{
    direct::Terms,
    http2::{ReceivedBody, body_of},
};
use crate::{
    Body, Response, Status, Streaming,
    body::{Receiving, decode, given_up, session_lost},
    metadata,
};
#[cfg(feature = "grpc")]
use crate::{
    codec::{Coding, Encodings},
    grpc_headers,
};

/// The answer to a call that goes well, as far as it has come.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What came before the first message.
    metadata: HeaderMap,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// All of it: a message, if there is any, and the metadata that came after it.
    Whole(Option<RecvBuf>, Option<Box<HeaderMap>>),
    /// What is yet to come.
    Rest(Receiving),
    /// What is yet to come over HTTP/2, if anything is, how long a message of it may be, and how it may be compressed.
    #[cfg(feature = "grpc")]
    Http2(Option<Box<ReceivedBody>>, usize, Encodings),
}

impl Answer {
    pub(crate) fn new(metadata: HeaderMap, mut receiving: Receiving) -> Self {
        let content = match receiving.take_whole() {
            Some((message, trailers)) => Content::Whole(message, trailers),
            None => Content::Rest(receiving),
        };
        Self { metadata, content }
    }

    /// What opens a response over HTTP/2, and what will receive the rest.
    #[cfg(feature = "grpc")]
    pub(super) fn over_http2(
        metadata: HeaderMap,
        received: Option<ReceivedBody>,
        terms: Terms,
    ) -> Self {
        let (max, accepted) = (terms.limits.response_len_max, terms.compression.accept);
        Self {
            metadata,
            content: Content::Http2(received.map(Box::new), max, accepted),
        }
    }

    /// Returns the metadata that came before the first message.
    pub(super) fn metadata_mut(&mut self) -> &mut HeaderMap {
        &mut self.metadata
    }

    /// Keeps a value until the answer has arrived as a whole, or nobody waits for it any longer.
    pub(super) fn hold(&mut self, value: impl Any + Send + Sync) {
        match &mut self.content {
            Content::Whole(..) => {}
            Content::Rest(rest) => rest.hold(Box::new(value)),
            #[cfg(feature = "grpc")]
            Content::Http2(Some(received), ..) => received.hold(Box::new(value)),
            #[cfg(feature = "grpc")]
            Content::Http2(None, ..) => {}
        }
    }

    /// Waits for what must be one message.
    pub(super) async fn into_message<T>(self) -> Result<Response<T>, Status>
    where
        T: prost::Message + Default + 'static,
    {
        let (message, trailers) = match self.content {
            Content::Whole(message, trailers) => (message, trailers),
            Content::Rest(mut rest) => {
                let message = poll_fn(|cx| rest.poll_message(cx)).await.transpose()?;
                if poll_fn(|cx| rest.poll_message(cx))
                    .await
                    .transpose()?
                    .is_some()
                {
                    let problem = "the server sent more than one message where there must be one";
                    return Err(Status::internal(problem));
                }
                (message, rest.take_trailers())
            }
            #[cfg(feature = "grpc")]
            Content::Http2(received, max, accepted) => {
                let body = body_to_read(received, accepted);
                let (message, trailers) = Box::pin(body.into_message(max)).await?;
                let mut metadata = self.metadata;
                metadata::merge(&mut metadata, trailers);
                return Ok(Response::from_parts(
                    metadata,
                    message,
                    http::Extensions::new(),
                ));
            }
        };
        let message = message.ok_or_else(|| {
            Status::internal("the server says that all went well, but sent no message")
        })?;
        let mut metadata = self.metadata;
        metadata::merge(&mut metadata, trailers);
        Ok(Response::from_parts(
            metadata,
            decode(message)?,
            http::Extensions::new(),
        ))
    }

    /// Returns the messages as they come.
    pub(super) fn into_streaming<T>(self) -> Response<Streaming<T>>
    where
        T: prost::Message + Default + 'static,
    {
        let streaming = match self.content {
            Content::Whole(None, trailers) => Streaming::over().with_trailers(trailers),
            Content::Whole(Some(message), trailers) => {
                Streaming::one(decode(message)).with_trailers(trailers)
            }
            Content::Rest(rest) => Streaming::received(Box::new(rest)),
            #[cfg(feature = "grpc")]
            Content::Http2(received, max, accepted) => {
                body_to_read(received, accepted).into_streaming(max)
            }
        };
        Response::from_parts(self.metadata, streaming, http::Extensions::new())
    }

    /// Makes the response for layers. If it `never_fails`, what goes wrong on the way becomes trailers.
    #[cfg_attr(
        not(feature = "grpc"),
        expect(unused_variables, reason = "the bodies of sessions never fail")
    )]
    pub(crate) fn into_http(self, never_fails: bool) -> http::Response<Body> {
        let body = match self.content {
            Content::Whole(Some(message), trailers) => Body::received_response(message, trailers),
            Content::Whole(None, trailers) => Body::empty_response(trailers),
            Content::Rest(rest) => Body::receiving_response(rest),
            #[cfg(feature = "grpc")]
            Content::Http2(mut received, ..) => {
                let mut metadata = self.metadata;
                if let Some(encoding) = encoding_of(&mut received) {
                    metadata.insert(grpc_headers::ENCODING, encoding);
                }
                let body = body_of(received.map(|received| *received), never_fails);
                return http_response(metadata, body);
            }
        };
        http_response(self.metadata, body)
    }
}

fn http_response(metadata: HeaderMap, body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = metadata;
    response
}

/// Takes what the head of a response over HTTP/2 said of how its messages are compressed.
#[cfg(feature = "grpc")]
fn encoding_of(received: &mut Option<Box<ReceivedBody>>) -> Option<HeaderValue> {
    received.as_mut()?.take_encoding()
}

/// Makes the body of a response over HTTP/2 whose messages are to be read, and may be compressed by `accepted`.
#[cfg(feature = "grpc")]
fn body_to_read(mut received: Option<Box<ReceivedBody>>, accepted: Encodings) -> Body {
    let encoding = encoding_of(&mut received);
    let mut body = body_of(received.map(|received| *received), false);
    body.set_coding(Coding::of_response(encoding.as_ref(), accepted));
    body
}

/// The status of a call whose request could not be sent.
pub(crate) fn not_sent(error: SendError) -> Status {
    match error {
        SendError::Reset(code) => given_up(code),
        // What is lost while it is being sent was not sent: a message is published as a whole.
        SendError::SessionLost(lost) => session_lost(lost).unsent(),
        SendError::GoingAway => Status::unavailable("the peer accepts no further calls").unsent(),
        SendError::TooLarge { .. } => {
            Status::resource_exhausted("the request is larger than the memory of the session")
                .with_source(error)
        }
        SendError::Memory(_) => {
            Status::resource_exhausted("there is no memory for the request").with_source(error)
        }
        error => Status::internal("the request could not be sent").with_source(error),
    }
}
