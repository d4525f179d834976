//! The cases with compression, between our own sides over HTTP/2, where every message of a request or response is looked at on its way.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Frame;
use shmipc_rpc::{
    Body, Channel, Code, Request, Sender, Server, Status,
    client::{MethodConfig, ServiceConfig},
    codec::{CompressionEncoding, SingleMessageCompressionOverride},
    http::{self, Extensions},
    server::{NamedService, Service},
};

use crate::{
    echo::{Handlers, payload},
    links::{Link, Place, start},
    our_service::OurService,
    protos::{
        BoolValue, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
        StreamingOutputCallRequest, test_service_client::TestServiceClient,
        test_service_server::TestServiceServer,
    },
};

type Client = TestServiceClient<Witness<Channel>>;

/// Whether each message that has come was compressed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(Arc<Mutex<Vec<bool>>>);

impl Flags {
    /// Returns those of a request or response, none of whose messages is known if nobody has looked at them.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Fails unless the message of this number is as it is expected, if anything is.
    pub(crate) fn check(&self, number: usize, expected: Option<BoolValue>) -> Result<(), Status> {
        let flag = self.0.lock().expect("no panic").get(number).copied();
        match expected {
            Some(expected) if flag != Some(expected.value) => Err(Status::invalid_argument(
                format!("the message is to be compressed: {}", expected.value),
            )),
            _ => Ok(()),
        }
    }

    fn all(&self) -> Vec<bool> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Whether something is known to be false.
pub(crate) fn is_false(value: Option<BoolValue>) -> bool {
    value.is_some_and(|value| !value.value)
}

fn is(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A service of which the messages are looked at that come to it, or from it.
#[derive(Clone, Debug)]
pub(crate) struct Witness<S> {
    service: S,
    /// Whether it is a handler's.
    is_server: bool,
}

impl<S: NamedService> NamedService for Witness<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Witness<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let is_server = self.is_server;
        if is_server {
            let flags = Flags::default();
            request.extensions_mut().insert(flags.clone());
            request = request.map(|body| watched(body, flags));
        }
        let responding = self.service.call(request);
        Box::pin(async move {
            let mut response = responding.await?;
            if is_server {
                return Ok(response);
            }
            let flags = Flags::default();
            response.extensions_mut().insert(flags.clone());
            Ok(response.map(|body| watched(body, flags)))
        })
    }
}

fn watched(body: Body, flags: Flags) -> Body {
    Body::new(Watched {
        body,
        flags,
        prefix: Vec::new(),
        left: 0,
    })
}

/// A body whose messages are looked at.
struct Watched {
    body: Body,
    flags: Flags,
    /// What has come of the prefix of a message.
    prefix: Vec<u8>,
    /// How much is yet to come of a message.
    left: usize,
}

impl Watched {
    fn see(&mut self, mut data: &[u8]) {
        while data.has_remaining() {
            let skipped = self.left.min(data.len());
            data.advance(skipped);
            self.left -= skipped;
            if data.has_remaining() {
                self.prefix.push(data.get_u8());
            }
            if let [flag, len @ ..] = &self.prefix[..]
                && let Ok(len) = <[u8; 4]>::try_from(len)
            {
                self.flags.0.lock().expect("no panic").push(*flag == 1);
                self.left = u32::from_be_bytes(len) as usize;
                self.prefix.clear();
            }
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.see(data);
        }
        Poll::Ready(polled)
    }
}

async fn link(place: Place, encoding: CompressionEncoding) -> Link<Client> {
    start(
        place,
        |handlers| server(handlers, encoding),
        |channel| client(channel, encoding),
    )
    .await
}

fn server(handlers: Handlers, encoding: CompressionEncoding) -> Server {
    let service = TestServiceServer::new(OurService { handlers })
        .accept_compressed(encoding)
        .send_compressed(encoding);
    Server::builder().add_service(Witness {
        service,
        is_server: true,
    })
}

fn client(channel: Channel, encoding: CompressionEncoding) -> Client {
    let service = Witness {
        service: channel,
        is_server: false,
    };
    TestServiceClient::new(service)
        .send_compressed(encoding)
        .accept_compressed(encoding)
}

pub(crate) async fn http2_by_gzip() -> Link<Client> {
    link(Place::Http2, CompressionEncoding::Gzip).await
}

pub(crate) async fn http2_by_deflate() -> Link<Client> {
    link(Place::Http2, CompressionEncoding::Deflate).await
}

