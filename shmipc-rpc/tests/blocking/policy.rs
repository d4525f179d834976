//! Service configs of a channel for threads: timeouts, limits, waiting and retries by method.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use shmipc_rpc::{
    Code, Idempotency, Method, Request, Response, Status,
    blocking::{
        Caller, Channel, Server,
        interceptor::{Call, InterceptorLayer, Next},
    },
    client::{MethodConfig, RetryPolicy, ServiceConfig, ServiceConfigBuilder},
    http::HeaderValue,
};

use super::lab::{
    CHAT, Handled, LIST, LONG, Lab, Packet, RECORD, RUN, Running, Streams, echo, items, lab,
    numbered, packet, run, run_in, until,
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

fn channel(running: &Running, config: ServiceConfigBuilder) -> Channel {
    let config = config.build().expect("the config is valid");
    let builder = Channel::builder(running.path()).service_config(config);
    builder.connect().expect("the server listens")
}

fn caller(running: &Running, config: ServiceConfigBuilder) -> Caller {
    Caller::new(channel(running, config))
}

/// A caller whose calls an interceptor sees, which takes the longer way.
fn seen(running: &Running, config: ServiceConfigBuilder) -> Caller {
    let passing = InterceptorLayer::new(|call: Call, next: Next<'_>| next.run(call));
    Caller::new(passing.layer(channel(running, config)))
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
            let mut attempts = attempts.lock().unwrap();
            attempts.push(previous);
            if u64::try_from(attempts.len()).unwrap() <= request.get_ref().number {
                Err(fail())
            } else {
                Ok(Response::new(request.into_inner()))
            }
        })
    }

    fn take(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.0.lock().unwrap())
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

#[test]
fn a_call_is_made_again_until_it_succeeds() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::unavailable("busy"));
    let running = run(Server::builder().add_service(service));
    let config = || retrying(quick(&[Code::Unavailable]));
    for caller in [caller(&running, config()), seen(&running, config())] {
        let response: Handled = caller.unary(&IDEMPOTENT, failing(2));
        let response = response.expect("the third succeeds");
        assert_eq!(response.metadata()["grpc-previous-rpc-attempts"], "2");
        assert_eq!(response.into_inner(), failing(2).into_inner());
        let noted = [None, Some("1"), Some("2")].map(|count| count.map(str::to_owned));
        assert_eq!(attempts.take(), noted);

        let response: Handled = caller.unary(&IDEMPOTENT, failing(0));
        let response = response.expect("the first succeeds");
        let metadata = response.metadata();
        assert!(!metadata.contains_key("grpc-previous-rpc-attempts"));
        assert_eq!(attempts.take(), [None]);
    }
}

#[test]
fn an_interceptor_sees_one_call_whose_attempts_it_does_not_see() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::unavailable("busy"));
    let running = run(Server::builder().add_service(service));
    let (log, ends) = mpsc::channel();
    let counting = InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let log = log.clone();
        let next = next.on_end(move |end| log.send(end.code()).unwrap());
        next.run(call)
    });
    let channel = channel(&running, retrying(quick(&[Code::Unavailable])));
    let caller = Caller::new(counting.layer(channel));
    assert!(caller.unary::<_, Packet>(&IDEMPOTENT, failing(2)).is_ok());
    assert_eq!(attempts.take().len(), 3);
    assert!(caller.unary::<_, Packet>(&IDEMPOTENT, failing(9)).is_err());
    assert_eq!(attempts.take().len(), 3);
    let ends: Vec<_> = ends.try_iter().collect();
    assert_eq!(ends, [Code::Ok, Code::Unavailable]);
}

