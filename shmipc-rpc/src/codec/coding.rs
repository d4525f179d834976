//! What headers say of compression, and what is said in them.

use http::{HeaderMap, HeaderValue};

use super::{CompressionEncoding, Encodings, SingleMessageCompressionOverride};
use crate::{
    Body, Status,
    body::grpc,
    grpc_headers::{ACCEPT_ENCODING, ENCODING, IDENTITY},
};

/// What the head of a request or response says of the messages in it that are compressed.
#[derive(Debug, Default)]
pub(crate) enum Coding {
    /// There are to be none.
    #[default]
    Identity,
    /// This is how.
    Encoding(CompressionEncoding),
    /// By something that is not taken. What becomes of those messages.
    Refused(Box<Status>),
}

impl Coding {
    /// Of a request, to a service that takes messages compressed by `accepted`.
    pub(crate) fn of_request(headers: &HeaderMap, accepted: Encodings) -> Self {
        Self::read(headers.get(ENCODING), accepted, |name| {
            Status::unimplemented(format!(
                "the message is compressed by {name:?}, which this service does not accept"
            ))
        })
    }

    /// Of a response whose `grpc-encoding` is `value`, to a client that takes messages compressed by `accepted`.
    pub(crate) fn of_response(value: Option<&HeaderValue>, accepted: Encodings) -> Self {
        Self::read(value, accepted, |name| {
            Status::internal(format!(
                "the response is compressed by {name:?}, which this client does not accept"
            ))
        })
    }

    /// Of what somebody else in this process has made, and is about to leave it uncompressed.
    pub(crate) fn of_neighbour(headers: &HeaderMap) -> Self {
        Self::read(headers.get(ENCODING), Encodings::all(), |name| {
            Status::unimplemented(format!(
                "the message is compressed by {name:?}, and so cannot go through shared memory: enable the feature \
                 of shmipc-rpc that has this name, or do not compress"
            ))
        })
    }

    fn read(
        value: Option<&HeaderValue>,
        accepted: Encodings,
        refuse: impl FnOnce(&HeaderValue) -> Status,
    ) -> Self {
        let Some(name) = value.filter(|name| **name != IDENTITY) else {
            return Self::Identity;
        };
        let known = CompressionEncoding::from_name(name.as_bytes());
        match known.filter(|&encoding| accepted.contains(encoding)) {
            Some(encoding) => Self::Encoding(encoding),
            None => Self::Refused(Box::new(refuse(name))),
        }
    }

    /// Returns how a message is compressed before which there are these flags, which are not 0.
    #[cold]
    pub(crate) fn of_message(&self, flags: u8) -> Result<CompressionEncoding, Status> {
        match self {
            _ if flags != grpc::COMPRESSED => Err(Status::internal(format!(
                "a message has the flags {flags}, where 0 and 1 are possible"
            ))),
            Self::Encoding(encoding) => Ok(*encoding),
            Self::Refused(status) => Err((**status).clone()),
            Self::Identity => Err(Status::internal(
                "a message is said to be compressed, and the headers do not say how",
            )),
        }
    }
}

/// How a client compresses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientCompression {
    /// What requests are compressed by.
    pub(crate) send: Option<CompressionEncoding>,
    /// What responses may be compressed by.
    pub(crate) accept: Encodings,
}

impl ClientCompression {
    /// How the head says that it is done, of a request whose messages have been decompressed since.
    #[cfg(feature = "grpc")]
    pub(crate) fn of_request(headers: &HeaderMap) -> Self {
        let value = headers.get(ENCODING);
        Self {
            send: value.and_then(|name| CompressionEncoding::from_name(name.as_bytes())),
            accept: Encodings::accepted(headers),
        }
    }

    /// The same for a request with these extensions.
    pub(crate) fn for_call(mut self, extensions: &http::Extensions) -> Self {
        if self.send.is_some() && SingleMessageCompressionOverride::disables(extensions) {
            self.send = None;
        }
        self
    }

    /// Says so in the head of a request, and nothing else.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        match self.send {
            Some(encoding) => {
                headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
            }
            None => {
                headers.remove(ENCODING);
            }
        }
        if self.accept.is_empty() {
            headers.remove(ACCEPT_ENCODING);
        } else {
            headers.insert(ACCEPT_ENCODING, self.accept.header_value());
        }
    }
}

/// What the messages of a service may be compressed by. Begins with nothing. Generated servers have one.
#[must_use = "it does nothing until a server has it"]
#[derive(Clone, Copy, Debug, Default)]
pub struct Compression {
    accept: Encodings,
    send: Encodings,
}

impl Compression {
    /// Begins with nothing.
    pub const fn new() -> Self {
        Self {
            accept: Encodings::NONE,
            send: Encodings::NONE,
        }
    }

    /// Takes requests that are compressed by `encoding`, among others.
    pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
        self.accept.add(encoding);
        self
    }

    /// Compresses responses by `encoding` for callers that take it. If they take several of those that were added, they choose.
    pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
        self.send.add(encoding);
        self
    }

    /// Has a request be taken, and answered, like that. Generated servers call this first.
    pub fn apply(&self, request: &mut http::Request<Body>) {
        let is_empty = self.accept.is_empty() && self.send.is_empty();
        if !is_empty && request.body().is_foreign() {
            request.extensions_mut().insert(*self);
        }
    }
}

/// How the response to one request is compressed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Negotiated {
    send: Option<CompressionEncoding>,
    /// What the caller is told.
    accept: Encodings,
}

impl Negotiated {
    /// Reads the head of a request, whose body knows from here on how it is compressed. What came through a session never is.
    pub(crate) fn of(request: &mut http::Request<Body>) -> Self {
        if !request.body().is_foreign() {
            return Self::default();
        }
        let compression: Compression = request.extensions_mut().remove().unwrap_or_default();
        let coding = Coding::of_request(request.headers(), compression.accept);
        request.body_mut().set_coding(coding);
        Self {
            send: compression.send.wanted(request.headers()),
            accept: compression.accept,
        }
    }

    /// Has a response be compressed, and says so in its head.
    pub(crate) fn apply(self, response: &mut http::Response<Body>) {
        if !self.accept.is_empty() {
            let value = self.accept.header_value();
            response.headers_mut().insert(ACCEPT_ENCODING, value);
        }
        if let Some(encoding) = self.send
            && !SingleMessageCompressionOverride::disables(response.extensions())
        {
            let value = HeaderValue::from_static(encoding.name());
            response.headers_mut().insert(ENCODING, value);
            response.body_mut().compress(Some(encoding));
        }
    }
}
