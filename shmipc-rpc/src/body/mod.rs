//! What an `http::Request` or `http::Response` of a call carries.

mod decoder;
mod encode;
mod ending;
pub(crate) mod grpc;
mod messages;
mod receiving;

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use shmipc_transport::{Peer, RecvBuf};
use sync_wrapper::SyncWrapper;

use self::decoder::Foreign;
pub(crate) use self::{
    decoder::{Decoder, ForeignBody},
    encode::{Borrowed, Encode, EncodeMessage, Encoded, Owned, repeatable},
    messages::{Fallible, Infallible, Messages, NoMessages, Outflow},
    receiving::{Receiving, given_up, session_lost},
};
use crate::{
    Cancellation, RequestSink, ResponseSink, Status, Streaming, context::CallContext,
    error::BoxError, frame, stream::FarEnd,
};

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
    /// Many of them, yet to come.
    Messages(SyncWrapper<Pin<Box<dyn Messages>>>),
    /// Many of them, yet to be received.
    Receiving(Box<Receiving>),
    /// Received and yet to be decoded.
    Received(RecvBuf),
    /// What is left of a received message whose prefix was taken as a frame.
    Rest(RecvBuf),
    /// In the framing of gRPC, made by somebody else.
    Foreign(ForeignBody),
}

/// What comes after the message.
enum End {
    /// Nothing: a request, or a response that is all headers or has ended.
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

    /// Makes the body of a request with these messages.
    pub fn streaming_request<S, T>(messages: S) -> Self
    where
        S: Stream<Item = T> + Send + 'static,
        T: prost::Message + 'static,
    {
        let messages: Pin<Box<dyn Messages>> = match downcast::<S, RequestSink<T>>(messages) {
            Ok(sink) => Box::pin(FarEnd::from(sink)),
            Err(stream) => Box::pin(Outflow::new(Infallible { stream })),
        };
        Self::from_payload(Payload::Messages(SyncWrapper::new(messages)), End::None)
    }

