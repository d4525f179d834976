//! A server that tonic generated, as a service of ours.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use ::tonic::server::NamedService as TonicNamedService;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{
    Body,
    deadline::format_grpc_timeout,
    server::{NamedService, Service},
};

/// A tonic-generated server as a service of this crate. Made by
/// [`Server::add_tonic_service`](crate::Server::add_tonic_service); by hand it serves to put layers of tower around a single
/// service.
#[derive(Clone, Debug)]
pub struct TonicService<S>(S);

impl<S> TonicService<S> {
    /// Adapts `service`.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: TonicNamedService> NamedService for TonicService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<Body>> for TonicService<S>
where
    S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>,
{
    type Response = http::Response<B>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> S::Future {
        if let Some(peer) = request.body().peer().copied() {
            request.extensions_mut().insert(peer);
        }
        if let Some(deadline) = request.body().deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            let headers = request.headers_mut();
            headers.insert("grpc-timeout", format_grpc_timeout(left));
        }
        self.0.call(request.map(RequestBody))
    }
}

/// The body of a request, whose errors tonic understands.
#[derive(Debug, Default)]
pub struct RequestBody(Body);

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = ::tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ::tonic::Status>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
