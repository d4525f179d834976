//! A service with methods of the three streaming kinds, which do what the test says.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use shmipc_rpc::{
    Body, Method, Request, Response, ResponseStream, Status, Streaming, http,
    server::{self, NamedService, ResponseFuture, Service, Streamed},
};

use super::{Handled, Packet};

pub(crate) const LIST: Method =
    Method::server_streaming("lab.v1.Streams", "List", "/lab.v1.Streams/List");
pub(crate) const RECORD: Method =
    Method::client_streaming("lab.v1.Streams", "Record", "/lab.v1.Streams/Record");
pub(crate) const CHAT: Method =
    Method::bidi_streaming("lab.v1.Streams", "Chat", "/lab.v1.Streams/Chat");

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Handler<Req, Res> = Arc<Box<dyn Fn(Request<Req>) -> Boxed<Res> + Send + Sync>>;

/// A server as the generator makes them. Methods that are not set panic.
#[derive(Clone)]
pub(crate) struct Streams {
    list: Handler<Packet, Streamed>,
    record: Handler<Streaming<Packet>, Handled>,
    chat: Handler<Streaming<Packet>, Streamed>,
}

pub(crate) fn streams() -> Streams {
    Streams {
        list: Arc::new(Box::new(|_| panic!("nobody lists"))),
        record: Arc::new(Box::new(|_| panic!("nobody records"))),
        chat: Arc::new(Box::new(|_| panic!("nobody chats"))),
    }
}

impl Streams {
    pub(crate) fn list<F, Fut, S>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Packet>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
        S: ResponseStream<Packet>,
    {
        self.list = Arc::new(Box::new(move |request| {
            let handled = handler(request);
            Box::pin(async move { server::streamed(handled.await) })
        }));
        self
    }

    pub(crate) fn record<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Streaming<Packet>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        self.record = Arc::new(Box::new(move |request| Box::pin(handler(request))));
        self
    }

    pub(crate) fn chat<F, Fut, S>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Streaming<Packet>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
        S: ResponseStream<Packet>,
    {
        self.chat = Arc::new(Box::new(move |request| {
            let handled = handler(request);
            Box::pin(async move { server::streamed(handled.await) })
        }));
        self
    }
}

impl NamedService for Streams {
    const NAME: &'static str = "lab.v1.Streams";
    const METHODS: &'static [Method] = &[LIST, RECORD, CHAT];
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
            "/lab.v1.Streams/List" => {
                server::server_streaming(Arc::clone(&self.list), request, |list, request| {
                    list(request)
                })
            }
            "/lab.v1.Streams/Record" => {
                server::client_streaming(Arc::clone(&self.record), request, |record, request| {
                    record(request)
                })
            }
            "/lab.v1.Streams/Chat" => {
                server::bidi_streaming(Arc::clone(&self.chat), request, |chat, request| {
                    chat(request)
                })
            }
            _ => server::unimplemented(request),
        }
    }
}

/// A stream of what an iterator gives.
pub(crate) fn iter<I: IntoIterator>(items: I) -> Iter<I::IntoIter> {
    Iter(items.into_iter())
}

pub(crate) struct Iter<I>(I);

impl<I: Iterator + Unpin> Stream for Iter<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

/// A stream of what is sent through a channel.
pub(crate) struct Queue<T>(pub(crate) tokio::sync::mpsc::Receiver<T>);

impl<T> Stream for Queue<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

pub(crate) fn queue<T>() -> (tokio::sync::mpsc::Sender<T>, Queue<T>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Queue(receiver))
}

/// A packet with a number.
pub(crate) fn numbered(number: u64) -> Packet {
    Packet {
        number,
        ..Packet::default()
    }
}

/// Takes the numbers of all messages.
pub(crate) async fn numbers(mut messages: Streaming<Packet>) -> Result<Vec<u64>, Status> {
    let mut numbers = Vec::new();
    while let Some(message) = messages.message().await? {
        numbers.push(message.number);
    }
    Ok(numbers)
}
