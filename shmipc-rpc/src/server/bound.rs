//! A server that listens, at as many endpoints as it likes.

#[cfg(feature = "grpc")]
use std::net::TcpListener;
use std::{
    fmt,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use shmipc_transport::{Config, Listener};
#[cfg(feature = "grpc")]
use sync_wrapper::SyncWrapper;

#[cfg(feature = "grpc")]
use super::http2::{self, Http2Listener, Respond};
use super::{ServerHandle, SessionServices, serve};
use crate::{Endpoint, ServeError, endpoint::Way};
#[cfg(feature = "grpc")]
use crate::{http2::Settings, tls::ServerTls};

/// A server that listens, and is about to serve. Made by [`Server::bind`](crate::Server::bind).
///
/// Clients can connect from the moment it exists; they are served once it serves. One process may so be reached through
/// shared memory and over HTTP/2 at once:
///
/// ```no_run
/// # async fn run(server: shmipc_rpc::Server) -> Result<(), shmipc_rpc::ServeError> {
/// let server = server
///     .bind("/run/route.sock")
///     .await?
///     .bind("http://127.0.0.1:0") // Takes the feature `grpc`.
///     .await?;
/// for endpoint in server.endpoints() {
///     println!("listening at {endpoint}");
/// }
/// server.serve().await
/// # }
/// ```
#[must_use = "a server does nothing until it serves"]
pub struct BoundServer {
    sockets: Vec<Socket>,
    endpoints: Vec<Endpoint>,
    services: Services,
}

/// What all endpoints lead to.
pub(super) struct Services {
    pub(super) sessions: Arc<SessionServices>,
    pub(super) config: Config,
    pub(super) takes_over: bool,
    #[cfg(feature = "grpc")]
    pub(super) respond: SyncWrapper<Box<dyn Respond>>,
    #[cfg(feature = "grpc")]
    pub(super) tls: Option<ServerTls>,
    #[cfg(feature = "grpc")]
    pub(super) http2: Settings,
}

/// Something that connections come from.
enum Socket {
    SharedMemory(Box<Listener>),
    #[cfg(feature = "grpc")]
    Http2(Http2Listener),
}

/// Serves one endpoint.
type Serving = Pin<Box<dyn Future<Output = Result<(), ServeError>> + Send>>;

impl BoundServer {
    pub(super) fn new(services: Services) -> Self {
        Self {
            sockets: Vec::new(),
            endpoints: Vec::new(),
            services,
        }
    }

    /// Listens at one more endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if it cannot be listened at. The others are given up as well. Outside of a tokio runtime that is
    /// [`BindError::NoRuntime`](crate::BindError::NoRuntime) for a path, a name and a Unix socket.
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O; and, for `http://host:port` and `https://host:port`, outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all endpoints are given up.
    pub async fn bind(mut self, endpoint: impl Into<Endpoint>) -> Result<Self, ServeError> {
        let endpoint = endpoint.into();
        match endpoint.way() {
            Way::SharedMemory(address) => {
                let (address, config) = (address.clone(), self.services.config.clone());
                let listener = if self.services.takes_over {
                    Listener::take_over_with(address, config)?
                } else {
                    Listener::bind_with(address, config)?
                };
                self.add(listener);
            }
            #[cfg(feature = "grpc")]
            Way::Http2(address) => {
                let Services {
                    tls, takes_over, ..
                } = &self.services;
                let listener = Http2Listener::bind(address, tls.as_ref(), *takes_over).await?;
                self.add_http2(listener);
            }
            #[cfg(not(feature = "grpc"))]
            Way::Http2(_) => {
                return Err(ServeError::NoHttp2 {
                    endpoint: endpoint.to_string(),
                });
            }
            Way::Invalid(error) => return Err(error.clone().into()),
        }
        Ok(self)
    }

    /// Serves gRPC over HTTP/2 to those who come to `listener` as well: a port that systemd or a parent listens at, or one with options of
    /// its own.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the listener cannot be used. The other endpoints are given up as well.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    #[cfg(feature = "grpc")]
    pub fn bind_http(self, listener: TcpListener) -> Result<Self, ServeError> {
        self.bind_listener(listener, false)
    }

    /// As [`bind_http`](Self::bind_http), with TLS.
    ///
    /// # Errors
    ///
    /// As for [`bind_http`](Self::bind_http), and if the server has [no certificate](crate::Server::tls).
    ///
    /// # Panics
    ///
    /// As [`bind_http`](Self::bind_http) does.
    #[cfg(feature = "grpc")]
    pub fn bind_https(self, listener: TcpListener) -> Result<Self, ServeError> {
        self.bind_listener(listener, true)
    }

    #[cfg(feature = "grpc")]
    fn bind_listener(
        mut self,
        listener: TcpListener,
        is_encrypted: bool,
    ) -> Result<Self, ServeError> {
        let listener = Http2Listener::of(listener, self.services.tls.as_ref(), is_encrypted)?;
        self.add_http2(listener);
        Ok(self)
    }

    #[cfg(feature = "grpc")]
    fn add_http2(&mut self, listener: Http2Listener) {
        self.endpoints.push(listener.endpoint().clone());
        self.sockets.push(Socket::Http2(listener));
    }

    /// Adds a listener, which brings its own [`Config`].
    pub(super) fn add(&mut self, listener: Listener) {
        self.endpoints.push(listener.local_address().into());
        self.sockets.push(Socket::SharedMemory(Box::new(listener)));
    }

    /// Returns where the server listens, in the order in which it was bound. If the system was to choose a port, as with
    /// `http://127.0.0.1:0`, the endpoint has the port that it chose.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Serves, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted at one of the endpoints.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the endpoints are given up, all connections are closed, and the futures of the handlers are
    /// dropped.
    pub async fn serve(self) -> Result<(), ServeError> {
        self.serve_with_shutdown(pending()).await
    }

    /// Serves until `shutdown` is ready, then drains: accepts nothing new, tells the clients to go elsewhere, lets the calls
    /// that run come to their end, and returns.
    ///
    /// Draining takes as long as the slowest call. To bound it, [start](Self::start) the server instead.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted at one of the endpoints.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// As with [`serve`](Self::serve).
    pub async fn serve_with_shutdown(
        self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self {
            sockets,
            mut services,
            ..
        } = self;
        let drain = services.sessions.drain();
        let mut serving: Vec<Serving> = sockets
            .into_iter()
            .map(|socket| services.serve(socket))
            .collect();
        let mut shutdown = pin!(shutdown);
        let mut is_stopped = false;
        poll_fn(|cx| {
            if !is_stopped && shutdown.as_mut().poll(cx).is_ready() {
                is_stopped = true;
                drain.begin(None);
            }
            let mut result = Ok(());
            serving.retain_mut(|serving| match serving.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(ended) => {
                    result = std::mem::replace(&mut result, Ok(())).and(ended);
                    false
                }
            });
            if result.is_err() || serving.is_empty() {
                Poll::Ready(result)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Serves in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(self) -> ServerHandle {
        let endpoints = self.endpoints.clone();
        let drain = self.services.sessions.drain();
        ServerHandle::new(endpoints, drain, self.serve())
    }
}

impl Services {
    /// Serves what comes to a socket, until the server has drained.
    fn serve(&mut self, socket: Socket) -> Serving {
        match socket {
            Socket::SharedMemory(listener) => {
                Box::pin(serve::serve(*listener, Arc::clone(&self.sessions)))
            }
            #[cfg(feature = "grpc")]
            Socket::Http2(listener) => {
                let (services, limits) =
                    (self.respond.get_mut().boxed_clone(), self.sessions.limits());
                let (terms, drain) = (
                    http2::Terms::of(&self.config, self.http2),
                    self.sessions.drain(),
                );
                Box::pin(async move {
                    let served = http2::serve(listener, services, limits, terms, drain).await;
                    served.map_err(ServeError::Http2Accept)
                })
            }
        }
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
