#[cfg(feature = "grpc")]
use std::time::Duration;
use std::{
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use shmipc_transport::{Address, Config, Keepalive, Lent, Session, Stats};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "grpc")]
use super::http2::{Http2Channel, Http2Settings};
use super::{
    CallService, ServiceConfig,
    balance::Balanced,
    connection::{Connection, Target},
    direct::Direct,
    in_process::InProcess,
    managed::{Managed, Ways},
    member::Member,
};
#[cfg(feature = "grpc")]
use crate::tls::ClientTls;
use crate::{
    Body, ConnectError, Endpoint, Request, Server, Status,
    body::downcast,
    context::MESSAGE_LEN_MAX_DEFAULT,
    endpoint,
    error::BoxError,
    server::{Router, SessionServices},
};

/// A connection to a server that mends itself. Clones share it.
///
/// When the server's process ends, the calls in flight fail with [`Code::Unavailable`](crate::Code::Unavailable) at once. The next call connects
/// anew; if that fails, calls fail fast until a pause is over, which grows from 10 ms to 2 s, or
/// [wait](ChannelBuilder::wait_for_ready). A server that drains is left when its calls are done.
///
/// It is a tower service over `http::Request<Body>`, so layers fit around it:
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use shmipc_rpc::{Channel, client::Caller};
/// use tower::ServiceBuilder;
///
/// let channel = Channel::connect("/run/greeter.sock").await?;
/// let layered = ServiceBuilder::new().timeout(Duration::from_secs(1)).service(channel);
/// let caller = Caller::new(layered); // Or a generated client.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    way: Way,
}

/// How a channel reaches its server.
#[derive(Clone)]
enum Way {
    /// Through a session.
    Direct(Direct),
    /// By rules, or through several sessions.
    Managed(Managed),
    /// Over HTTP/2.
    #[cfg(feature = "grpc")]
    Http2(Http2Channel),
    /// Through any service.
    Service(Arc<dyn ErasedService>),
}

/// A [`CallService`] whose type has been forgotten.
trait ErasedService: Send + Sync {
    fn call(&self, request: http::Request<Body>) -> Calling;
}

impl<S: CallService + Sync> ErasedService for S {
    fn call(&self, request: http::Request<Body>) -> Calling {
        Box::pin(CallService::call(self, request))
    }
}

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
    #[cfg(feature = "grpc")]
    http2: Http2Settings,
}

/// The future of [`Channel`] as a service. Dropping it gives the call up.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    future: Calling,
    /// Whether what goes wrong on the way becomes a response as well.
    never_fails: bool,
}

/// A call on its way.
type Calling = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

/// How long messages may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimits {
    pub(super) request_len_max: usize,
    pub(super) response_len_max: usize,
}

impl Default for SizeLimits {
    fn default() -> Self {
        Self {
            request_len_max: MESSAGE_LEN_MAX_DEFAULT,
            response_len_max: MESSAGE_LEN_MAX_DEFAULT,
        }
    }
}

impl Channel {
    /// Connects to the server at an [`Endpoint`]: through shared memory to a path or an `@abstract` name, over HTTP/2 to
    /// `http://host:port` and the like (feature `grpc`).
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails. It is not repeated.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that is only half made is given up.
    pub async fn connect(endpoint: impl Into<Endpoint>) -> Result<Self, ConnectError> {
        Self::builder(endpoint).connect().await
    }

    /// Begins with the default of each setting.
    pub fn builder(endpoint: impl Into<Endpoint>) -> ChannelBuilder {
        Self::balanced([endpoint])
    }

