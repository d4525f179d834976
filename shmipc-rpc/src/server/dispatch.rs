//! How a session reaches the services: straight through the router, or through layers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    ResponseFuture, Router, Service,
    reply::Outcome,
    router::{MethodId, begin},
};
use crate::{Body, body::downcast, error::BoxError};

/// The services of a server, and what lies above them.
pub(super) trait Dispatch: Send {
    /// Begins a call of a method, if it is known which. Does not wait, but runs code of the application, which may panic.
    fn start(&mut self, request: http::Request<Body>, method: Option<MethodId>) -> Running;

    /// Tells whether the body of a request may be exchanged on its way to the handler.
    fn is_layered(&self) -> bool;

    /// Returns another way to the same services.
    fn boxed_clone(&self) -> Box<dyn Dispatch>;
}

/// Returns the way to `service`.
pub(super) fn dispatch<S, B>(service: S, response_len_max: usize) -> Box<dyn Dispatch>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match downcast::<S, Router>(service) {
        Ok(router) => Box::new(Direct {
            router,
            response_len_max,
        }),
        Err(service) => Box::new(Layered {
            service,
            response_len_max,
        }),
    }
}

/// A call whose reply is being made.
pub(super) struct Running {
    future: ResponseFuture,
    response_len_max: usize,
}

impl Running {
    /// Polls the call. Runs code of the application, which may panic.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Ok(response) = ready!(Pin::new(&mut self.future).poll(cx));
        Poll::Ready(Outcome::of(response, self.response_len_max, cx))
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

struct Direct {
    router: Router,
    response_len_max: usize,
}

impl Dispatch for Direct {
    fn start(&mut self, request: http::Request<Body>, method: Option<MethodId>) -> Running {
        let future = match method {
            Some(method) => self.router.route_to(method, request),
            None => self.router.route(request),
        };
        Running {
            future,
            response_len_max: self.response_len_max,
        }
    }

    fn is_layered(&self) -> bool {
        false
    }

    fn boxed_clone(&self) -> Box<dyn Dispatch> {
        Box::new(Self {
            router: self.router.clone(),
            response_len_max: self.response_len_max,
        })
    }
}

struct Layered<S> {
    service: S,
    response_len_max: usize,
}

impl<S, B> Dispatch for Layered<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn start(&mut self, request: http::Request<Body>, _: Option<MethodId>) -> Running {
        // Each call has a clone of its own, so that none holds a reservation, such as a permit, that it does not use.
        Running {
            future: begin(self.service.clone(), request),
            response_len_max: self.response_len_max,
        }
    }

    fn is_layered(&self) -> bool {
        true
    }

    fn boxed_clone(&self) -> Box<dyn Dispatch> {
        Box::new(Self {
            service: self.service.clone(),
            response_len_max: self.response_len_max,
        })
    }
}
