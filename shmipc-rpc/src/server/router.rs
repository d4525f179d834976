use std::{
    any::type_name,
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Uri;

use super::{NamedService, ResponseFuture, Service, pace::Pace, service::no_method};
use crate::{Body, MethodKind, Status, body::downcast, error::BoxError};

/// The services of a [`Server`](super::Server): what its layers wrap.
///
/// A path that leads to none of them is answered with [`Code::Unimplemented`](crate::Code::Unimplemented).
#[derive(Clone)]
pub struct Router {
    routes: Arc<Routes>,
}

/// Everything there is to know of a server's services before the first call.
#[derive(Default)]
pub(super) struct Routes {
    services: Vec<Box<dyn Route>>,
    /// What stands for the methods that a service of this name has, but does not announce.
    names: HashMap<&'static str, MethodId>,
    /// The names once more, for those who list them.
    #[cfg(feature = "reflection")]
    pub(super) listed: Arc<crate::reflection::ServiceNames>,
    /// The methods that the services announce, and for each service one that stands for all that it does not.
    methods: Vec<KnownMethod>,
    /// Which of `methods` has this path. Paths from the wire are only looked up, never added, so they cannot make it slow.
    paths: HashMap<&'static str, MethodId, foldhash::fast::RandomState>,
}

/// Names a method that a service announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct MethodId(usize);

/// A method that a service announces, or all that it does not.
#[derive(Debug)]
pub(super) struct KnownMethod {
    /// Which service has it.
    service: usize,
    /// Its path, ready for use in a request, if it is one method.
    pub(super) uri: Option<Uri>,
    /// Whether it may have one request and one response.
    pub(super) is_unary: bool,
    /// Where its handlers are polled first.
    pub(super) pace: Pace,
}

impl Routes {
    /// Adds a service.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    pub(super) fn add<S, B>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let index = self.services.len();
        let replaced = self.names.insert(S::NAME, MethodId(self.methods.len()));
        assert!(
            replaced.is_none(),
            "a server cannot have two services with the name {:?}",
            S::NAME
        );
        self.services.push(Box::new(Routed(service)));
        #[cfg(feature = "reflection")]
        self.listed.add(S::NAME);
        self.methods.push(KnownMethod {
            service: index,
            uri: None,
            is_unary: true,
            pace: Pace::default(),
        });
        for method in S::METHODS {
            // What is no URI cannot be called.
            if let Ok(uri) = Uri::from_maybe_shared(Bytes::from_static(method.path().as_bytes())) {
                self.paths
                    .insert(method.path(), MethodId(self.methods.len()));
                self.methods.push(KnownMethod {
                    service: index,
                    uri: Some(uri),
                    is_unary: method.kind() == MethodKind::Unary,
                    pace: Pace::default(),
                });
            }
        }
    }

    /// Returns the method at `path`, or what stands for it if its service does not announce it.
    pub(super) fn method(&self, path: &str) -> Option<MethodId> {
        if let Some(method) = self.paths.get(path) {
            return Some(*method);
        }
        let (name, _method) = path.strip_prefix('/')?.split_once('/')?;
        self.names.get(name).copied()
    }

    /// Returns what is known of a method.
    pub(super) fn known(&self, method: MethodId) -> &KnownMethod {
        &self.methods[method.0]
    }

    /// Returns the service that has a method.
    fn service(&self, method: MethodId) -> &dyn Route {
        &*self.services[self.known(method).service]
    }
}

impl Router {
    pub(super) fn new(routes: Arc<Routes>) -> Self {
        Self { routes }
    }

    /// Begins a call.
    pub(super) fn route(&self, request: http::Request<Body>) -> ResponseFuture {
        match self.routes.method(request.uri().path()) {
            Some(method) => self.route_to(method, request),
            None => ResponseFuture::failed(no_method(request.uri().path())),
        }
    }

    /// Begins a call of a method that was found before.
    pub(super) fn route_to(
        &self,
        method: MethodId,
        request: http::Request<Body>,
    ) -> ResponseFuture {
        self.routes.service(method).call(request)
    }
}

impl<B> Service<http::Request<B>> for Router
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        self.route(request.map(Body::new))
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.routes.fmt(f)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}

/// A service whose type has been forgotten.
trait Route: Send + Sync {
    fn call(&self, request: http::Request<Body>) -> ResponseFuture;
}

/// A service that is cloned for each call.
struct Routed<S>(S);

impl<S, B> Route for Routed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: http::Request<Body>) -> ResponseFuture {
        begin(self.0.clone(), request)
    }
}

/// Begins a call of a service that is there for this call alone.
///
/// Most services are always ready, and get the request, which is large, at once. One that is not is asked again, by the task that can
/// wait for it.
pub(super) fn begin<S, B>(mut service: S, request: http::Request<Body>) -> ResponseFuture
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => match downcast(service.call(request)) {
            Ok(future) => future,
            Err(future) => ResponseFuture::new(async move { Ok(respond(future.await)) }),
        },
        Poll::Ready(Err(error)) => ResponseFuture::failed(Status::from_error(error.into())),
        Poll::Pending => {
            ResponseFuture::new(async move { Ok(call_when_ready(service, request).await) })
        }
    }
}

/// Waits for a service and calls it.
pub(super) async fn call_when_ready<S, B>(
    mut service: S,
    request: http::Request<Body>,
) -> http::Response<Body>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let ready = poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(|error| Status::from_error(error.into()));
    match ready {
        Ok(()) => respond(service.call(request).await),
        Err(status) => status.into_http(),
    }
}

/// Makes an ordinary response of what a service returned.
fn respond<B, E>(result: Result<http::Response<B>, E>) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    match result {
        Ok(response) => response.map(Body::new),
        Err(error) => Status::from_error(error.into()).into_http(),
    }
}

impl<S> fmt::Debug for Routed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(type_name::<S>())
    }
}
