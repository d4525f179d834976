use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::HeaderMap;
use shmipc_transport::{Address, Config, ConnectError, Lent, SendError, Stream};
use tower_service::Service;
use tracing::{Instrument as _, field};

use super::{
    answer::{Answer, not_sent},
    connection::Connection,
    sent::{Sent, Unanswered},
};
use crate::{
    Body, Code, Method, Request, Response, Status,
    body::{Borrowed, Encode, decode},
    context::MESSAGE_LEN_MAX_DEFAULT,
    deadline::{self, Elapsed},
    frame::{Flags, Outgoing, RequestHeadRef},
    metadata,
};

/// A connection to a server that mends itself. Clones share it.
///
/// When the server's process ends, the calls in flight fail with [`Code::Unavailable`] at once. The next call connects
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
    connection: Arc<Connection>,
    wait_for_ready: bool,
}

/// Configures a [`Channel`].
#[must_use = "a builder does nothing until it connects"]
#[derive(Clone, Debug)]
pub struct ChannelBuilder {
    address: Address,
    config: Config,
    wait_for_ready: bool,
}

/// The future of [`Channel`] as a service. Dropping it gives the call up.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>,
);

/// How long messages may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimits {
    pub(super) request_len_max: usize,
    pub(super) response_len_max: usize,
}

/// The terms of one call.
#[derive(Clone, Copy)]
struct Terms {
    deadline: Option<Instant>,
    wait_for_ready: bool,
    limits: SizeLimits,
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
    /// Connects to the server at `address`.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails. It is not repeated.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that is only half made is given up.
    pub async fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::builder(address).connect().await
    }

    /// Begins with the default of each setting.
    pub fn builder(address: impl Into<Address>) -> ChannelBuilder {
        ChannelBuilder {
            address: address.into(),
            config: Config::default(),
            wait_for_ready: false,
        }
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.connection.address()
    }

    /// Lends `len` bytes of memory that the server can read, for a `bytes` field of a request: filled and frozen, it is
    /// sent without being copied. Waits while all of the session's memory is in use.
    ///
    /// Should the channel reconnect before the request is sent, the bytes are copied, and nothing else is different.
    ///
    /// # Errors
    ///
    /// Returns [`Code::Unavailable`] if the server cannot be reached, and [`Code::ResourceExhausted`] if the session can
    /// never have so much memory, or the system has none left.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: memory that was found is returned in the same poll.
    pub async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        let session = match self.connection.session() {
            Some(session) => session,
            None => {
                // Connects. Nothing is sent on a stream that nobody uses.
                self.open_stream(self.wait_for_ready).await?;
                let lost = || Status::unavailable("the session was lost before it was used");
                self.connection.session().ok_or_else(lost)?
            }
        };
        session.alloc(len).await.map_err(Status::from_alloc)
    }

    /// Makes a call without `http` and boxes. [`Service::call`] must behave the same.
    pub(super) async fn unary<Req, Res>(
        &self,
        method: &Method,
        request: &Request<Req>,
        limits: SizeLimits,
    ) -> Result<Response<Res>, Status>
    where
        Req: prost::Message,
        Res: prost::Message + Default,
    {
        let terms = Terms {
            deadline: request.deadline_from_now(),
            wait_for_ready: request.wait_for_ready().unwrap_or(self.wait_for_ready),
            limits,
        };
        let mut message = Borrowed(request.get_ref());
        let finish = |answer: Result<Answer, Status>| {
            let Answer {
                message,
                mut metadata,
                trailers,
            } = answer?;
            metadata::merge(&mut metadata, trailers);
            Ok(Response::from_parts(
                decode(message)?,
                metadata,
                http::Extensions::new(),
            ))
        };
        self.exchange(
            method.path(),
            request.metadata(),
            &mut message,
            terms,
            finish,
        )
        .await
    }

    /// Sends a request, awaits the answer, and returns what `finish` makes of it. That gets the error that the server
    /// reports; what goes wrong on the way is returned as it is.
    async fn exchange<M: Encode + ?Sized, R>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
        finish: impl FnOnce(Result<Answer, Status>) -> Result<R, Status>,
    ) -> Result<R, Status> {
        let span = tracing::debug_span!(
            target: "shmipc_rpc::client",
            "call",
            method = path,
            address = %self.connection.address(),
            status = field::Empty,
        );
        let sent = match self.try_send(path, metadata, message, terms) {
            // Boxed, so that calls that need not wait for this have a small future, which is moved about.
            Ok(None) => {
                Box::pin(
                    self.send(path, metadata, message, terms)
                        .instrument(span.clone()),
                )
                .await
            }
            Ok(Some(call)) => Ok(call),
            Err(status) => Err(status),
        };
        let answer = match sent {
            Ok(call) => Sent::new(call, terms.deadline, &span).await,
            Err(status) => Err(status),
        };
        let read = answer.and_then(|answer| Answer::read(answer, terms.limits.response_len_max));
        if !span.is_disabled() {
            let code = match &read {
                Ok(Ok(_)) => Code::Ok,
                Ok(Err(status)) | Err(status) => status.code(),
            };
            span.record("status", code.name());
        }
        finish(read?)
    }

    /// Sends a request if that takes no waiting. `None`: it does, and nothing was sent.
    fn try_send<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Result<Option<Unanswered>, Status> {
        let Some(stream) = self.connection.try_open_stream() else {
            return Ok(None);
        };
        let mut call = Unanswered(stream);
        match frame(path, metadata, message, terms)?.try_ask(&mut call.0) {
            Ok(true) => Ok(Some(call)),
            // If the session is lost, or is to be left, it was before this call began to use it.
            Ok(false) | Err(SendError::SessionLost(_) | SendError::GoingAway) => Ok(None),
            Err(error) => Err(not_sent(error)),
        }
    }

    /// Sends a request, waiting for a session and for room as long as need be.
    async fn send<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Result<Unanswered, Status> {
        let send = async {
            loop {
                let mut call = Unanswered(self.open_stream(terms.wait_for_ready).await?);
                match frame(path, metadata, message, terms)?.send(&mut call.0).await {
                    Ok(()) => return Ok(call),
                    // The server has not seen the call, nor will it: it is as if it had not begun.
                    Err(SendError::GoingAway) => {}
                    Err(error) => return Err(not_sent(error)),
                }
            }
        };
        let sent = deadline::within(terms.deadline, send).await;
        sent.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))
    }

    async fn open_stream(&self, wait_for_ready: bool) -> Result<Stream, Status> {
        match self.connection.try_open_stream() {
            Some(stream) => Ok(stream),
            None => self.connection.open_stream(wait_for_ready).await,
        }
    }

    async fn call_http(
        self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let context = Body::take_context(&mut request);
        let (parts, body) = request.into_parts();
        let header = parts.headers.get("grpc-timeout");
        let timeout = header.and_then(|value| deadline::parse_grpc_timeout(value.as_bytes()));
        let deadline = deadline::earlier(context.deadline(), timeout.and_then(deadline::after));
        let terms = Terms {
            deadline: deadline::earlier(deadline, deadline::inherited()),
            wait_for_ready: context.wait_for_ready.unwrap_or(self.wait_for_ready),
            // The caller has seen to the size of the request.
            limits: SizeLimits {
                request_len_max: usize::MAX,
                response_len_max: context.message_len_max,
            },
        };
        let message = deadline::within(terms.deadline, body.into_encode(usize::MAX)).await;
        let (mut message, _) = message.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))?;
        let finish = |answer| {
            Ok(match answer {
                Ok(Answer {
                    message,
                    metadata,
                    trailers,
                }) => {
                    let mut response =
                        http::Response::new(Body::received_response(message, trailers));
                    *response.version_mut() = http::Version::HTTP_2;
                    *response.headers_mut() = metadata;
                    response
                }
                Err(status) => Status::into_http(status),
            })
        };
        self.exchange(
            parts.uri.path(),
            &parts.headers,
            &mut *message,
            terms,
            finish,
        )
        .await
    }
}

