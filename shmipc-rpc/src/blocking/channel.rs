use std::{fmt, sync::Arc, time::Instant};

use http::HeaderMap;
use shmipc_transport::{
    Address, Config, ConnectError, Lent, SendError, SessionDump, Stats, Stream, blocking::Session,
};
use tracing::{Span, field};

use super::{
    Server,
    connection::Connection,
    in_process::InProcess,
    interceptor::{InterceptorLayer, Interceptors},
};
use crate::{
    Code, Idempotency, ServeError, Status,
    body::Encode,
    client::{MethodConfig, ServiceConfig, policy::Attempts, response::not_sent, retry::Retries},
    deadline::{self, Elapsed},
    frame::{Flags, Outgoing, RequestHeadRef},
};

/// A connection to a server that mends itself, for threads. Clones share it, and so may threads.
///
/// When the server's process ends, the calls in flight fail with [`Code::Unavailable`] at once. The next call connects
/// anew; if that fails, calls fail fast until a pause is over, which grows from 10 ms to 2 s, or
/// [wait](ChannelBuilder::wait_for_ready). A server that drains is left when its calls are done.
///
/// It needs no runtime and makes no thread; see the [module](super). [Interceptors](super::interceptor) fit around it.
#[derive(Clone)]
pub struct Channel {
    connection: Arc<Connection>,
    pub(super) wait_for_ready: bool,
    /// How calls are made, by method.
    config: Option<ServiceConfig>,
    /// Around the channel, the outermost first.
    layers: Option<Arc<[InterceptorLayer]>>,
    /// What it leads to, if that is here.
    _server: Option<Arc<InProcess>>,
}

/// Configures a [`Channel`].
#[must_use = "a builder does nothing until it connects"]
#[derive(Clone, Debug)]
pub struct ChannelBuilder {
    address: Address,
    config: Config,
    service_config: Option<ServiceConfig>,
    wait_for_ready: bool,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) deadline: Option<Instant>,
    pub(super) wait_for_ready: Option<bool>,
    pub(super) request_len_max: usize,
    pub(super) response_len_max: usize,
}

/// The terms of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// What the server is told of.
    pub(super) deadline: Option<Instant>,
    /// Until when an attempt is waited for: the deadline, or less.
    pub(super) patience: Option<Instant>,
    pub(super) wait_for_ready: bool,
    pub(super) request_len_max: usize,
    pub(super) response_len_max: usize,
    /// By which it is made again. `None`: there are none.
    pub(super) rules: Option<Rules<'a>>,
}

/// How the calls of a method are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    config: &'a ServiceConfig,
    method: &'a MethodConfig,
}

impl<'a> Rules<'a> {
    /// Begins with the attempts of a call, if more than one is allowed.
    pub(super) fn attempts(self, idempotency: Idempotency) -> Option<Attempts<'a>> {
        self.config.attempts(self.method, idempotency)
    }

    /// Returns what counts successes. Failures are counted with the attempts.
    pub(super) fn config(self) -> &'a ServiceConfig {
        self.config
    }
}

