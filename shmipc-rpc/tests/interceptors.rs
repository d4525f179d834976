//! Interceptors around channels, around single services and around all services of a server.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use shmipc_rpc::{
    Channel, Code, Request, Response, Server, Status,
    client::Caller,
    http,
    interceptor::{Answer, Call, Intercepted, Interceptor, InterceptorLayer, Next},
};
use tokio::sync::{Notify, oneshot};
use tower_http::limit::RequestBodyLimitLayer;

use crate::common::{
    Handled, LONG, Lab, OnDrop, Packet, RUN, Running, SECRET, echo, hang, in_time, lab, packet,
    serve,
};

async fn intercepted<I: Interceptor>(
    running: &Running,
    layer: InterceptorLayer<I>,
) -> Caller<Intercepted<Channel, I>> {
    Caller::new(layer.layer(running.channel().await))
}

/// Writes down what happens, in order.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("nobody panicked").push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("nobody panicked"))
    }
}

/// Notes each call and how it went on.
struct Noting(&'static str, Log);

impl Interceptor for Noting {
    async fn intercept(&self, call: Call, next: Next) -> Result<Answer, Status> {
        let Self(name, log) = self;
        log.note(format!("{name} {} {}", call.service(), call.method()));
        let answer = next.run(call).await;
        match &answer {
            Ok(_) => log.note(format!("{name} ok")),
            Err(status) => log.note(format!("{name} {}", status.code().name())),
        }
        answer
    }
}

/// Adds metadata to requests and responses, and to failures.
struct Adding(&'static str);

impl Interceptor for Adding {
    async fn intercept(&self, mut call: Call, next: Next) -> Result<Answer, Status> {
        let value = HeaderValue::from_static(self.0);
        call.metadata_mut().append("x-request", value.clone());
        match next.run(call).await {
            Ok(mut answer) => {
                answer.metadata_mut().append("x-response", value);
                Ok(answer)
            }
            Err(mut status) => {
                status.metadata_mut().append("x-response", value);
                Err(status)
            }
        }
    }
}

fn values<'a>(metadata: &'a http::HeaderMap, key: &str) -> Vec<&'a str> {
    let values = metadata.get_all(key).iter();
    values
        .map(|value| value.to_str().expect("it is ASCII"))
        .collect()
}

/// Answers with the values of `x-request`, or fails if the text says so.
async fn show(request: Request<Packet>) -> Handled {
    let seen = values(request.metadata(), "x-request").join(" ");
    match request.get_ref().text.as_str() {
        "fail" => Err(Status::aborted(seen)),
        _ => Ok(Response::new(packet(&seen))),
    }
}

#[tokio::test]
async fn metadata_is_seen_and_changed_both_ways_on_both_sides() {
    let service = InterceptorLayer::new(Adding("service")).layer(lab(show));
    let server = Server::builder().layer(InterceptorLayer::new(Adding("server")));
    let running = serve(server.add_service(service));
    let caller = intercepted(&running, InterceptorLayer::new(Adding("client"))).await;

    let call = |text| {
        let mut request = Request::new(packet(text));
        request
            .metadata_mut()
            .insert("x-request", HeaderValue::from_static("caller"));
        in_time(caller.unary::<_, Packet>(&RUN, request))
    };
    let response = call("").await.expect("it succeeds");
    assert_eq!(response.get_ref().text, "caller client server service");
    assert_eq!(
        values(response.metadata(), "x-response"),
        ["service", "server", "client"]
    );

    let status = call("fail").await.expect_err("it fails");
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(status.message(), "caller client server service");
    assert_eq!(
        values(status.metadata(), "x-response"),
        ["service", "server", "client"]
    );
}

