//! A body as HTTP sees it: frames in the framing of gRPC, and trailers.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use shmipc_transport::RecvBuf;
use tokio::task::coop;

use super::{Body, Encode, Encoded, End, Messages, Payload, decoder::read_trailers, grpc};
#[cfg(feature = "grpc")]
use crate::frame;
use crate::{
    Status,
    codec::{self, CompressionEncoding},
    grpc_headers,
    interceptor::Ended,
    metadata,
};

/// A received message of at most this length is taken out in one frame with its prefix.
const ONE_FRAME_LEN_MAX: usize = 4096;

impl Body {
    /// Makes a frame of the next of many messages, or of what comes after them.
    fn next_frame(
        &mut self,
        next: Option<Result<Bytes, Status>>,
        trailers: Option<Box<HeaderMap>>,
    ) -> Option<Result<Frame<Bytes>, Status>> {
        let is_response = !matches!(self.end, End::None);
        let ended = match next {
            Some(Ok(message)) => return Some(Ok(Frame::data(message))),
            Some(Err(status)) => Err(status),
            None => {
                let end = mem::replace(&mut self.end, End::None);
                let mut metadata = end.into_metadata();
                if trailers.is_some() {
                    crate::metadata::merge(metadata.get_or_insert_default(), trailers);
                }
                Ok(metadata)
            }
        };
        match self.finish(ended) {
            // Failures are ordinary trailers in HTTP, but a request has none.
            Err(status) if !is_response => Some(Err(status)),
            ended => is_response.then(|| Ok(last_frame(ended))),
        }
    }

    /// Shows the end of somebody else's body to those who want to see it.
    fn watched_frame(
        &mut self,
        frame: Option<Result<Frame<Bytes>, Status>>,
    ) -> Option<Result<Frame<Bytes>, Status>> {
        let (ended, has_trailers) = match frame.map(|frame| frame.map(Frame::into_trailers)) {
            Some(Ok(Err(data))) => return Some(Ok(data)),
            Some(Ok(Ok(trailers))) => (read_trailers(trailers), true),
            Some(Err(status)) => (Err(status), false),
            None => (Ok(None), false),
        };
        let has_failed = ended.is_err();
        match self.finish(ended) {
            // Whoever made the body has chosen how to say it.
            Err(status) if has_failed && !has_trailers => Some(Err(status)),
            Ok(None) if !has_failed && !has_trailers => None,
            ended => Some(Ok(last_frame(ended))),
        }
    }

    /// Polls for a frame, and fails instead of returning a message of more than `message_len_max` bytes.
    ///
    /// What somebody else has framed is passed on as it is; see [`limited`](Self::limited).
    #[cfg(feature = "grpc")]
    pub(crate) fn poll_limited_frame(
        &mut self,
        cx: &mut Context<'_>,
        message_len_max: usize,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut encoding = self.compression;
        let (known_len, in_messages) = match &self.payload {
            Payload::Message(message) => (message.encoded_len(), true),
            Payload::Received(message) => (message.remaining(), true),
            Payload::Messages(_) | Payload::Receiving(_) => (0, true),
            Payload::Empty | Payload::Rest(_) | Payload::Foreign(..) => (0, false),
        };
        let (len, polled) = if message_len_max < known_len {
            (known_len, None)
        } else {
            let polled = ready!(self.poll_plain_frame(cx, &mut encoding));
            let data = polled
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            let len = data.map_or(0, |data| data.len().saturating_sub(grpc::PREFIX_LEN));
            (if in_messages { len } else { 0 }, polled)
        };
        if message_len_max < len {
            let ended = self.finish(Err(frame::message_too_large(len, message_len_max)));
            return Poll::Ready(Some(ended.map(|metadata| last_frame(Ok(metadata)))));
        }
        Poll::Ready(compressed(polled, encoding))
    }

