//! Layers of tower and tower-http around channels and servers.

mod common;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use shmipc_rpc::{Channel, Code, Request, Response, Server, client::Caller};
use tokio::sync::{Notify, mpsc};
use tower::{
    ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer,
    util::BoxCloneSyncService,
};
use tower_http::{
    classify::{GrpcErrorsAsFailures, GrpcFailureClass, SharedClassifier},
    limit::RequestBodyLimitLayer,
    trace::TraceLayer,
};
use tower_layer::Layer;

use crate::common::{Packet, RUN, Running, echo, hang, in_time, lab, packet, serve};

const SHORT: Duration = Duration::from_millis(20);

async fn code<S: shmipc_rpc::client::CallService>(caller: &Caller<S>) -> Code {
    let result = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("text")))).await;
    match result {
        Ok(response) => {
            assert_eq!(response.into_inner(), packet("text"));
            Code::Ok
        }
        Err(status) => status.code(),
    }
}

async fn layered<L: Layer<Channel>>(running: &Running, layer: L) -> Caller<L::Service> {
    Caller::new(layer.layer(running.channel().await))
}

#[tokio::test]
async fn towers_timeout_is_deadline_exceeded() {
    let running = serve(Server::builder().add_service(hang()));
    let caller = layered(&running, TimeoutLayer::new(SHORT)).await;
    assert_eq!(code(&caller).await, Code::DeadlineExceeded);

    let running = serve(
        Server::builder()
            .layer(TimeoutLayer::new(SHORT))
            .add_service(hang()),
    );
    assert_eq!(code(&running.caller().await).await, Code::DeadlineExceeded);
}

/// A service that answers when told to, and says when it is called.
fn on_command() -> (common::Lab, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let (called, was_called) = mpsc::unbounded_channel();
    let finish = Arc::new(Notify::new());
    let handler_finish = Arc::clone(&finish);
    let service = lab(move |request: Request<Packet>| {
        let finish = Arc::clone(&handler_finish);
        called.send(()).expect("the test waits");
        async move {
            finish.notified().await;
            Ok(Response::new(request.into_inner()))
        }
    });
    (service, was_called, finish)
}

#[tokio::test]
async fn a_concurrency_limit_makes_calls_wait() {
    async fn check<S: shmipc_rpc::client::CallService + Sync>(
        caller: Caller<S>,
        mut called: mpsc::UnboundedReceiver<()>,
        finish: Arc<Notify>,
    ) {
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move { code(&caller).await })
            })
            .collect();
        for _ in 0..3 {
            called.recv().await.expect("the handler is there");
            assert!(called.try_recv().is_err(), "one runs, the others wait");
            finish.notify_one();
        }
        for call in calls {
            assert_eq!(call.await.expect("it does not panic"), Code::Ok);
        }
    }
    let (service, called, finish) = on_command();
    let running = serve(Server::builder().add_service(service));
    in_time(check(
        layered(&running, ConcurrencyLimitLayer::new(1)).await,
        called,
        finish,
    ))
    .await;

    let (service, called, finish) = on_command();
    let running = serve(
        Server::builder()
            .layer(ConcurrencyLimitLayer::new(1))
            .add_service(service),
    );
    in_time(check(running.caller().await, called, finish)).await;
}

#[tokio::test]
async fn shed_load_is_resource_exhausted() {
    async fn check<S: shmipc_rpc::client::CallService + Sync>(
        caller: Caller<S>,
        mut called: mpsc::UnboundedReceiver<()>,
        finish: Arc<Notify>,
    ) {
        let first = {
            let caller = caller.clone();
            tokio::spawn(async move { code(&caller).await })
        };
        called.recv().await.expect("the handler is there");
        assert_eq!(code(&caller).await, Code::ResourceExhausted);
        finish.notify_one();
        assert_eq!(first.await.expect("it does not panic"), Code::Ok);
        finish.notify_one();
        assert_eq!(code(&caller).await, Code::Ok);
    }
    let layers = || (LoadShedLayer::new(), ConcurrencyLimitLayer::new(1));

    let (service, called, finish) = on_command();
    let running = serve(Server::builder().add_service(service));
    in_time(check(layered(&running, layers()).await, called, finish)).await;

    let (service, called, finish) = on_command();
    let (shed, limit) = layers();
    let running = serve(
        Server::builder()
            .layer(shed)
            .layer(limit)
            .add_service(service),
    );
    in_time(check(running.caller().await, called, finish)).await;
}

/// tower-http's tracing, with a note of every failure it sees.
type Tracing<F> = TraceLayer<
    SharedClassifier<GrpcErrorsAsFailures>,
    tower_http::trace::DefaultMakeSpan,
    tower_http::trace::DefaultOnRequest,
    tower_http::trace::DefaultOnResponse,
    tower_http::trace::DefaultOnBodyChunk,
    tower_http::trace::DefaultOnEos,
    F,
>;