#[tokio::test]
async fn layers_see_a_call_in_order() {
    let log = Log::default();
    let noting = |name| InterceptorLayer::new(Noting(name, log.clone()));
    let running = serve(
        Server::builder()
            .layer(noting("c"))
            .layer(noting("d"))
            .add_service(lab(show)),
    );
    let channel = noting("a").layer(noting("b").layer(running.channel().await));
    let caller = Caller::new(channel);
    let request = Request::new(packet("fail"));
    in_time(caller.unary::<_, Packet>(&RUN, request))
        .await
        .expect_err("it fails");
    let (down, up): (Vec<_>, Vec<_>) = log
        .take()
        .into_iter()
        .partition(|line| line.ends_with("Run"));
    assert_eq!(
        down,
        ["a", "b", "c", "d"].map(|name| format!("{name} lab.v1.Lab Run"))
    );
    assert_eq!(
        up,
        ["d", "c", "b", "a"].map(|name| format!("{name} ABORTED"))
    );
}

#[tokio::test]
async fn an_interceptor_answers_early() {
    let unreachable = || lab(|_| async { panic!("the handler must not be called") });
    let refuse = || InterceptorLayer::on_request(|_| Err(Status::unauthenticated("who are you?")));
    let invent = || {
        InterceptorLayer::new(|_: Call, _: Next| async {
            let mut response = Response::new(packet("invented"));
            response
                .metadata_mut()
                .insert("x-cache", HeaderValue::from_static("hit"));
            Ok(Answer::new(response))
        })
    };
    let refused = |result: Handled| {
        let status = result.expect_err("it is refused");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "who are you?")
        );
    };
    let invented = |result: Handled| {
        let response = result.expect("it is answered");
        assert_eq!(response.get_ref().text, "invented");
        assert_eq!(response.metadata()["x-cache"], "hit");
    };
    let request = || Request::new(packet(""));

    let running = serve(Server::builder().add_service(unreachable()));
    refused(in_time(intercepted(&running, refuse()).await.unary(&RUN, request())).await);
    invented(in_time(intercepted(&running, invent()).await.unary(&RUN, request())).await);

    let running = serve(Server::builder().layer(refuse()).add_service(unreachable()));
    refused(in_time(running.caller().await.unary(&RUN, request())).await);
    let running = serve(Server::builder().add_service(refuse().layer(unreachable())));
    refused(in_time(running.caller().await.unary(&RUN, request())).await);
    let running = serve(Server::builder().layer(invent()).add_service(unreachable()));
    invented(in_time(running.caller().await.unary(&RUN, request())).await);
}

#[tokio::test]
async fn a_layer_is_limited_to_services_and_methods() {
    async fn seen(log: &Log, running: &Running) -> Vec<String> {
        let caller = running.caller().await;
        for method in [&RUN, &SECRET] {
            let request = Request::new(packet(""));
            in_time(caller.unary::<_, Packet>(method, request))
                .await
                .expect("it echoes");
        }
        log.take()
    }
    let log = Log::default();
    let noting = || InterceptorLayer::new(Noting("i", log.clone()));
    let run = ["i lab.v1.Lab Run", "i ok"];
    let secret = ["i lab.v1.Lab Secret", "i ok"];
    let (both, none) = ([run, secret].concat(), Vec::<&str>::new());

    for (layer, expected) in [
        (noting(), &both),
        (noting().for_service("lab.v1.Lab"), &both),
        (noting().for_service("lab.v1"), &none),
        (noting().for_method(&RUN), &run.to_vec()),
        (
            noting().for_service("other").for_method(&SECRET),
            &secret.to_vec(),
        ),
        (noting().for_method(&RUN).for_method(&SECRET), &both),
    ] {
        let running = serve(Server::builder().layer(layer.clone()).add_service(echo()));
        assert_eq!(seen(&log, &running).await, *expected, "{layer:?}");
        let running = serve(Server::builder().add_service(layer.layer(echo())));
        assert_eq!(seen(&log, &running).await, *expected, "{layer:?}");

        let running = serve(Server::builder().add_service(echo()));
        let caller = intercepted(&running, layer.clone()).await;
        for method in [&RUN, &SECRET] {
            let request = Request::new(packet(""));
            in_time(caller.unary::<_, Packet>(method, request))
                .await
                .expect("it echoes");
        }
        assert_eq!(log.take(), *expected, "{layer:?}");
    }
}