    /// Polls for a frame, which is not compressed yet. Sets `encoding` to `None` if it is not to be.
    fn poll_plain_frame(
        &mut self,
        cx: &mut Context<'_>,
        encoding: &mut Option<CompressionEncoding>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self;
        match &mut this.payload {
            Payload::Foreign(body, _) => {
                *encoding = None;
                let frame = ready!(body.as_mut().poll_frame(cx));
                return Poll::Ready(match this.watchers {
                    None => frame,
                    Some(_) => this.watched_frame(frame),
                });
            }
            Payload::Messages(messages) => {
                let messages = messages.get_mut();
                let next = ready!(poll_next(messages.as_mut(), cx, encoding));
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
            Payload::Received(message) if encoding.is_some() => {
                Frame::data(Encoded(message).encode_to_grpc())
            }
            Payload::Received(message) => {
                let (first, rest) = first_frame(message);
                this.payload = rest;
                Frame::data(first)
            }
            Payload::Rest(mut message) => {
                *encoding = None;
                let len = message.chunk().len();
                let piece = message.copy_to_bytes(len);
                if message.has_remaining() {
                    this.payload = Payload::Rest(message);
                }
                Frame::data(piece)
            }
            Payload::Empty
            | Payload::Messages(_)
            | Payload::Receiving(_)
            | Payload::Foreign(..) => match mem::replace(&mut this.end, End::None) {
                End::None => return Poll::Ready(None),
                End::Ok => last_frame(Ok(None)),
                End::Trailers(metadata) => last_frame(Ok(Some(metadata))),
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut encoding = self.compression;
        let polled = ready!(self.poll_plain_frame(cx, &mut encoding));
        Poll::Ready(compressed(polled, encoding))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => matches!(self.end, End::None),
            // Whoever wants to see the end would not, if it was not polled for.
            Payload::Foreign(body, _) => self.watchers.is_none() && body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let len = match &self.payload {
            Payload::Empty => 0,
            Payload::Message(_) | Payload::Received(_) if self.compression.is_some() => {
                return SizeHint::default();
            }
            Payload::Message(message) => grpc::PREFIX_LEN + message.encoded_len(),
            Payload::Received(message) => grpc::PREFIX_LEN + message.remaining(),
            Payload::Rest(message) => message.remaining(),
            Payload::Foreign(body, _) => return body.size_hint(),
            Payload::Messages(_) | Payload::Receiving(_) => return SizeHint::default(),
        };
        SizeHint::with_exact(len as u64)
    }
}

/// Polls for the next of many messages, encoded. Sets `encoding` to `None` if it is not to be compressed.
fn poll_next(
    messages: Pin<&mut dyn Messages>,
    cx: &mut Context<'_>,
    encoding: &mut Option<CompressionEncoding>,
) -> Poll<Option<Result<Bytes, Status>>> {
    // A source that always has another would let nobody else run.
    let turn = ready!(coop::poll_proceed(cx));
    let next = ready!(messages.poll_next(cx));
    turn.made_progress();
    Poll::Ready(next.map(|next| {
        next.map(|mut message| {
            if !message.is_compressible() {
                *encoding = None;
            }
            message.encode_to_grpc()
        })
    }))
}

/// Compresses the message in a frame, if it is to be.
fn compressed(
    polled: Option<Result<Frame<Bytes>, Status>>,
    encoding: Option<CompressionEncoding>,
) -> Option<Result<Frame<Bytes>, Status>> {
    match encoding {
        None => polled,
        Some(encoding) => {
            let compress = |message| codec::compress(encoding, message);
            polled.map(|polled| polled.map(|frame| frame.map_data(compress)))
        }
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

/// Makes the trailers of a response.
fn last_frame(ended: Ended) -> Frame<Bytes> {
    Frame::trailers(match ended {
        Ok(metadata) => {
            let mut trailers = metadata.map(|map| *map).unwrap_or_default();
            metadata::remove_reserved(&mut trailers);
            trailers.insert(grpc_headers::STATUS, grpc_headers::STATUS_OK);
            trailers
        }
        Err(status) => status.to_headers(),
    })
}
