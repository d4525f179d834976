//! Service configs: timeouts, limits, waiting and retries by method, as gRPC's documents (A6, service_config) have them.

mod common;

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use shmipc_rpc::{
    Channel, Code, Idempotency, Method, Request, Response, Server, Status,
    client::{CallService, Caller, MethodConfig, RetryPolicy, ServiceConfig, ServiceConfigBuilder},
    http,
};

use common::{
    Handled, LONG, Lab, Packet, Plain, RUN, Running, SECRET, hang, in_time, lab, packet, serve,
    serve_in,
    streams::{LIST, RECORD, iter, numbered, numbers, streams},
};

/// The method, if its `.proto` file said that it may be called twice.
const IDEMPOTENT: Method = RUN.with_idempotency(Idempotency::Idempotent);

const SHORT: Duration = Duration::from_millis(20);

/// Retries at once, or nearly so.
fn quick(codes: &[Code]) -> RetryPolicy {
    RetryPolicy::new(codes.iter().copied())
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
}

fn retrying(policy: RetryPolicy) -> ServiceConfigBuilder {
    ServiceConfig::builder().default_method(MethodConfig::new().retry(policy))
}

/// A channel with a config, and a service that is not a channel over it.
async fn callers(
    running: &Running,
    config: ServiceConfigBuilder,
) -> (Caller, Caller<Plain<Channel>>) {
    let config = config.build().expect("the config is valid");
    let builder = Channel::builder(running.address()).service_config(config);
    let channel = builder.connect().await.expect("the server listens");
    (Caller::new(channel.clone()), Caller::new(Plain(channel)))
}

/// Fails as many times as the request says before it succeeds. Notes what each attempt says of earlier ones.
#[derive(Clone, Debug, Default)]
struct Attempts(Arc<Mutex<Vec<Option<String>>>>);

impl Attempts {
    fn service(&self, fail: impl Fn() -> Status + Send + Sync + 'static) -> Lab {
        let attempts = self.0.clone();
        lab(move |request: Request<Packet>| {
            let previous = request.metadata().get("grpc-previous-rpc-attempts");
            let previous = previous.map(|value| value.to_str().expect("a number").to_owned());
            let mut attempts = attempts.lock().expect("nobody panicked");
            attempts.push(previous);
            let fails =
                u64::try_from(attempts.len()).expect("there are few") <= request.get_ref().number;
            let result = if fails {
                Err(fail())
            } else {
                Ok(Response::new(request.into_inner()))
            };
            async { result }
        })
    }

    fn take(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.0.lock().expect("nobody panicked"))
    }
}

/// Asks the service to fail this many times.
fn failing(times: u64) -> Request<Packet> {
    Request::new(Packet {
        number: times,
        payload: vec![7; 10_000].into(),
        ..Packet::default()
    })
}

async fn call<S: CallService>(
    caller: &Caller<S>,
    method: &Method,
    request: Request<Packet>,
) -> Handled {
    in_time(caller.unary(method, request)).await
}

#[tokio::test]
async fn a_call_is_made_again_until_it_succeeds() {
    async fn check<S: CallService>(caller: &Caller<S>, attempts: &Attempts) {
        let response = call(caller, &IDEMPOTENT, failing(2))
            .await
            .expect("the third succeeds");
        assert_eq!(response.metadata()["grpc-previous-rpc-attempts"], "2");
        assert_eq!(response.into_inner(), failing(2).into_inner());
        assert_eq!(
            attempts.take(),
            [None, Some("1".to_owned()), Some("2".to_owned())]
        );

        let response = call(caller, &IDEMPOTENT, failing(0))
            .await
            .expect("the first succeeds");
        assert!(
            !response
                .metadata()
                .contains_key("grpc-previous-rpc-attempts")
        );
        assert_eq!(attempts.take(), [None]);
    }
    let attempts = Attempts::default();
    let running =
        serve(Server::builder().add_service(attempts.service(|| Status::unavailable("busy"))));
    let (caller, over_http) = callers(&running, retrying(quick(&[Code::Unavailable]))).await;
    check(&caller, &attempts).await;
    check(&over_http, &attempts).await;
}