#[tokio::test]
async fn an_interceptor_may_wait_without_holding_up_other_calls() {
    let gate = Arc::new(Notify::new());
    let waiting = {
        let gate = Arc::clone(&gate);
        InterceptorLayer::new(move |call: Call, next: Next| {
            let gate = Arc::clone(&gate);
            async move {
                if call.metadata().contains_key("x-wait") {
                    gate.notified().await;
                }
                next.run(call).await
            }
        })
    };
    let running = serve(Server::builder().layer(waiting).add_service(echo()));
    let caller = running.caller().await;
    let mut slow = Request::new(packet("slow"));
    slow.metadata_mut()
        .insert("x-wait", HeaderValue::from_static("1"));
    let slow = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.unary::<_, Packet>(&RUN, slow).await })
    };
    for _ in 0..100 {
        let request = Request::new(packet("quick"));
        in_time(caller.unary::<_, Packet>(&RUN, request))
            .await
            .expect("it echoes");
    }
    assert!(!slow.is_finished());
    gate.notify_one();
    let response = in_time(slow)
        .await
        .expect("it does not panic")
        .expect("it echoes");
    assert_eq!(response.get_ref().text, "slow");
}

#[tokio::test]
async fn an_interceptor_knows_the_peer_even_where_bodies_are_exchanged() {
    let log = Log::default();
    let note = log.clone();
    let service = InterceptorLayer::on_request(move |call| {
        let pid = call.peer().and_then(|peer| peer.pid());
        note.note(format!("{pid:?} {}", call.remaining().is_some()));
        Ok(())
    });
    // The first layer makes other bodies of all requests.
    let running = serve(
        Server::builder()
            .layer(RequestBodyLimitLayer::new(1 << 20))
            .add_service(service.layer(lab(|request| async move {
                assert!(request.peer().is_some());
                Ok(Response::new(packet("")))
            }))),
    );
    let mut request = Request::new(packet(""));
    request.set_timeout(LONG);
    in_time(running.caller().await.unary::<_, Packet>(&RUN, request))
        .await
        .expect("it answers");
    assert_eq!(log.take(), [format!("{:?} true", Some(std::process::id()))]);
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn an_interceptor_knows_the_peer_behind_a_unix_socket_over_http2() {
    let log = Log::default();
    let note = log.clone();
    let service = InterceptorLayer::on_request(move |call| {
        note.note(format!("{:?}", call.peer().and_then(|peer| peer.pid())));
        Ok(())
    });
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("grpc.sock");
    let server = Server::builder()
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(service)
        .add_service(lab(|request| async move {
            let pid = request.peer().and_then(|peer| peer.pid());
            Ok(Response::new(packet(&format!("{pid:?}"))))
        }))
        .start(format!("unix:{}", path.display()));
    let server = in_time(server).await.expect("nobody listens there");
    let channel = in_time(Channel::connect(server.endpoints()[0].clone())).await;
    let caller = Caller::new(channel.expect("the server listens"));
    let answer = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("")))).await;
    let pid = format!("{:?}", Some(std::process::id()));
    assert_eq!(answer.expect("it answers").into_inner(), packet(&pid));
    assert_eq!(log.take(), [pid]);
}

