//! What a channel is told before it connects.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};
#[cfg(feature = "grpc")]
use std::{io, time::Duration};

use bytes::Bytes;
use shmipc_transport::{Address, Config, Keepalive};
#[cfg(feature = "grpc")]
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "grpc")]
use super::http2::{Connector, DialSettings, Http2Channel, InvalidOrigin};
use super::{
    Channel, ServiceConfig,
    balance::Balanced,
    channel::Way,
    connection::{Connection, Target},
    direct::Direct,
    managed::{Managed, Ways},
    member::Member,
};
use crate::{
    Body, ConnectError, Endpoint, Server, Status, endpoint,
    error::BoxError,
    server::{Router, SessionServices},
};
#[cfg(feature = "grpc")]
use crate::{http2, tls::ClientTls};

/// Configures a [`Channel`].
#[must_use = "a builder does nothing until it connects"]
#[derive(Clone, Debug)]
pub struct ChannelBuilder {
    endpoints: Vec<Endpoint>,
    sessions: usize,
    config: Config,
    keepalive: Option<Keepalive>,
    services: Option<Arc<SessionServices>>,
    service_config: Option<ServiceConfig>,
    wait_for_ready: bool,
    #[cfg(feature = "health")]
    health_check: Option<Arc<str>>,
    #[cfg(feature = "grpc")]
    dial: DialSettings,
}

