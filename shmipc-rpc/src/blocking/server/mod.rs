//! Serving with threads.

mod call;
mod hub;
mod pool;
mod routes;
mod seat;
pub(super) mod seen;

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shmipc_transport::{
    AcceptError, Address, BindError, Config,
    blocking::{Listener, Stopper},
};

pub(super) use self::call::{Answer, Arrived, Within, no_method};
pub use self::{call::Call, routes::Service};
use self::{hub::Hub, pool::Pool, routes::Routes};
use super::interceptor::InterceptorLayer;
use crate::{
    Method, ServeError,
    context::MESSAGE_LEN_MAX_DEFAULT,
    deadline,
    server::{Drain, DrainReport, Exceptions, LimitTable, Limits, MessageLimits},
};

/// Serves several blocking services at one address, with threads.
///
/// # Threads
///
/// The calling thread accepts sessions. Each session has a thread that takes its calls. A unary method whose handlers have
/// lately been quick (less than 50 µs) runs in that thread; all others run in a pool of up to
/// [`handler_threads`](Self::handler_threads) threads, which are made when they are needed and end when they have been idle
/// for 10 s, and of which no session has more than [its share](Self::handler_threads_per_session). A handler that keeps its
/// session's thread for more than a few milliseconds all the same is left that thread, and another takes the session's further
/// calls; so one slow handler does not hold up its neighbours.
///
/// With [`Wait::Busy`](shmipc_transport::Wait::Busy), the thread of each session occupies a CPU.
///
/// # Examples
///
/// ```no_run
/// use shmipc_rpc::blocking::{Server, Service, Shutdown};
///
/// # fn serve(greeter: impl Service) -> Result<(), shmipc_rpc::ServeError> {
/// let shutdown = Shutdown::new();
/// let in_handler_of_signals = shutdown.clone();
/// // … in_handler_of_signals.begin();
/// Server::builder()
///     .add_service(greeter)
///     .serve_with_shutdown("/run/greeter.sock", &shutdown)
/// # }
/// ```
#[must_use = "a server does nothing until it serves"]
pub struct Server {
    routes: Routes,
    layers: Vec<InterceptorLayer>,
    #[cfg(feature = "reflection")]
    names: Arc<crate::reflection::ServiceNames>,
    limits: Limits,
    exceptions: Exceptions,
    config: Config,
    threads_max: usize,
    /// `None`: half of these.
    threads_per_session_max: Option<usize>,
}

/// Has servers shut down. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    drain: Arc<Drain>,
    state: Mutex<State>,
    /// Told when a server has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_begun: bool,
    listeners: Vec<Stopper>,
    serving: Vec<Arc<Hub>>,
}

/// Has a server known to its [`Shutdown`] for as long as it serves.
struct Serving<'a> {
    shutdown: &'a Shutdown,
    hub: Arc<Hub>,
}

impl Shutdown {
    /// Makes a handle that has not been used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has all servers that serve with it, now and in future, accept nothing new and drain, for as long as their calls take.
    /// Returns at once.
    pub fn begin(&self) {
        self.begin_until(None);
    }

    /// Takes all servers that serve with it out of service: they accept nothing new, tell their clients to go elsewhere and
    /// the [handlers](crate::Request::draining) to come to an end, and wait for the calls that run, for `limit` at most. Then the
    /// sessions with calls that are left are ended, so that their callers get
    /// [`Code::Unavailable`](crate::Code::Unavailable). Waits until all of them have ended, and returns how that went.
    ///
    /// Nobody can end a handler that blocks its thread in code of its own: it goes on, and what it returns is dropped. What it waits
    /// for in this library, such as further requests, fails. In the report, the age of a call may be a few milliseconds too
    /// low if its handler took much longer than others of its method had.
    ///
    /// It may be called several times, and after [`begin`](Self::begin); the shortest limit counts. It is not for handlers of
    /// these servers, which would wait for themselves.
    pub fn drain(&self, limit: Duration) -> DrainReport {
        self.begin_until(deadline::after(limit));
        let mut state = self.state();
        while !state.serving.is_empty() {
            let waited = self.shared.ended.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.drain.to_report()
    }

    fn begin_until(&self, until: Option<Instant>) {
        self.shared.drain.begin(until);
        let mut state = self.state();
        state.has_begun = true;
        for listener in state.listeners.drain(..) {
            listener.stop();
        }
        // Those that drain already may have less time now.
        for hub in &state.serving {
            hub.look_again();
        }
    }

    fn stops(&self, listener: &Listener, hub: &Arc<Hub>) -> Serving<'_> {
        let mut state = self.state();
        if state.has_begun {
            listener.stopper().stop();
        } else {
            state.listeners.push(listener.stopper());
        }
        state.serving.push(Arc::clone(hub));
        Serving {
            shutdown: self,
            hub: Arc::clone(hub),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is never left half changed.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut state = self.shutdown.state();
        state.serving.retain(|hub| !Arc::ptr_eq(hub, &self.hub));
        drop(state);
        self.shutdown.shared.ended.notify_all();
    }
}

impl Server {
    /// Begins with no services, and the default of each setting.
    pub fn builder() -> Self {
        Self {
            routes: Routes::default(),
            layers: Vec::new(),
            #[cfg(feature = "reflection")]
            names: Arc::default(),
            limits: Limits {
                request_len_max: MESSAGE_LEN_MAX_DEFAULT,
                response_len_max: MESSAGE_LEN_MAX_DEFAULT,
                calls_per_session_max: usize::MAX,
            },
            exceptions: Exceptions::default(),
            config: Config::default(),
            threads_max: 256,
            threads_per_session_max: None,
        }
    }