#[tokio::test]
async fn an_interceptor_limits_the_time_of_a_call() {
    const SHORT: Duration = Duration::from_millis(20);
    let limit = |timeout| {
        InterceptorLayer::on_request(move |call| {
            call.set_timeout(timeout);
            Ok(())
        })
    };
    let late = |result: Handled| {
        assert_eq!(result.expect_err("it hangs").code(), Code::DeadlineExceeded);
    };
    let running = serve(Server::builder().add_service(hang()));
    let request = || Request::new(packet(""));
    late(
        in_time(
            intercepted(&running, limit(SHORT))
                .await
                .unary(&RUN, request()),
        )
        .await,
    );
    let running = serve(Server::builder().layer(limit(SHORT)).add_service(hang()));
    late(in_time(running.caller().await.unary(&RUN, request())).await);

    // The server learns what the client's interceptor allows, and the caller may allow less.
    let tell = lab(|request| async move {
        let left = request.remaining().expect("there is a deadline");
        let number = left.as_secs();
        Ok(Response::new(Packet {
            number,
            ..Packet::default()
        }))
    });
    let running = serve(Server::builder().add_service(tell));
    let caller = intercepted(&running, limit(Duration::from_secs(3600))).await;
    let left = |request| async {
        in_time(caller.unary::<_, Packet>(&RUN, request))
            .await
            .map(|r| r.into_inner().number)
    };
    let seconds = left(request()).await.expect("it answers");
    assert!((1800..=3600).contains(&seconds), "{seconds}");
    let mut request = request();
    request.set_timeout(Duration::from_secs(600));
    let seconds = left(request).await.expect("it answers");
    assert!((300..=600).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn calls_inherit_the_time_that_an_interceptor_allows() {
    let inner = serve(Server::builder().add_service(lab(|request| async move {
        let left = request.remaining().map_or(0, |left| left.as_secs());
        Ok(Response::new(Packet {
            number: left,
            ..Packet::default()
        }))
    })));
    let caller = inner.caller().await;
    let nested = lab(move |request: Request<Packet>| {
        let caller = caller.clone();
        async move { caller.unary(&RUN, Request::new(request.into_inner())).await }
    });
    let limit = InterceptorLayer::on_request(|call| {
        call.set_timeout(Duration::from_secs(3600));
        Ok(())
    });
    let outer = serve(Server::builder().add_service(limit.layer(nested)));
    let request = Request::new(packet(""));
    let response = in_time(outer.caller().await.unary::<_, Packet>(&RUN, request)).await;
    let seconds = response.expect("it answers").into_inner().number;
    assert!((1800..=3600).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_call_that_is_given_up_drops_the_interceptors_future() {
    async fn check(
        dropped: oneshot::Receiver<()>,
        entered: Arc<Notify>,
        call: impl Future<Output = Handled>,
    ) {
        tokio::select! {
            biased;
            () = entered.notified() => {}
            _ = call => panic!("nobody answers"),
        }
        in_time(dropped).await.expect("it is dropped");
    }
    fn holding() -> (
        InterceptorLayer<impl Interceptor>,
        oneshot::Receiver<()>,
        Arc<Notify>,
    ) {
        let (sender, dropped) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        let entered = Arc::new(Notify::new());
        let enter = Arc::clone(&entered);
        let layer = InterceptorLayer::new(move |call: Call, next: Next| {
            let guard = OnDrop(sender.lock().expect("nobody panicked").take());
            enter.notify_one();
            async move {
                let _guard = guard;
                next.run(call).await
            }
        });
        (layer, dropped, entered)
    }
    let running = serve(Server::builder().add_service(hang()));
    let (layer, dropped, entered) = holding();
    let caller = intercepted(&running, layer).await;
    check(
        dropped,
        entered,
        caller.unary(&RUN, Request::new(packet(""))),
    )
    .await;

    let (layer, dropped, entered) = holding();
    let running = serve(Server::builder().layer(layer).add_service(hang()));
    let caller = running.caller().await;
    check(
        dropped,
        entered,
        caller.unary(&RUN, Request::new(packet(""))),
    )
    .await;
}

#[tokio::test]
async fn a_panic_of_an_interceptor_ends_its_call_only() {
    let layer = InterceptorLayer::on_request(|call| {
        assert!(!call.metadata().contains_key("x-panic"), "as asked");
        Ok(())
    });
    let running = serve(Server::builder().layer(layer).add_service(echo()));
    let caller = running.caller().await;
    let mut request = Request::new(packet(""));
    request
        .metadata_mut()
        .insert("x-panic", HeaderValue::from_static("1"));
    let status = in_time(caller.unary::<_, Packet>(&RUN, request))
        .await
        .expect_err("it panics");
    assert_eq!(status.code(), Code::Internal);
    let request = Request::new(packet("on"));
    let response = in_time(caller.unary::<_, Packet>(&RUN, request))
        .await
        .expect("it echoes");
    assert_eq!(response.get_ref().text, "on");
}

/// What generated servers are, and so what must be possible with them.
fn _an_intercepted_service_is_a_service(
    lab: Lab,
) -> impl Clone + Send + Sync + shmipc_rpc::server::NamedService {
    InterceptorLayer::new(Noting("", Log::default())).layer(lab)
}
