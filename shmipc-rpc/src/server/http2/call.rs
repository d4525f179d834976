//! One call: from the head of a request to the head of a response.

use std::{
    future::poll_fn,
    mem,
    task::{Context, Poll},
    time::Instant,
};

use http::{Extensions, HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use tracing::{Span, field};

use super::{AnswerBody, Respond, Responding, answer::Answering, listen::RemoteAddr};
use crate::{
    Body, Peer, Status,
    body::Measured,
    cancel::CallGuard,
    context::CallContext,
    deadline::{self, Elapsed},
    error::BoxError,
    grpc_headers,
    http2::tasks::CallTask,
    server::{Limits, call::record_code, drain::shut_down, panic::guarded, running::CallPermit},
};

/// Runs the handler for as long as the caller waits. If the future is dropped, or later the body, so is the handler's.
pub(super) async fn serve_call(
    services: Box<dyn Respond>,
    limits: Limits,
    mut permit: CallPermit,
    client: Extensions,
    task: CallTask,
    request: http::Request<Incoming>,
) -> http::Response<AnswerBody> {
    if let Some(refusal) = refuse(&request) {
        return refusal;
    }
    let span = span(&request, &client);
    let (request, deadline, guard) = match prepare(request, client, limits) {
        Ok(prepared) => prepared,
        Err(status) => {
            record_code(&span, status.code());
            return fail(status);
        }
    };
    let mut progress = Progress::New(Box::new(request), services);
    let responding = poll_fn(|cx| {
        let _scope = deadline::Scope::enter(deadline);
        let _span = span.enter();
        match guarded(|| progress.poll(cx)) {
            Ok(Poll::Pending) if permit.poll_cut_off(cx).is_ready() => {
                Poll::Ready(shut_down().into_http())
            }
            Ok(polled) => polled,
            Err(status) => Poll::Ready(status.into_http()),
        }
    });
    let response = match deadline::within(deadline, responding).await {
        Ok(response) => response,
        Err(Elapsed) => deadline::late().into_http(),
    };
    // What a destructor of the application panics about does not matter any more.
    let _ = guarded(|| drop(progress));
    let call = Answering {
        task,
        deadline,
        message_len_max: limits.response_len_max,
        span,
        guard,
        permit,
    };
    answer(response, call)
}

/// How far a call has come.
enum Progress {
    New(Box<http::Request<Body>>, Box<dyn Respond>),
    Running(Responding),
    /// While it is being begun; for good if that panics.
    Nothing,
}

impl Progress {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<http::Response<Body>> {
        let mut future = match mem::replace(self, Self::Nothing) {
            Self::New(request, services) => services.respond(*request),
            Self::Running(future) => future,
            Self::Nothing => return Poll::Pending,
        };
        let polled = future.as_mut().poll(cx);
        *self = Self::Running(future);
        polled
    }
}

/// Returns the answer to a request that is not one of gRPC.
fn refuse(request: &http::Request<Incoming>) -> Option<http::Response<AnswerBody>> {
    let (status, name, value) = if request.method() != Method::POST {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            header::ALLOW,
            HeaderValue::from_static("POST"),
        )
    } else if !grpc_headers::is_grpc(request.headers()) {
        let name = header::ACCEPT;
        (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            name,
            grpc_headers::CONTENT_TYPE,
        )
    } else {
        return None;
    };
    let mut response = http::Response::new(AnswerBody::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(name, value);
    Some(response)
}

fn span(request: &http::Request<Incoming>, client: &Extensions) -> Span {
    let peer = client.get::<Peer>();
    tracing::debug_span!(
        target: "shmipc_rpc::server",
        "call",
        method = request.uri().path(),
        peer.pid = peer.and_then(Peer::pid),
        peer.uid = peer.map(Peer::uid),
        peer.address = client.get::<RemoteAddr>().map(|address| field::display(address.0)),
        status = field::Empty,
    )
}

/// Returns the request as services expect it, until when it may take, and what tells the handler that it is over.
fn prepare(
    request: http::Request<Incoming>,
    client: Extensions,
    limits: Limits,
) -> Result<(http::Request<Body>, Option<Instant>, CallGuard), Status> {
    let (mut parts, incoming) = request.into_parts();
    let timeout = match parts.headers.get(grpc_headers::TIMEOUT) {
        None => None,
        Some(value) => Some(
            deadline::parse_grpc_timeout(value.as_bytes())
                .ok_or_else(|| Status::internal(format!("{value:?} is not a timeout of gRPC")))?,
        ),
    };
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(Status::deadline_exceeded(
            "the deadline had passed when the call arrived",
        ));
    }
    let deadline = timeout.and_then(deadline::after);
    let (guard, cancellation) = CallGuard::new(deadline);
    let context = CallContext {
        draining: client.get().cloned().unwrap_or_default(),
        cancellation,
        message_len_max: limits.request_len_max,
        ..CallContext::default()
    };
    parts.extensions.extend(client);
    parts.extensions.insert(context.clone());
    // However it is read: as messages, or as frames by layers and by services that somebody else generated.
    let measured = Measured::failing(incoming, gone, limits.request_len_max);
    let body = Body::new(measured).with_context(context);
    let request = http::Request::from_parts(parts, body);
    Ok((request, deadline, guard))
}

/// The status of requests that break off.
fn gone(error: BoxError) -> Status {
    Status::cancelled("the caller gave the call up, or is gone").with_source(error)
}

/// Makes the response of a failure: nothing but headers.
fn fail(status: Status) -> http::Response<AnswerBody> {
    let mut response = status.into_http::<()>().map(|()| AnswerBody::empty());
    complete(&mut response);
    response
}

/// Makes an answer of what the services returned.
fn answer(mut response: http::Response<Body>, call: Answering) -> http::Response<AnswerBody> {
    if let Some(status) = Status::of_response(&mut response) {
        record_code(&call.span, status.code());
        call.guard.finish();
        let accepted = response.headers_mut().remove(grpc_headers::ACCEPT_ENCODING);
        let mut failed = fail(status);
        if let Some(accepted) = accepted {
            let headers = failed.headers_mut();
            headers.insert(grpc_headers::ACCEPT_ENCODING, accepted);
        }
        return failed;
    }
    let (parts, body) = response.into_parts();
    let body = AnswerBody::new(body, call);
    let mut response = http::Response::from_parts(parts, body);
    complete(&mut response);
    response
}

/// Adds what a response of gRPC begins with, beside metadata.
fn complete(response: &mut http::Response<AnswerBody>) {
    *response.version_mut() = Version::HTTP_2;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, grpc_headers::CONTENT_TYPE);
    headers
        .entry(grpc_headers::ACCEPT_ENCODING)
        .or_insert(grpc_headers::IDENTITY);
}
