use std::{
    pin::pin,
    sync::mpsc,
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use shmipc_rpc::{
    Code, Config, Request, Response, Server as AsyncServer, Status,
    blocking::{Caller, Channel, Server},
    client::Caller as AsyncCaller,
};

use super::{
    common::{self, ELSEWHERE, UNKNOWN},
    lab::{Handled, LONG, Packet, RUN, ask, echo, growing, lab, packet, run, run_with},
};

#[test]
fn messages_of_all_sizes_come_back() {
    let running = run(Server::builder().add_service(echo()));
    let caller = running.caller();
    for len in [0, 1, 64, 2000, 3000, 100_000, 5 << 20] {
        let payload = Bytes::from(vec![7; len]);
        let request = Packet {
            payload,
            ..packet("len")
        };
        for _ in 0..3 {
            let response = caller.unary(&RUN, Request::new(request.clone()));
            let response: Packet = response.unwrap().into_inner();
            assert!(response == request, "{len} bytes came back changed");
        }
    }
}

#[test]
fn metadata_statuses_and_details_travel() {
    let running = run(Server::builder().add_service(lab(|request| {
        let seen = request.metadata().get("x-in").cloned();
        if request.get_ref().text == "fail" {
            let status = Status::with_details(Code::NotFound, "not here", Bytes::from("why"));
            let mut metadata = http_map();
            metadata.insert("x-out", seen.unwrap());
            return Err(status.with_metadata(metadata));
        }
        let mut response = Response::new(packet("well"));
        response.metadata_mut().insert("x-out", seen.unwrap());
        response
            .trailers_mut()
            .insert("x-tail", "after".parse().unwrap());
        Ok(response)
    })));
    let caller = running.caller();
    let call = |text| -> Handled {
        let mut request = Request::new(packet(text));
        request
            .metadata_mut()
            .insert("x-in", "value".parse().unwrap());
        caller.unary(&RUN, request)
    };
    let response = call("succeed").unwrap();
    assert_eq!(response.metadata()["x-out"], "value");
    assert_eq!(response.metadata()["x-tail"], "after");
    let status = call("fail").unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "not here");
    assert_eq!(&status.details()[..], b"why");
    assert_eq!(status.metadata()["x-out"], "value");
}

fn http_map() -> shmipc_rpc::http::HeaderMap {
    shmipc_rpc::http::HeaderMap::new()
}

#[test]
fn what_does_not_exist_is_unimplemented_and_a_panic_is_internal() {
    let running = run(Server::builder().add_service(lab(|request| {
        assert_ne!(request.get_ref().text, "panic", "on purpose");
        Ok(Response::new(packet("well")))
    })));
    let caller = running.caller();
    for method in [UNKNOWN, ELSEWHERE] {
        let failed: Handled = caller.unary(&method, Request::new(packet("?")));
        assert_eq!(failed.unwrap_err().code(), Code::Unimplemented);
    }
    for _ in 0..10 {
        assert_eq!(ask(&caller, "panic").unwrap_err().code(), Code::Internal);
        assert_eq!(ask(&caller, "go on").unwrap().into_inner().text, "well");
    }
}