#[tokio::test]
async fn only_what_the_policy_allows_is_made_again() {
    let attempts = Attempts::default();
    let running =
        serve(Server::builder().add_service(attempts.service(|| Status::aborted("lost"))));
    let made = async |policy: RetryPolicy, method: &Method| {
        let (caller, over_http) = callers(&running, retrying(policy)).await;
        let failed = |result: Handled| {
            let status = result.expect_err("it fails nine times");
            assert_eq!((status.code(), status.message()), (Code::Aborted, "lost"));
            attempts.take().len()
        };
        let count = failed(call(&caller, method, failing(9)).await);
        assert_eq!(failed(call(&over_http, method, failing(9)).await), count);
        count
    };
    let aborted = || quick(&[Code::Unavailable, Code::Aborted]);
    assert_eq!(made(quick(&[Code::Unavailable]), &IDEMPOTENT).await, 1);
    assert_eq!(made(aborted(), &IDEMPOTENT).await, 3);
    assert_eq!(made(aborted().max_attempts(5), &IDEMPOTENT).await, 5);
    assert_eq!(made(aborted().max_attempts(100), &IDEMPOTENT).await, 5);
    // The method does not say that it may be called twice.
    assert_eq!(made(aborted(), &RUN).await, 1);
    assert_eq!(made(aborted().even_if_not_idempotent(), &RUN).await, 3);
}

#[tokio::test]
async fn the_server_decides_whether_there_is_a_retry() {
    let pushing = |value: &'static str| {
        let attempts = Attempts::default();
        let service = attempts.service(move || {
            let mut status = Status::unavailable("busy");
            let value = HeaderValue::from_static(value);
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", value);
            status
        });
        (serve(Server::builder().add_service(service)), attempts)
    };
    // A policy alone would wait for an hour.
    let patient = || RetryPolicy::new([Code::Unavailable]).backoff(LONG * 60, LONG * 60);
    for (pushback, expected) in [("0", 2), ("1", 2), ("-1", 1), ("no", 1)] {
        let (running, attempts) = pushing(pushback);
        let (caller, _) = callers(&running, retrying(patient())).await;
        let result = call(&caller, &IDEMPOTENT, failing(1)).await;
        assert_eq!(result.is_ok(), expected == 2, "{pushback}");
        assert_eq!(attempts.take().len(), expected, "{pushback}");
    }
}

#[tokio::test]
async fn many_failures_stop_retries() {
    let attempts = Attempts::default();
    let running =
        serve(Server::builder().add_service(attempts.service(|| Status::unavailable("busy"))));
    let policy = quick(&[Code::Unavailable]).max_attempts(2);
    // Four tokens: the first failure leaves three, which is more than half; the second does not leave enough.
    let (caller, _) = callers(&running, retrying(policy).retry_throttling(4.0, 1.0)).await;
    let made = async |times| {
        let result = call(&caller, &IDEMPOTENT, failing(times)).await;
        (result.is_ok(), attempts.take().len())
    };
    assert_eq!(made(1).await, (true, 2));
    // The success brought a token back: four again. Two failures leave two.
    assert_eq!(made(9).await, (false, 2));
    assert_eq!(made(1).await, (false, 1));
    for _ in 0..4 {
        assert_eq!(made(0).await, (true, 1));
    }
    assert_eq!(made(1).await, (true, 2));
}

#[tokio::test]
async fn a_call_whose_server_cannot_be_reached_is_made_again_whatever_its_method() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let slow = RetryPolicy::new([Code::Unavailable])
        .max_attempts(5)
        .backoff(Duration::from_millis(250), Duration::from_secs(10));
    let config = retrying(slow).build().expect("the config is valid");
    let channel = Channel::builder(directory.path().join("lab.sock")).service_config(config);
    let caller = Caller::new(channel.connect_lazy());
    let echo = common::echo();
    let (result, _running) =
        tokio::join!(call(&caller, &RUN, Request::new(packet("text"))), async {
            serve_in(directory, Server::builder().add_service(echo))
        });
    assert_eq!(
        result.expect("the server came").into_inner(),
        packet("text")
    );
}

