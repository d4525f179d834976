//! A service whose only method does what the test says, and ways to reach it.
#![allow(dead_code, reason = "each test file uses its share")]

pub(crate) mod streams;

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use shmipc_rpc::{
    Address, Body, Channel, Config, Listener, Method, Request, Response, Server, Status,
    client::Caller,
    http,
    server::{self, NamedService, ResponseFuture, Router, Service},
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tower_layer::Layer;

/// The message of all requests and responses.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Packet {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
}

pub(crate) fn packet(text: &str) -> Packet {
    Packet {
        text: text.to_owned(),
        ..Packet::default()
    }
}

/// The method that the service announces.
pub(crate) const RUN: Method = Method::unary("lab.v1.Lab", "Run", "/lab.v1.Lab/Run");
/// A method that the service knows, but does not announce.
pub(crate) const SECRET: Method = Method::unary("lab.v1.Lab", "Secret", "/lab.v1.Lab/Secret");
/// A method that the service does not know.
pub(crate) const UNKNOWN: Method = Method::unary("lab.v1.Lab", "Unknown", "/lab.v1.Lab/Unknown");
/// A method of a service that no server has.
pub(crate) const ELSEWHERE: Method =
    Method::unary("lab.v1.Elsewhere", "Run", "/lab.v1.Elsewhere/Run");

pub(crate) type Handled = Result<Response<Packet>, Status>;
type Handler =
    dyn Fn(Request<Packet>) -> Pin<Box<dyn Future<Output = Handled> + Send>> + Send + Sync;

/// A server as the generator makes them.
#[derive(Clone)]
pub(crate) struct Lab {
    handler: Arc<Box<Handler>>,
}

/// Makes the service that answers with `handler`.
pub(crate) fn lab<F, Fut>(handler: F) -> Lab
where
    F: Fn(Request<Packet>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Handled> + Send + 'static,
{
    Lab {
        handler: Arc::new(Box::new(move |request| Box::pin(handler(request)))),
    }
}

/// Makes the service that answers with the message it gets.
pub(crate) fn echo() -> Lab {
    lab(|request| async move { Ok(Response::new(request.into_inner())) })
}

/// Makes the service that never answers.
pub(crate) fn hang() -> Lab {
    lab(|_| pending())
}

impl NamedService for Lab {
    const NAME: &'static str = "lab.v1.Lab";
    const METHODS: &'static [Method] = &[RUN];
}

impl Service<http::Request<Body>> for Lab {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        match request.uri().path() {
            "/lab.v1.Lab/Run" | "/lab.v1.Lab/Secret" => {
                server::unary(Arc::clone(&self.handler), request, |handler, request| {
                    handler(request)
                })
            }
            _ => server::unimplemented(request),
        }
    }
}

/// A server that runs in a task.
pub(crate) struct Running {
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<()>,
}

/// Serves in a new directory.
pub(crate) fn serve<L, B>(server: Server<L>) -> Running
where
    L: Layer<Router> + Send + 'static,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<shmipc_rpc::BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<shmipc_rpc::BoxError>,
{
    serve_in(
        tempfile::tempdir().expect("a directory for the socket"),
        server,
    )
}

/// Serves in `directory`, where another server may have been.
pub(crate) fn serve_in<L, B>(directory: TempDir, server: Server<L>) -> Running
where
    L: Layer<Router> + Send + 'static,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<shmipc_rpc::BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<shmipc_rpc::BoxError>,
{
    serve_by(directory, Config::default(), server)
}

/// Serves in sessions as `config` says. What the server says of that has no effect where it is passed a listener.
pub(crate) fn serve_with<L, B>(config: Config, server: Server<L>) -> Running
where
    L: Layer<Router> + Send + 'static,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<shmipc_rpc::BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<shmipc_rpc::BoxError>,
{
    let directory = tempfile::tempdir().expect("a directory for the socket");
    serve_by(directory, config, server)
}

fn serve_by<L, B>(directory: TempDir, config: Config, server: Server<L>) -> Running
where
    L: Layer<Router> + Send + 'static,
    L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Error: Into<shmipc_rpc::BoxError>,
    <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<shmipc_rpc::BoxError>,
{
    let listener = Listener::bind_with(directory.path().join("lab.sock"), config);
    let listener = listener.expect("nobody listens there");
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let shutdown = async {
            if stopped.await.is_err() {
                pending().await
            }
        };
        let served = server
            .serve_with_listener_and_shutdown(listener, shutdown)
            .await;
        served.expect("nothing prevents it");
    });
    Running {
        directory,
        stop: Some(stop),
        task,
    }
}

impl Running {
    pub(crate) fn address(&self) -> Address {
        self.directory.path().join("lab.sock").into()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::connect(self.address())
            .await
            .expect("the server listens")
    }

    /// A caller over the channel itself, which takes the short path.
    pub(crate) async fn caller(&self) -> Caller {
        Caller::new(self.channel().await)
    }

    /// A caller over a service that is not a channel, so that calls take the path through `http`.
    pub(crate) async fn caller_over_http(&self) -> Caller<Plain<Channel>> {
        Caller::new(Plain(self.channel().await))
    }

    /// Tells the server to drain.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).expect("the server runs");
        }
    }

    /// Ends the server as if its process had died, and returns the directory of its socket.
    pub(crate) async fn kill(self) -> TempDir {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
        self.directory
    }
}

/// A tower service that adds nothing.
#[derive(Clone, Debug)]
pub(crate) struct Plain<S>(pub(crate) S);

impl<S, R> Service<R> for Plain<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

/// Longer than anything here takes, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Times for calls that get to their handlers first, and are late then: short ones, since the tests wait for all of it, and longer ones on
/// a machine that has much else to do.
pub(crate) fn growing() -> impl Iterator<Item = Duration> {
    let times = std::iter::successors(Some(Duration::from_millis(20)), |time| Some(*time * 4));
    times.take_while(|time| *time < LONG)
}

/// What is told of a call that had `time`; `None` if nothing is, because it did not get there.
pub(crate) async fn told<T>(
    receiver: &mut mpsc::UnboundedReceiver<T>,
    time: Duration,
) -> Option<T> {
    let told = tokio::time::timeout(time.max(Duration::from_secs(1)), receiver.recv());
    told.await.ok().flatten()
}

/// Fails instead of hanging.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it hangs")
}

/// Runs a check over a channel and over a service that is not one.
#[macro_export]
macro_rules! over_both_paths {
    ($running:expr, $check:expr) => {
        common::in_time($check($running.caller().await)).await;
        common::in_time($check($running.caller_over_http().await)).await;
    };
}

/// Sends when it is dropped.
#[derive(Debug)]
pub(crate) struct OnDrop(pub(crate) Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}