#[expect(clippy::type_complexity, reason = "a closure cannot be named")]
fn tracing_failures() -> (
    Tracing<impl Fn(GrpcFailureClass, Duration, &tracing::Span) + Clone + Send + Sync>,
    mpsc::UnboundedReceiver<String>,
) {
    let (failures, seen) = mpsc::unbounded_channel();
    let layer = TraceLayer::new_for_grpc().on_failure(
        move |class: GrpcFailureClass, _: Duration, _: &tracing::Span| {
            let _ = failures.send(class.to_string());
        },
    );
    (layer, seen)
}

#[tokio::test]
async fn tower_http_traces_calls_and_sees_how_they_end() {
    let answer = || {
        lab(|request| async move {
            match request.get_ref().text.as_str() {
                "text" => Ok(Response::new(request.into_inner())),
                _ => Err(shmipc_rpc::Status::aborted("as asked")),
            }
        })
    };
    async fn check<S: shmipc_rpc::client::CallService>(
        caller: Caller<S>,
        mut failures: mpsc::UnboundedReceiver<String>,
    ) {
        assert_eq!(code(&caller).await, Code::Ok);
        assert!(failures.try_recv().is_err());
        let large = Packet {
            payload: vec![3; 1 << 20].into(),
            text: "text".to_owned(),
            ..Packet::default()
        };
        let response = caller
            .unary::<_, Packet>(&RUN, Request::new(large.clone()))
            .await;
        assert!(response.expect("it echoes").into_inner() == large);
        let status = caller
            .unary::<_, Packet>(&RUN, Request::new(packet("fail")))
            .await
            .expect_err("it fails");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Aborted, "as asked")
        );
        let failure = failures.recv().await.expect("it is reported");
        assert!(
            failure.contains("10") || failure.contains("Aborted"),
            "{failure}"
        );
    }

    let (layer, failures) = tracing_failures();
    let running = serve(Server::builder().add_service(answer()));
    in_time(check(layered(&running, layer).await, failures)).await;

    let (layer, failures) = tracing_failures();
    let running = serve(Server::builder().layer(layer).add_service(answer()));
    in_time(check(running.caller().await, failures)).await;
}

#[tokio::test]
async fn a_layer_that_exchanges_the_body_leaves_the_call_as_it_was() {
    // This layer wraps the bodies of requests and of responses.
    let server = Server::builder()
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .add_service(lab(|request| async move {
            assert!(request.peer().is_some());
            assert!(request.remaining().is_some());
            assert_eq!(request.metadata()["x-key"], "value");
            let mut response = Response::new(request.into_inner());
            response
                .metadata_mut()
                .insert("x-back", HeaderValue::from_static("value"));
            Ok(response)
        }));
    let running = serve(server);
    let caller = running.caller().await;
    let request = |len| {
        let mut request = Request::new(Packet {
            payload: vec![5; len].into(),
            ..Packet::default()
        });
        request.set_timeout(common::LONG);
        request
            .metadata_mut()
            .insert("x-key", HeaderValue::from_static("value"));
        request
    };
    let response = in_time(caller.unary::<_, Packet>(&RUN, request(500_000)))
        .await
        .expect("it answers");
    assert_eq!(response.metadata()["x-back"], "value");
    assert!(*response.get_ref() == request(500_000).into_inner());
    let status = in_time(caller.unary::<_, Packet>(&RUN, request(2_000_000)))
        .await
        .expect_err("it is too large");
    assert_ne!(status.code(), Code::Ok);
}

#[tokio::test]
async fn layers_stack_and_types_can_be_erased() {
    let running = serve(Server::builder().add_service(echo()));
    let service = ServiceBuilder::new()
        .timeout(common::LONG)
        .concurrency_limit(3)
        .layer(TraceLayer::new_for_grpc())
        .service(running.channel().await);
    assert_eq!(
        code(&Caller::new(BoxCloneSyncService::new(service))).await,
        Code::Ok
    );
}

#[tokio::test]
async fn a_layer_around_one_service_keeps_its_name_and_leaves_others_alone() {
    #[derive(Clone)]
    struct Elsewhere(common::Lab);
    impl shmipc_rpc::server::NamedService for Elsewhere {
        const NAME: &'static str = "lab.v1.Elsewhere";
    }
    impl shmipc_rpc::server::Service<http::Request<shmipc_rpc::Body>> for Elsewhere {
        type Response = http::Response<shmipc_rpc::Body>;
        type Error = std::convert::Infallible;
        type Future = shmipc_rpc::server::ResponseFuture;

        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, mut request: http::Request<shmipc_rpc::Body>) -> Self::Future {
            *request.uri_mut() = http::Uri::from_static(RUN.path());
            self.0.call(request)
        }
    }
    let layer = TimeoutLayer::new(SHORT);
    let answered = tokio::sync::Semaphore::new(0);
    let answered = Arc::new(answered);
    let waiting = {
        let answered = Arc::clone(&answered);
        lab(move |request: Request<Packet>| {
            let answered = Arc::clone(&answered);
            async move {
                let _permit = answered.acquire().await;
                Ok(Response::new(request.into_inner()))
            }
        })
    };
    let running = serve(
        Server::builder()
            .add_service(shmipc_rpc::server::named_layer(layer, hang()))
            .add_service(Elsewhere(waiting)),
    );
    let caller = running.caller().await;
    let patient = {
        let caller = caller.clone();
        let request = Request::new(packet("text"));
        tokio::spawn(async move { caller.unary::<_, Packet>(&common::ELSEWHERE, request).await })
    };
    // The call of the other service was made first and is still there when the layer has ended this one.
    assert_eq!(code(&caller).await, Code::DeadlineExceeded);
    assert!(!patient.is_finished());
    answered.add_permits(1);
    let response = in_time(patient).await.expect("it does not panic");
    assert_eq!(response.expect("it echoes").into_inner(), packet("text"));
}

