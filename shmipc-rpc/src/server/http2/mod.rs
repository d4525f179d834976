//! gRPC over HTTP/2, as a server: hands calls from sockets to the same services as shared memory does.

mod answer;
mod call;
mod listen;
mod preface;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::Extensions;
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{Id, JoinSet},
    time::timeout,
};

pub(crate) use self::listen::Http2Listener;
pub use self::listen::{ClientCertificates, Http2BindError, RemoteAddr};
use self::{answer::AnswerBody, call::serve_call, listen::Accepted};
use super::{
    Draining, Limits, Service,
    drain::{Drain, NEWS_TIMEOUT},
    limits::LimitTable,
    router::call_when_ready,
    running::Calls,
};
use crate::{
    Body, Config,
    error::BoxError,
    http2::{
        Settings,
        tasks::{CallTask, Tasks},
    },
    socket::Socket,
};

/// How many calls of one connection may run at once, unless the server says so.
const CALLS_MAX_DEFAULT: u32 = 1 << 10;

/// How long to leave a system alone that lacks descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// The future of a response. It never fails: failures are responses.
type Responding = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// Waits until a connection is to be left, and returns how long its calls may go on then.
type Leaving = Pin<Box<dyn Future<Output = Option<Duration>> + Send>>;

/// What holds for all connections.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    settings: Settings,
    /// What holds for sessions as well: who is admitted, how many may be about to begin with HTTP/2 and how long that may take, and
    /// how peers are found out that do not answer.
    config: Config,
}

impl Terms {
    /// Takes what sessions have as well, and what they have not.
    pub(crate) fn of(config: &Config, settings: Settings) -> Self {
        Self {
            settings,
            config: config.clone(),
        }
    }
}

/// The services of a server with the layers above them, whatever their types.
pub(crate) trait Respond: Send {
    /// Begins a call. Runs code of the application, which may panic.
    fn respond(&self, request: http::Request<Body>) -> Responding;

    /// Returns another way to the same services.
    fn boxed_clone(&self) -> Box<dyn Respond>;
}

impl<S, B> Respond for S
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn respond(&self, request: http::Request<Body>) -> Responding {
        Box::pin(call_when_ready(self.clone(), request))
    }

    fn boxed_clone(&self) -> Box<dyn Respond> {
        Box::new(self.clone())
    }
}

/// Serves what comes to `listener` until the server drains; then accepts nothing new, tells the clients to go elsewhere, lets
/// the calls that run come to their end, within the time that there is, and returns.
///
/// # Cancel safety
///
/// If the future is dropped, all connections are closed and the futures of the handlers are dropped.
pub(crate) async fn serve(
    listener: Http2Listener,
    services: Box<dyn Respond>,
    limits: LimitTable,
    terms: Terms,
    drain: Arc<Drain>,
) -> io::Result<()> {
    let mut connections = Connections::default();
    let beginners = Arc::new(Semaphore::new(terms.config.handshakes_max()));
    {
        let mut told = pin!(drain.begun());
        loop {
            tokio::select! {
                biased;
                () = &mut told => break,
                Some(ended) = connections.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    connections.live.remove(&id);
                }
                accepted = accept(&listener, &terms, &beginners) => match accepted {
                    Ok((accepted, begins)) => {
                        let calls = Calls::new(Arc::clone(&drain), accepted.origin());
                        let connection = Connection {
                            services: services.boxed_clone(),
                            limits: limits.clone(),
                            terms: terms.clone(),
                            draining: Draining::of(&drain),
                            calls: calls.clone(),
                        };
                        let task = connections.tasks.spawn(connection.serve(accepted, begins));
                        connections.live.insert(task.id(), calls);
                    }
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        tracing::warn!(target: "shmipc_rpc::server", %error, "cannot accept connections for the moment");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
    drop(listener);
    connections.drain(&drain).await;
    Ok(())
}

/// Accepts a connection once fewer are about to begin than may be.
async fn accept(
    listener: &Http2Listener,
    terms: &Terms,
    beginners: &Arc<Semaphore>,
) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
    let begins = Arc::clone(beginners).acquire_owned().await;
    let begins = begins.map_err(io::Error::other)?;
    Ok((
        listener.accept(&terms.settings, &terms.config).await?,
        begins,
    ))
}

/// The connections of a listener. Dropping it ends them.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    live: HashMap<Id, Calls>,
}

impl Connections {
    /// Lets the calls that run come to their end, within the time that there is.
    async fn drain(self, drain: &Drain) {
        let Self { mut tasks, live } = self;
        // They send GOAWAY by themselves, and are closed after their last call.
        let mut leaving = pin!(async { while tasks.join_next().await.is_some() {} });
        tokio::select! {
            biased;
            () = drain.time_is_up() => {}
            () = &mut leaving => return,
        }
        drain.end();
        live.values().for_each(Calls::wake);
        // Calls that have been told are over, and then so are the connections.
        let _ = timeout(NEWS_TIMEOUT, &mut leaving).await;
        // What is left ends with its connection: a handler that blocks its thread, a client that reads nothing.
        live.values().for_each(Calls::report);
    }
}

/// Whether `accept` will never succeed again. Anything else is a matter of the moment or of a single client.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// One connection, and what its calls need.
struct Connection {
    services: Box<dyn Respond>,
    limits: LimitTable,
    terms: Terms,
    draining: Draining,
    calls: Calls,
}

impl Connection {
    async fn serve(self, accepted: Accepted, begins: OwnedSemaphorePermit) {
        let limit = self.terms.config.handshake_timeout();
        let established = establish(accepted, limit, &self.draining).await;
        drop(begins);
        match established {
            Ok((socket, mut client)) => {
                client.insert(self.draining.clone());
                let leave: Leaving =
                    Box::pin(is_to_leave(self.draining, self.terms.settings.age()));
                let tasks = Tasks::default();
                let builder = builder(self.limits.server, &self.terms, tasks.clone());
                let (services, limits, calls) = (self.services, self.limits, self.calls);
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let task = CallTask::default();
                    // Made as soon as this returns.
                    tasks.next_is_of(&task);
                    let answer = serve_call(
                        services.boxed_clone(),
                        limits.at(request.uri().path()),
                        calls.permit(request.uri().clone()),
                        client.clone(),
                        task,
                        request,
                    );
                    async move { Ok::<http::Response<AnswerBody>, Infallible>(answer.await) }
                });
                let connection = Box::pin(builder.serve_connection(TokioIo::new(socket), service));
                if let Err(error) = accompany(connection, leave).await {
                    tracing::debug!(target: "shmipc_rpc::server", %error, "connection lost");
                }
            }
            Err(error) => {
                tracing::debug!(target: "shmipc_rpc::server", %error, "a client did not begin with HTTP/2");
            }
        }
    }
}

