//! What an `http::Request` or `http::Response` of a call carries.

mod decoder;
mod encode;
mod ending;
mod frames;
pub(crate) mod grpc;
mod limited;
mod measured;
mod messages;
mod receiving;
mod waited;

use std::{any::Any, fmt, mem, pin::Pin, task::Context, time::Instant};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::HeaderMap;
use shmipc_transport::{Peer, RecvBuf};
use sync_wrapper::SyncWrapper;

use self::decoder::Foreign;
#[cfg(feature = "grpc")]
pub(crate) use self::measured::Measured;
pub(crate) use self::{
    decoder::{Decoder, ForeignBody},
    encode::{Borrowed, Encode, EncodeMessage, Encoded, Incompressible, Owned},
    messages::{Fallible, Infallible, Messages, NoMessages, Outflow},
    receiving::{Receiving, given_up, session_lost},
};
use crate::{
    Cancellation, RequestSink, ResponseSink, Status, Streaming,
    codec::{Coding, CompressionEncoding},
    context::CallContext,
    error::BoxError,
    frame,
    interceptor::Watchers,
    stream::FarEnd,
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
    /// Who wants to see how the response ends, while that is not known.
    watchers: Option<Box<Watchers>>,
    /// How messages are compressed that leave as bytes, but for those that somebody else has framed.
    compression: Option<CompressionEncoding>,
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
    /// In the framing of gRPC, made by somebody else, and what the head says of its messages.
    Foreign(ForeignBody, Coding),
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
                let body = Box::pin(Foreign::new(body));
                Self::from_payload(Payload::Foreign(body, Coding::Identity), End::None)
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
            context,
            ..Self::from_payload(Payload::Received(message), End::None)
        }
    }

    /// The body of a request whose messages are yet to be received.
    pub(crate) fn receiving_request(receiving: Receiving, context: CallContext) -> Self {
        Self {
            context,
            ..Self::from_payload(Payload::Receiving(Box::new(receiving)), End::None)
        }
    }

    /// The body of a response whose messages are yet to be received.
    pub(crate) fn receiving_response(receiving: Receiving) -> Self {
        Self::from_payload(Payload::Receiving(Box::new(receiving)), End::Ok)
    }

    /// What stands for the messages of a response that are with somebody else. Its end is not known.
    pub(crate) fn apart() -> Self {
        let messages = Box::pin(Outflow::new(NoMessages));
        Self::from_payload(Payload::Messages(SyncWrapper::new(messages)), End::Ok)
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
            Payload::Foreign(..) => copy.unwrap_or_default(),
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
            Payload::Messages(_) | Payload::Receiving(_) | Payload::Foreign(..) => {
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
                    return Err(messages.fail(more_messages()));
                }
                let trailers = messages.trailers().await?;
                Ok((message, (!trailers.is_empty()).then(|| Box::new(trailers))))
            }
        }
    }

    /// As [`into_message`](Self::into_message), but waits in this thread, until `deadline`, for what comes through a session.
    pub(crate) fn wait_for_message<T>(
        self,
        message_len_max: usize,
        deadline: Option<Instant>,
    ) -> Decoded<T>
    where
        T: prost::Message + Default + 'static,
    {
        let body = match self.try_into_message() {
            Ok(decoded) => return decoded,
            Err(body) => body,
        };
        let mut messages = body.into_streaming(message_len_max);
        let message = messages.wait_message(deadline)?;
        let message = message.ok_or_else(no_message)?;
        if messages.wait_message(deadline)?.is_some() {
            return Err(messages.fail(more_messages()));
        }
        let trailers = messages.wait_trailers(deadline)?;
        Ok((message, (!trailers.is_empty()).then(|| Box::new(trailers))))
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
            Payload::Foreign(body, coding) => {
                Streaming::foreign(Decoder::new(body, coding, message_len_max))
            }
        };
        streaming.with_end(trailers, self.watchers)
    }

    /// Takes what is to be sent, and the trailing metadata.
    ///
    /// A body that somebody else made is polled once: if it is but one message, and all of that is there already, it is sent as one.
    pub(crate) fn take_to_send(&mut self, cx: &mut Context<'_>, message_len_max: usize) -> ToSend {
        let is_response = !matches!(self.end, End::None);
        let end = mem::replace(&mut self.end, End::None).into_metadata();
        let watchers = &mut self.watchers;
        let message: Box<dyn EncodeMessage> = match mem::replace(&mut self.payload, Payload::Empty)
        {
            Payload::Message(message) => message,
            Payload::Received(message) => Box::new(Encoded(message)),
            Payload::Rest(_) => return ToSend::Nothing(taken()),
            Payload::Empty if is_response => {
                return ToSend::Many(Box::pin(Outflow::new(NoMessages)), end, None);
            }
            Payload::Empty => return ToSend::Nothing(no_message()),
            Payload::Messages(messages) => {
                return ToSend::Many(messages.into_inner(), end, watchers.take());
            }
            Payload::Receiving(receiving) => {
                return ToSend::Many(Box::pin(Outflow::new(*receiving)), end, watchers.take());
            }
            Payload::Foreign(body, coding) => {
                let mut decoder = Decoder::new(body, coding, message_len_max);
                // Who wants to see the end sees it where it is sent.
                if watchers.is_none()
                    && let Some((message, trailers)) = decoder.take_whole(cx)
                {
                    return ToSend::One(Box::new(Encoded(message)), trailers);
                }
                return ToSend::Many(Box::pin(Outflow::new(decoder)), end, watchers.take());
            }
        };
        ToSend::One(message, end)
    }

    /// Tells whether somebody else has framed the messages.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.payload, Payload::Foreign(..))
    }

    /// Notes what the head says of messages that somebody else has framed.
    pub(crate) fn set_coding(&mut self, said: Coding) {
        if let Payload::Foreign(_, coding) = &mut self.payload {
            *coding = said;
        }
    }

    /// Has messages compressed that leave as bytes, but for those that somebody else has framed.
    pub(crate) fn compress(&mut self, encoding: Option<CompressionEncoding>) {
        self.compression = encoding;
    }

    /// Sets the metadata that comes after the last message of a response.
    pub(crate) fn set_trailers(&mut self, metadata: HeaderMap) {
        self.end = End::Trailers(Box::new(metadata));
    }

    fn from_payload(payload: Payload, end: End) -> Self {
        Self {
            payload,
            end,
            watchers: None,
            compression: None,
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
    /// Messages that are yet to come; how many, nobody knows. And who wants to see their end.
    Many(
        Pin<Box<dyn Messages>>,
        Option<Box<HeaderMap>>,
        Option<Box<Watchers>>,
    ),
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
            Payload::Foreign(..) => body.field("foreign", &true),
        };
        body.finish_non_exhaustive()
    }
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
        Status::internal("the message is not what its type demands").with_source(error)
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
