//! Limits on the sizes of messages at a server: for all of it, for a service, for a method; in both directions, for all
//! kinds of calls.

mod common;

use shmipc_rpc::{
    Channel, Code, Config, Request, Response, Server, Status,
    client::{CallService, Caller},
    interceptor::InterceptorLayer,
    server::{MessageLimits, NamedService, named_layer},
};
use tower_http::trace::TraceLayer;
use tower_layer::Identity;

use common::{
    Packet, RUN, SECRET, in_time, lab, serve, serve_with,
    streams::{CHAT, LIST, RECORD, Streams, iter, streams},
};

/// A payload with which a message has nearly this length. Its head is at most four bytes.
fn sized(len: usize) -> Packet {
    Packet {
        payload: vec![1; len].into(),
        ..Packet::default()
    }
}

/// Answers with as many bytes as the number says.
async fn grow(request: Request<Packet>) -> Result<Response<Packet>, Status> {
    let len = usize::try_from(request.get_ref().number).expect("it is short");
    Ok(Response::new(sized(len)))
}

fn asking(len: usize, answer_len: usize) -> Request<Packet> {
    Request::new(Packet {
        number: u64::try_from(answer_len).expect("it is short"),
        ..sized(len)
    })
}

fn code<T>(result: &Result<T, Status>) -> Code {
    result.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// A server with limits at all levels.
fn limited() -> Server {
    Server::builder()
        .max_request_size(1000)
        .limits_for_service("lab.v1.Lab", MessageLimits::new().max_response_size(500))
        .limits_for_method(&RUN, MessageLimits::new().max_request_size(4000))
}

async fn check_limited<S: CallService>(caller: Caller<S>) {
    for (method, len, answer_len, expected) in [
        // The method's limit of requests is higher than the server's, and that of responses is the service's.
        (&RUN, 3000, 0, Code::Ok),
        (&RUN, 4001, 0, Code::ResourceExhausted),
        (&RUN, 0, 490, Code::Ok),
        (&RUN, 0, 501, Code::ResourceExhausted),
        // A method that is not announced has those of its service, and of its server.
        (&SECRET, 990, 0, Code::Ok),
        (&SECRET, 1001, 0, Code::ResourceExhausted),
        (&SECRET, 0, 501, Code::ResourceExhausted),
    ] {
        let result = caller
            .unary::<_, Packet>(method, asking(len, answer_len))
            .await;
        assert_eq!(
            code(&result),
            expected,
            "{} {len} {answer_len}",
            method.name()
        );
        if let Ok(response) = result {
            assert!(response.into_inner() == sized(answer_len));
        }
    }
}

#[tokio::test]
async fn a_method_and_a_service_have_limits_of_their_own() {
    let running = serve(limited().add_service(lab(grow)));
    over_both_paths!(running, check_limited);
    // The calls of layered servers are polled elsewhere.
    let running = serve(
        limited()
            .layer(InterceptorLayer::on_request(|_| Ok(())))
            .add_service(lab(grow)),
    );
    over_both_paths!(running, check_limited);
    // Such layers put their own bodies around those of responses.
    let running = serve(
        limited()
            .layer(TraceLayer::new_for_grpc())
            .add_service(lab(grow)),
    );
    over_both_paths!(running, check_limited);
}

#[tokio::test]
async fn limits_hold_within_a_process() {
    let server = || {
        let server = limited().add_service(lab(grow));
        server.add_service(growing_streams()).limits_of_streams()
    };
    let plain = Caller::new(Channel::in_process(server().into_service()));
    in_time(check_limited(plain.clone())).await;
    in_time(check_streams(plain)).await;
    let seen = server().layer(InterceptorLayer::on_request(|_| Ok(())));
    let seen = Caller::new(Channel::in_process(seen.into_service()));
    in_time(check_limited(seen.clone())).await;
    in_time(check_streams(seen)).await;
    let traced = server().layer(TraceLayer::new_for_grpc());
    let traced = Caller::new(Channel::in_process(traced.into_service()));
    in_time(check_limited(traced.clone())).await;
    in_time(check_streams(traced)).await;
    // What a service says of itself counts there, too.
    let server = Server::builder().add_service(Modest(lab(grow)));
    let modest = Caller::new(Channel::in_process(server.into_service()));
    let result = modest.unary::<_, Packet>(&RUN, asking(101, 0)).await;
    assert_eq!(code(&result), Code::ResourceExhausted);
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn limits_hold_over_http2_whoever_has_made_the_body() {
    async fn check(server: shmipc_rpc::server::BoundServer) {
        let endpoint = server.endpoints()[0].clone();
        let serving = tokio::spawn(server.serve());
        let channel = in_time(Channel::connect(endpoint)).await;
        let caller = Caller::new(channel.expect("the server listens"));
        in_time(check_limited(caller.clone())).await;
        in_time(check_streams(caller)).await;
        serving.abort();
    }
    let server = || {
        let server = limited().add_service(lab(grow));
        server.add_service(growing_streams()).limits_of_streams()
    };
    let plain = server().bind("http://127.0.0.1:0").await;
    check(plain.expect("a port is free")).await;
    let seen = InterceptorLayer::on_request(|_| Ok(()));
    let seen = server().layer(seen).bind("http://127.0.0.1:0").await;
    check(seen.expect("a port is free")).await;
    let traced = server().layer(TraceLayer::new_for_grpc());
    let traced = traced.bind("http://127.0.0.1:0").await;
    check(traced.expect("a port is free")).await;
}

/// A service that says of itself how long its messages may be, as generated ones do.
#[derive(Clone)]
struct Modest(common::Lab);

impl NamedService for Modest {
    const NAME: &'static str = "lab.v1.Lab";
    const METHODS: &'static [shmipc_rpc::Method] = &[RUN];

    fn message_limits(&self) -> MessageLimits {
        MessageLimits::new().max_request_size(100)
    }
}

impl shmipc_rpc::server::Service<http::Request<shmipc_rpc::Body>> for Modest {
    type Response = http::Response<shmipc_rpc::Body>;
    type Error = std::convert::Infallible;
    type Future = shmipc_rpc::server::ResponseFuture;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<shmipc_rpc::Body>) -> Self::Future {
        shmipc_rpc::server::Service::call(&mut self.0, request)
    }
}

#[tokio::test]
async fn a_service_says_how_long_its_messages_may_be() {
    async fn codes(caller: Caller) -> [Code; 2] {
        let small = caller.unary::<_, Packet>(&RUN, asking(90, 0)).await;
        let large = caller.unary::<_, Packet>(&RUN, asking(101, 0)).await;
        [code(&small), code(&large)]
    }
    let limited = [Code::Ok, Code::ResourceExhausted];
    let modest = || Modest(lab(grow));
    let running = serve(Server::builder().add_service(modest()));
    assert_eq!(in_time(codes(running.caller().await)).await, limited);
    // Layers around it pass that on.
    let running = serve(Server::builder().add_service(named_layer(Identity::new(), modest())));
    assert_eq!(in_time(codes(running.caller().await)).await, limited);
    let seen = InterceptorLayer::on_request(|_| Ok(())).layer(modest());
    let running = serve(Server::builder().add_service(seen));
    assert_eq!(in_time(codes(running.caller().await)).await, limited);
    // The server knows better.
    let limits = MessageLimits::new().max_request_size(1000);
    let running = serve(
        Server::builder()
            .add_service(modest())
            .limits_for_service("lab.v1.Lab", limits),
    );
    assert_eq!(in_time(codes(running.caller().await)).await, [Code::Ok; 2]);
}

async fn check_streams<S: CallService>(caller: Caller<S>) {
    // Many that are short enough, and one that is not, in the requests.
    let requests = |last| iter([sized(90), sized(90), sized(last)]);
    let result = caller
        .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests(90)))
        .await;
    assert_eq!(result.expect("all are short").into_inner().number, 3);
    let result = caller
        .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests(101)))
        .await;
    assert_eq!(code(&result), Code::ResourceExhausted);

    // And in the responses, of a method of which only those are limited.
    for (last, expected) in [(190, Code::Ok), (201, Code::ResourceExhausted)] {
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, asking(0, last))
            .await
            .expect("it begins")
            .into_inner();
        for _ in 0..2 {
            let message = messages.message().await.expect("the first are short");
            assert_eq!(message, Some(sized(150)));
        }
        let result = messages.message().await;
        assert_eq!(code(&result), expected);
    }

    // And of a method that may have longer ones.
    let mut echoed = caller
        .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests(5000)))
        .await
        .expect("it begins")
        .into_inner();
    for len in [90, 90, 5000] {
        let message = echoed.message().await.expect("all are short enough");
        assert!(message == Some(sized(len)));
    }
}

