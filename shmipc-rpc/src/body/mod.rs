//! What an `http::Request` or `http::Response` of a call carries.

mod encode;
pub(crate) mod grpc;

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use shmipc_transport::{Peer, RecvBuf, Session};

pub(crate) use self::encode::{Borrowed, Encode, EncodeMessage, Encoded, Owned};
use crate::{Cancellation, Code, Status, context::CallContext, error::BoxError};

/// The body of a call's `http::Request` and `http::Response`.
///
/// It carries a *typed* message until it is encoded straight into shared memory, or a received one, decoded where it
/// lies. As an [`http_body::Body`] it is what gRPC sends over HTTP/2: a prefix of five bytes, the message, and, in a
/// response, trailers with the status. So middleware for HTTP works with it, and so does HTTP/2.
///
/// It also knows of its call: see [`peer`](Self::peer), [`deadline`](Self::deadline) and
/// [`cancellation`](Self::cancellation).
pub struct Body {
    payload: Payload,
    end: End,
    context: CallContext,
}

/// The message, in one of its forms.
enum Payload {
    Empty,
    /// Yet to be encoded.
    Message(Box<dyn EncodeMessage>),
    /// Received and yet to be decoded.
    Received(RecvBuf),
    /// What is left of a received message whose prefix was taken as a frame.
    Rest(RecvBuf),
    /// In the framing of gRPC, made by somebody else.
    Foreign(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Status> + Send>>),
}

/// What comes after the message.
enum End {
    /// Nothing: a request, or a response that is all headers.
    None,
    /// Trailers with status 0 and nothing else.
    Ok,
    /// Trailers with status 0 and metadata.
    Trailers(Box<HeaderMap>),
}

/// A received message of at most this length is taken out in one frame with its prefix.
const ONE_FRAME_LEN_MAX: usize = 4096;

impl Body {
    /// Makes a body without a message.
    #[must_use]
    pub fn empty() -> Self {
        Self::from_payload(Payload::Empty, End::None)
    }