#[test]
fn only_what_the_policy_allows_is_made_again() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::aborted("lost"));
    let running = run(Server::builder().add_service(service));
    let made = |policy: RetryPolicy, method: &Method| {
        let failed: Handled = caller(&running, retrying(policy)).unary(method, failing(9));
        let status = failed.expect_err("it fails nine times");
        assert_eq!((status.code(), status.message()), (Code::Aborted, "lost"));
        attempts.take().len()
    };
    let aborted = || quick(&[Code::Unavailable, Code::Aborted]);
    assert_eq!(made(quick(&[Code::Unavailable]), &IDEMPOTENT), 1);
    assert_eq!(made(aborted(), &IDEMPOTENT), 3);
    assert_eq!(made(aborted().max_attempts(5), &IDEMPOTENT), 5);
    assert_eq!(made(aborted().max_attempts(100), &IDEMPOTENT), 5);
    // The method does not say that it may be called twice.
    assert_eq!(made(aborted(), &RUN), 1);
    assert_eq!(made(aborted().even_if_not_idempotent(), &RUN), 3);
}

#[test]
fn the_server_decides_whether_there_is_a_retry() {
    // A policy alone would wait for an hour.
    let patient = || RetryPolicy::new([Code::Unavailable]).backoff(LONG * 60, LONG * 60);
    for (pushback, expected) in [("0", 2), ("1", 2), ("-1", 1), ("no", 1)] {
        let attempts = Attempts::default();
        let running = run(Server::builder().add_service(attempts.service(move || {
            let mut status = Status::unavailable("busy");
            let value = HeaderValue::from_static(pushback);
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", value);
            status
        })));
        let result: Handled = caller(&running, retrying(patient())).unary(&IDEMPOTENT, failing(1));
        assert_eq!(result.is_ok(), expected == 2, "{pushback}");
        assert_eq!(attempts.take().len(), expected, "{pushback}");
    }
}

#[test]
fn many_failures_stop_retries() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::unavailable("busy"));
    let running = run(Server::builder().add_service(service));
    let policy = quick(&[Code::Unavailable]).max_attempts(2);
    // Four tokens: the first failure leaves three, which is more than half; the second does not leave enough.
    let caller = caller(&running, retrying(policy).retry_throttling(4.0, 1.0));
    let made = |times| {
        let result: Handled = caller.unary(&IDEMPOTENT, failing(times));
        (result.is_ok(), attempts.take().len())
    };
    assert_eq!(made(1), (true, 2));
    // The success brought a token back: four again. Two failures leave two.
    assert_eq!(made(9), (false, 2));
    assert_eq!(made(1), (false, 1));
    for _ in 0..4 {
        assert_eq!(made(0), (true, 1));
    }
    assert_eq!(made(1), (true, 2));
}

#[test]
fn calls_of_all_kinds_count_as_successes_when_their_response_begins() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::unavailable("busy"));
    let server = Server::builder().add_service(Streams::default());
    let running = run(server.add_service(service));
    let policy = quick(&[Code::Unavailable]).max_attempts(2);
    type Make = fn(&Caller);
    let makes: [Make; 4] = [
        |caller| drop(caller.unary::<_, Packet>(&RUN, failing(0)).unwrap()),
        |caller| {
            drop(
                caller
                    .server_streaming::<_, Packet>(&LIST, failing(0))
                    .unwrap(),
            )
        },
        |caller| {
            let request = Request::new([numbered(1)]);
            let recorded = caller.client_streaming::<_, _, Packet>(&RECORD, request);
            assert_eq!(recorded.unwrap().into_inner(), numbered(1));
        },
        |caller| {
            let chat = caller.bidi_streaming::<Packet, Packet>(&CHAT, Request::new(()));
            let mut chat = chat.unwrap();
            chat.send(&numbered(1)).unwrap();
            assert_eq!(chat.message().unwrap(), Some(numbered(2)));
        },
    ];
    for make in makes {
        for way in [caller, seen] {
            // Three tokens: the second failure leaves one, which is not more than half.
            let config = retrying(policy.clone()).retry_throttling(3.0, 1.0);
            let caller = way(&running, config);
            let fails = || {
                let result: Handled = caller.unary(&IDEMPOTENT, failing(9));
                assert!(result.is_err());
                attempts.take().len()
            };
            assert_eq!(fails(), 2);
            assert_eq!(fails(), 1, "it has learnt");
            for _ in 0..3 {
                make(&caller);
            }
            attempts.take();
            assert_eq!(fails(), 2, "all is forgiven");
        }
    }
}

