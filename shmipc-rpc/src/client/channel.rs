use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use shmipc_transport::{Address, Lent, Session, SessionDump, Stats};
use sync_wrapper::SyncWrapper;
use tower_service::Service;

#[cfg(feature = "grpc")]
use super::http2::Http2Channel;
use super::{
    CallService, ChannelBuilder, connection::Connection, direct::Direct, in_process::InProcess,
    managed::Managed, member::Member,
};
use crate::{
    Body, ConnectError, Endpoint, Request, Status, body::downcast,
    context::MESSAGE_LEN_MAX_DEFAULT, error::BoxError,
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
    pub(super) way: Way,
}

/// How a channel reaches its server.
#[derive(Clone)]
pub(super) enum Way {
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
pub(super) trait ErasedService: Send + Sync {
    fn call(&self, request: http::Request<Body>) -> Calling;
}

impl<S: CallService + Sync> ErasedService for S {
    fn call(&self, request: http::Request<Body>) -> Calling {
        Box::pin(CallService::call(self, request))
    }
}

/// The future of [`Channel`] as a service. Dropping it gives the call up.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    future: SyncWrapper<Calling>,
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
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
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
    /// With the feature `health`, servers can be [asked](ChannelBuilder::health_check) besides whether they serve.
    ///
    /// A list without any endpoint makes a channel whose calls fail with [`Code::Unavailable`](crate::Code::Unavailable).
    pub fn balanced(endpoints: impl IntoIterator<Item = impl Into<Endpoint>>) -> ChannelBuilder {
        ChannelBuilder::new(endpoints.into_iter().map(Into::into).collect())
    }

    /// Makes a channel to a service of this process: a generated server, one wrapped in layers, or
    /// [a whole server](crate::Server::into_service). Nothing is encoded on the way.
    ///
    /// For tests, and for programs that may or may not have a service of their own.
    ///
    /// The caller's limits on the sizes of messages hold, and those of a whole server, with those that its generated servers were made
    /// with; a service by itself has none that would be known here. A handler that panics fails its call with
    /// [`Code::Internal`](crate::Code::Internal).
    ///
    /// Deadlines and cancellation work as they do between processes: the handler's future is dropped, and calls that it makes
    /// inherit its deadline; a task that the handler has left behind learns by [`Cancellation`](crate::Cancellation), and when it
    /// sends or waits for requests. A request has no [`peer`](crate::Request::peer).
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
    /// Short ones are copied all the same where that is faster: a request of up to 2 KiB travels in the ring itself. Over shmipc's own
    /// link it is private memory, which is copied when the request is sent: there, the server could write to it.
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

    /// Takes a picture of the state that each of the sessions beneath is in, to be printed. See
    /// [`Session::debug_dump`](shmipc_transport::Session::debug_dump).
    #[must_use]
    pub fn debug_dump(&self) -> Vec<SessionDump> {
        self.sessions().iter().map(Session::debug_dump).collect()
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

impl From<Member> for Way {
    fn from(member: Member) -> Self {
        match member {
            Member::Session(direct) => Self::Direct(direct),
            #[cfg(feature = "grpc")]
            Member::Http2(http2) => Self::Http2(http2),
        }
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
                future: SyncWrapper::new(self.calling(request, false)),
                never_fails: false,
            },
            Err(request) => ResponseFuture {
                future: SyncWrapper::new(self.calling(request.map(Body::new), true)),
                never_fails: true,
            },
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match (self.future.get_mut().as_mut().poll(cx), self.never_fails) {
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
