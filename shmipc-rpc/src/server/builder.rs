#[cfg(feature = "grpc")]
use std::time::Duration;
use std::{fmt, future::pending};

use bytes::Bytes;
use shmipc_transport::{Config, Listener};
use tower_layer::{Identity, Layer, Stack};

#[cfg(feature = "grpc")]
use super::http2;
use super::{
    Limits, NamedService, Router, Service,
    bound::{BoundServer, Services},
    dispatch::dispatch,
    router::Routes,
    serve,
};
#[cfg(feature = "grpc")]
use crate::tls::ServerTls;
use crate::{Body, Endpoint, ServeError, context::MESSAGE_LEN_MAX_DEFAULT, error::BoxError};

/// Serves several services, at one endpoint or [several](Server::bind).
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
    #[cfg(feature = "grpc")]
    tls: Option<ServerTls>,
    #[cfg(feature = "grpc")]
    http2: http2::Http2Settings,
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
            #[cfg(feature = "grpc")]
            tls: None,
            #[cfg(feature = "grpc")]
            http2: http2::Http2Settings::default(),
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

    /// Adds a service that tonic generated. See [`tonic`](crate::tonic).
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    #[cfg(feature = "tonic")]
    pub fn add_tonic_service<S, B>(self, service: S) -> Self
    where
        S: Service<
                http::Request<crate::tonic::RequestBody>,
                Response = http::Response<B>,
                Error = std::convert::Infallible,
            > + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.add_service(crate::tonic::TonicService::new(service))
    }

    /// Wraps all services in a tower layer, within those that were added before: the first sees a request first.
    ///
    /// The layers wrap a [`Router`]. Each call goes through a clone of the whole, so that a limit must be shared by
    /// clones, as tower's are.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            routes: self.routes,
            layer: Stack::new(layer, self.layer),
            limits: self.limits,
            config: self.config,
            #[cfg(feature = "grpc")]
            tls: self.tls,
            #[cfg(feature = "grpc")]
            http2: self.http2,
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
    /// handler is done without waiting does not count. Over HTTP/2 the clients are told the limit, and hold further calls
    /// back; there it is 1,024 by default.
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

    /// The certificates that endpoints with `https` take. Default: none.
    #[cfg(feature = "grpc")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Pings clients over HTTP/2 that have been silent for `interval`, and hangs up on those that do not answer within
    /// `timeout`. Default: nobody is pinged.
    ///
    /// Clients over shared memory need no pings: their end is noticed at once.
    #[cfg(feature = "grpc")]
    pub fn http2_keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.http2.keepalive = Some((interval, timeout));
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
    /// Listens at an endpoint, and does not serve yet: for servers with several endpoints, and those that want to know which
    /// port they got.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the endpoint is given up.
    pub async fn bind(self, endpoint: impl Into<Endpoint>) -> Result<BoundServer, ServeError> {
        self.unbound().bind(endpoint).await
    }

    /// Listens at `endpoint` and serves, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at, or connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the endpoint is given up, all sessions are closed, and the futures of the handlers
    /// are dropped.
    pub async fn serve(self, endpoint: impl Into<Endpoint>) -> Result<(), ServeError> {
        self.serve_with_shutdown(endpoint, pending()).await
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

    /// Listens at `endpoint` and serves until `shutdown` is ready, then drains: accepts nothing new, tells the clients
    /// to go elsewhere, lets the calls that run come to their end, and returns.
    ///
    /// Draining takes as long as the slowest call. To bound it, drop the future.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at, or connections can no longer be accepted.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    pub async fn serve_with_shutdown(
        self,
        endpoint: impl Into<Endpoint>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.bind(endpoint)
            .await?
            .serve_with_shutdown(shutdown)
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
        let mut bound = self.unbound();
        bound.add(listener);
        bound.serve_with_shutdown(shutdown).await
    }

    fn unbound(self) -> BoundServer {
        let (shared, router) = serve::share(self.routes, self.limits);
        let service = self.layer.layer(router);
        BoundServer::new(Services {
            shared,
            config: self.config,
            #[cfg(feature = "grpc")]
            respond: Box::new(service.clone()),
            #[cfg(feature = "grpc")]
            tls: self.tls,
            #[cfg(feature = "grpc")]
            http2: self.http2,
            dispatch: dispatch(service, self.limits.response_len_max),
        })
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