/// A policy that outlasts a server that is a little late.
fn slow() -> RetryPolicy {
    RetryPolicy::new([Code::Unavailable])
        .max_attempts(5)
        .backoff(Duration::from_millis(250), Duration::from_secs(10))
}

#[test]
fn a_call_whose_server_cannot_be_reached_is_made_again_whatever_its_method() {
    let directory = tempfile::tempdir().unwrap();
    let config = retrying(slow()).build().unwrap();
    let channel = Channel::builder(directory.path().join("lab.sock")).service_config(config);
    let caller = Caller::new(channel.connect_lazy());
    thread::scope(|scope| {
        let called = scope.spawn(|| caller.unary::<_, Packet>(&RUN, Request::new(packet("text"))));
        let running = run_in(directory, Server::builder().add_service(echo()));
        let response = called.join().unwrap().expect("the server came");
        assert_eq!(response.into_inner(), packet("text"));
        drop(running);
    });
}

#[test]
fn a_call_whose_server_dies_is_made_again_if_that_does_no_harm() {
    for (method, survives) in [(&IDEMPOTENT, true), (&RUN, false)] {
        let (enter, entered) = mpsc::channel();
        let running = run(Server::builder().add_service(lab(move |request| {
            enter.send(()).unwrap();
            let cancellation = request.cancellation();
            until(|| cancellation.is_cancelled());
            Ok(Response::new(packet("nobody hears this")))
        })));
        let retried = MethodConfig::new()
            .wait_for_ready(true)
            .retry(quick(&[Code::Unavailable]));
        let caller = caller(&running, ServiceConfig::builder().method(method, retried));
        thread::scope(|scope| {
            let called =
                scope.spawn(|| -> Handled { caller.unary(method, Request::new(packet("text"))) });
            entered.recv_timeout(LONG).unwrap();
            // Its session ends in the middle of the call.
            running.shutdown.drain(Duration::ZERO);
            let directory = running.stop();
            let next = run_in(directory, Server::builder().add_service(echo()));
            match called.join().unwrap() {
                Ok(response) => assert!(survives, "{response:?}"),
                Err(status) => {
                    let is_lost = !survives && status.code() == Code::Unavailable;
                    assert!(is_lost, "{status:?}");
                }
            }
            drop(next);
        });
    }
}

#[test]
fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let running = run(Server::builder().add_service(lab(move |request| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            let cancellation = request.cancellation();
            until(|| cancellation.is_cancelled());
        }
        // The deadline is that of the call, not that of the attempt.
        assert!(request.remaining().is_none());
        Ok(Response::new(request.into_inner()))
    })));
    // The second attempt must not take too long, too, on a machine that has other things to do.
    let policy = quick(&[Code::Unavailable])
        .attempt_timeout(Duration::from_millis(500))
        .max_attempts(5);
    let response: Handled =
        caller(&running, retrying(policy)).unary(&IDEMPOTENT, Request::new(packet("text")));
    assert_eq!(
        response.expect("the second answers").into_inner(),
        packet("text")
    );

    let running = run(Server::builder().add_service(hang()));
    let policy = quick(&[Code::Unavailable]).attempt_timeout(SHORT);
    let late: Handled =
        caller(&running, retrying(policy)).unary(&IDEMPOTENT, Request::new(packet("")));
    assert_eq!(
        late.expect_err("none answers").code(),
        Code::DeadlineExceeded
    );
}

/// Answers when nobody waits any longer.
fn hang() -> Lab {
    lab(|request| {
        let cancellation = request.cancellation();
        until(|| cancellation.is_cancelled());
        Ok(Response::new(packet("too late")))
    })
}