    /// Makes the body of a request with this message.
    pub fn request<T: prost::Message + 'static>(message: T) -> Self {
        Self::from_payload(Payload::Message(Box::new(Owned(message))), End::None)
    }

    /// Makes the body of a successful response with this message.
    pub fn response<T: prost::Message + 'static>(message: T) -> Self {
        Self::from_payload(Payload::Message(Box::new(Owned(message))), End::Ok)
    }

    /// Makes a body of any other that is in the framing of gRPC, as middleware and HTTP/2 stacks make them.
    ///
    /// A `Body` is returned as it is.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match downcast::<B, Self>(body) {
            Ok(body) => body,
            Err(body) => {
                Self::from_payload(Payload::Foreign(Box::pin(Foreign { body })), End::None)
            }
        }
    }

    pub(crate) fn received_request(message: RecvBuf, context: CallContext) -> Self {
        Self {
            payload: Payload::Received(message),
            end: End::None,
            context,
        }
    }

    pub(crate) fn received_response(message: RecvBuf, trailers: Option<Box<HeaderMap>>) -> Self {
        let end = trailers.map_or(End::Ok, End::Trailers);
        Self::from_payload(Payload::Received(message), end)
    }

    /// Returns the process that calls, as the kernel knows it.
    ///
    /// `None` on the calling side, and if the body was made by somebody else.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.context.session.as_ref().map(Session::peer)
    }

    /// Returns when the caller stops waiting. `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline()
    }

    /// Returns a handle that tells when the caller no longer waits.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.context.cancellation.clone()
    }

    /// Makes the body one of this call.
    pub(crate) fn with_context(mut self, context: CallContext) -> Self {
        self.context = context;
        self
    }

    /// Takes the context of the call off `request`.
    pub(crate) fn take_context(request: &mut http::Request<Self>) -> CallContext {
        // Who began the call left a copy there, in case that somebody made a new body.
        let copy = request.extensions_mut().remove();
        let body = request.body_mut();
        match body.payload {
            Payload::Foreign(_) => copy.unwrap_or_default(),
            _ => mem::take(&mut body.context),
        }
    }

    /// Decodes the message, if that takes no waiting.
    ///
    /// Gives the body back if it must be [collected](Self::into_message) first.
    #[expect(clippy::result_large_err, reason = "the body is given back to be used")]
    pub(crate) fn try_into_message<T>(self) -> Result<Decoded<T>, Self>
    where
        T: prost::Message + Default + 'static,
    {
        let message = match self.payload {
            Payload::Empty => Err(no_message()),
            Payload::Message(message) => typed(message),
            Payload::Received(message) => decode(message),
            Payload::Rest(_) => Err(taken()),
            Payload::Foreign(_) => return Err(self),
        };
        Ok(message.map(|message| (message, self.end.into_metadata())))
    }

    /// Decodes the message, and returns it with the trailing metadata.
    pub(crate) async fn into_message<T>(self, message_len_max: usize) -> Decoded<T>
    where
        T: prost::Message + Default + 'static,
    {
        match self.try_into_message() {
            Ok(decoded) => decoded,
            Err(body) => {
                let (pieces, trailers) = body.collect(message_len_max).await?;
                Ok((decode(pieces)?, trailers))
            }
        }
    }

    /// Takes the message for sending, and the trailing metadata.
    ///
    /// Returns `None`, and takes nothing, if it must be [collected](Self::into_encode) first.
    pub(crate) fn take_encode(&mut self) -> Option<ToEncode> {
        if let Payload::Foreign(_) = self.payload {
            return None;
        }
        let message: Box<dyn EncodeMessage> = match mem::replace(&mut self.payload, Payload::Empty)
        {
            Payload::Empty | Payload::Foreign(_) => return Some(Err(no_message())),
            Payload::Message(message) => message,
            Payload::Received(message) => Box::new(Encoded(message)),
            Payload::Rest(_) => return Some(Err(taken())),
        };
        let end = mem::replace(&mut self.end, End::None);
        Some(Ok((message, end.into_metadata())))
    }

    /// Returns the message for sending, and the trailing metadata.
    pub(crate) async fn into_encode(mut self, message_len_max: usize) -> ToEncode {
        match self.take_encode() {
            Some(message) => message,
            None => {
                let (pieces, trailers) = self.collect(message_len_max).await?;
                Ok((Box::new(Encoded(pieces)), trailers))
            }
        }
    }

    /// Reads a foreign body to its end, where the trailers must say that all went well.
    async fn collect(
        self,
        message_len_max: usize,
    ) -> Result<(grpc::Pieces, Option<Box<HeaderMap>>), Status> {
        let collected = grpc::collect(self, message_len_max).await?;
        let mut trailers = collected.trailers;
        if let Some(trailers) = &mut trailers {
            if let Some(status) =
                Status::from_headers(trailers).filter(|status| status.code() != Code::Ok)
            {
                return Err(status);
            }
            crate::status::remove_status_headers(trailers);
        }
        Ok((
            collected.message.ok_or_else(no_message)?,
            trailers
                .filter(|trailers| !trailers.is_empty())
                .map(Box::new),
        ))
    }

    fn from_payload(payload: Payload, end: End) -> Self {
        Self {
            payload,
            end,
            context: CallContext::default(),
        }
    }
}

/// A message and trailing metadata, or why there is none.
pub(crate) type Decoded<T> = Result<(T, Option<Box<HeaderMap>>), Status>;

/// A message for sending and trailing metadata, or why there is none.
pub(crate) type ToEncode = Result<(Box<dyn EncodeMessage>, Option<Box<HeaderMap>>), Status>;