pub(crate) async fn http2_over_a_unix_socket_by_zstd() -> Link<Client> {
    link(Place::Http2Unix, CompressionEncoding::Zstd).await
}

/// What is sent is taken apart on its way, to be sent as often as the rules say.
pub(crate) async fn http2_by_rules() -> Link<Client> {
    let encoding = CompressionEncoding::Gzip;
    let client = |channel: Channel| {
        let rules = ServiceConfig::builder().default_method(MethodConfig::new());
        let endpoint = channel.endpoint().expect("it has one");
        let channel =
            Channel::builder(endpoint).service_config(rules.build().expect("it is valid"));
        client(channel.connect_lazy(), encoding)
    };
    start(Place::Http2, |handlers| server(handlers, encoding), client).await
}

fn unary(expect_compressed: Option<BoolValue>) -> Request<SimpleRequest> {
    Request::new(SimpleRequest {
        expect_compressed,
        response_size: 314_159,
        payload: payload(271_828).expect("it is no negative size"),
        ..SimpleRequest::default()
    })
}

/// Has the message of a request go as it is.
fn uncompressed<T>(mut request: Request<T>) -> Request<T> {
    let extensions = request.extensions_mut();
    extensions.insert(SingleMessageCompressionOverride::Disable);
    request
}

pub(crate) async fn client_compressed_unary(link: &Link<Client>) {
    let probe = link.client.unary_call(uncompressed(unary(is(true)))).await;
    let status = probe.expect_err("it was to be compressed");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    for request in [unary(is(true)), uncompressed(unary(is(false)))] {
        let reply = link.client.unary_call(request).await.expect("all is well");
        let payload = reply.into_inner().payload.expect("it was asked for");
        assert_eq!(payload.body, vec![0; 314_159]);
    }
}

pub(crate) async fn server_compressed_unary(link: &Link<Client>) {
    for compressed in [true, false] {
        let mut request = unary(None);
        request.get_mut().response_compressed = is(compressed);
        let reply = link.client.unary_call(request).await.expect("all is well");
        assert_eq!(Flags::of(reply.extensions()).all(), [compressed]);
        let payload = reply.into_inner().payload.expect("it was asked for");
        assert_eq!(payload.body, vec![0; 314_159]);
    }
}

fn input(expect_compressed: Option<BoolValue>, len: i32) -> StreamingInputCallRequest {
    StreamingInputCallRequest {
        payload: payload(len).expect("it is no negative size"),
        expect_compressed,
    }
}

pub(crate) async fn client_compressed_streaming(link: &Link<Client>) {
    let (mut sender, requests) = Sender::for_requests();
    let probe = link.client.streaming_input_call(requests);
    // Whether the sender learns that nobody takes more does not matter.
    let send = async move {
        let _ = sender.send_uncompressed(&input(is(true), 27_182)).await;
    };
    let ((), probe) = tokio::join!(send, probe);
    let status = probe.expect_err("it was to be compressed");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let (mut sender, requests) = Sender::for_requests();
    let called = link.client.streaming_input_call(requests);
    let send = async move {
        let compressed = sender.send(&input(is(true), 27_182)).await;
        compressed.expect("the call goes on");
        let uncompressed = sender.send_uncompressed(&input(is(false), 45_904)).await;
        uncompressed.expect("the call goes on");
    };
    let ((), reply) = tokio::join!(send, called);
    let reply = reply.expect("all is well").into_inner();
    assert_eq!(reply.aggregated_payload_size, 73_086);
}

pub(crate) async fn server_compressed_streaming(link: &Link<Client>) {
    let wanted = [(true, 31_415), (false, 92_653)];
    let parameters = wanted.map(|(compressed, size)| ResponseParameters {
        size,
        compressed: is(compressed),
        ..ResponseParameters::default()
    });
    let request = StreamingOutputCallRequest {
        response_parameters: parameters.into(),
        ..StreamingOutputCallRequest::default()
    };
    let replies = link.client.streaming_output_call(request).await;
    let replies = replies.expect("all is well");
    let flags = Flags::of(replies.extensions());
    let mut replies = replies.into_inner();
    for (_, size) in wanted {
        let reply = replies.message().await.expect("it goes well");
        let payload = reply.and_then(|reply| reply.payload);
        let body = payload.expect("there is more").body;
        assert_eq!(i32::try_from(body.len()), Ok(size));
    }
    assert!(replies.message().await.expect("it ends well").is_none());
    assert_eq!(flags.all(), wanted.map(|(compressed, _)| compressed));
}
