//! A service of one method, as a generator would make it.

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use shmipc_rpc::{
    Body, Code, Method, Request, Response, Server, Status, Streaming,
    client::Caller,
    server::{self, NamedService, ResponseFuture, Service},
};

/// Answers with the name of the service and the payload that it got.
pub const ANSWER: Method = Method::unary("tests.Named", "Answer", "/tests.Named/Answer");
/// Answers with as many packets as its payload has bytes, each with the name of the service.
pub const LIST: Method = Method::server_streaming("tests.Named", "List", "/tests.Named/List");
/// Answers with the name of the service and all payloads, one after the other.
pub const COLLECT: Method =
    Method::client_streaming("tests.Named", "Collect", "/tests.Named/Collect");
/// Answers each packet with the name of the service and the payload that it got.
pub const CONVERSE: Method =
    Method::bidi_streaming("tests.Named", "Converse", "/tests.Named/Converse");
/// Never answers.
pub const HANG: Method = Method::unary("tests.Named", "Hang", "/tests.Named/Hang");

/// The message of all requests and responses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Packet {
    /// Who made it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Anything.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

/// A service with a name.
#[derive(Clone, Debug)]
pub struct Named {
    name: Arc<str>,
}

impl Named {
    /// Names it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// A server that has only this.
    pub fn server(name: &str) -> Server {
        Server::builder().add_service(Self::new(name))
    }
}

impl NamedService for Named {
    const NAME: &'static str = "tests.Named";
    const METHODS: &'static [Method] = &[ANSWER, LIST, COLLECT, CONVERSE, HANG];
}

impl Service<http::Request<Body>> for Named {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        let service = Arc::new(self.clone());
        match request.uri().path() {
            "/tests.Named/Answer" => server::unary(service, request, answer),
            "/tests.Named/List" => {
                server::server_streaming(service, request, async |service, request| {
                    server::streamed(list(service, request).await)
                })
            }
            "/tests.Named/Collect" => server::client_streaming(service, request, collect),
            "/tests.Named/Converse" => {
                server::bidi_streaming(service, request, async |service, request| {
                    server::streamed(converse(service, request).await)
                })
            }
            "/tests.Named/Hang" => server::unary(service, request, hang),
            _ => server::unimplemented(request),
        }
    }
}

async fn answer(service: Arc<Named>, request: Request<Packet>) -> Result<Response<Packet>, Status> {
    Ok(Response::new(Packet {
        name: service.name.as_ref().to_owned(),
        payload: request.into_inner().payload,
    }))
}

async fn list(service: Arc<Named>, request: Request<Packet>) -> Result<Response<Copies>, Status> {
    let packet = Packet {
        name: service.name.as_ref().to_owned(),
        ..Packet::default()
    };
    let left = request.into_inner().payload.len();
    Ok(Response::new(Copies { packet, left }))
}

/// The same packet, several times. Every other poll has nothing yet, so that others get their turns.
struct Copies {
    packet: Packet,
    left: usize,
}

impl Stream for Copies {
    type Item = Result<Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.packet.payload.is_empty() {
            self.packet.payload = Bytes::from_static(b"polled");
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.packet.payload = Bytes::new();
        self.left -= 1;
        Poll::Ready(Some(Ok(self.packet.clone())))
    }
}

async fn collect(
    service: Arc<Named>,
    request: Request<Streaming<Packet>>,
) -> Result<Response<Packet>, Status> {
    let mut packets = request.into_inner();
    let mut payload = Vec::new();
    while let Some(packet) = packets.message().await? {
        payload.extend_from_slice(&packet.payload);
    }
    Ok(Response::new(Packet {
        name: service.name.as_ref().to_owned(),
        payload: payload.into(),
    }))
}

async fn converse(
    service: Arc<Named>,
    request: Request<Streaming<Packet>>,
) -> Result<Response<Conversation>, Status> {
    Ok(Response::new(Conversation {
        name: Arc::clone(&service.name),
        packets: request.into_inner(),
    }))
}

/// Packets that go back with another name.
struct Conversation {
    name: Arc<str>,
    packets: Streaming<Packet>,
}

impl Stream for Conversation {
    type Item = Result<Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.packets).poll_next(cx);
        polled.map_ok(|packet| Packet {
            name: self.name.as_ref().to_owned(),
            ..packet
        })
    }
}

async fn hang(_: Arc<Named>, _: Request<Packet>) -> Result<Response<Packet>, Status> {
    pending().await
}

/// A request with a payload.
#[must_use]
pub fn request(payload: impl Into<Bytes>) -> Request<Packet> {
    Request::new(Packet {
        payload: payload.into(),
        ..Packet::default()
    })
}

/// Asks for an answer, and returns the name of who gave it.
///
/// # Errors
///
/// Returns the code if there is none.
///
/// # Panics
///
/// If the payload comes back changed, or nothing comes back in time.
pub async fn ask(caller: &Caller, payload: impl Into<Bytes>) -> Result<String, Code> {
    let payload = payload.into();
    let call = caller.unary::<_, Packet>(&ANSWER, request(payload.clone()));
    let answer = crate::in_time("an answer", call).await;
    let answer = answer.map_err(|status| status.code())?.into_inner();
    assert!(answer.payload == payload, "the payload came back changed");
    Ok(answer.name)
}
