//! Requests and responses of many messages.
//!
//! A handler returns any [`Stream`] of messages, or the far end of a [`Sender`]; a caller passes a stream of requests, or the far
//! end of a `Sender`. What arrives is a [`Streaming`]. Both sides exert backpressure: a stream is polled, and a `Sender` sends, only
//! while the receiver's windows have room ([`ConfigBuilder::stream_window`](shmipc_transport::ConfigBuilder::stream_window)).

mod port;
mod pushed;
mod sender;
mod streaming;

use futures_core::Stream;

pub(crate) use self::pushed::FarEnd;
pub use self::{
    pushed::{RequestSink, ResponseSink},
    sender::Sender,
    streaming::Streaming,
};
use crate::{Request, Status};

/// What a handler may return for a response of many messages: a stream of them, which may end with a failure.
///
/// An alias: everything that fulfils it has it. The handler's future is over when the stream is polled; the stream is dropped
/// when its caller gives up, as the handler's future is.
pub trait ResponseStream<T>: Stream<Item = Result<T, Status>> + Send + 'static {}

impl<S, T> ResponseStream<T> for S where S: Stream<Item = Result<T, Status>> + Send + 'static {}

/// What can be sent as a request of many messages: a stream of them, or a [`Request`] with one.
///
/// The stream is polled by a task of its own while the call goes on, unless it is the far end of a [`Sender`], which needs none.
pub trait IntoStreamingRequest<T> {
    /// The messages.
    type Stream: Stream<Item = T> + Send + 'static;

    /// Returns the request.
    fn into_streaming_request(self) -> Request<Self::Stream>;
}

impl<T, S> IntoStreamingRequest<T> for S
where
    S: Stream<Item = T> + Send + 'static,
{
    type Stream = S;

    fn into_streaming_request(self) -> Request<S> {
        Request::new(self)
    }
}

impl<T, S> IntoStreamingRequest<T> for Request<S>
where
    S: Stream<Item = T> + Send + 'static,
{
    type Stream = S;

    fn into_streaming_request(self) -> Self {
        self
    }
}