#[test]
fn the_deadline_is_that_of_all_attempts() {
    let attempts = Attempts::default();
    let service = attempts.service(|| Status::unavailable("busy"));
    let running = run(Server::builder().add_service(service));
    let policy = RetryPolicy::new([Code::Unavailable]).backoff(LONG * 60, LONG * 60);
    let caller = caller(&running, retrying(policy));
    let mut request = failing(1);
    request.set_timeout(LONG);
    let began = Instant::now();
    // The retry would come after an hour. Nobody waits for a minute to be told.
    let status = caller.unary::<_, Packet>(&IDEMPOTENT, request);
    let status = status.expect_err("there is no time for a retry");
    assert!(began.elapsed() < LONG);
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "busy")
    );
    assert_eq!(attempts.take().len(), 1);
}

#[test]
fn each_method_has_a_timeout_of_its_own() {
    fn tell<T>(request: &Request<T>) -> Packet {
        numbered(request.remaining().map_or(0, |left| left.as_secs()))
    }
    let streams = Streams {
        record: |request| Ok(Response::new(tell(&request))),
        ..Streams::default()
    };
    let server = Server::builder().add_service(lab(|request| Ok(Response::new(tell(&request)))));
    let running = run(server.add_service(streams));
    let secs = |secs| MethodConfig::new().timeout(Duration::from_secs(secs));
    let config = || {
        ServiceConfig::builder()
            .method(&RUN, secs(1000))
            .service("lab.v1.Streams", secs(100))
    };
    for caller in [caller(&running, config()), seen(&running, config())] {
        let run = |timeout: Option<u64>| {
            let mut request = Request::new(packet(""));
            if let Some(timeout) = timeout {
                request.set_timeout(Duration::from_secs(timeout));
            }
            let response: Handled = caller.unary(&RUN, request);
            response.expect("it answers").into_inner().number
        };
        let around = |seconds: u64, expected: u64| (expected / 2..=expected).contains(&seconds);
        assert!(around(run(None), 1000));
        assert!(around(run(Some(300)), 300));
        assert!(around(run(Some(30_000)), 1000));
        let request = Request::new([packet("")]);
        let recorded: Handled = caller.client_streaming(&RECORD, request);
        assert!(around(recorded.unwrap().into_inner().number, 100));
    }

    let running = run(Server::builder().add_service(hang()));
    let config = || ServiceConfig::builder().default_method(MethodConfig::new().timeout(SHORT));
    for caller in [caller(&running, config()), seen(&running, config())] {
        let late: Handled = caller.unary(&RUN, Request::new(packet("")));
        assert_eq!(late.expect_err("it hangs").code(), Code::DeadlineExceeded);
    }
}

#[test]
fn each_method_has_limits_of_its_own() {
    let seen_len = Arc::new(AtomicU32::new(0));
    let largest = Arc::clone(&seen_len);
    let service = lab(move |request| {
        let len = u32::try_from(request.get_ref().payload.len()).unwrap();
        largest.fetch_max(len, Ordering::Relaxed);
        Ok(Response::new(request.into_inner()))
    });
    let server = Server::builder().add_service(service);
    let running = run(server.add_service(Streams {
        list: |request| Ok(Response::new(items([request.into_inner()].into_iter()))),
        ..Streams::default()
    }));
    let config = || {
        ServiceConfig::builder()
            .method(&RUN, MethodConfig::new().max_request_size(1000))
            .method(&LIST, MethodConfig::new().max_response_size(5000))
    };
    let sized = |len: usize| {
        Request::new(Packet {
            payload: vec![1; len].into(),
            ..Packet::default()
        })
    };
    for caller in [caller(&running, config()), seen(&running, config())] {
        let code =
            |result: Result<(), Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
        let run = |len| code(caller.unary::<_, Packet>(&RUN, sized(len)).map(drop));
        let list = |len| {
            let listed = caller.server_streaming::<_, Packet>(&LIST, sized(len));
            code(listed.and_then(|listed| listed.into_inner().message().map(drop)))
        };
        // The payload has a header of up to four bytes.
        assert_eq!(run(990), Code::Ok);
        assert_eq!(run(1001), Code::ResourceExhausted);
        assert_eq!(list(4990), Code::Ok);
        assert_eq!(list(5001), Code::ResourceExhausted);
    }
    // What was too large as a request was not sent.
    assert_eq!(seen_len.load(Ordering::Relaxed), 990);
}