#[tokio::test]
async fn a_call_whose_server_dies_is_made_again_if_that_does_no_harm() {
    let config = || retrying(quick(&[Code::Unavailable]).max_attempts(5));
    let entered = Arc::new(tokio::sync::Notify::new());
    let hanging = {
        let entered = Arc::clone(&entered);
        move || {
            let entered = Arc::clone(&entered);
            lab(move |_| {
                entered.notify_one();
                pending()
            })
        }
    };
    for (method, survives) in [(&IDEMPOTENT, true), (&RUN, false)] {
        let running = serve(Server::builder().add_service(hanging()));
        let config = config()
            .method(
                method,
                MethodConfig::new()
                    .wait_for_ready(true)
                    .retry(quick(&[Code::Unavailable])),
            )
            .build()
            .expect("the config is valid");
        let channel = Channel::builder(running.address()).service_config(config);
        let caller = Caller::new(channel.connect().await.expect("the server listens"));
        let (result, _next) =
            tokio::join!(call(&caller, method, Request::new(packet("text"))), async {
                entered.notified().await;
                let directory = running.kill().await;
                serve_in(directory, Server::builder().add_service(common::echo()))
            });
        match result {
            Ok(response) => assert!(survives, "{response:?}"),
            Err(status) => assert!(
                !survives && status.code() == Code::Unavailable,
                "{status:?}"
            ),
        }
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let calls = Arc::new(AtomicU32::new(0));
    let first_hangs = {
        let calls = Arc::clone(&calls);
        lab(move |request: Request<Packet>| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    pending::<()>().await;
                }
                Ok(Response::new(request.into_inner()))
            }
        })
    };
    let running = serve(Server::builder().add_service(first_hangs));
    // The second attempt must not take too long, too, on a machine that has other things to do.
    let policy = quick(&[Code::Unavailable])
        .attempt_timeout(Duration::from_secs(5))
        .max_attempts(5);
    let (caller, _) = callers(&running, retrying(policy)).await;
    let response = call(&caller, &IDEMPOTENT, Request::new(packet("text"))).await;
    assert_eq!(
        response.expect("the second answers").into_inner(),
        packet("text")
    );

    let running = serve(Server::builder().add_service(hang()));
    let policy = quick(&[Code::Unavailable]).attempt_timeout(SHORT);
    let (caller, _) = callers(&running, retrying(policy)).await;
    let status = call(&caller, &IDEMPOTENT, Request::new(packet("")))
        .await
        .expect_err("none answers");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_deadline_is_that_of_all_attempts() {
    let attempts = Attempts::default();
    let running =
        serve(Server::builder().add_service(attempts.service(|| Status::unavailable("busy"))));
    let policy = RetryPolicy::new([Code::Unavailable]).backoff(LONG * 60, LONG * 60);
    let (caller, _) = callers(&running, retrying(policy)).await;
    let mut request = failing(1);
    request.set_timeout(LONG);
    // The retry would come after an hour. Nobody waits for a minute to be told.
    let status = call(&caller, &IDEMPOTENT, request)
        .await
        .expect_err("there is no time for a retry");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "busy")
    );
    assert_eq!(attempts.take().len(), 1);
}

