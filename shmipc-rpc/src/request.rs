use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap};
use shmipc_transport::{Lent, Peer, Session, Stats, blocking};

use crate::{
    Channel, Status,
    cancel::Cancellation,
    context::CallContext,
    deadline,
    server::{Draining, Served},
};

/// A message on its way to a server, and what travels with it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shmipc_rpc::Request;
///
/// let mut request = Request::new("message");
/// request.set_timeout(Duration::from_millis(5));
/// request.metadata_mut().insert("x-tenant", "blue".parse()?);
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request<T> {
    message: T,
    metadata: HeaderMap,
    extensions: Extensions,
    timeout: Option<Duration>,
    wait_for_ready: Option<bool>,
    context: CallContext,
}

/// What a request has beside its parts. It travels among the extensions while the request is taken apart.
#[derive(Clone, Debug, Default)]
struct Rest {
    timeout: Option<Duration>,
    wait_for_ready: Option<bool>,
    context: CallContext,
}

impl<T> Request<T> {
    /// Makes a request with no metadata and no deadline of its own.
    #[must_use]
    pub fn new(message: T) -> Self {
        Self::with_context(
            message,
            HeaderMap::new(),
            Extensions::new(),
            CallContext::default(),
        )
    }

    /// Puts a request together from what [`into_parts`](Self::into_parts) returned, or from parts of one's own.
    ///
    /// With the extensions of a request comes what else is known of it. With others, there is no timeout and no deadline, and nothing
    /// is known of a caller, as after [`new`](Self::new).
    #[must_use]
    pub fn from_parts(metadata: HeaderMap, mut extensions: Extensions, message: T) -> Self {
        let Rest {
            timeout,
            wait_for_ready,
            context,
        } = extensions.remove().unwrap_or_default();
        Self {
            message,
            metadata,
            extensions,
            timeout,
            wait_for_ready,
            context,
        }
    }

    /// Takes the request apart, for [`from_parts`](Self::from_parts): metadata, extensions and message.
    ///
    /// What is no part travels among the extensions, as a value that only `from_parts` finds: the [timeout](Self::set_timeout), whether
    /// the call [waits](Self::set_wait_for_ready), and, of a received request, the [deadline](Self::deadline), the
    /// [cancellation](Self::cancellation) and the session, on which [`peer`](Self::peer), [`alloc`](Self::alloc) and
    /// [`channel`](Self::channel) depend. Who drops or replaces the extensions drops that, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use shmipc_rpc::Request;
    ///
    /// let mut request = Request::new("7");
    /// request.set_timeout(Duration::from_millis(5));
    /// let (metadata, extensions, message) = request.into_parts();
    /// let number: u32 = message.parse()?;
    /// // It has the timeout still.
    /// let request = Request::from_parts(metadata, extensions, number);
    /// # Ok::<(), std::num::ParseIntError>(())
    /// ```
    #[must_use]
    pub fn into_parts(self) -> (HeaderMap, Extensions, T) {
        let mut extensions = self.extensions;
        extensions.insert(Rest {
            timeout: self.timeout,
            wait_for_ready: self.wait_for_ready,
            context: self.context,
        });
        (self.metadata, extensions, self.message)
    }

    pub(crate) fn with_context(
        message: T,
        metadata: HeaderMap,
        extensions: Extensions,
        context: CallContext,
    ) -> Self {
        Self {
            message,
            metadata,
            extensions,
            timeout: None,
            wait_for_ready: None,
            context,
        }
    }

    /// Returns what a call is made of. The rest was asked for before.
    pub(crate) fn into_content(self) -> (T, HeaderMap, Extensions) {
        (self.message, self.metadata, self.extensions)
    }