/// Counts, grows, and echoes.
fn growing_streams() -> Streams {
    streams()
        .record(|request| async move {
            let (mut requests, mut number) = (request.into_inner(), 0);
            while requests.message().await?.is_some() {
                number += 1;
            }
            Ok(Response::new(Packet {
                number,
                ..Packet::default()
            }))
        })
        .list(|request| async move {
            let last = grow(request).await?.into_inner();
            Ok(Response::new(iter(
                [sized(150), sized(150), last].into_iter().map(Ok),
            )))
        })
        .chat(|request| async move { Ok(Response::new(request.into_inner())) })
}

/// What a server allows in the methods of [`growing_streams`].
trait LimitStreams {
    fn limits_of_streams(self) -> Self;
}

impl<L> LimitStreams for Server<L> {
    fn limits_of_streams(self) -> Self {
        self.limits_for_method(&RECORD, MessageLimits::new().max_request_size(100))
            .limits_for_method(&LIST, MessageLimits::new().max_response_size(200))
            .limits_for_method(&CHAT, MessageLimits::new().max_request_size(6000))
    }
}

#[tokio::test]
async fn each_message_of_a_stream_is_limited_by_itself() {
    let server = Server::builder().add_service(growing_streams());
    let running = serve(server.limits_of_streams());
    over_both_paths!(running, check_streams);
}