#[tokio::test]
async fn each_method_has_a_timeout_of_its_own() {
    async fn check<S: CallService>(caller: &Caller<S>) {
        let left = async |method, timeout: Option<Duration>| {
            let mut request = Request::new(packet(""));
            if let Some(timeout) = timeout {
                request.set_timeout(timeout);
            }
            let response = call(caller, method, request).await.expect("it answers");
            response.into_inner().number
        };
        let around = |seconds: u64, expected: u64| (expected / 2..=expected).contains(&seconds);
        assert!(around(left(&RUN, None).await, 1000));
        assert!(around(left(&SECRET, None).await, 100));
        assert!(around(
            left(&RUN, Some(Duration::from_secs(300))).await,
            300
        ));
        assert!(around(
            left(&RUN, Some(Duration::from_secs(30_000))).await,
            1000
        ));
    }
    let tell = lab(|request| async move {
        let number = request.remaining().map_or(0, |left| left.as_secs());
        Ok(Response::new(Packet {
            number,
            ..Packet::default()
        }))
    });
    let running = serve(Server::builder().add_service(tell));
    let secs = |secs| MethodConfig::new().timeout(Duration::from_secs(secs));
    let config = ServiceConfig::builder()
        .method(&RUN, secs(1000))
        .service("lab.v1.Lab", secs(100));
    let (caller, over_http) = callers(&running, config).await;
    check(&caller).await;
    check(&over_http).await;

    let running = serve(Server::builder().add_service(hang()));
    let config = ServiceConfig::builder().default_method(MethodConfig::new().timeout(SHORT));
    let (caller, over_http) = callers(&running, config).await;
    for result in [
        call(&caller, &RUN, Request::new(packet(""))).await,
        call(&over_http, &RUN, Request::new(packet(""))).await,
    ] {
        assert_eq!(result.expect_err("it hangs").code(), Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn each_method_has_limits_of_its_own() {
    async fn check<S: CallService>(caller: &Caller<S>) {
        let code = async |method, len: usize| {
            let request = Request::new(Packet {
                payload: vec![1; len].into(),
                ..Packet::default()
            });
            call(caller, method, request)
                .await
                .map_or_else(|status| status.code(), |_| Code::Ok)
        };
        // The payload has a header of up to four bytes.
        assert_eq!(code(&RUN, 990).await, Code::Ok);
        assert_eq!(code(&RUN, 1001).await, Code::ResourceExhausted);
        assert_eq!(code(&SECRET, 1001).await, Code::Ok);
        assert_eq!(code(&SECRET, 5001).await, Code::ResourceExhausted);
    }
    let seen = Arc::new(AtomicU32::new(0));
    let largest = Arc::clone(&seen);
    let echo = lab(move |request: Request<Packet>| {
        let len = u32::try_from(request.get_ref().payload.len()).expect("it is short");
        largest.fetch_max(len, Ordering::Relaxed);
        async { Ok(Response::new(request.into_inner())) }
    });
    let running = serve(Server::builder().add_service(echo));
    let config = ServiceConfig::builder()
        .method(&RUN, MethodConfig::new().max_request_size(1000))
        .method(&SECRET, MethodConfig::new().max_response_size(5000));
    let (caller, over_http) = callers(&running, config).await;
    check(&caller).await;
    check(&over_http).await;
    // What was too large as a request was not sent; what was too large as a response was.
    assert_eq!(seen.load(Ordering::Relaxed), 5001);
}

#[tokio::test]
async fn each_method_waits_for_the_server_or_does_not() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let config = ServiceConfig::builder().method(&RUN, MethodConfig::new().wait_for_ready(true));
    let config = config.build().expect("the config is valid");
    let channel = Channel::builder(directory.path().join("lab.sock")).service_config(config);
    let caller = Caller::new(channel.connect_lazy());
    let status = call(&caller, &SECRET, Request::new(packet("")))
        .await
        .expect_err("there is no server");
    assert_eq!(status.code(), Code::Unavailable);
    // A request knows better.
    let mut request = Request::new(packet(""));
    request.set_wait_for_ready(false);
    let status = call(&caller, &RUN, request)
        .await
        .expect_err("there is no server");
    assert_eq!(status.code(), Code::Unavailable);

    let waiting = {
        let caller = caller.clone();
        tokio::spawn(async move { call(&caller, &RUN, Request::new(packet("text"))).await })
    };
    tokio::task::yield_now().await;
    let _running = serve_in(directory, Server::builder().add_service(common::echo()));
    let response = in_time(waiting)
        .await
        .expect("it does not panic")
        .expect("the server came");
    assert_eq!(response.into_inner(), packet("text"));
}

#[tokio::test]
async fn streams_are_made_again_until_a_response_begins() {
    const LIST_TWICE: Method = LIST.with_idempotency(Idempotency::NoSideEffects);

    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let service = streams().list(move |request| {
        let call = count.fetch_add(1, Ordering::Relaxed);
        async move {
            // Two calls fail before they begin; the third one begins, and fails then.
            if call < 2 {
                return Err(Status::unavailable("not yet"));
            }
            let number = request.into_inner().number;
            let messages = (0..number).map(numbered).map(Ok);
            Ok(Response::new(iter(
                messages.chain([Err(Status::unavailable("no more"))]),
            )))
        }
    });
    let running = serve(Server::builder().add_service(service));
    let (caller, over_http) = callers(
        &running,
        retrying(quick(&[Code::Unavailable]).max_attempts(5)),
    )
    .await;
    async fn check<S: CallService>(caller: &Caller<S>, calls: &AtomicU32) {
        calls.store(0, Ordering::Relaxed);
        let request = Request::new(numbered(2));
        let response = in_time(caller.server_streaming::<_, Packet>(&LIST_TWICE, request)).await;
        let mut messages = response.expect("the third begins").into_inner();
        for number in 0..2 {
            let message = in_time(messages.message()).await.expect("it counts");
            assert_eq!(message, Some(numbered(number)));
        }
        let status = in_time(messages.message())
            .await
            .expect_err("it fails in the end");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "no more")
        );
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }
    check(&caller, &calls).await;
    check(&over_http, &calls).await;
}

#[tokio::test]
async fn streamed_requests_wait_for_a_server_but_are_not_sent_twice() {
    const RECORD_TWICE: Method = RECORD.with_idempotency(Idempotency::Idempotent);

    let directory = tempfile::tempdir().expect("a directory for the socket");
    let policy = RetryPolicy::new([Code::Unavailable])
        .max_attempts(5)
        .backoff(Duration::from_millis(250), Duration::from_secs(10));
    let config = retrying(policy).build().expect("the config is valid");
    let channel = Channel::builder(directory.path().join("lab.sock")).service_config(config);
    let caller = Caller::new(channel.connect_lazy());
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let service = streams().record(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let sum = numbers(request.into_inner()).await?.iter().sum();
            match sum {
                0 => Err(Status::unavailable("nothing to add")),
                sum => Ok(Response::new(numbered(sum))),
            }
        }
    });
    let add = |count| {
        let request = Request::new(iter((0..count).map(numbered)));
        in_time(caller.client_streaming::<_, _, Packet>(&RECORD_TWICE, request))
    };
    let (result, _running) = tokio::join!(add(5), async {
        serve_in(directory, Server::builder().add_service(service))
    });
    assert_eq!(result.expect("the server came").into_inner(), numbered(10));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let status = add(1).await.expect_err("it adds nothing");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}