    /// Returns the message and drops the rest.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Returns the message.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// Returns the message, to be changed.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// Replaces the message by what `change` makes of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Request<U> {
        Request {
            message: change(self.message),
            metadata: self.metadata,
            extensions: self.extensions,
            timeout: self.timeout,
            wait_for_ready: self.wait_for_ready,
            context: self.context,
        }
    }

    /// Returns the metadata. See [`metadata`](crate::metadata) for binary values.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        &self.metadata
    }

    /// Returns the metadata, to be changed.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        &mut self.metadata
    }

    /// Returns the extensions: values for, or from, the layers of this side. They are not sent.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the extensions, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// Gives the call this much time, counted from when it is made. Default: no limit.
    ///
    /// When the time has passed, the caller gets [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded), whatever
    /// the server does, and the handler's future is dropped. A call that is made while a handler is polled has no
    /// more time than the handler.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    /// Chooses what happens while the server cannot be reached: wait for it, until the deadline, or fail with
    /// [`Code::Unavailable`](crate::Code::Unavailable). Default: what the [`Channel`] was built with.
    pub fn set_wait_for_ready(&mut self, wait: bool) {
        self.wait_for_ready = Some(wait);
    }

    /// Returns when the caller stops waiting. `None`: never.
    ///
    /// On the calling side, this is the time that was passed on with a received request, if any, and does not include
    /// [`set_timeout`](Self::set_timeout), which counts from when the call is made.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline()
    }

    /// Returns how long the caller will still wait. `None`: without end.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns the process that calls, as the kernel knows it.
    ///
    /// `None` on the calling side, and for a call that came neither through a session nor, over HTTP/2, through a Unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        let session = self.context.served.as_deref().map(Served::peer);
        session.or_else(|| self.extensions.get())
    }

    /// Allows for memory that the server of `channel` has lent us to be passed on to the caller: a `bytes` field of 64 KiB or
    /// more that came with an answer over `channel` is sent in the response to this request without being copied.
    /// Returns whether that will be done.
    ///
    /// It is the way back of [`Channel::forward_from`], and all that is said there holds here.
    pub fn forward_from(&self, channel: &Channel) -> bool {
        let (session, sources) = (self.session(), channel.sessions());
        let allow = |session: Session| sources.iter().all(|source| session.forward_from(source));
        !sources.is_empty() && session.is_some_and(allow)
    }

    /// Returns what the session has done and holds that the call came through. `None` on the calling side, for a call that came in
    /// another way, and when the session is over. See [`Session::stats`](shmipc_transport::Session::stats) for what it costs.
    #[must_use]
    pub fn session_stats(&self) -> Option<Stats> {
        self.session().map(|session| session.stats())
    }

    pub(crate) fn session(&self) -> Option<Session> {
        self.context.served.as_ref()?.session()
    }

    /// Lends `len` bytes of memory that the caller can read, for a `bytes` field of the response: filled and frozen, it is
    /// sent without being copied. Waits while all of the session's memory is in use.
    ///
    /// Over shmipc's own link it is private memory, which is copied when the response is sent: there, the caller could write to it.
    ///
    /// # Errors
    ///
    /// Returns [`Code::FailedPrecondition`] on the calling side, and for a call that came in another way than through a
    /// session; [`Code::ResourceExhausted`] if the session can never have so much memory, or the system has none left;
    /// [`Code::Unavailable`] if the session is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: memory that was found is returned in the same poll.
    ///
    /// [`Code::FailedPrecondition`]: crate::Code::FailedPrecondition
    /// [`Code::ResourceExhausted`]: crate::Code::ResourceExhausted
    /// [`Code::Unavailable`]: crate::Code::Unavailable
    pub async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        match &self.context.served {
            Some(served) => match served.session() {
                Some(session) => session.alloc(len).await.map_err(Status::from_alloc),
                None => Err(Status::unavailable("the session is over")),
            },
            None => Err(Status::failed_precondition(
                "the request did not come through a session",
            )),
        }
    }

    /// As [`alloc`](Self::alloc), for a blocking handler: waits in its thread, but no longer than until the deadline.
    ///
    /// # Errors
    ///
    /// As for [`alloc`](Self::alloc); and [`Code::FailedPrecondition`](crate::Code::FailedPrecondition) in a handler of an
    /// asynchronous server.
    pub fn alloc_blocking(&self, len: usize) -> Result<Lent, Status> {
        let served = self.context.served.as_deref().and_then(Served::session);
        let session = served.as_ref().and_then(blocking::Session::of);
        match session {
            Some(session) => session
                .alloc_until(len, self.deadline())
                .map_err(Status::from_alloc),
            None => Err(Status::failed_precondition(
                "the request did not come through a session of a blocking server, or that is over",
            )),
        }
    }

    /// Returns a channel back to the process that calls, over the session that the call came through. If that
    /// [serves](crate::client::ChannelBuilder::serve) nothing, it answers with [`Code::Unimplemented`](crate::Code::Unimplemented); with a
    /// [blocking channel](crate::blocking::Channel) it does not answer at all, until the deadline.
    ///
    /// When the session is over, calls fail with [`Code::Unavailable`](crate::Code::Unavailable); the channel does not
    /// connect anew. Calls that are made while the handler is polled inherit its deadline, as calls to others do, and are given
    /// up when its future is dropped.
    ///
    /// `None` on the calling side, for a call that came in another way than through a session, and once that is over.
    #[must_use]
    pub fn channel(&self) -> Option<Channel> {
        self.context.served.as_ref()?.session().map(Channel::over)
    }

    /// Returns a handle that tells when the server drains. See [`Draining`].
    #[must_use]
    pub fn draining(&self) -> Draining {
        match &self.context.served {
            Some(served) => served.draining(),
            None => self.context.draining.clone(),
        }
    }

    /// Returns a handle that tells when the caller no longer waits, for work that outlives the handler's future.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.context.cancellation.clone()
    }

    /// Returns the deadline for a call made now: the earliest of all there are.
    pub(crate) fn deadline_from_now(&self) -> Option<Instant> {
        let own = deadline::earlier(self.deadline(), self.timeout.and_then(deadline::after));
        deadline::earlier(own, deadline::inherited())
    }

    /// Returns how long a call made now may take.
    #[cfg(feature = "tonic")]
    pub(crate) fn timeout_from_now(&self) -> Option<Duration> {
        self.deadline_from_now()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn wait_for_ready(&self) -> Option<bool> {
        self.wait_for_ready
    }
}

/// What can be sent as a request: a message, or a [`Request`] with one.
pub trait IntoRequest<T> {
    /// Returns the request.
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request::new(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Self {
        self
    }
}
