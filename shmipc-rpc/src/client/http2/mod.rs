//! gRPC over HTTP/2, as a client: a service from `http::Request<Body>` to `http::Response<Body>`.

mod dial;
mod failure;
mod identity;
mod received;
mod request;
mod sent;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri, Version, header};
use hyper::body::Incoming;
use tokio::sync::futures::Notified;
use tracing::{Span, field};

pub use self::dial::Http2ConnectError;
pub(crate) use self::{
    dial::{Connector, DialSettings},
    identity::{Identity, InvalidOrigin},
    received::{ReceivedBody, body_of},
    request::{request_of_many, request_of_one},
    sent::SentBody,
};
use self::{
    dial::{Dialer, Link},
    failure::Refusal,
    sent::CallAlive,
};
use super::{
    channel::SizeLimits,
    direct::{Outcome, Terms},
    reconnect::{Outlook, Reconnect},
    response::Answer,
};
use crate::{
    Body, Code, Endpoint, Status,
    codec::ClientCompression,
    deadline::{self, Elapsed},
    endpoint::Http2Address,
    error::SharedError,
    grpc_headers, metadata,
};

/// How often a call is tried again that did not reach the server, because the connection ended in that moment.
const ATTEMPTS_MAX: usize = 5;

/// A connection to a server that mends itself. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Http2Channel {
    connection: Arc<Reconnect<Dialer>>,
    wait_for_ready: bool,
}

impl Http2Channel {
    /// Connects when it is first called.
    pub(crate) fn new(address: Http2Address, settings: DialSettings, wait_for_ready: bool) -> Self {
        Self {
            connection: Arc::new(Reconnect::new(Dialer::new(address, settings))),
            wait_for_ready,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::http2(self.connection.dialer().address.clone())
    }

    /// Connects now.
    pub(crate) async fn connect(&self) -> Result<(), Http2ConnectError> {
        self.connection.connect().await
    }

    /// Tells what may be expected. Begins to connect if an attempt is due.
    pub(super) fn outlook(&self) -> Outlook<Http2ConnectError> {
        self.connection.outlook()
    }

    /// Whether the last attempt to connect failed.
    pub(super) fn has_failed(&self) -> bool {
        self.connection.has_failed()
    }

    /// The number of the current connection, or the last one, from 1.
    #[cfg(feature = "health")]
    pub(super) fn generation(&self) -> u64 {
        self.connection.generation()
    }

    /// Whether there is a connection that takes calls, as far as is known.
    #[cfg(feature = "health")]
    pub(super) fn is_ready(&self) -> bool {
        self.connection.is_ready()
    }

    /// Waits for the end of an attempt to connect.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.connection.changed()
    }

