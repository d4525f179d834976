//! What the fuzz targets call: each decoder, given arbitrary bytes. Not part of the API.

use http::HeaderMap;

use crate::frame::{self, RequestHead, ResponseHead, Trailers};

/// Reads `data` as a frame that begins a call.
pub fn request_frame(mut data: &[u8]) {
    let read = frame::open(&mut data, |_, head| {
        RequestHead::decode(head, &mut HeaderMap::new()).map(drop)
    });
    drop(read);
}

/// Reads `data` as a frame that ends a call, in both of its forms.
pub fn response_frame(data: &[u8]) {
    let read = frame::open(&mut &data[..], |_, head| {
        ResponseHead::decode(head).map(drop)
    });
    drop(read);
    let read = frame::open(&mut &data[..], |_, head| Trailers::decode(head).map(drop));
    drop(read);
}

/// Reads `data` as a body in the framing of gRPC over HTTP/2 that arrives in pieces; the first byte is their length.
pub fn grpc_body(data: &[u8]) {
    crate::body::grpc::fuzz(data);
}

/// Reads `data` as the value of `grpc-timeout`.
pub fn grpc_timeout(data: &[u8]) {
    let _ = crate::deadline::parse_grpc_timeout(data);
}
