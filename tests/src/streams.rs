//! A service with a method of each kind, which do what the test says.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use shmipc_rpc::{
    Body, Method, Request, Response, ResponseSink, ResponseStream, Status, Streaming,
    server::{self, NamedService, ResponseFuture, Service, Streamed},
};

/// One request, one response.
pub const ONE: Method = Method::unary("tests.Streams", "One", "/tests.Streams/One");
/// One request, a stream of responses.
pub const LIST: Method = Method::server_streaming("tests.Streams", "List", "/tests.Streams/List");
/// A stream of requests, one response.
pub const RECORD: Method =
    Method::client_streaming("tests.Streams", "Record", "/tests.Streams/Record");
/// Streams both ways.
pub const CHAT: Method = Method::bidi_streaming("tests.Streams", "Chat", "/tests.Streams/Chat");

/// The message of all requests and responses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    /// Which one it is.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Anything.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

impl Item {
    /// An item whose payload has `len` bytes, which tell one number from the others.
    #[must_use]
    pub fn new(number: u64, len: usize) -> Self {
        let seed = usize::try_from(number % 251).unwrap_or(0);
        Self {
            number,
            payload: crate::echo::pattern(len, seed).into(),
        }
    }
}

/// What a handler that answers with one message returns.
pub type Answer = Result<Response<Item>, Status>;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
// Boxed twice, because what the library shares between calls has a size.
type Handler<Req, Res> = Arc<Box<dyn Fn(Request<Req>) -> Boxed<Res> + Send + Sync>>;

/// A server as the generator makes them.
#[derive(Clone)]
pub struct Streams {
    one: Handler<Item, Answer>,
    list: Handler<Item, Streamed>,
    record: Handler<Streaming<Item>, Answer>,
    chat: Handler<Streaming<Item>, Streamed>,
}

impl Default for Streams {
    /// A service whose unary method answers with the request. The others are unimplemented.
    fn default() -> Self {
        let unimplemented = || Status::unimplemented("this test has no such handler");
        let no_stream = move || async move {
            server::streamed::<Item, ResponseSink<Item>>(Err(unimplemented()))
        };
        Self {
            one: Arc::new(Box::new(|request| {
                Box::pin(async { Ok(Response::new(request.into_inner())) })
            })),
            list: Arc::new(Box::new(move |_| Box::pin(no_stream()))),
            record: Arc::new(Box::new(move |_| {
                Box::pin(async move { Err(unimplemented()) })
            })),
            chat: Arc::new(Box::new(move |_| Box::pin(no_stream()))),
        }
    }
}

impl Streams {
    /// Sets the handler of [`ONE`].
    #[must_use]
    pub fn one<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.one = Arc::new(Box::new(move |request| Box::pin(handler(request))));
        self
    }

    /// Sets the handler of [`LIST`].
    #[must_use]
    pub fn list<F, Fut, S>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
        S: ResponseStream<Item>,
    {
        self.list = Arc::new(Box::new(move |request| {
            let handled = handler(request);
            Box::pin(async move { server::streamed(handled.await) })
        }));
        self
    }

    /// Sets the handler of [`RECORD`].
    #[must_use]
    pub fn record<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Streaming<Item>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.record = Arc::new(Box::new(move |request| Box::pin(handler(request))));
        self
    }

    /// Sets the handler of [`CHAT`].
    #[must_use]
    pub fn chat<F, Fut, S>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Streaming<Item>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
        S: ResponseStream<Item>,
    {
        self.chat = Arc::new(Box::new(move |request| {
            let handled = handler(request);
            Box::pin(async move { server::streamed(handled.await) })
        }));
        self
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl NamedService for Streams {
    const NAME: &'static str = "tests.Streams";
    const METHODS: &'static [Method] = &[ONE, LIST, RECORD, CHAT];
}

impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        match request.uri().path() {
            "/tests.Streams/One" => {
                server::unary(Arc::clone(&self.one), request, |one, request| one(request))
            }
            "/tests.Streams/List" => {
                server::server_streaming(Arc::clone(&self.list), request, |list, request| {
                    list(request)
                })
            }
            "/tests.Streams/Record" => {
                server::client_streaming(Arc::clone(&self.record), request, |record, request| {
                    record(request)
                })
            }
            "/tests.Streams/Chat" => {
                server::bidi_streaming(Arc::clone(&self.chat), request, |chat, request| {
                    chat(request)
                })
            }
            _ => server::unimplemented(request),
        }
    }
}

/// Counts what is alive: handlers, streams, tasks.
#[derive(Clone, Debug, Default)]
pub struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// Something is alive until what is returned is dropped.
    #[must_use]
    pub fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(&self.0))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that [`Alive`] counts.
#[derive(Debug)]
pub struct Entered(Arc<AtomicUsize>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
