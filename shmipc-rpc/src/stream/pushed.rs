//! The far ends of senders.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::HeaderMap;
use shmipc_transport::{SendBuf, SendError};

use super::port::{Handed, Port};
use crate::{
    Status,
    body::{EncodeMessage, Encoded, Incompressible, Messages, decode, grpc},
    frame::{Ending, HalfSender},
};

/// The stream of what a [`Sender`](super::Sender) sends, for a handler to return.
///
/// If it is returned as it is, the sender writes straight into shared memory. As a stream, behind combinators, it decodes each message.
#[derive(Debug)]
pub struct ResponseSink<T> {
    far_end: FarEnd,
    message: PhantomData<fn() -> T>,
}

/// The stream of what a [`Sender`](super::Sender) sends, for a call to be made with.
///
/// If it is passed on as it is, the sender writes straight into shared memory. As a stream, behind combinators, it decodes each message.
#[derive(Debug)]
pub struct RequestSink<T> {
    far_end: FarEnd,
    message: PhantomData<fn() -> T>,
}

impl<T> ResponseSink<T> {
    pub(super) fn new(port: Arc<Port>) -> Self {
        Self {
            far_end: FarEnd::new(port),
            message: PhantomData,
        }
    }
}

impl<T> RequestSink<T> {
    pub(super) fn new(port: Arc<Port>) -> Self {
        Self {
            far_end: FarEnd::new(port),
            message: PhantomData,
        }
    }
}

impl<T: prost::Message + Default> Stream for ResponseSink<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.far_end.port.poll_handed(cx));
        Poll::Ready(next.map(|next| decode(without_prefix(next?))))
    }
}

impl<T: prost::Message + Default> Stream for RequestSink<T> {
    type Item = T;

    /// A sender that fails ends the stream, which is all that a stream of messages can say.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let next = ready!(self.far_end.port.poll_handed(cx));
        Poll::Ready(next.and_then(|next| decode(without_prefix(next.ok()?)).ok()))
    }
}

/// The far end of a sender, without the type of its messages.
#[derive(Debug)]
pub(crate) struct FarEnd {
    port: Arc<Port>,
    buffer: Option<SendBuf>,
}

impl FarEnd {
    fn new(port: Arc<Port>) -> Self {
        Self { port, buffer: None }
    }
}

impl<T> From<ResponseSink<T>> for FarEnd {
    fn from(sink: ResponseSink<T>) -> Self {
        sink.far_end
    }
}

impl<T> From<RequestSink<T>> for FarEnd {
    fn from(sink: RequestSink<T>) -> Self {
        sink.far_end
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.port.close();
    }
}

impl Messages for FarEnd {
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
    ) -> Poll<Result<Ending, SendError>> {
        let this = self.get_mut();
        this.port.poll_direct(cx, out, &mut this.buffer)
    }

    fn release(self: Pin<&mut Self>, out: &mut Option<HalfSender>) {
        self.port.release(out);
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<dyn EncodeMessage>, Status>>> {
        let next = ready!(self.port.poll_handed(cx));
        Poll::Ready(next.map(|next| {
            let next = next?;
            let is_compressible = next.is_compressible;
            let message = without_prefix(next);
            Ok(match is_compressible {
                true => Box::new(Encoded(message)) as Box<_>,
                false => Box::new(Incompressible(message)) as Box<_>,
            })
        }))
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        self.port.take_trailers()
    }

    fn limit(self: Pin<&mut Self>, message_len_max: usize) {
        self.port.limit(message_len_max);
    }
}

fn without_prefix(message: Handed) -> Bytes {
    let mut framed = message.framed;
    framed.advance(grpc::PREFIX_LEN);
    framed
}