impl ChannelBuilder {
    /// Begins with the default of each setting.
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            sessions: 1,
            config: Config::default(),
            keepalive: None,
            services: None,
            service_config: None,
            wait_for_ready: false,
            #[cfg(feature = "health")]
            health_check: None,
            #[cfg(feature = "grpc")]
            dial: DialSettings::default(),
        }
    }

    /// How the session works: memory, waiting. Default: [`Config::default`].
    ///
    /// Of this, only the keepalive and which servers are talked to (at Unix sockets) concern connections over HTTP/2.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Chooses what calls do while the server cannot be reached: wait for it, until their deadline, or fail with
    /// [`Code::Unavailable`](crate::Code::Unavailable). Default: `false`, they fail.
    ///
    /// A request may [choose](crate::Request::set_wait_for_ready) for itself.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Leaves a server that lives and does not answer a ping: calls in flight fail with
    /// [`Code::Unavailable`](crate::Code::Unavailable), and the next one connects anew. Default: what
    /// [`config`](Self::config) says, which is not to; a server that has died is noticed without.
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// Serves the services of `server` to the process that the channel connects to, over the same sessions, for as long as
    /// the channel or one of its clones exists. The server reaches them [from its handlers](crate::Request::channel), and
    /// [at other times](crate::Server::on_session). Default: nothing, and calls are answered with
    /// [`Code::Unimplemented`](crate::Code::Unimplemented).
    ///
    /// Its layers, limits and hooks hold as elsewhere; its [`config`](crate::Server::config) does not, because the session is
    /// the channel's.
    pub fn serve<L, B>(mut self, server: Server<L>) -> Self
    where
        L: Layer<Router>,
        L::Service:
            Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.services = Some(Arc::new(server.into_services().1));
        self
    }

    /// How many sessions there are to each server, from 1. Default: 1.
    ///
    /// A session is driven by one task at a time on each side. Several of them use more CPUs where many calls are in flight,
    /// for a multiple of the memory. Calls are spread as among [several servers](Channel::balanced). Over HTTP/2 there is one
    /// connection in any case.
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.max(1);
        self
    }

    /// Sets timeouts, limits and retries by method. Default: none.
    ///
    /// It holds over HTTP/2 as well. Without one, and with one session, calls take a shorter path.
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service_config = Some(config);
        self
    }

    /// Asks the servers how they are, and gives calls to those alone that say that they serve `service`: gRPC's client-side
    /// [health checking](https://grpc.io/docs/guides/health-checking/). The empty name stands for a server as a whole. Default: what the
    /// [service config](crate::client::ServiceConfigBuilder::health_check) says, which is not to ask.
    ///
    /// One call of `grpc.health.v1.Health/Watch` stands open for each connection that is in use, and counts among the server's. It tells of
    /// changes as they come; calls that are under way stay where they are. A server that has not answered yet is treated like one that is
    /// being connected to, and one that does not serve like one that cannot be reached: others get the calls, over HTTP/2 too if there are
    /// any. If all are like that, calls [wait](Self::wait_for_ready), or fail with [`Code::Unavailable`](crate::Code::Unavailable) and
    /// say so.
    ///
    /// A server without that service counts as healthy, and is not asked again over the same connection. When a watch breaks off for
    /// another reason, the server counts as unhealthy until another has succeeded; they are tried with pauses that grow
    /// from 10 ms to 2 s.
    ///
    /// Unlike with gRPC's `pick_first`, it holds for a channel with a single server as well.
    #[cfg(feature = "health")]
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.health_check = Some(service.into().into());
        self
    }

    /// How `https` servers are known, and what they are shown. Default: [`ClientTls::new`].
    #[cfg(feature = "grpc")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.dial.tls = tls;
        self
    }

    /// How long connecting over HTTP/2 may take, with TLS. Default: 20 s.
    ///
    /// For sessions there is [`handshake_timeout`](shmipc_transport::ConfigBuilder::handshake_timeout).
    #[cfg(feature = "grpc")]
    pub fn http2_connect_timeout(mut self, timeout: Duration) -> Self {
        self.dial.connect_timeout = timeout;
        self
    }

    /// How HTTP/2 and the TCP beneath it are set up: windows, frames, headers, sockets. Default: [`Settings::default`](http2::Settings).
    ///
    /// It holds for each server over HTTP/2, if there are several.
    #[cfg(feature = "grpc")]
    pub fn http2(mut self, settings: http2::Settings) -> Self {
        self.dial.http2 = settings;
        self
    }

    /// What the program is called in the `user-agent` of requests over HTTP/2, such as `painter/1.2`: it comes before the name of this crate.
    /// Default: that name alone.
    ///
    /// A request whose metadata has a `user-agent` is sent with that.
    #[cfg(feature = "grpc")]
    pub fn user_agent(mut self, program: http::HeaderValue) -> Self {
        self.dial.identity.set_user_agent(&program);
        self
    }

    /// Whom requests over HTTP/2 are addressed to, such as `https://painter.example`: a host, with a port and a scheme if wanted. Default:
    /// the endpoint.
    ///
    /// For servers that are reached at another place than the one that they are known by: through a proxy, a tunnel or a Unix
    /// socket. It says nothing of where to connect, nor [whose certificate](ClientTls::server_name) is expected.
    ///
    /// Connecting fails with [`ConnectError::Origin`] if it is something else.
    #[cfg(feature = "grpc")]
    pub fn origin(mut self, origin: http::Uri) -> Self {
        self.dial.identity.set_origin(origin);
        self
    }

    /// Makes the sockets of connections over HTTP/2 by `connect`, which is given the endpoint that they are to lead to: through a proxy, from a
    /// certain address, or within the program. Default: TCP and Unix sockets.
    ///
    /// TLS is agreed on over such a socket if the endpoint begins with `https`. The
    /// [time](Self::http2_connect_timeout) for connecting holds; what is [set](Self::http2) of TCP does not. `connect` is called for each
    /// attempt.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), shmipc_rpc::ConnectError> {
    /// use shmipc_rpc::Channel;
    /// use tokio::net::TcpSocket;
    ///
    /// let channel = Channel::builder("http://10.0.0.1:50051")
    ///     .http2_connector(|_| async {
    ///         let socket = TcpSocket::new_v4()?;
    ///         socket.bind(([10, 0, 0, 7], 0).into())?;
    ///         socket.connect(([10, 0, 0, 1], 50051).into()).await
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "grpc")]
    pub fn http2_connector<C, F, S>(mut self, connect: C) -> Self
    where
        C: Fn(Endpoint) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.dial.connector = Some(Connector::new(connect));
        self
    }

    /// Connects to the server; if there are several, to all of them, but to those over HTTP/2 only if no other can be reached.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails, with all servers. It is not repeated.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that is only half made is given up.
    pub async fn connect(self) -> Result<Channel, ConnectError> {
        let channel = Channel { way: self.way()? };
        match &channel.way {
            Way::Direct(direct) => direct.connection.connect().await?,
            Way::Managed(managed) => managed.connect().await?,
            #[cfg(feature = "grpc")]
            Way::Http2(http2) => http2.connect().await?,
            Way::Service(_) => {}
        }
        Ok(channel)
    }

    /// Makes a channel that connects when it is first called.
    ///
    /// If the endpoint is none, all calls fail with [`Code::FailedPrecondition`](crate::Code::FailedPrecondition), and say why.
    #[must_use]
    pub fn connect_lazy(self) -> Channel {
        match self.way() {
            Ok(way) => Channel { way },
            Err(error) => {
                let status = Status::failed_precondition(error.to_string()).with_source(error);
                Channel::from_service(Nowhere(status))
            }
        }
    }

    /// Returns the way to the endpoints, without going there.
    fn way(self) -> Result<Way, ConnectError> {
        let members = self.members()?;
        let Self {
            service_config,
            wait_for_ready,
            ..
        } = self;
        #[cfg(feature = "health")]
        let health_check = {
            let configured = service_config
                .as_ref()
                .and_then(ServiceConfig::health_check);
            self.health_check.or_else(|| configured.cloned())
        };
        #[cfg(not(feature = "health"))]
        let health_check = None;
        let ways = match <[Member; 1]>::try_from(members) {
            Ok([member]) if health_check.is_none() => {
                if service_config.is_none() {
                    return Ok(member.into());
                }
                Ways::One(member)
            }
            Ok([member]) => Ways::Several(Arc::new(Balanced::new(vec![member], health_check))),
            Err(members) => Ways::Several(Arc::new(Balanced::new(members, health_check))),
        };
        Ok(Way::Managed(Managed {
            ways,
            config: service_config,
            wait_for_ready,
        }))
    }

    /// Makes the connections, none of which is connected.
    fn members(&self) -> Result<Vec<Member>, ConnectError> {
        #[cfg(feature = "grpc")]
        if let Err((origin, InvalidOrigin(problem))) = self.dial.identity.check() {
            let origin = origin.to_string();
            return Err(ConnectError::Origin { origin, problem });
        }
        let mut members = Vec::new();
        for endpoint in &self.endpoints {
            match endpoint.way() {
                endpoint::Way::SharedMemory(address) => {
                    let connect = || self.session_to(address);
                    members.extend(std::iter::repeat_with(connect).take(self.sessions));
                }
                #[cfg(feature = "grpc")]
                endpoint::Way::Http2(_) if self.services.is_some() => {
                    return Err(ConnectError::OneWay {
                        endpoint: endpoint.to_string(),
                    });
                }
                #[cfg(feature = "grpc")]
                endpoint::Way::Http2(address) => {
                    let settings = DialSettings {
                        admission: self.config.clone(),
                        keepalive: self.keepalive.or(self.config.keepalive()),
                        ..self.dial.clone()
                    };
                    let http2 = Http2Channel::new(address.clone(), settings, self.wait_for_ready);
                    members.push(Member::Http2(http2));
                }
                #[cfg(not(feature = "grpc"))]
                endpoint::Way::Http2(_) => {
                    return Err(ConnectError::NoHttp2 {
                        endpoint: endpoint.to_string(),
                    });
                }
                endpoint::Way::Invalid(error) => return Err(error.clone().into()),
            }
        }
        Ok(members)
    }

    fn session_to(&self, address: &Address) -> Member {
        let config = self.config.clone();
        let target = Target {
            address: address.clone(),
            config: match self.keepalive {
                Some(keepalive) => config.with_keepalive(keepalive),
                None => config,
            },
            services: match &self.services {
                Some(services) => Arc::clone(services),
                None => Arc::new(SessionServices::none()),
            },
        };
        Member::Session(Direct {
            connection: Arc::new(Connection::new(target)),
            wait_for_ready: self.wait_for_ready,
        })
    }
}

/// What a channel leads to whose endpoint is none.
#[derive(Clone)]
struct Nowhere(Status);

impl Service<http::Request<Body>> for Nowhere {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Ready<Result<http::Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Err(self.0.clone()))
    }
}