#[test]
fn sizes_are_limited_on_both_sides() {
    let server = Server::builder().add_service(lab(|request| {
        let number = usize::try_from(request.get_ref().number).unwrap();
        let payload = Bytes::from(vec![0; number]);
        Ok(Response::new(Packet {
            payload,
            ..Packet::default()
        }))
    }));
    let running = run(server.max_request_size(1000).max_response_size(2000));
    let code = |caller: &Caller, sent: usize, number: u64| {
        let request = Packet {
            payload: Bytes::from(vec![0; sent]),
            number,
            ..Packet::default()
        };
        let answer: Handled = caller.unary(&RUN, Request::new(request));
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let caller = running.caller();
    assert_eq!(code(&caller, 900, 1900), Code::Ok);
    assert_eq!(code(&caller, 1100, 0), Code::ResourceExhausted);
    assert_eq!(code(&caller, 0, 2100), Code::ResourceExhausted);
    let strict = running.caller().max_request_size(10).max_response_size(50);
    assert_eq!(code(&strict, 20, 0), Code::ResourceExhausted);
    assert_eq!(code(&strict, 0, 100), Code::ResourceExhausted);
    assert_eq!(code(&strict, 0, 10), Code::Ok);
}

#[test]
fn a_deadline_is_kept_by_both_sides_and_inherited_by_calls_within() {
    let (send, seen) = mpsc::channel();
    let hanging = run(Server::builder().add_service(lab(move |request| {
        let cancellation = request.cancellation();
        let has_deadline = request.deadline().is_some();
        while !cancellation.is_cancelled() {
            thread::sleep(Duration::from_millis(1));
        }
        send.send(has_deadline).unwrap();
        Ok(Response::new(packet("too late")))
    })));
    let inner = hanging.caller();
    let outer = run(Server::builder().add_service(lab(move |_| {
        // No deadline of its own.
        inner.unary(&RUN, Request::new(packet("within")))
    })));
    for caller in [hanging.caller(), outer.caller()] {
        let has_deadline = growing().find_map(|time| {
            let began = Instant::now();
            let mut request = Request::new(packet("hurry"));
            request.set_timeout(time);
            let late: Handled = caller.unary(&RUN, request);
            assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
            assert!(time <= began.elapsed());
            // It may have been late before it got to the handler.
            seen.recv_timeout(time.max(Duration::from_secs(1))).ok()
        });
        assert_eq!(has_deadline, Some(true), "the handler knew its deadline");
    }
}

/// The memory of the server's side is all in use, so that answers wait for it.
#[tokio::test]
async fn an_answer_that_waits_for_memory_is_given_up_at_the_deadline() {
    let service = lab(|request| match request.get_ref().text.as_str() {
        "short" => Ok(Response::new(Packet::default())),
        "fail" => Err(Status::with_details(
            Code::Aborted,
            "at length",
            vec![7; 50 << 10],
        )),
        _ => Ok(Response::new(Packet {
            payload: vec![7; 300 << 10].into(),
            ..Packet::default()
        })),
    });
    let config = Config::builder().memory_max(1 << 20).build().unwrap();
    let server = Server::builder().concurrent_calls_per_session(1);
    let running = run_with(config, server.add_service(service));
    let channel = shmipc_rpc::Channel::connect(running.path()).await.unwrap();
    let caller = AsyncCaller::new(channel);
    let call = |text, timeout| {
        let mut request = Request::new(packet(text));
        request.set_timeout(timeout);
        caller.unary::<_, Packet>(&RUN, request)
    };
    let _held = [
        call("long", LONG).await.unwrap(),
        call("long", LONG).await.unwrap(),
    ];
    for stuck in ["long", "fail"] {
        // Its caller does not look, and so gives nothing up.
        let mut stuck = pin!(call(stuck, Duration::from_millis(300)));
        let polled = stuck.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        let began = Instant::now();
        while let Err(status) = call("short", LONG).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(began.elapsed() < LONG, "its thread is not free again");
        }
    }
}

#[test]
fn deadlines_that_have_passed_are_not_sent() {
    let running = run(Server::builder().add_service(echo()));
    let mut request = Request::new(packet("never"));
    request.set_timeout(Duration::ZERO);
    let late: Handled = running.caller().unary(&RUN, request);
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
}

#[test]
fn memory_of_the_session_is_lent_to_callers() {
    let running = run(Server::builder().add_service(echo()));
    let channel = running.channel();
    let mut lent = channel.alloc(100_000).unwrap();
    lent.fill(9);
    let request = Packet {
        payload: lent.freeze(),
        ..packet("lent")
    };
    let response: Packet = Caller::new(channel)
        .unary(&RUN, Request::new(request.clone()))
        .unwrap()
        .into_inner();
    assert!(response == request);
}

#[test]
fn memory_of_the_session_is_lent_to_handlers() {
    let running = run(Server::builder().add_service(lab(|request| {
        let mut lent = request.alloc_blocking(100_000)?;
        lent.fill(3);
        Ok(Response::new(Packet {
            payload: lent.freeze(),
            ..Packet::default()
        }))
    })));
    let caller = running.caller();
    for _ in 0..20 {
        let payload = ask(&caller, "lend").unwrap().into_inner().payload;
        assert!(payload.len() == 100_000 && payload.iter().all(|&byte| byte == 3));
    }
    let outside = Request::new(()).alloc_blocking(1).unwrap_err();
    assert_eq!(outside.code(), Code::FailedPrecondition);
}

#[test]
fn the_peer_is_known() {
    let running = run(Server::builder().add_service(lab(|request| {
        let peer = request.peer().expect("it came through a session");
        Ok(Response::new(packet(&peer.pid().unwrap().to_string())))
    })));
    let answer = ask(&running.caller(), "who?").unwrap().into_inner();
    assert_eq!(answer.text, std::process::id().to_string());
}

#[test]
fn a_thread_calls_a_task_and_a_task_calls_a_thread() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asynchronous = runtime
        .block_on(async { common::serve(AsyncServer::builder().add_service(common::echo())) });
    let channel = Channel::connect(asynchronous.address()).unwrap();
    let caller = Caller::new(channel);
    let blocking = run(Server::builder().add_service(echo()));
    for round in 0..200 {
        let text = round.to_string();
        assert_eq!(ask(&caller, &text).unwrap().into_inner().text, text);
    }
    runtime.block_on(async {
        let channel = shmipc_rpc::Channel::connect(blocking.path()).await.unwrap();
        let caller = AsyncCaller::new(channel);
        for round in 0..200 {
            let text = round.to_string();
            let answer: Handled = caller.unary(&RUN, Request::new(packet(&text))).await;
            assert_eq!(answer.unwrap().into_inner().text, text);
        }
    });
    drop(caller);
}