impl ChannelBuilder {
    /// How the session works: memory, waiting. Default: [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Chooses what calls do while the server cannot be reached: wait for it, until their deadline, or fail with
    /// [`Code::Unavailable`]. Default: `false`, they fail.
    ///
    /// A request may [choose](Request::set_wait_for_ready) for itself.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails. It is not repeated.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that is only half made is given up.
    pub async fn connect(self) -> Result<Channel, ConnectError> {
        let channel = self.connect_lazy();
        channel.connection.connect().await?;
        Ok(channel)
    }

    /// Makes a channel that connects when it is first called.
    #[must_use]
    pub fn connect_lazy(self) -> Channel {
        let Self {
            address,
            config,
            wait_for_ready,
        } = self;
        Channel {
            connection: Arc::new(Connection::new(address, config)),
            wait_for_ready,
        }
    }
}

impl Service<http::Request<Body>> for Channel {
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
    /// the way.
    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        ResponseFuture(Box::pin(self.clone().call_http(request)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("address", self.address())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Makes the frame of a request, to be sent now.
fn frame<'a, M: Encode + ?Sized>(
    path: &'a str,
    metadata: &'a HeaderMap,
    message: &'a mut M,
    terms: Terms,
) -> Result<Outgoing<'a, RequestHeadRef<'a>, M>, Status> {
    let timeout_ns = terms.deadline.map(deadline::left_ns).transpose();
    let timeout_ns = timeout_ns.map_err(|Elapsed| deadline::exceeded())?;
    let head = RequestHeadRef {
        path,
        timeout_ns,
        metadata,
    };
    Ok(Outgoing::new(
        Flags::UNARY,
        head,
        Some(message),
        terms.limits.request_len_max,
    )?)
}
