//! The cases. Names and numbers are those of gRPC's description of its interoperability tests.

use std::time::Duration;

use bytes::Bytes;
use shmipc_rpc::{
    Code, Request, Status,
    http::{HeaderMap, HeaderName, HeaderValue},
    metadata,
};
use tests::until;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::{
    client::{Replies, Requests, Stub},
    echo::{INITIAL, TRAILING},
    links::Link,
    protos::{
        EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
        StreamingOutputCallRequest, StreamingOutputCallResponse,
    },
};

const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: i32 = 314_159;

/// The payloads of the streams.
const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [i32; 4] = [31_415, 9, 2_653, 58_979];

fn payload(len: usize) -> Option<Payload> {
    let body = Bytes::from(vec![0; len]);
    Some(Payload { body })
}

fn large_request() -> SimpleRequest {
    SimpleRequest {
        response_size: LARGE_RESPONSE,
        payload: payload(LARGE_REQUEST),
        ..SimpleRequest::default()
    }
}

/// Asks for one response of a stream.
fn ask(request: usize, response: i32) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: vec![wanted(response)],
        payload: payload(request),
        ..StreamingOutputCallRequest::default()
    }
}

fn wanted(size: i32) -> ResponseParameters {
    ResponseParameters {
        size,
        ..ResponseParameters::default()
    }
}

#[track_caller]
fn check_payload(payload: Option<Payload>, len: i32) {
    let body = payload.expect("a payload was asked for").body;
    assert_eq!(i32::try_from(body.len()), Ok(len));
    assert!(body.iter().all(|byte| *byte == 0), "the payload is damaged");
}

/// Takes the next response, which must be there.
async fn take(replies: &mut Replies<StreamingOutputCallResponse>, len: i32) {
    let reply = replies.message().await.expect("all is well");
    check_payload(reply.expect("there is more").payload, len);
}

/// Makes sure that nothing follows.
async fn end(mut replies: Replies<StreamingOutputCallResponse>) {
    let end = replies.message().await.expect("it ends well");
    assert!(end.is_none(), "more than was asked for");
}

/// Returns how a stream fails.
async fn failure(mut replies: Replies<StreamingOutputCallResponse>) -> Status {
    match replies.message().await {
        Err(status) => status,
        Ok(reply) => panic!("it was to fail: {reply:?}"),
    }
}

/// A stream of requests that goes on for as long as the sender exists.
fn open<T: Send + 'static>() -> (mpsc::Sender<T>, Request<Requests<T>>) {
    let (sender, requests) = mpsc::channel(1);
    let requests = ReceiverStream::new(requests);
    (sender, Request::new(Requests::new(requests)))
}

fn all<T: Send + 'static>(requests: Vec<T>) -> Request<Requests<T>> {
    Request::new(Requests::new(tokio_stream::iter(requests)))
}

pub(crate) async fn empty_unary(link: &Link<impl Stub>) {
    let reply = link.client.empty_call(Request::new(Empty {})).await;
    assert_eq!(reply.expect("all is well").into_inner(), Empty {});
}

pub(crate) async fn large_unary(link: &Link<impl Stub>) {
    let reply = link.client.unary_call(Request::new(large_request())).await;
    check_payload(
        reply.expect("all is well").into_inner().payload,
        LARGE_RESPONSE,
    );
    let request = Request::new(large_request());
    let reply = link.client.cacheable_unary_call(request).await;
    check_payload(
        reply.expect("all is well").into_inner().payload,
        LARGE_RESPONSE,
    );
}

pub(crate) async fn client_streaming(link: &Link<impl Stub>) {
    let request = |len| StreamingInputCallRequest {
        payload: payload(len),
        ..StreamingInputCallRequest::default()
    };
    let requests = all(REQUESTS.map(request).into());
    let reply = link.client.streaming_input_call(requests).await;
    let reply = reply.expect("all is well").into_inner();
    assert_eq!(reply.aggregated_payload_size, 74_922);
}

