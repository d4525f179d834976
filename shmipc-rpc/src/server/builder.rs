use std::{fmt, future::pending};

use bytes::Bytes;
use shmipc_transport::{Address, Config, Listener};
use tower_layer::{Identity, Layer, Stack};

use super::{
    Limits, NamedService, Router, Service,
    dispatch::{Dispatch, dispatch},
    router::Routes,
    serve,
};
use crate::{Body, ServeError, context::MESSAGE_LEN_MAX_DEFAULT, error::BoxError};

/// Serves several services at one address.
///
/// # Examples
///
/// ```no_run
/// # use shmipc_rpc::{Body, server::{NamedService, Service}};
/// use shmipc_rpc::Server;
///
/// # async fn run<S>(greeter: S, clock: S) -> Result<(), shmipc_rpc::ServeError>
/// # where
/// #     S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
/// #         + NamedService + Clone + Send + Sync + 'static,
/// #     S::Future: Send + 'static,
/// # {
/// Server::builder()
///     .add_service(greeter)
///     .add_service(clock)
///     .serve_with_shutdown("/run/greeter.sock", async {
///         tokio::time::sleep(std::time::Duration::from_secs(60)).await;
///     })
///     .await
/// # }
/// ```
#[must_use = "a server does nothing until it serves"]
pub struct Server<L = Identity> {
    routes: Routes,
    layer: L,
    limits: Limits,
    config: Config,
}

impl Server {
    /// Begins with no services, no layers, and the default of each setting.
    pub fn builder() -> Self {
        Self {
            routes: Routes::default(),
            layer: Identity::new(),
            limits: Limits {
                request_len_max: MESSAGE_LEN_MAX_DEFAULT,
                response_len_max: MESSAGE_LEN_MAX_DEFAULT,
                calls_per_session_max: usize::MAX,
            },
            config: Config::default(),
        }
    }
}

impl<L> Server<L> {
    /// Adds a service.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    pub fn add_service<S, B>(mut self, service: S) -> Self
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
        self.routes.add(service);
        self
    }

    /// Wraps all services in a tower layer, within those that were added before: the first sees a request first.
    ///
    /// The layers wrap a [`Router`]. Each call goes through a clone of the whole, so that a limit must be shared by
    /// clones, as tower's are.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        let Self {
            routes,
            layer: outer,
            limits,
            config,
        } = self;
        Server {
            routes,
            layer: Stack::new(layer, outer),
            limits,
            config,
        }
    }

    /// The most bytes that the message of a request may have. Default: 64 MiB.
    ///
    /// A larger one is answered with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and not looked at.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.limits.request_len_max = bytes;
        self
    }

    /// The most bytes that the message of a response may have. Default: 64 MiB.
    ///
    /// Instead of a larger one the caller gets [`Code::ResourceExhausted`](crate::Code::ResourceExhausted).
    pub fn max_response_size(mut self, bytes: usize) -> Self {
        self.limits.response_len_max = bytes;
        self
    }

    /// How many calls of one session may run at once. Default: as many as the session may have streams.
    ///
    /// Further ones are answered with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted). A call whose
    /// handler is done without waiting does not count.
    pub fn concurrent_calls_per_session(mut self, calls: usize) -> Self {
        self.limits.calls_per_session_max = calls;
        self
    }

    /// How sessions work: memory, waiting, who may connect. Default: [`Config::default`].
    ///
    /// It has no effect on [`serve_with_listener`](Self::serve_with_listener), where the listener brings its own.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }
}

impl<L, B> Server<L>
where
    L: Layer<Router>,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Listens at `address` and serves, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the address cannot be listened at, or connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the address is given up, all sessions are closed, and the futures of the handlers
    /// are dropped.
    pub async fn serve(self, address: impl Into<Address>) -> Result<(), ServeError> {
        self.serve_with_shutdown(address, pending()).await
    }

    /// Serves the sessions that come to `listener`, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    pub async fn serve_with_listener(self, listener: Listener) -> Result<(), ServeError> {
        self.serve_with_listener_and_shutdown(listener, pending())
            .await
    }

    /// Listens at `address` and serves until `shutdown` is ready, then drains: accepts nothing new, tells the clients
    /// to go elsewhere, lets the calls that run come to their end, and returns.
    ///
    /// Draining takes as long as the slowest call. To bound it, drop the future.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the address cannot be listened at, or connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    pub async fn serve_with_shutdown(
        self,
        address: impl Into<Address>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let listener = Listener::bind_with(address, self.config.clone())?;
        self.serve_with_listener_and_shutdown(listener, shutdown)
            .await
    }

    /// Serves the sessions that come to `listener` until `shutdown` is ready, then drains as
    /// [`serve_with_shutdown`](Self::serve_with_shutdown) does.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    pub async fn serve_with_listener_and_shutdown(
        self,
        listener: Listener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self {
            routes,
            layer,
            limits,
            config: _,
        } = self;
        let (shared, router) = serve::share(routes, limits);
        let dispatch: Box<dyn Dispatch> = dispatch(layer.layer(router), limits.response_len_max);
        serve::serve(listener, shared, dispatch, shutdown).await
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("routes", &self.routes)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
