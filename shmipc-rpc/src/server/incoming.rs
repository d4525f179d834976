//! From the first frame of a stream to the request of a call.

use std::{sync::Arc, time::Instant};

use shmipc_transport::{RecvBuf, SendHalf, Stream};
use tracing::{Span, field};

use super::{
    router::{MethodId, Routes},
    served::Served,
    service::no_method,
    session::Shared,
};
use crate::{
    Body, Cancellation, Status,
    body::Receiving,
    context::CallContext,
    deadline,
    frame::{self, Flags, InvalidFrame, Prefix, RequestHead},
};

/// A call that is about to begin.
pub(super) struct Incoming {
    pub(super) deadline: Option<Instant>,
    /// Which method it is, or what stands for it. `None` if there is no such service.
    pub(super) method: Option<MethodId>,
    pub(super) span: Span,
    /// Where the response goes.
    pub(super) stream: SendHalf,
}

/// What the head of a request comes down to, beside path and metadata.
struct Read {
    flags: Flags,
    message_len: usize,
    method: Option<MethodId>,
    deadline: Option<Instant>,
}

impl Incoming {
    /// Reads a frame that begins a call into `request`, or returns how to answer it (R2, R11).
    ///
    /// The request is filled in place, for it is large.
    pub(super) fn read(
        shared: &Shared,
        served: &Arc<Served>,
        stream: Stream,
        mut frame: RecvBuf,
        request: &mut http::Request<Body>,
        layered: bool,
    ) -> Result<Self, (SendHalf, Status)> {
        let (stream, requests) = stream.split();
        let read = frame::open(&mut frame, |prefix, head| {
            read_head(&shared.routes, prefix, head, request)
        });
        let read = read.map_err(|error| Status::internal(error.to_string()));
        let Read {
            flags,
            message_len,
            method,
            deadline,
        } = match read.and_then(|read| read) {
            Ok(read) => read,
            Err(status) => return Err((stream, status)),
        };
        let limit = shared.limits.at(request.uri().path()).request_len_max;
        if limit < message_len {
            return Err((stream, frame::message_too_large(message_len, limit)));
        }
        let peer = served.peer();
        let span = tracing::debug_span!(
            target: "shmipc_rpc::server",
            "call",
            method = request.uri().path(),
            peer.pid = peer.pid(),
            peer.uid = peer.uid(),
            status = field::Empty,
        );
        let context = CallContext {
            served: Some(Arc::clone(served)),
            cancellation: Cancellation::new(Some(stream.watch()), deadline),
            message_len_max: limit,
            ..CallContext::default()
        };
        if layered {
            request.extensions_mut().insert(context.clone());
        }
        *request.body_mut() = if flags == Flags::UNARY {
            Body::received_request(frame, context)
        } else {
            let message = flags.contains(Flags::MESSAGE).then_some(frame);
            let is_last = flags.contains(Flags::END);
            let receiving = Receiving::request(requests, message, is_last, limit);
            Body::receiving_request(receiving, context)
        };
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        Ok(Self {
            deadline,
            method,
            span,
            stream,
        })
    }
}

/// Reads the head. The outer error is the peer's fault, the inner one has other reasons.
fn read_head(
    routes: &Routes,
    prefix: Prefix,
    head: &[u8],
    request: &mut http::Request<Body>,
) -> Result<Result<Read, Status>, InvalidFrame> {
    let flags = prefix.flags;
    if !flags.contains(Flags::OPEN)
        || flags.contains(Flags::TRAILERS)
        || flags.contains(Flags::CANCEL)
    {
        return Err(InvalidFrame::UnexpectedFlags(flags));
    }
    let RequestHead { path, timeout } = RequestHead::decode(head, request.headers_mut())?;
    let method = routes.method(path);
    let known = method.and_then(|method| routes.known(method).uri.clone());
    *request.uri_mut() = match known {
        Some(uri) => uri,
        None => match path.parse() {
            // A URI may also be one with a host, which means nothing here.
            Ok(uri) if path.starts_with('/') => uri,
            Ok(_) | Err(_) => return Ok(Err(no_method(path))),
        },
    };
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Ok(Err(Status::deadline_exceeded(
            "the deadline had passed when the call arrived",
        )));
    }
    let deadline = timeout.and_then(deadline::after);
    Ok(Ok(Read {
        flags,
        message_len: prefix.message_len as usize,
        method,
        deadline,
    }))
}
