use std::{
    convert::Infallible,
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{LimitTable, ResponseFuture, Router, Service, router::begin};
use crate::{Body, error::BoxError};

/// All services of a server, with its layers and limits, as one service. Made by
/// [`Server::into_service`](super::Server::into_service).
#[derive(Clone)]
pub struct ServerService<S = Router> {
    service: S,
    limits: LimitTable,
}

impl<S> ServerService<S> {
    pub(super) fn new(service: S, limits: LimitTable) -> Self {
        Self { service, limits }
    }
}

impl<S, B> Service<http::Request<Body>> for ServerService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    /// Always ready. A call waits for what it needs by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> ResponseFuture {
        let limits = self.limits.at(request.uri().path());
        let mut context = Body::take_context(&mut request);
        context.message_len_max = limits.request_len_max;
        // Layers may exchange the body.
        request.extensions_mut().insert(context.clone());
        let request = request.map(|body| {
            let body = body.within(limits.request_len_max);
            body.with_context(context)
        });
        let responding = begin(self.service.clone(), request);
        ResponseFuture::new(async move {
            let response = responding.await?;
            let max = limits.response_len_max;
            Ok(response.map(|body| body.sent_within(max)))
        })
    }
}

impl<S> fmt::Debug for ServerService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerService")
            .field("limits", &self.limits.server)
            .finish_non_exhaustive()
    }
}