    /// Begins a channel to several servers that serve the same, with the default of each setting.
    ///
    /// Each call goes to the one of two servers, chosen at random, that has fewer calls of this channel under way. Those that cannot be
    /// reached are left out; calls make the channel try again to connect to them, after a pause that grows from 10 ms to 2 s.
    ///
    /// A list may mix both kinds of [`Endpoint`], in any order. Calls then go through shared memory, and over HTTP/2 only while no
    /// server can be reached through shared memory: from when the last of these has refused to connect, until one of them is back.
    /// List a server's path and its URL, and it is called in the better way wherever the program runs.
    ///
    /// A list without any endpoint makes a channel whose calls fail with [`Code::Unavailable`](crate::Code::Unavailable).
    pub fn balanced(endpoints: impl IntoIterator<Item = impl Into<Endpoint>>) -> ChannelBuilder {
        ChannelBuilder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            sessions: 1,
            config: Config::default(),
            keepalive: None,
            services: None,
            service_config: None,
            wait_for_ready: false,
            #[cfg(feature = "grpc")]
            http2: Http2Settings::default(),
        }
    }

    /// Makes a channel to a service of this process: a generated server, or one wrapped in layers. Nothing is encoded on the way.
    ///
    /// For tests, and for programs that may or may not have a service of their own.
    ///
    /// Deadlines and cancellation work as they do between processes: the handler's future is dropped, and calls that it makes
    /// inherit its deadline. A request has no [`peer`](crate::Request::peer). A task that a handler has left behind learns
    /// when it sends that nobody receives any more, but not while it waits for requests.
    pub fn in_process(service: impl CallService + Sync) -> Self {
        Self::from_service(InProcess(service))
    }

    /// Makes a channel of any service that calls can be made over.
    pub(crate) fn from_service(service: impl CallService + Sync) -> Self {
        Self {
            way: Way::Service(Arc::new(service)),
        }
    }

    /// Makes a channel over `session`, which does not connect anew.
    pub(crate) fn over(session: Session) -> Self {
        Self {
            way: Way::Direct(Direct {
                connection: Arc::new(Connection::over(session)),
                wait_for_ready: false,
            }),
        }
    }

    /// Returns the address of a server that is reached through shared memory. `None` for one that is reached in another way, and
    /// for a peer that has [connected by itself](crate::Request::channel).
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match &self.way {
            Way::Direct(direct) => direct.connection.address(),
            Way::Managed(managed) => managed.address(),
            #[cfg(feature = "grpc")]
            Way::Http2(_) => None,
            Way::Service(_) => None,
        }
    }

    /// Returns where the server is. `None` for one [in this process](Self::in_process).
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        match &self.way {
            Way::Direct(direct) => direct.connection.address().map(Into::into),
            Way::Managed(managed) => managed.endpoint(),
            #[cfg(feature = "grpc")]
            Way::Http2(http2) => Some(http2.endpoint()),
            Way::Service(_) => None,
        }
    }

    /// Returns the way through a session, if it is that.
    pub(super) fn direct(&self) -> Option<&Direct> {
        match &self.way {
            Way::Direct(direct) => Some(direct),
            #[cfg(feature = "grpc")]
            Way::Http2(_) => None,
            Way::Managed(_) | Way::Service(_) => None,
        }
    }

    /// Returns the way by rules or through several sessions, if it is that.
    pub(super) fn managed(&self) -> Option<&Managed> {
        match &self.way {
            Way::Managed(managed) => Some(managed),
            #[cfg(feature = "grpc")]
            Way::Http2(_) => None,
            Way::Direct(_) | Way::Service(_) => None,
        }
    }

    /// Makes a call for layers. If `never_fails`, not even the body of the response fails: what goes wrong becomes trailers.
    fn calling(&self, request: http::Request<Body>, never_fails: bool) -> Calling {
        match &self.way {
            Way::Direct(direct) => Box::pin(direct.clone().http(request)),
            Way::Managed(managed) => Box::pin(managed.clone().http(request, never_fails)),
            #[cfg(feature = "grpc")]
            Way::Http2(http2) => Box::pin(http2.clone().exchange(request, never_fails)),
            Way::Service(service) => service.call(request),
        }
    }

    /// Lends `len` bytes of memory that the server can read, for a `bytes` field of a request: filled and frozen, it is
    /// sent without being copied. Waits while all of the session's memory is in use.
    ///
    /// Should the channel reconnect before the request is sent, the bytes are copied, and nothing else is different.
    ///
    /// # Errors
    ///
    /// Returns [`Code::Unavailable`](crate::Code::Unavailable) if the server cannot be reached, [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) if the session can
    /// never have so much memory, or the system has none left, and [`Code::FailedPrecondition`](crate::Code::FailedPrecondition) if the channel does not go
    /// through a session, or does not at present.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: memory that was found is returned in the same poll.
    pub async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        match &self.way {
            Way::Direct(direct) => direct.alloc(len).await,
            Way::Managed(managed) => managed.alloc(len).await,
            #[cfg(feature = "grpc")]
            Way::Http2(_) => Err(no_session()),
            Way::Service(_) => Err(no_session()),
        }
    }

    /// Allows for memory that the caller of `request` has lent us to be passed on to this channel's server: a `bytes` field of
    /// 64 KiB or more that came with the request, or on its stream, is sent in requests over this channel without being
    /// copied. Returns whether that will be done.
    ///
    /// It is idempotent and cheap: call it in the handler before each request that passes something on. Nothing is kept open
    /// by it. Should the channel reconnect before the request is sent, the bytes are copied, and nothing else is
    /// different. So they are if `false` is returned: on the calling side, for a call that came in another way than through
    /// a session, while the channel is not connected, and if the server is of another user or knows nothing of this.
    ///
    /// *The server can then read all of the memory region in which the bytes lie.* See
    /// [`Session::forward_from`](shmipc_transport::Session::forward_from).
    pub fn forward_from<T>(&self, request: &Request<T>) -> bool {
        let (sessions, source) = (self.sessions(), request.session());
        let allow = |source: Session| sessions.iter().all(|session| session.forward_from(&source));
        !sessions.is_empty() && source.is_some_and(allow)
    }

    /// Returns what each of the sessions beneath has done and holds: one, or several if the channel balances, and none while
    /// it is not connected, or if it does not go through sessions.
    #[must_use]
    pub fn stats(&self) -> Vec<Stats> {
        self.sessions().iter().map(Session::stats).collect()
    }

    /// The sessions that are open now.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        match &self.way {
            Way::Direct(direct) => direct.connection.session().into_iter().collect(),
            Way::Managed(managed) => managed.sessions(),
            #[cfg(feature = "grpc")]
            Way::Http2(_) => Vec::new(),
            Way::Service(_) => Vec::new(),
        }
    }
}

