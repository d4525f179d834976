use std::{fmt, future::pending, sync::Arc};

use bytes::Bytes;
use shmipc_transport::{Config, Keepalive, Listener};
use tower_layer::{Identity, Layer, Stack};

use super::{
    ConnectedPeer, Limits, MessageLimits, NamedService, Router, ServerHandle, ServerService,
    Service, SessionServices,
    bound::{BoundServer, Services},
    dispatch::dispatch,
    limits::{Exceptions, LimitTable},
    router::Routes,
    serve::OnSession,
    session::Shared,
};
use crate::{
    Body, Endpoint, Method, ServeError, context::MESSAGE_LEN_MAX_DEFAULT, error::BoxError,
};
#[cfg(feature = "grpc")]
use crate::{http2::Settings, tls::ServerTls};

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
    exceptions: Exceptions,
    config: Config,
    keepalive: Option<Keepalive>,
    takes_over: bool,
    on_session: Option<OnSession>,
    #[cfg(feature = "grpc")]
    tls: Option<ServerTls>,
    #[cfg(feature = "grpc")]
    http2: Settings,
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
            exceptions: Exceptions::default(),
            config: Config::default(),
            keepalive: None,
            takes_over: false,
            on_session: None,
            #[cfg(feature = "grpc")]
            tls: None,
            #[cfg(feature = "grpc")]
            http2: Settings::default(),
        }
    }
}

impl SessionServices {
    /// What a side serves that serves nothing, and says so to whoever calls it.
    pub(crate) fn none() -> Self {
        Server::builder().services(false).1
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
        self.exceptions.add_own(S::NAME, service.message_limits());
        self.routes.add(service);
        self
    }

    /// Adds a service if there is one.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name already.
    pub fn add_optional_service<S, B>(self, service: Option<S>) -> Self
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
        match service {
            Some(service) => self.add_service(service),
            None => self,
        }
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

    /// Adds services that describe this server's services, themselves included, by both versions of the protocol. Services are listed
    /// whether they have descriptors or not. See [`reflection`](crate::reflection).
    ///
    /// # Panics
    ///
    /// Panics if there is reflection already.
    #[cfg(feature = "reflection")]
    pub fn add_reflection(self, reflection: crate::reflection::Reflection) -> Self {
        use crate::reflection::{v1, v1alpha};

        let service = reflection.of_server(&self.routes.listed);
        let v1 =
            v1::server_reflection_server::ServerReflectionServer::from_arc(Arc::clone(&service));
        let v1alpha = v1alpha::server_reflection_server::ServerReflectionServer::from_arc(service);
        self.add_service(v1).add_service(v1alpha)
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
            exceptions: self.exceptions,
            config: self.config,
            keepalive: self.keepalive,
            takes_over: self.takes_over,
            on_session: self.on_session,
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

    /// Sets limits for a service, by its full name, such as `files.Store`. They go before those of the server and those that the service
    /// was [made with](NamedService::message_limits).
    pub fn limits_for_service(mut self, name: impl Into<String>, limits: MessageLimits) -> Self {
        self.exceptions.add_service(name.into(), limits);
        self
    }

    /// Sets limits for a method. They go before all others.
    pub fn limits_for_method(mut self, method: &Method, limits: MessageLimits) -> Self {
        self.exceptions.add_method(method, limits);
        self
    }

    /// How many calls of one session may run at once. Default: as many as the session may have streams.
    ///
    /// Further ones are answered with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted). A call whose
    /// handler is done without waiting does not count. Over HTTP/2 the clients are told the limit, and hold further calls
    /// back; there it is 1,024 by default, or what the [settings](Self::http2) say.
    pub fn concurrent_calls_per_session(mut self, calls: usize) -> Self {
        self.limits.calls_per_session_max = calls;
        self
    }

    /// How sessions work: memory, waiting, who may connect. Default: [`Config::default`].
    ///
    /// Of this, the keepalive, who is admitted (at Unix sockets), how many handshakes may be under way and how long each may take hold for
    /// connections over HTTP/2 as well. It has no effect on [`serve_with_listener`](Self::serve_with_listener), where the listener brings its own.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Ends sessions and connections with clients that live and do not answer a ping, so that their calls end. Default: what
    /// [`config`](Self::config) says, which is not to.
    ///
    /// Clients over HTTP/2 are pinged while no call runs, too, whatever [`Keepalive::while_idle`] says. It has no effect on
    /// [`serve_with_listener`](Self::serve_with_listener).
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// Takes the address over from a server that may still listen there, instead of failing. Default: `false`.
    ///
    /// From one moment to the next, clients that connect come here. The predecessor keeps those it has until it
    /// [drains](ServerHandle::drain), which it must be told: then its clients come here as well, and none of their calls
    /// fails. Only paths can be taken over, those of Unix sockets for HTTP/2 as well; see [`Listener::take_over_with`] for who
    /// can do so.
    ///
    /// It has no effect on [`serve_with_listener`](Self::serve_with_listener).
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.takes_over = take_over;
        self
    }