#[test]
fn each_method_waits_for_the_server_or_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServiceConfig::builder().method(&RUN, MethodConfig::new().wait_for_ready(true));
    let channel =
        Channel::builder(directory.path().join("lab.sock")).service_config(config.build().unwrap());
    let caller = Caller::new(channel.connect_lazy());
    let list = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
    assert_eq!(list.unwrap_err().code(), Code::Unavailable);
    // A request knows better.
    let mut request = Request::new(packet(""));
    request.set_wait_for_ready(false);
    let status = caller.unary::<_, Packet>(&RUN, request).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| caller.unary::<_, Packet>(&RUN, Request::new(packet("text"))));
        let running = run_in(directory, Server::builder().add_service(echo()));
        let response = waiting.join().unwrap().expect("the server came");
        assert_eq!(response.into_inner(), packet("text"));
        drop(running);
    });
}

/// How many calls of a method have reached the service.
static LISTED: AtomicU32 = AtomicU32::new(0);
static RECORDED: AtomicU32 = AtomicU32::new(0);

#[test]
fn streams_are_made_again_until_a_response_begins() {
    const LIST_TWICE: Method = LIST.with_idempotency(Idempotency::NoSideEffects);

    let running = run(Server::builder().add_service(Streams {
        list: |request| {
            // Two calls fail before they begin; the third one begins, and fails then.
            if LISTED.fetch_add(1, Ordering::Relaxed) < 2 {
                return Err(Status::unavailable("not yet"));
            }
            let messages = (0..request.get_ref().number).map(numbered).map(Ok);
            let end = [Err(Status::unavailable("no more"))];
            Ok(Response::new(Box::new(messages.chain(end)) as _))
        },
        ..Streams::default()
    }));
    let config = || retrying(quick(&[Code::Unavailable]).max_attempts(5));
    for caller in [caller(&running, config()), seen(&running, config())] {
        LISTED.store(0, Ordering::Relaxed);
        let request = Request::new(numbered(2));
        let response = caller.server_streaming::<_, Packet>(&LIST_TWICE, request);
        let response = response.expect("the third begins");
        assert_eq!(response.metadata()["grpc-previous-rpc-attempts"], "2");
        let mut messages = response.into_inner();
        for number in 0..2 {
            assert_eq!(messages.message().unwrap(), Some(numbered(number)));
        }
        let status = messages.message().expect_err("it fails in the end");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "no more")
        );
        assert_eq!(LISTED.load(Ordering::Relaxed), 3);
    }
}

#[test]
fn streamed_requests_wait_for_a_server_but_are_not_sent_twice() {
    const RECORD_TWICE: Method = RECORD.with_idempotency(Idempotency::Idempotent);

    let directory = tempfile::tempdir().unwrap();
    let config = retrying(slow()).build().unwrap();
    let channel = Channel::builder(directory.path().join("lab.sock")).service_config(config);
    let caller = Caller::new(channel.connect_lazy());
    let streams = Streams {
        record: |request| {
            RECORDED.fetch_add(1, Ordering::Relaxed);
            let sum = request.into_inner().try_fold(0, |sum, message| {
                message.map(|message: Packet| sum + message.number)
            });
            match sum? {
                0 => Err(Status::unavailable("nothing to add")),
                sum => Ok(Response::new(numbered(sum))),
            }
        },
        ..Streams::default()
    };
    let add = |count| -> Handled {
        let request = Request::new((0..count).map(numbered));
        caller.client_streaming(&RECORD_TWICE, request)
    };
    thread::scope(|scope| {
        let added = scope.spawn(|| add(5));
        let running = run_in(directory, Server::builder().add_service(streams));
        let sum = added.join().unwrap().expect("the server came");
        assert_eq!(sum.into_inner(), numbered(10));
        assert_eq!(RECORDED.load(Ordering::Relaxed), 1);
        assert_eq!(add(1).unwrap_err().code(), Code::Unavailable);
        assert_eq!(RECORDED.load(Ordering::Relaxed), 2);
        drop(running);
    });
}