#[tokio::test]
async fn a_client_limits_each_message_of_a_stream() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let caller = caller.max_request_size(100).max_response_size(100);
        let requests = |last| iter([sized(90), sized(last)].into_iter());
        for last in [90, 101] {
            let response = caller
                .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests(last)))
                .await;
            let result = match response {
                Ok(response) => {
                    let mut messages = response.into_inner();
                    loop {
                        match messages.message().await {
                            Ok(Some(_)) => {}
                            Ok(None) => break Ok(()),
                            Err(status) => break Err(status),
                        }
                    }
                }
                Err(status) => Err(status),
            };
            let expected = if last == 90 {
                Code::Ok
            } else {
                Code::ResourceExhausted
            };
            assert_eq!(code(&result), expected, "{last}");
        }
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, asking(0, 101))
            .await
            .expect("it begins")
            .into_inner();
        assert_eq!(
            messages.message().await.expect("it is short"),
            Some(sized(1))
        );
        let status = messages.message().await.expect_err("it is too long");
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
    let service = streams()
        .list(|request| async move {
            let last = grow(request).await?.into_inner();
            Ok(Response::new(iter([sized(1), last].into_iter().map(Ok))))
        })
        .chat(|request| async move { Ok(Response::new(request.into_inner())) });
    let running = serve(Server::builder().add_service(service.clone()));
    over_both_paths!(running, check);
    in_time(check(Caller::new(Channel::in_process(service)))).await;
}

/// Whether the handler is known to be quick by then, or not.
#[tokio::test]
async fn a_response_larger_than_the_memory_of_the_session_is_always_said_to_be() {
    let little = Config::builder().memory_max(256 << 10).build();
    let server = Server::builder().add_service(lab(grow));
    let running = serve_with(little.expect("it is valid"), server);
    let caller = running.caller().await;
    for _ in 0..20 {
        for (len, expected) in [(1, Code::Ok), (1 << 20, Code::ResourceExhausted)] {
            let asked = Packet {
                number: len,
                ..Packet::default()
            };
            let call = caller.unary::<_, Packet>(&RUN, Request::new(asked));
            assert_eq!(code(&in_time(call).await), expected);
        }
    }
}