    /// Calls `hook` for each session that begins, with what it takes to call the client back. Default: nothing.
    ///
    /// The hook runs on the runtime, so it must not block; to wait for something, it spawns a task. Without any hook, a
    /// handler still can [call its caller](crate::Request::channel).
    pub fn on_session(mut self, hook: impl Fn(ConnectedPeer) + Send + Sync + 'static) -> Self {
        self.on_session = Some(Arc::new(hook));
        self
    }

    /// The certificates that endpoints with `https` take. Default: none.
    #[cfg(feature = "grpc")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How HTTP/2 and the TCP beneath it are set up: windows, frames, headers, sockets. Default: [`Settings::default`](Settings).
    #[cfg(feature = "grpc")]
    pub fn http2(mut self, settings: Settings) -> Self {
        self.http2 = settings;
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
    /// Makes one service of all of them, with the layers and limits of the server, for a channel
    /// [within this process](crate::Channel::in_process):
    ///
    /// ```
    /// # use shmipc_rpc::{Body, server::{NamedService, Service}};
    /// use shmipc_rpc::{Channel, Server};
    ///
    /// # fn connect<S>(greeter: S, clock: S) -> Channel
    /// # where
    /// #     S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
    /// #         + NamedService + Clone + Send + Sync + 'static,
    /// #     S::Future: Send + 'static,
    /// # {
    /// let server = Server::builder().add_service(greeter).add_service(clock);
    /// Channel::in_process(server.into_service())
    /// # }
    /// ```
    ///
    /// What concerns sessions and connections has no effect there: how many calls one may have, its hooks, draining.
    pub fn into_service(self) -> ServerService<L::Service> {
        let service = self.layer.layer(Router::new(Arc::new(self.routes)));
        ServerService::new(service, LimitTable::new(self.limits, self.exceptions))
    }

    /// Listens at an endpoint, and does not serve yet: for servers with several endpoints, and those that want to know which
    /// port they got.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at, and for some outside of a tokio runtime: see [`BoundServer::bind`].
    ///
    /// # Panics
    ///
    /// As [`BoundServer::bind`] does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the endpoint is given up.
    pub async fn bind(self, endpoint: impl Into<Endpoint>) -> Result<BoundServer, ServeError> {
        self.unbound().bind(endpoint).await
    }

    /// Serves gRPC over HTTP/2 to those who come to a `listener` that exists already; see [`BoundServer::bind_http`].
    ///
    /// # Errors
    ///
    /// As for [`BoundServer::bind_http`].
    ///
    /// # Panics
    ///
    /// As [`BoundServer::bind_http`] does.
    #[cfg(feature = "grpc")]
    pub fn bind_http(self, listener: std::net::TcpListener) -> Result<BoundServer, ServeError> {
        self.unbound().bind_http(listener)
    }

    /// As [`bind_http`](Self::bind_http), with TLS.
    ///
    /// # Errors
    ///
    /// As for [`BoundServer::bind_https`].
    ///
    /// # Panics
    ///
    /// As [`BoundServer::bind_http`] does.
    #[cfg(feature = "grpc")]
    pub fn bind_https(self, listener: std::net::TcpListener) -> Result<BoundServer, ServeError> {
        self.unbound().bind_https(listener)
    }

    /// Listens at `endpoint` and serves, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at, as for [`bind`](Self::bind), or connections can no longer be accepted.
    ///
    /// # Panics
    ///
    /// As [`bind`](Self::bind) does, and if the runtime was built without timers.
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
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
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
    /// Returns [`ServeError`] if the endpoint cannot be listened at, as for [`bind`](Self::bind), or connections can no longer be accepted.
    ///
    /// # Panics
    ///
    /// As [`serve`](Self::serve) does.
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
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    ///
    /// # Examples
    ///
    /// `shutdown` may be ready when a successor has got the listening socket, so that no client finds nobody there:
    ///
    /// ```no_run
    /// # use shmipc_rpc::{Listener, Server};
    /// # async fn run(server: Server) -> Result<(), Box<dyn std::error::Error>> {
    /// // A successor begins with `Listener::inherit("/run/route.next")`, and goes on like this.
    /// let listener = Listener::bind("/run/route.sock")?;
    /// let hand_over = listener.hand_over()?;
    /// let succeeded = async {
    ///     if let Err(error) = hand_over.offer("/run/route.next").await {
    ///         eprintln!("there will be no successor: {error}");
    ///         std::future::pending().await
    ///     }
    /// };
    /// server.serve_with_listener_and_shutdown(listener, succeeded).await?;
    /// # Ok(()) }
    /// ```
    pub async fn serve_with_listener_and_shutdown(
        self,
        listener: Listener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut bound = self.unbound();
        bound.add(listener);
        bound.serve_with_shutdown(shutdown).await
    }

    /// Listens at `endpoint` and serves in a task of its own.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the endpoint cannot be listened at, as for [`bind`](Self::bind).
    ///
    /// # Panics
    ///
    /// As [`bind`](Self::bind) does. In a runtime without timers, the task does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the endpoint is given up.
    pub async fn start(self, endpoint: impl Into<Endpoint>) -> Result<ServerHandle, ServeError> {
        Ok(self.bind(endpoint).await?.start())
    }

    /// Serves the sessions that come to `listener` in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start_with_listener(self, listener: Listener) -> ServerHandle {
        let mut bound = self.unbound();
        bound.add(listener);
        bound.start()
    }