    /// Waits for a connection, as long as the call may.
    pub(super) async fn ready(&self, terms: Terms) -> Result<(), Status> {
        let link = self.link(terms.wait_for_ready);
        let link = deadline::within(terms.deadline, link).await;
        link.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))
            .map(drop)
    }

    /// Makes a call. An error is what happened on the way; what the server answers is a response.
    ///
    /// If `never_fails`, what goes wrong while the body of the response is received becomes trailers.
    ///
    /// # Cancel safety
    ///
    /// A future, or the body of a response, that is dropped gives the call up.
    pub(crate) async fn exchange(
        self,
        mut request: http::Request<Body>,
        never_fails: bool,
    ) -> Result<http::Response<Body>, Status> {
        let context = Body::take_context(&mut request);
        let terms = Terms {
            deadline: deadline::of_call(context.deadline(), request.headers()),
            wait_for_ready: context.wait_for_ready.unwrap_or(self.wait_for_ready),
            limits: SizeLimits {
                request_len_max: context.request_len_max,
                response_len_max: context.message_len_max,
            },
            // Whoever has made the request has seen to that.
            compression: ClientCompression::default(),
        };
        let response = self.receive(request, terms).await?;
        Ok(response.map(|received| body_of(received, never_fails)))
    }

    /// Makes a call by rules.
    pub(super) async fn outcome(&self, request: http::Request<Body>, terms: Terms) -> Outcome {
        let (mut parts, mut received) = self.receive(request, terms).await?.into_parts();
        if let Some(status) = Status::of_head(parts.status, &mut parts.headers) {
            return Ok(Err(status));
        }
        if let Some(received) = &mut received {
            received.encoding = parts.headers.remove(grpc_headers::ENCODING);
        }
        metadata::remove_reserved(&mut parts.headers);
        Ok(Ok(Answer::over_http2(parts.headers, received, terms)))
    }

    /// Makes a call, and returns what opens the response, and what will receive the rest, if there is any.
    async fn receive(
        &self,
        request: http::Request<Body>,
        terms: Terms,
    ) -> Result<http::Response<Option<ReceivedBody>>, Status> {
        let span = tracing::debug_span!(
            target: "shmipc_rpc::client",
            "call",
            method = request.uri().path(),
            address = %self.connection.dialer().address,
            status = field::Empty,
        );
        let deadline = terms.deadline;
        let sent = self.send(request, terms);
        let result = match deadline::within(deadline, sent).await {
            Ok(Err(status)) if is_late(status.code(), deadline) => Err(deadline::exceeded()),
            Ok(result) => result,
            Err(Elapsed) => Err(deadline::exceeded()),
        };
        let accepted = result.and_then(|(response, alive)| {
            let incoming = accept(response, deadline, &span)?;
            Ok(incoming
                .map(|incoming| Some(ReceivedBody::new(incoming?, deadline, span.clone(), alive))))
        });
        accepted.inspect_err(|status| record_code(&span, status.code()))
    }

    async fn send(
        &self,
        request: http::Request<Body>,
        terms: Terms,
    ) -> Result<(http::Response<Incoming>, CallAlive), Status> {
        let (parts, body) = request.into_parts();
        let (mut body, mut sent) = SentBody::new(body, terms.limits.request_len_max);
        let uri = self.uri(&parts.uri)?;
        let identity = &self.connection.dialer().settings.identity;
        let headers = request_headers(parts.headers, identity);
        let (mut attempts, mut was_refused) = (0, false);
        loop {
            let Link { mut sender, tasks } = self.link(terms.wait_for_ready).await?;
            body.goes_by(tasks);
            let mut request = http::Request::new(body);
            *request.method_mut() = http::Method::POST;
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            if let Some(deadline) = terms.deadline {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                let headers = request.headers_mut();
                headers.insert(grpc_headers::TIMEOUT, deadline::format_grpc_timeout(left));
            }
            attempts += 1;
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sent.alive)),
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            let refusal = Refusal::of(&error);
            let status = sent.alive.status_of(error);
            match (unsent, refusal) {
                // It was never sent: the server was about to go, and there may be another one now.
                (Some(unsent), _) if attempts < ATTEMPTS_MAX => body = unsent.into_body(),
                (Some(_), _) => return Err(status.unsent()),
                // Once more, as gRPC has it: a server that has too much to do is not to have even more.
                (None, Some(refusal)) => match sent.again(refusal).await {
                    Some(again) if !was_refused => {
                        was_refused = true;
                        (body, sent) = again;
                    }
                    Some(_) => return Err(status.unsent()),
                    None => return Err(status),
                },
                (None, None) => return Err(status),
            }
        }
    }

    async fn link(&self, wait_for_ready: bool) -> Result<Link, Status> {
        let linked = self.connection.link(wait_for_ready).await;
        linked.map_err(|error| self.unreachable(error))
    }

    /// The status of a call for which there is no connection.
    pub(super) fn unreachable(&self, error: Arc<Http2ConnectError>) -> Status {
        let address = &self.connection.dialer().address;
        Status::unavailable(format!("the server at {address} cannot be reached"))
            .with_source(error as SharedError)
            .unsent()
    }

    /// Returns the path with the server before it, as HTTP/2 has it.
    fn uri(&self, uri: &Uri) -> Result<Uri, Status> {
        let Dialer {
            address, settings, ..
        } = self.connection.dialer();
        let (scheme, authority) = settings.identity.origin(address);
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query = uri.path_and_query().cloned();
        Uri::from_parts(parts)
            .map_err(|_| Status::internal(format!("{:?} cannot be called", uri.path())))
    }
}

/// Adds to metadata what a request of gRPC begins with.
fn request_headers(mut headers: HeaderMap, identity: &Identity) -> HeaderMap {
    // Whoever compresses messages says how, and whoever reads them, how they may be. Everything else is said here.
    let encoding = headers.remove(grpc_headers::ENCODING);
    let accepted = headers.remove(grpc_headers::ACCEPT_ENCODING);
    metadata::remove_reserved(&mut headers);
    if let Some(encoding) = encoding {
        headers.insert(grpc_headers::ENCODING, encoding);
    }
    headers.insert(header::CONTENT_TYPE, grpc_headers::CONTENT_TYPE);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        grpc_headers::ACCEPT_ENCODING,
        accepted.unwrap_or(grpc_headers::IDENTITY),
    );
    headers
        .entry(header::USER_AGENT)
        .or_insert_with(|| identity.user_agent());
    headers
}

/// Checks that a response is one of gRPC. It has no body if its head tells how the call ended.
fn accept(
    response: http::Response<Incoming>,
    deadline: Option<std::time::Instant>,
    span: &Span,
) -> Result<http::Response<Option<Incoming>>, Status> {
    let (parts, incoming) = response.into_parts();
    if let Some(status) = Status::from_headers(&parts.headers) {
        if is_late(status.code(), deadline) {
            return Err(deadline::exceeded());
        }
        record_code(span, status.code());
        return Ok(http::Response::from_parts(parts, None));
    }
    if parts.status != http::StatusCode::OK {
        let message = format!("the response has the HTTP status {}", parts.status);
        return Err(Status::new(Code::from_http(parts.status), message));
    }
    if !grpc_headers::is_grpc(&parts.headers) {
        let message = "the response is not one of gRPC: its content type is another one";
        return Err(Status::unknown(message));
    }
    Ok(http::Response::from_parts(parts, Some(incoming)))
}

/// Tells whether a server that says that it has cancelled the call did so because of the deadline, which both sides know of, and
/// which some servers report like that.
fn is_late(code: Code, deadline: Option<std::time::Instant>) -> bool {
    code == Code::Cancelled
        && deadline.is_some_and(|deadline| deadline <= std::time::Instant::now())
}

/// Notes in the span of a call how it ended.
fn record_code(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("status", code.name());
    }
}