    /// Makes the body of a response with these messages, which is successful unless one of them is a failure.
    pub fn streaming_response<S, T>(messages: S) -> Self
    where
        S: Stream<Item = Result<T, Status>> + Send + 'static,
        T: prost::Message + 'static,
    {
        let messages: Pin<Box<dyn Messages>> = match downcast::<S, ResponseSink<T>>(messages) {
            Ok(sink) => Box::pin(FarEnd::from(sink)),
            Err(stream) => Box::pin(Outflow::new(Fallible { stream })),
        };
        Self::from_payload(Payload::Messages(SyncWrapper::new(messages)), End::Ok)
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
                Self::from_payload(Payload::Foreign(Box::pin(Foreign::new(body))), End::None)
            }
        }
    }

    /// The body of a request with these messages, whose type has been forgotten.
    #[cfg(feature = "grpc")]
    pub(crate) fn messages(messages: Pin<Box<dyn Messages>>) -> Self {
        Self::from_payload(Payload::Messages(SyncWrapper::new(messages)), End::None)
    }

    pub(crate) fn received_request(message: RecvBuf, context: CallContext) -> Self {
        Self {
            payload: Payload::Received(message),
            end: End::None,
            context,
        }
    }

    /// The body of a request whose messages are yet to be received.
    pub(crate) fn receiving_request(receiving: Receiving, context: CallContext) -> Self {
        Self {
            payload: Payload::Receiving(Box::new(receiving)),
            end: End::None,
            context,
        }
    }

    /// The body of a response whose messages are yet to be received.
    pub(crate) fn receiving_response(receiving: Receiving) -> Self {
        Self::from_payload(Payload::Receiving(Box::new(receiving)), End::Ok)
    }

    /// The body of a response without messages, that went well.
    pub(crate) fn empty_response(trailers: Option<Box<HeaderMap>>) -> Self {
        Self::from_payload(Payload::Empty, trailers.map_or(End::Ok, End::Trailers))
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
        self.context.served.as_deref().map(|served| served.peer())
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
            Payload::Messages(_) | Payload::Receiving(_) | Payload::Foreign(_) => {
                return Err(self);
            }
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
                let mut messages = body.into_streaming(message_len_max);
                let message = messages.message().await?.ok_or_else(no_message)?;
                if messages.message().await?.is_some() {
                    return Err(more_messages());
                }
                let trailers = messages.trailers().await?;
                Ok((message, (!trailers.is_empty()).then(|| Box::new(trailers))))
            }
        }
    }

    /// Returns the messages as they come, each of at most `message_len_max` bytes.
    pub(crate) fn into_streaming<T>(self, message_len_max: usize) -> Streaming<T>
    where
        T: prost::Message + Default + 'static,
    {
        let trailers = self.end.into_metadata();
        let streaming = match self.payload {
            Payload::Empty => Streaming::over(),
            Payload::Message(message) => Streaming::one(typed(message)),
            Payload::Received(message) if message_len_max < message.len() => Streaming::one(Err(
                frame::message_too_large(message.len(), message_len_max),
            )),
            Payload::Received(message) => Streaming::one(decode(message)),
            Payload::Rest(_) => Streaming::one(Err(taken())),
            Payload::Messages(messages) => Streaming::messages(messages.into_inner()),
            Payload::Receiving(receiving) => Streaming::received(receiving),
            Payload::Foreign(body) => Streaming::foreign(Decoder::new(body, message_len_max)),
        };
        streaming.with_trailers(trailers)
    }

    /// Takes what is to be sent, and the trailing metadata.
    pub(crate) fn take_to_send(&mut self, message_len_max: usize) -> ToSend {
        let is_response = !matches!(self.end, End::None);
        let end = mem::replace(&mut self.end, End::None).into_metadata();
        let message: Box<dyn EncodeMessage> = match mem::replace(&mut self.payload, Payload::Empty)
        {
            Payload::Message(message) => message,
            Payload::Received(message) => Box::new(Encoded(message)),
            Payload::Rest(_) => return ToSend::Nothing(taken()),
            Payload::Empty if is_response => {
                return ToSend::Many(Box::pin(Outflow::new(NoMessages)), end);
            }
            Payload::Empty => return ToSend::Nothing(no_message()),
            Payload::Messages(messages) => return ToSend::Many(messages.into_inner(), end),
            Payload::Receiving(receiving) => {
                return ToSend::Many(Box::pin(Outflow::new(*receiving)), end);
            }
            Payload::Foreign(body) => {
                let decoder = Decoder::new(body, message_len_max);
                return ToSend::Many(Box::pin(Outflow::new(decoder)), end);
            }
        };
        ToSend::One(message, end)
    }

    /// Makes a frame of the next of many messages, or of what comes after them.
    fn next_frame(
        &mut self,
        next: Option<Result<Bytes, Status>>,
        trailers: Option<Box<HeaderMap>>,
    ) -> Option<Result<Frame<Bytes>, Status>> {
        let is_response = !matches!(self.end, End::None);
        match next {
            Some(Ok(message)) => Some(Ok(Frame::data(message))),
            Some(Err(status)) => {
                self.payload = Payload::Empty;
                self.end = End::None;
                // Failures are ordinary trailers in HTTP, but a request has none.
                Some(if is_response {
                    Ok(Frame::trailers(status.to_headers()))
                } else {
                    Err(status)
                })
            }
            None => {
                self.payload = Payload::Empty;
                let mut metadata = HeaderMap::new();
                let end = mem::replace(&mut self.end, End::None);
                crate::metadata::merge(&mut metadata, end.into_metadata());
                crate::metadata::merge(&mut metadata, trailers);
                is_response.then(|| Ok(Frame::trailers(ok_trailers(metadata))))
            }
        }
    }

    /// Polls for a frame, and fails instead of returning a message of more than `message_len_max` bytes.
    ///
    /// What somebody else has framed is passed on as it is.
    #[cfg(feature = "grpc")]
    pub(crate) fn poll_limited_frame(
        &mut self,
        cx: &mut Context<'_>,
        message_len_max: usize,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        use http_body::Body as _;

        let (known_len, in_messages) = match &self.payload {
            Payload::Message(message) => (message.encoded_len(), true),
            Payload::Received(message) => (message.remaining(), true),
            Payload::Messages(_) | Payload::Receiving(_) => (0, true),
            Payload::Empty | Payload::Rest(_) | Payload::Foreign(_) => (0, false),
        };
        let (len, polled) = if message_len_max < known_len {
            (known_len, None)
        } else {
            let polled = ready!(Pin::new(&mut *self).poll_frame(cx));
            let data = polled
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            let len = data.map_or(0, |data| data.len().saturating_sub(grpc::PREFIX_LEN));
            (if in_messages { len } else { 0 }, polled)
        };
        if message_len_max < len {
            self.payload = Payload::Empty;
            self.end = End::None;
            return Poll::Ready(Some(Err(frame::message_too_large(len, message_len_max))));
        }
        Poll::Ready(polled)
    }

    /// Sets the metadata that comes after the last message of a response.
    pub(crate) fn set_trailers(&mut self, metadata: HeaderMap) {
        self.end = End::Trailers(Box::new(metadata));
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

/// What a body has to be sent, and the trailing metadata.
pub(crate) enum ToSend {
    /// One message, that is there.
    One(Box<dyn EncodeMessage>, Option<Box<HeaderMap>>),
    /// Messages that are yet to come; how many, nobody knows.
    Many(Pin<Box<dyn Messages>>, Option<Box<HeaderMap>>),
    /// No message, for this reason.
    Nothing(Status),
}

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
            Payload::Messages(_) => body.field("messages", &true),
            Payload::Receiving(_) => body.field("receiving", &true),
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
        match &mut this.payload {
            Payload::Foreign(body) => return body.as_mut().poll_frame(cx),
            Payload::Messages(messages) => {
                let messages = messages.get_mut();
                let next = ready!(messages.as_mut().poll_next(cx))
                    .map(|next| next.map(|mut message| message.encode_to_grpc()));
                // Before the end, they would be lost.
                let is_over = next.is_none();
                let trailers = is_over.then(|| messages.as_mut().take_trailers()).flatten();
                return Poll::Ready(this.next_frame(next, trailers));
            }
            Payload::Receiving(receiving) => {
                let next = ready!(receiving.poll_message(cx))
                    .map(|next| next.map(|message| Encoded(message).encode_to_grpc()));
                let trailers = next.is_none().then(|| receiving.take_trailers()).flatten();
                return Poll::Ready(this.next_frame(next, trailers));
            }
            Payload::Empty | Payload::Message(_) | Payload::Received(_) | Payload::Rest(_) => {}
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
            Payload::Empty | Payload::Messages(_) | Payload::Receiving(_) | Payload::Foreign(_) => {
                match mem::replace(&mut this.end, End::None) {
                    End::None => return Poll::Ready(None),
                    End::Ok => Frame::trailers(ok_trailers(HeaderMap::new())),
                    End::Trailers(metadata) => Frame::trailers(ok_trailers(*metadata)),
                }
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => matches!(self.end, End::None),
            Payload::Foreign(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let len = match &self.payload {
            Payload::Empty => 0,
            Payload::Message(message) => grpc::PREFIX_LEN + message.encoded_len(),
            Payload::Received(message) => grpc::PREFIX_LEN + message.remaining(),
            Payload::Rest(message) => message.remaining(),
            Payload::Foreign(body) => return body.size_hint(),
            Payload::Messages(_) | Payload::Receiving(_) => return SizeHint::default(),
        };
        SizeHint::with_exact(len as u64)
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

fn more_messages() -> Status {
    Status::internal("there is more than one message where there must be one")
}

fn no_message() -> Status {
    Status::internal("there is no message where there must be one")
}

/// Takes a message that never left this process as it is, or through its encoding if it has another type.
pub(crate) fn typed<T: prost::Message + Default + 'static>(
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