    fn unbound(self) -> BoundServer {
        let mut config = self.config.clone();
        if let Some(keepalive) = self.keepalive {
            config = config.with_keepalive(keepalive);
        }
        let takes_over = self.takes_over;
        #[cfg(feature = "grpc")]
        let (tls, http2) = (self.tls.clone(), self.http2);
        let (service, sessions) = self.into_services();
        #[cfg(not(feature = "grpc"))]
        drop(service);
        BoundServer::new(Services {
            sessions: Arc::new(sessions),
            config,
            takes_over,
            #[cfg(feature = "grpc")]
            respond: sync_wrapper::SyncWrapper::new(Box::new(service)),
            #[cfg(feature = "grpc")]
            tls,
            #[cfg(feature = "grpc")]
            http2,
        })
    }

    /// Makes what is served, as a service and in sessions, wherever those come from.
    pub(crate) fn into_services(self) -> (L::Service, SessionServices) {
        self.services(true)
    }

    fn services(self, serves: bool) -> (L::Service, SessionServices) {
        let routes = Arc::new(self.routes);
        let service = self.layer.layer(Router::new(Arc::clone(&routes)));
        let limits = LimitTable::new(self.limits, self.exceptions);
        let dispatch = dispatch(service.clone(), limits.response_len_max());
        let shared = Shared {
            routes,
            limits,
            drain: Arc::default(),
            serves,
        };
        let sessions = SessionServices::new(shared, dispatch, self.on_session);
        (service, sessions)
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