    /// Adds a service.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    pub fn add_service<S: Service>(mut self, service: S) -> Self {
        self.routes.add(service, &mut self.exceptions);
        #[cfg(feature = "reflection")]
        self.names.add(S::NAME);
        self
    }

    /// Adds a service if there is one.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name already.
    pub fn add_optional_service<S: Service>(self, service: Option<S>) -> Self {
        match service {
            Some(service) => self.add_service(service),
            None => self,
        }
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

        let service = reflection.of_server(&self.names);
        let v1 =
            v1::server_reflection_blocking::ServerReflectionServer::from_arc(Arc::clone(&service));
        let v1alpha =
            v1alpha::server_reflection_blocking::ServerReflectionServer::from_arc(service);
        self.add_service(v1).add_service(v1alpha)
    }

    /// Shows the calls of all services to an [interceptor](super::interceptor), or those that the layer is limited to. The first that
    /// is added sees them first; those around [single services](InterceptorLayer::layer) come after all of these.
    ///
    /// It runs in the thread of the handler, and its time counts as that of the handler.
    pub fn layer(mut self, layer: InterceptorLayer) -> Self {
        self.layers.push(layer);
        self
    }

    /// The most threads for handlers, of all sessions together. Default: 256; at least 1.
    ///
    /// Further calls wait for one in their order. A call of many messages keeps its thread until it is over, so this also
    /// bounds how many of these run at once.
    pub fn handler_threads(mut self, threads: usize) -> Self {
        self.threads_max = threads;
        self
    }

    /// The most threads for handlers of one session. Default: half of [them](Self::handler_threads); at least 1.
    ///
    /// Further calls of the session wait for these, so that a client whose calls do not end holds up nobody but itself. A thread that a
    /// handler has kept, which was to be quick, counts as one of them, and may be one more.
    pub fn handler_threads_per_session(mut self, threads: usize) -> Self {
        self.threads_per_session_max = Some(threads);
        self
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

    /// How long the messages of one service may be, whatever the server, and the service itself, allow. The name is the full
    /// one, such as `files.Store`.
    pub fn limits_for_service(mut self, name: impl Into<String>, limits: MessageLimits) -> Self {
        self.exceptions.add_service(name.into(), limits);
        self
    }

    /// How long the messages of one method may be, whatever the server and the service allow.
    pub fn limits_for_method(mut self, method: &Method, limits: MessageLimits) -> Self {
        self.exceptions.add_method(method, limits);
        self
    }

    /// How many calls of one session may run, or wait to run, in the pool at once. Default: as many as the session may have
    /// streams.
    ///
    /// Further ones are answered with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted).
    pub fn concurrent_calls_per_session(mut self, calls: usize) -> Self {
        self.limits.calls_per_session_max = calls;
        self
    }

    /// How sessions work: memory, waiting, who may connect. Default: [`Config::default`].
    ///
    /// Of this, the keepalive has no effect: the deadline of a call limits what its handler waits for, and is set by the caller or by an
    /// [interceptor](super::interceptor::Call::set_timeout).
    ///
    /// The whole has no effect on [`serve_with_listener`](Self::serve_with_listener), where the listener brings its own.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Listens at `address` and serves, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the address cannot be listened at, or connections can no longer be accepted.
    pub fn serve(self, address: impl Into<Address>) -> Result<(), ServeError> {
        self.serve_with_shutdown(address, &Shutdown::new())
    }

    /// Listens at `address` and serves until `shutdown` [begins](Shutdown::begin), then drains: accepts nothing new, tells
    /// the clients to go elsewhere, lets the calls that run come to their end, and returns.
    ///
    /// Draining takes as long as the slowest call, and a second if there are idle clients that do not look; or as long as
    /// [`Shutdown::drain`] says. Handlers whose clients have gone are not waited for.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the address cannot be listened at, or connections can no longer be accepted.
    pub fn serve_with_shutdown(
        self,
        address: impl Into<Address>,
        shutdown: &Shutdown,
    ) -> Result<(), ServeError> {
        let listener = self.listen(address)?;
        self.serve_with_listener_and_shutdown(listener, shutdown)
    }

    /// Listens at `address`, for sessions as the server wants them.
    pub(super) fn listen(&self, address: impl Into<Address>) -> Result<Listener, BindError> {
        Listener::bind_with(address, self.config.clone())
    }

    /// Serves the sessions that come to `listener`, without end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted.
    pub fn serve_with_listener(self, listener: Listener) -> Result<(), ServeError> {
        self.serve_with_listener_and_shutdown(listener, &Shutdown::new())
    }

    /// Serves the sessions that come to `listener` until `shutdown` begins, then drains as
    /// [`serve_with_shutdown`](Self::serve_with_shutdown) does.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if connections can no longer be accepted.
    pub fn serve_with_listener_and_shutdown(
        self,
        listener: Listener,
        shutdown: &Shutdown,
    ) -> Result<(), ServeError> {
        let Self {
            mut routes, limits, ..
        } = self;
        routes.set_interceptors(self.layers);
        routes.set_limits(&LimitTable::new(limits, self.exceptions));
        let drain = Arc::clone(&shutdown.shared.drain);
        let share = self.threads_per_session_max;
        let share = share.unwrap_or(self.threads_max.div_ceil(2));
        let pool = Pool::new(self.threads_max, share);
        let hub = Hub::new(routes, limits, pool, drain);
        let _serving = shutdown.stops(&listener, &hub);
        let failed = loop {
            match listener.accept() {
                Ok(session) => hub.begin(session),
                Err(AcceptError::Stopped) => break None,
                Err(error) => break Some(error),
            }
        };
        drop(listener);
        if failed.is_none() {
            hub.drain();
        }
        hub.close();
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("routes", &self.routes)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