impl End {
    fn into_metadata(self) -> Option<Box<HeaderMap>> {
        match self {
            Self::None | Self::Ok => None,
            Self::Trailers(metadata) => Some(metadata),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = f.debug_struct("Body");
        match &self.payload {
            Payload::Empty => body.field("empty", &true),
            Payload::Message(message) => body.field("message_len", &message.encoded_len()),
            Payload::Received(message) => body.field("received_len", &message.remaining()),
            Payload::Rest(message) => body.field("rest_len", &message.remaining()),
            Payload::Foreign(_) => body.field("foreign", &true),
        };
        body.finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Payload::Foreign(body) = &mut this.payload {
            return body.as_mut().poll_frame(cx);
        }
        let frame = match mem::replace(&mut this.payload, Payload::Empty) {
            Payload::Message(mut message) => Frame::data(message.encode_to_grpc()),
            Payload::Received(message) => {
                let (first, rest) = first_frame(message);
                this.payload = rest;
                Frame::data(first)
            }
            Payload::Rest(mut message) => {
                let len = message.chunk().len();
                let piece = message.copy_to_bytes(len);
                if message.has_remaining() {
                    this.payload = Payload::Rest(message);
                }
                Frame::data(piece)
            }
            Payload::Empty | Payload::Foreign(_) => match mem::replace(&mut this.end, End::None) {
                End::None => return Poll::Ready(None),
                End::Ok => Frame::trailers(ok_trailers(HeaderMap::new())),
                End::Trailers(metadata) => Frame::trailers(ok_trailers(*metadata)),
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => matches!(self.end, End::None),
            Payload::Foreign(body) => body.is_end_stream(),
            Payload::Message(_) | Payload::Received(_) | Payload::Rest(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let len = match &self.payload {
            Payload::Empty => 0,
            Payload::Message(message) => grpc::PREFIX_LEN + message.encoded_len(),
            Payload::Received(message) => grpc::PREFIX_LEN + message.remaining(),
            Payload::Rest(message) => message.remaining(),
            Payload::Foreign(body) => return body.size_hint(),
        };
        SizeHint::with_exact(len as u64)
    }
}

pin_project! {
    /// Somebody else's body, with our kind of error.
    struct Foreign<B> {
        #[pin]
        body: B,
    }
}

impl<B> http_body::Body for Foreign<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(self.project().body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns the prefix of a received message, and with it the message if it is short.
fn first_frame(mut message: RecvBuf) -> (Bytes, Payload) {
    let len = message.remaining();
    let with_message = len <= ONE_FRAME_LEN_MAX;
    let mut first = BytesMut::with_capacity(grpc::PREFIX_LEN + if with_message { len } else { 0 });
    first.put_slice(&grpc::prefix(len));
    let rest = if with_message {
        first.put(&mut message);
        Payload::Empty
    } else {
        Payload::Rest(message)
    };
    (first.freeze(), rest)
}

/// Adds the status of success to trailing metadata.
fn ok_trailers(mut metadata: HeaderMap) -> HeaderMap {
    metadata.insert("grpc-status", http::HeaderValue::from_static("0"));
    metadata
}

fn taken() -> Status {
    Status::internal("the message was taken by somebody else")
}

fn no_message() -> Status {
    Status::internal("there is no message where there must be one")
}

/// Takes a message that never left this process as it is, or through its encoding if it has another type.
fn typed<T: prost::Message + Default + 'static>(
    mut message: Box<dyn EncodeMessage>,
) -> Result<T, Status> {
    if !(&*message as &dyn Any).is::<Owned<T>>() {
        let mut encoded = message.encode_to_grpc();
        encoded.advance(grpc::PREFIX_LEN);
        return decode(encoded);
    }
    let message = (message as Box<dyn Any>).downcast::<Owned<T>>();
    message.map(|message| message.0).map_err(|_| no_message())
}

/// Decodes a message, which is all of `message`.
pub(crate) fn decode<T: prost::Message + Default>(message: impl Buf) -> Result<T, Status> {
    T::decode(message).map_err(|error| {
        Status::internal("the message is not what its type demands")
            .with_source(BoxError::from(error))
    })
}

/// Returns `value` as a `U`, if that is what it is.
pub(crate) fn downcast<T: 'static, U: 'static>(value: T) -> Result<U, T> {
    let mut value = Some(value);
    match (&mut value as &mut dyn Any)
        .downcast_mut::<Option<U>>()
        .and_then(Option::take)
    {
        Some(found) => Ok(found),
        None => Err(value.expect("a value that is not a `U` was not taken")),
    }
}