/// Waits for a client to begin, for as long as that may take, and not much longer than until the server drains.
async fn establish(
    accepted: Accepted,
    limit: Duration,
    draining: &Draining,
) -> io::Result<(Socket, Extensions)> {
    let late = async {
        draining.begun().await;
        tokio::time::sleep(NEWS_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        begun = timeout(limit, accepted.establish()) => begun?,
        () = late => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A connection whose type has been forgotten: it is too involved for the compiler to see what can be sent to other threads.
trait Leave: Future<Output = hyper::Result<()>> + Send {
    /// Tells the client to go elsewhere.
    fn leave(self: Pin<&mut Self>);
}

impl<C: GracefulConnection<Error = hyper::Error> + Send> Leave for C {
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection. When the client is to go elsewhere, it is told, and its calls may go on: for as long as they take, or for the time
/// that is said.
async fn accompany(mut connection: Pin<Box<dyn Leave>>, leave: Leaving) -> hyper::Result<()> {
    let grace = tokio::select! {
        biased;
        ended = &mut connection => return ended,
        grace = leave => grace,
    };
    connection.as_mut().leave();
    let Some(grace) = grace else {
        return connection.await;
    };
    let ended = timeout(grace, connection).await;
    ended.unwrap_or_else(|_elapsed| {
        tracing::debug!(target: "shmipc_rpc::server", "a connection was closed before its calls had ended");
        Ok(())
    })
}

/// Waits until a connection is to be left: because the server drains, or because it has become too old. Returns how long its calls may
/// go on then.
async fn is_to_leave(
    draining: Draining,
    age: Option<(Duration, Option<Duration>)>,
) -> Option<Duration> {
    let Some((age, grace)) = age else {
        draining.begun().await;
        return None;
    };
    match timeout(age, draining.begun()).await {
        Ok(()) => None,
        Err(_elapsed) => grace,
    }
}

fn builder(limits: Limits, terms: &Terms, tasks: Tasks) -> Builder<Tasks> {
    let calls_max = u32::try_from(limits.calls_per_session_max).unwrap_or(CALLS_MAX_DEFAULT);
    let mut builder = terms.settings.for_server(calls_max, tasks);
    builder.timer(TokioTimer::new());
    if let Some(keepalive) = terms.config.keepalive() {
        builder
            .keep_alive_interval(keepalive.interval())
            .keep_alive_timeout(keepalive.timeout());
    }
    builder
}
