use std::{
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use tower_layer::Layer;

use super::{MessageLimits, NamedService, Service};
use crate::Method;

/// Wraps one service in a tower layer, so that [`Server::add_service`](super::Server::add_service) still knows its name.
///
/// [`Server::layer`](super::Server::layer) wraps all services. Layers that know of names themselves, such as
/// [`InterceptorLayer`](crate::interceptor::InterceptorLayer), need no help.
///
/// # Examples
///
/// ```
/// # use shmipc_rpc::{Body, server::{NamedService, Service}};
/// use std::time::Duration;
///
/// use shmipc_rpc::{Server, server::named_layer};
/// use tower::ServiceBuilder;
///
/// # fn configure<S>(greeter: S, clock: S)
/// # where
/// #     S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
/// #         + NamedService + Clone + Send + Sync + 'static,
/// #     S::Future: Send + 'static,
/// # {
/// let hurried = ServiceBuilder::new().timeout(Duration::from_millis(10));
/// let server = Server::builder()
///     .add_service(named_layer(hurried, greeter))
///     .add_service(clock);
/// # }
/// ```
pub fn named_layer<L, N>(layer: L, service: N) -> Named<L::Service, N>
where
    L: Layer<N>,
    N: NamedService,
{
    Named {
        limits: service.message_limits(),
        service: layer.layer(service),
        name: PhantomData,
    }
}

/// A service that has the name of the one within. Made by [`named_layer`].
pub struct Named<S, N> {
    service: S,
    limits: MessageLimits,
    name: PhantomData<fn() -> N>,
}

impl<S, N: NamedService> NamedService for Named<S, N> {
    const NAME: &'static str = N::NAME;
    const METHODS: &'static [Method] = N::METHODS;

    fn message_limits(&self) -> MessageLimits {
        self.limits
    }
}

impl<S: Service<R>, N, R> Service<R> for Named<S, N> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

impl<S: Clone, N> Clone for Named<S, N> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            limits: self.limits,
            name: PhantomData,
        }
    }
}

impl<S: fmt::Debug, N> fmt::Debug for Named<S, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Named").field(&self.service).finish()
    }
}