pub(crate) async fn server_streaming(link: &Link<impl Stub>) {
    let request = StreamingOutputCallRequest {
        response_parameters: RESPONSES.map(wanted).into(),
        ..StreamingOutputCallRequest::default()
    };
    let replies = link
        .client
        .streaming_output_call(Request::new(request))
        .await;
    let mut replies = replies.expect("all is well").into_inner();
    for len in RESPONSES {
        take(&mut replies, len).await;
    }
    end(replies).await;
}

pub(crate) async fn ping_pong(link: &Link<impl Stub>) {
    let (sender, requests) = open();
    // A server may begin its response with the first request.
    let first = sender.send(ask(REQUESTS[0], RESPONSES[0]));
    first.await.expect("the stream is there");
    let replies = link.client.full_duplex_call(requests).await;
    let mut replies = replies.expect("all is well").into_inner();
    take(&mut replies, RESPONSES[0]).await;
    for (request, response) in REQUESTS.into_iter().zip(RESPONSES).skip(1) {
        let sent = sender.send(ask(request, response)).await;
        sent.expect("the call goes on");
        take(&mut replies, response).await;
    }
    drop(sender);
    end(replies).await;
}

pub(crate) async fn empty_stream(link: &Link<impl Stub>) {
    let replies = link.client.full_duplex_call(all(Vec::new())).await;
    end(replies.expect("all is well").into_inner()).await;
}

/// Not on the list any more; the method still is.
pub(crate) async fn half_duplex(link: &Link<impl Stub>) {
    let requests = REQUESTS.into_iter().zip(RESPONSES);
    let requests = requests.map(|(request, response)| ask(request, response));
    let replies = link.client.half_duplex_call(all(requests.collect())).await;
    let mut replies = replies.expect("all is well").into_inner();
    for len in RESPONSES {
        take(&mut replies, len).await;
    }
    end(replies).await;
}

const INITIAL_VALUE: &str = "test_initial_metadata_value";
const TRAILING_VALUE: &[u8] = &[0xab, 0xab, 0xab];

fn with_metadata<T>(mut request: Request<T>) -> Request<T> {
    let map = request.metadata_mut();
    map.insert(INITIAL, HeaderValue::from_static(INITIAL_VALUE));
    let key = HeaderName::from_static(TRAILING);
    metadata::insert_bin(map, key, TRAILING_VALUE).expect("the key is binary");
    request
}

#[track_caller]
fn check_trailing(metadata: &HeaderMap) {
    let key = HeaderName::from_static(TRAILING);
    let value = metadata::get_bin(metadata, &key).expect("it is base64");
    assert_eq!(value.as_deref(), Some(TRAILING_VALUE));
}

pub(crate) async fn custom_metadata_of_a_unary_call(link: &Link<impl Stub>) {
    let request = with_metadata(Request::new(large_request()));
    let reply = link.client.unary_call(request).await.expect("all is well");
    assert_eq!(reply.metadata()[INITIAL], INITIAL_VALUE);
    check_trailing(reply.metadata());
    check_payload(reply.into_inner().payload, LARGE_RESPONSE);
}

pub(crate) async fn custom_metadata_of_a_full_duplex_call(link: &Link<impl Stub>) {
    let requests = with_metadata(all(vec![ask(LARGE_REQUEST, LARGE_RESPONSE)]));
    let replies = link.client.full_duplex_call(requests).await;
    let replies = replies.expect("all is well");
    assert_eq!(replies.metadata()[INITIAL], INITIAL_VALUE);
    let mut replies = replies.into_inner();
    take(&mut replies, LARGE_RESPONSE).await;
    check_trailing(&replies.trailers().await.expect("it ends well"));
}

fn echo_status(message: &str) -> Option<EchoStatus> {
    Some(EchoStatus {
        code: Code::Unknown as i32,
        message: message.to_owned(),
    })
}

async fn check_unary_status(link: &Link<impl Stub>, message: &str) {
    let request = SimpleRequest {
        response_status: echo_status(message),
        ..SimpleRequest::default()
    };
    let reply = link.client.unary_call(Request::new(request)).await;
    let status = reply.expect_err("it was to fail");
    assert_eq!((status.code(), status.message()), (Code::Unknown, message));
}