impl Channel {
    /// Connects to the server at `address`.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails. It is not repeated.
    pub fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::builder(address).connect()
    }

    /// Begins with the default of each setting.
    pub fn builder(address: impl Into<Address>) -> ChannelBuilder {
        ChannelBuilder {
            address: address.into(),
            config: Config::default(),
            service_config: None,
            wait_for_ready: false,
        }
    }

    /// Makes a channel to a server of this process, which serves in threads of its own until the channel and its clones are gone. For tests.
    ///
    /// Calls go through shared memory, as between processes: messages are encoded, the limits and interceptors of the server hold, and
    /// handlers know this process as their [`peer`](crate::Request::peer). The server's [`config`](super::Server::config) is that of
    /// its side, and the default one that of the channel; any number of channels may be made to its
    /// [`address`](Self::address). Calls that are under way when the last clone is dropped are let come to their end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the system grants no socket or no thread.
    pub fn in_process(server: Server) -> Result<Self, ServeError> {
        let (server, address) = InProcess::start(server)?;
        let channel = Self::builder(address).connect_lazy();
        Ok(Self {
            _server: Some(Arc::new(server)),
            ..channel
        })
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.connection.address()
    }

    /// Lends `len` bytes of memory that the server can read, for a `bytes` field of a request: filled and frozen, it is
    /// sent without being copied. Waits while all of the session's memory is in use, but no longer than an
    /// [inherited](super) deadline.
    ///
    /// Short ones are copied all the same where that is faster: a request of up to 2 KiB travels in the ring itself. Over shmipc's own
    /// link it is private memory, which is copied when the request is sent: there, the server could write to it.
    ///
    /// Should the channel reconnect before the request is sent, the bytes are copied, and nothing else is different.
    ///
    /// # Errors
    ///
    /// Returns [`Code::Unavailable`] if the server cannot be reached, and [`Code::ResourceExhausted`] if the session can
    /// never have so much memory, or the system has none left, or none came back in time.
    pub fn alloc(&self, len: usize) -> Result<Lent, Status> {
        let deadline = deadline::inherited();
        let (session, _) = self.connection.open_stream(self.wait_for_ready, deadline)?;
        session
            .alloc_until(len, deadline)
            .map_err(Status::from_alloc)
    }

    /// Returns what the session beneath has done and holds: one element, and none while it is not connected.
    #[must_use]
    pub fn stats(&self) -> Vec<Stats> {
        self.session().iter().map(Session::stats).collect()
    }

    /// Takes a picture of the state that the session beneath is in, to be printed: one element, and none while it is not
    /// connected. See [`Session::debug_dump`](shmipc_transport::Session::debug_dump).
    #[must_use]
    pub fn debug_dump(&self) -> Vec<SessionDump> {
        self.session().iter().map(Session::debug_dump).collect()
    }

    /// The session, if it is open now.
    fn session(&self) -> Option<Session> {
        self.connection.session()
    }

    /// Lays an interceptor around the channel.
    pub(super) fn within(self, layer: InterceptorLayer) -> Self {
        let inner = self.layers.iter().flat_map(|layers| layers.iter().cloned());
        let layers = std::iter::once(layer).chain(inner).collect();
        Self {
            layers: Some(layers),
            ..self
        }
    }

    /// Returns the terms of a call of the method at `path`.
    pub(super) fn terms(&self, path: &str, ask: Ask) -> Terms<'_> {
        let wait_for_ready = ask.wait_for_ready.unwrap_or(self.wait_for_ready);
        let mut terms = Terms {
            deadline: ask.deadline,
            patience: ask.deadline,
            wait_for_ready,
            request_len_max: ask.request_len_max,
            response_len_max: ask.response_len_max,
            rules: None,
        };
        let Some(config) = &self.config else {
            return terms;
        };
        let method = config.of_method(path);
        terms.deadline = deadline::earlier(ask.deadline, method.timeout.and_then(deadline::after));
        terms.patience = terms.deadline;
        if let (None, Some(wait)) = (ask.wait_for_ready, method.wait_for_ready) {
            terms.wait_for_ready = wait;
        }
        let lower = |limit: &mut usize, max: Option<usize>| {
            *limit = max.map_or(*limit, |max| max.min(*limit));
        };
        lower(&mut terms.request_len_max, method.request_len_max);
        lower(&mut terms.response_len_max, method.response_len_max);
        terms.rules = Some(Rules { config, method });
        terms
    }

    /// Returns who sees calls of the method at `path`.
    pub(super) fn interceptors(&self, path: &str) -> Interceptors {
        let mut interceptors = Interceptors::new();
        if let Some(layers) = &self.layers {
            for layer in &**layers {
                layer.join(&mut interceptors, path);
            }
        }
        interceptors
    }

    /// Sends a request of one message, and returns the stream that its answer comes on.
    pub(super) fn ask<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms<'_>,
    ) -> Result<Stream, Status> {
        let mut request = frame(path, metadata, message, terms)?;
        if request.is_short()
            && let Some(stream) = self.connection.try_open_stream()
        {
            let mut stream = stream.into_async();
            match request.try_ask(&mut stream) {
                Ok(true) => return Ok(stream),
                // If the session is lost, or is to be left, it was before this call began to use it.
                Ok(false) | Err(SendError::SessionLost(_) | SendError::GoingAway) => {}
                Err(error) => return Err(not_sent(error)),
            }
        }
        self.ask_patiently(path, metadata, message, terms)
    }

    /// Sends a request, waiting for a session and for room as long as need be.
    fn ask_patiently<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms<'_>,
    ) -> Result<Stream, Status> {
        let mut retries = Retries::default();
        loop {
            let (session, mut stream) = self.open(terms)?;
            let frame = frame(path, metadata, message, terms)?;
            match session.block_on(terms.patience, frame.send(stream.halves_mut().0)) {
                Some(Ok(())) => return Ok(stream),
                Some(Err(error)) => retries.permit(error)?,
                None => return Err(deadline::exceeded()),
            }
        }
    }

    /// Opens a stream, and returns its session, too.
    pub(super) fn open(&self, terms: Terms<'_>) -> Result<(Session, Stream), Status> {
        let opened = self
            .connection
            .open_stream(terms.wait_for_ready, terms.patience);
        opened.map(|(session, stream)| (session, stream.into_async()))
    }

    pub(super) fn span(&self, path: &str) -> Span {
        tracing::debug_span!(
            target: "shmipc_rpc::client",
            "call",
            method = path,
            address = %self.connection.address(),
            status = field::Empty,
        )
    }
}

impl ChannelBuilder {
    /// How the session works: memory, waiting. Default: [`Config::default`].
    ///
    /// Of this, the keepalive has no effect: a [deadline](crate::Request::set_timeout) limits how long a call waits for a server that
    /// lives and does not answer.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Chooses what calls do while the server cannot be reached: wait for it, until their deadline, or fail with
    /// [`Code::Unavailable`]. Default: `false`, they fail.
    ///
    /// A request may [choose](crate::Request::set_wait_for_ready) for itself.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Sets timeouts, limits and retries by method. Default: none.
    ///
    /// Retries wait in the thread of the call. What it says of health checks does not concern a channel for threads. Without one, calls
    /// take a shorter path.
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service_config = Some(config);
        self
    }

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if this first attempt fails. It is not repeated.
    pub fn connect(self) -> Result<Channel, ConnectError> {
        let channel = self.connect_lazy();
        channel.connection.connect()?;
        Ok(channel)
    }

    /// Makes a channel that connects when it is first called.
    #[must_use]
    pub fn connect_lazy(self) -> Channel {
        let Self {
            address,
            config,
            service_config,
            wait_for_ready,
        } = self;
        Channel {
            connection: Arc::new(Connection::new(address, config)),
            wait_for_ready,
            config: service_config,
            layers: None,
            _server: None,
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("address", self.address())
            .finish_non_exhaustive()
    }
}

/// Notes in the span of a call how it went.
pub(super) fn record<T>(span: &Span, result: &Result<T, Status>) {
    if !span.is_disabled() {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        span.record("status", code.name());
    }
}

/// Makes the frame of a request, to be sent now.
fn frame<'a, M: Encode + ?Sized>(
    path: &'a str,
    metadata: &'a HeaderMap,
    message: &'a mut M,
    terms: Terms<'_>,
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
        terms.request_len_max,
    )?)
}