#[tokio::test]
async fn an_http_status_without_a_grpc_status_is_translated() {
    #[derive(Clone)]
    struct Deny<S>(S);
    impl<S, R> shmipc_rpc::server::Service<R> for Deny<S> {
        type Response = http::Response<shmipc_rpc::Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: R) -> Self::Future {
            let mut response = http::Response::new(shmipc_rpc::Body::empty());
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            std::future::ready(Ok(response))
        }
    }
    let running = serve(
        Server::builder()
            .layer(tower::layer::layer_fn(Deny))
            .add_service(echo()),
    );
    assert_eq!(code(&running.caller().await).await, Code::Unauthenticated);
    let running = serve(Server::builder().add_service(echo()));
    assert_eq!(
        code(&layered(&running, tower::layer::layer_fn(Deny)).await).await,
        Code::Unauthenticated
    );
}

/// Answers every call with a head that says that all went well, and nothing else.
#[derive(Clone)]
struct HeadOnly;

impl tower::Service<shmipc_rpc::http::Request<shmipc_rpc::Body>> for HeadOnly {
    type Response = shmipc_rpc::http::Response<shmipc_rpc::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: shmipc_rpc::http::Request<shmipc_rpc::Body>) -> Self::Future {
        let mut response = shmipc_rpc::http::Response::new(shmipc_rpc::Body::empty());
        let headers = response.headers_mut();
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        headers.insert("x-head", HeaderValue::from_static("only"));
        std::future::ready(Ok(response))
    }
}

#[tokio::test]
async fn a_head_that_says_that_all_went_well_is_a_whole_answer() {
    use common::streams::{LIST, numbers};
    use http_body_util::BodyExt as _;
    use shmipc_rpc::interceptor::InterceptorLayer;
    use tower::Service as _;

    async fn check<S: shmipc_rpc::client::CallService>(caller: Caller<S>) {
        let listed = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("all goes well");
        assert_eq!(listed.metadata()["x-head"], "only");
        let numbers = numbers(listed.into_inner()).await;
        assert_eq!(numbers.expect("all goes well"), [0; 0]);
        let status = caller
            .unary::<_, Packet>(&RUN, Request::new(packet("")))
            .await
            .expect_err("there is no message");
        assert_eq!(status.code(), Code::Internal);
    }
    let seen = || InterceptorLayer::on_request(|_| Ok(()));
    let plain = || tower::layer::layer_fn(|_| HeadOnly);
    let running = serve(Server::builder().layer(plain()).add_service(echo()));
    over_both_paths!(running, check);
    let intercepted = Caller::new(seen().layer(running.channel().await));
    in_time(check(intercepted)).await;
    let server = Server::builder().layer(seen()).layer(plain());
    let running = serve(server.add_service(echo()));
    over_both_paths!(running, check);
    in_time(check(Caller::new(seen().layer(HeadOnly)))).await;

    // What goes on over HTTP/2 says it as well, although the interceptor has taken it off the head.
    let request = shmipc_rpc::http::Request::new(shmipc_rpc::Body::empty());
    let response = seen().layer(HeadOnly).call(request).await;
    let body = response.expect("it answers").into_body();
    let body = body.collect().await.expect("it does not fail");
    let trailers = body.trailers().expect("there are some");
    assert_eq!(trailers["grpc-status"], "0");
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn a_head_that_says_that_all_went_well_is_a_whole_answer_over_http2() {
    use common::streams::{LIST, numbers};
    use shmipc_rpc::interceptor::InterceptorLayer;

    let seen = || InterceptorLayer::on_request(|_| Ok(()));
    let server = Server::builder()
        .layer(seen())
        .layer(tower::layer::layer_fn(|_| HeadOnly))
        .add_service(echo())
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    let endpoint = server.endpoints()[0].clone();
    tokio::spawn(server.serve());
    let channel = in_time(Channel::connect(endpoint)).await;
    let caller = Caller::new(seen().layer(channel.expect("the server listens")));
    let listed = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
    let listed = in_time(listed).await.expect("all goes well");
    assert_eq!(listed.metadata()["x-head"], "only");
    let numbers = in_time(numbers(listed.into_inner())).await;
    assert_eq!(numbers.expect("all goes well"), [0; 0]);
}
