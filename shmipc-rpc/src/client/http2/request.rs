//! Requests of calls that can be made more than once, as HTTP/2 takes them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Uri};
use http_body::{Frame, SizeHint};

use crate::{
    Body, Status,
    body::{Encode, Messages},
    client::direct::Terms,
    codec, frame,
};

/// Makes the request of a call with one message, which can be encoded again for the next attempt.
pub(crate) fn request_of_one<M: Encode + ?Sized>(
    path: &str,
    metadata: &HeaderMap,
    message: &mut M,
    terms: Terms,
) -> Result<http::Request<Body>, Status> {
    let (len, max) = (message.encoded_len(), terms.limits.request_len_max);
    if max < len {
        return Err(frame::message_too_large(len, max));
    }
    let path = path
        .parse()
        .map_err(|_| Status::internal(format!("{path:?} cannot be called")))?;
    let mut framed = message.encode_to_grpc();
    if let Some(encoding) = terms.compression.send {
        framed = codec::compress(encoding, framed);
    }
    let body = Body::new(Framed(Some(framed)));
    Ok(request(path, metadata, body, terms))
}

/// Makes the request of a call with many messages.
pub(crate) fn request_of_many(
    path: &Uri,
    metadata: &HeaderMap,
    messages: Pin<Box<dyn Messages>>,
    terms: Terms,
) -> http::Request<Body> {
    let mut body = Body::messages(messages);
    body.compress(terms.compression.send);
    request(path.clone(), metadata, body, terms)
}

fn request(path: Uri, metadata: &HeaderMap, body: Body, terms: Terms) -> http::Request<Body> {
    let mut request = http::Request::new(body);
    *request.uri_mut() = path;
    *request.headers_mut() = metadata.clone();
    terms.compression.write(request.headers_mut());
    request
}

/// A message that was encoded in the framing of gRPC.
struct Framed(Option<Bytes>);

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |message| message.len() as u64))
    }
}