pub(super) fn no_session() -> Status {
    Status::failed_precondition("the channel does not go through a session")
}

impl ChannelBuilder {
    /// How the session works: memory, waiting. Default: [`Config::default`].
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
    /// [at other times](crate::Server::on_session).
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

    /// How `https` servers are known, and what they are shown. Default: [`ClientTls::new`].
    #[cfg(feature = "grpc")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.http2.tls = tls;
        self
    }

    /// How long connecting over HTTP/2 may take, with TLS. Default: 20 s.
    ///
    /// For sessions there is [`handshake_timeout`](shmipc_transport::ConfigBuilder::handshake_timeout).
    #[cfg(feature = "grpc")]
    pub fn http2_connect_timeout(mut self, timeout: Duration) -> Self {
        self.http2.connect_timeout = timeout;
        self
    }

    /// Connects to the server; if there are several, to all of them, but to those over HTTP/2 only if no other can be reached.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails, with all servers. It is not repeated.
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
                let status = Status::failed_precondition(error.to_string())
                    .with_source(Arc::new(error) as Arc<_>);
                Channel::from_service(Nowhere(status))
            }
        }
    }

    /// Returns the way to the endpoints, without going there.
    fn way(self) -> Result<Way, ConnectError> {
        let Self {
            endpoints,
            sessions,
            mut config,
            keepalive,
            services,
            service_config,
            wait_for_ready,
            #[cfg(feature = "grpc")]
            http2,
        } = self;
        if let Some(keepalive) = keepalive {
            config = config.with_keepalive(keepalive);
        }
        let mut members = Vec::new();
        for endpoint in &endpoints {
            let address = match endpoint.way() {
                endpoint::Way::SharedMemory(address) => address,
                #[cfg(feature = "grpc")]
                endpoint::Way::Http2(_) if services.is_some() => {
                    return Err(ConnectError::OneWay {
                        endpoint: endpoint.to_string(),
                    });
                }
                #[cfg(feature = "grpc")]
                endpoint::Way::Http2(address) => {
                    let settings = Http2Settings {
                        keepalive,
                        ..http2.clone()
                    };
                    let http2 = Http2Channel::new(address.clone(), settings, wait_for_ready);
                    members.push(Member::Http2(http2));
                    continue;
                }
                #[cfg(not(feature = "grpc"))]
                endpoint::Way::Http2(_) => {
                    return Err(ConnectError::NoHttp2 {
                        endpoint: endpoint.to_string(),
                    });
                }
                endpoint::Way::Invalid(error) => return Err(error.clone().into()),
            };
            let connect = || {
                let target = Target {
                    address: address.clone(),
                    config: config.clone(),
                    services: services.clone(),
                };
                Member::Session(Direct {
                    connection: Arc::new(Connection::new(target)),
                    wait_for_ready,
                })
            };
            members.extend(std::iter::repeat_with(connect).take(sessions));
        }
        let ways = match <[Member; 1]>::try_from(members) {
            Ok([member]) if service_config.is_none() => return Ok(member.into()),
            Ok([member]) => Ways::One(member),
            Err(members) => Ways::Several(Arc::new(Balanced::new(members))),
        };
        Ok(Way::Managed(Managed {
            ways,
            config: service_config,
            wait_for_ready,
        }))
    }
}

impl From<Member> for Way {
    fn from(member: Member) -> Self {
        match member {
            Member::Session(direct) => Self::Direct(direct),
            #[cfg(feature = "grpc")]
            Member::Http2(http2) => Self::Http2(http2),
        }
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

/// For every body, so that clients fit whose bodies are of another kind, as those are that tonic generates.
impl<B> Service<http::Request<B>> for Channel
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready. A call waits for what it needs by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    /// Makes a call.
    ///
    /// What the server answers is a response, even if it says that the call failed. An error is what happened on
    /// the way; for a body of another kind than [`Body`] that is a response, too, for who sends it may not know a [`Status`].
    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        match downcast(request) {
            Ok(request) => ResponseFuture {
                future: self.calling(request, false),
                never_fails: false,
            },
            Err(request) => ResponseFuture {
                future: self.calling(request.map(Body::new), true),
                never_fails: true,
            },
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match (self.future.as_mut().poll(cx), self.never_fails) {
            (Poll::Ready(Err(status)), true) => Poll::Ready(Ok(status.into_http())),
            (polled, _) => polled,
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