const STATUS_MESSAGE: &str = "test status message";

pub(crate) async fn status_code_and_message_of_a_unary_call(link: &Link<impl Stub>) {
    check_unary_status(link, STATUS_MESSAGE).await;
}

pub(crate) async fn status_code_and_message_of_a_full_duplex_call(link: &Link<impl Stub>) {
    let request = StreamingOutputCallRequest {
        response_status: echo_status(STATUS_MESSAGE),
        ..StreamingOutputCallRequest::default()
    };
    let status = match link.client.full_duplex_call(all(vec![request])).await {
        Ok(replies) => failure(replies.into_inner()).await,
        Err(status) => status,
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, STATUS_MESSAGE)
    );
}

pub(crate) async fn special_status_message(link: &Link<impl Stub>) {
    let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    check_unary_status(link, message).await;
}

pub(crate) async fn unimplemented_method(link: &Link<impl Stub>) {
    let reply = link.client.unimplemented_call(Request::new(Empty {})).await;
    let status = reply.expect_err("nobody implements it");
    assert_eq!(status.code(), Code::Unimplemented);
}

pub(crate) async fn unimplemented_service(link: &Link<impl Stub>) {
    let reply = link
        .client
        .unimplemented_service(Request::new(Empty {}))
        .await;
    let status = reply.expect_err("nobody implements it");
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Whoever gives a call up here has no future left that could tell how it ended, so this looks at the server.
pub(crate) async fn cancel_after_begin(link: &Link<impl Stub>) {
    let (sender, requests) = open::<StreamingInputCallRequest>();
    let client = link.client.clone();
    let call = tokio::spawn(async move { client.streaming_input_call(requests).await.map(drop) });
    let request = StreamingInputCallRequest::default();
    sender.send(request).await.expect("the call reads it");
    until("the handler runs", || link.handlers.running() == 1).await;
    call.abort();
    assert!(call.await.is_err_and(|error| error.is_cancelled()));
    until("the handler has ended", || link.handlers.running() == 0).await;
    sender.closed().await;
    empty_unary(link).await;
}

pub(crate) async fn cancel_after_first_response(link: &Link<impl Stub>) {
    let (sender, requests) = open();
    let first = sender.send(ask(REQUESTS[0], RESPONSES[0]));
    first.await.expect("the stream is there");
    let replies = link.client.full_duplex_call(requests).await;
    let mut replies = replies.expect("all is well").into_inner();
    take(&mut replies, RESPONSES[0]).await;
    assert_eq!(link.handlers.running(), 1);
    drop(replies);
    until("the handler has ended", || link.handlers.running() == 0).await;
    sender.closed().await;
    empty_unary(link).await;
}

pub(crate) async fn timeout_on_sleeping_server(link: &Link<impl Stub>) {
    let request = StreamingOutputCallRequest {
        payload: payload(27_182),
        ..StreamingOutputCallRequest::default()
    };
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut request = Request::new(Requests::new(requests));
    request.set_timeout(Duration::from_millis(1));
    let status = match link.client.full_duplex_call(request).await {
        Ok(replies) => failure(replies.into_inner()).await,
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until("the handler has ended", || link.handlers.running() == 0).await;
}

/// As many as there are in the description would take a gigabyte; a tenth of them are enough to be in each other's way.
pub(crate) async fn concurrent_large_unary(link: &Link<impl Stub>) {
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let client = link.client.clone();
        calls.spawn(async move { client.unary_call(Request::new(large_request())).await });
    }
    while let Some(call) = calls.join_next().await {
        let reply = call.expect("no panic").expect("all is well");
        check_payload(reply.into_inner().payload, LARGE_RESPONSE);
    }
}

pub(crate) async fn rpc_soak(link: &Link<impl Stub>) {
    for _ in 0..50 {
        large_unary(link).await;
    }
}
