//! What comes back.

use std::{any::Any, future::poll_fn};

use http::HeaderMap;
use shmipc_transport::{RecvBuf, SendError};

use crate::{
    Body, Response, Status, Streaming,
    body::{Receiving, decode, given_up, session_lost},
    error::BoxError,
    metadata,
};

/// The answer to a call that goes well, as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
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
}

impl Answer {
    pub(super) fn new(metadata: HeaderMap, mut receiving: Receiving) -> Self {
        let content = match receiving.take_whole() {
            Some((message, trailers)) => Content::Whole(message, trailers),
            None => Content::Rest(receiving),
        };
        Self { metadata, content }
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
        }
    }

    /// Waits for what must be one message.
    pub(super) async fn into_message<T>(self) -> Result<Response<T>, Status>
    where
        T: prost::Message + Default,
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
        };
        let message = message.ok_or_else(|| {
            Status::internal("the server says that all went well, but sent no message")
        })?;
        let mut metadata = self.metadata;
        metadata::merge(&mut metadata, trailers);
        Ok(Response::from_parts(
            decode(message)?,
            metadata,
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
        };
        Response::from_parts(streaming, self.metadata, http::Extensions::new())
    }

    /// Makes the response for layers.
    pub(super) fn into_http(self) -> http::Response<Body> {
        let body = match self.content {
            Content::Whole(Some(message), trailers) => Body::received_response(message, trailers),
            Content::Whole(None, trailers) => Body::empty_response(trailers),
            Content::Rest(rest) => Body::receiving_response(rest),
        };
        let mut response = http::Response::new(body);
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = self.metadata;
        response
    }
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
                .with_source(BoxError::from(error))
        }
        SendError::Memory(_) => Status::resource_exhausted("there is no memory for the request")
            .with_source(BoxError::from(error)),
        error => {
            Status::internal("the request could not be sent").with_source(BoxError::from(error))
        }
    }
}
