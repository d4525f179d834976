//! Deadlines: at the caller, at the handler, and of calls within calls.

mod common;

use std::{
    future::pending,
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use shmipc_rpc::{
    CancelReason, Channel, Code, Request, Response, Server,
    client::{CallService, Caller},
};
use shmipc_transport::{Config, Listener};
use tokio::sync::mpsc;

use crate::common::{
    LONG, Packet, RUN, echo, growing, hang, in_time, lab, packet, serve, serve_with,
    streams::{LIST, Streams, iter, numbered, streams},
    told,
};

const SHORT: Duration = Duration::from_millis(20);

fn request_with_timeout(timeout: Duration) -> Request<Packet> {
    let mut request = Request::new(packet(""));
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn the_caller_gets_deadline_exceeded() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let status = caller
            .unary::<_, Packet>(&RUN, request_with_timeout(SHORT))
            .await
            .expect_err("it never answers");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let status = caller
            .unary::<_, Packet>(&RUN, request_with_timeout(Duration::ZERO))
            .await
            .expect_err("there is no time");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let running = serve(Server::builder().add_service(hang()));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn the_caller_gets_deadline_exceeded_from_a_server_that_does_nothing() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let address = directory.path().join("silent.sock");
    let listener = Listener::bind(address.clone()).expect("nobody listens there");
    let channel = shmipc_rpc::Channel::builder(address).connect_lazy();
    let caller = Caller::new(channel);
    let (status, session) = in_time(async {
        tokio::join!(
            caller.unary::<_, Packet>(&RUN, request_with_timeout(SHORT)),
            listener.accept()
        )
    })
    .await;
    assert_eq!(
        status.expect_err("nobody answers").code(),
        Code::DeadlineExceeded
    );
    drop(session);
}

#[tokio::test]
async fn the_handlers_future_is_dropped_at_the_deadline() {
    async fn check<S: CallService>(caller: Caller<S>, dropped: &mut mpsc::UnboundedReceiver<bool>) {
        for time in growing() {
            let status = caller
                .unary::<_, Packet>(&RUN, request_with_timeout(time))
                .await
                .expect_err("it never answers");
            assert_eq!(status.code(), Code::DeadlineExceeded);
            if let Some(was_late) = told(dropped, time).await {
                assert!(was_late, "dropped, and not before the deadline");
                return;
            }
        }
        panic!("no call gets to the handler");
    }

    struct Note {
        deadline: Instant,
        dropped: mpsc::UnboundedSender<bool>,
    }
    impl Drop for Note {
        fn drop(&mut self) {
            let in_time = self.deadline <= Instant::now();
            self.dropped.send(in_time).expect("the test waits for it");
        }
    }

    let (sender, mut dropped) = mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(lab(move |request| {
        let deadline = request.deadline().expect("the caller set one");
        let note = Note {
            deadline,
            dropped: sender.clone(),
        };
        async move {
            let _note = note;
            pending().await
        }
    })));
    in_time(check(running.caller().await, &mut dropped)).await;
    in_time(check(running.caller_over_http().await, &mut dropped)).await;
}

#[tokio::test]
async fn the_handler_sees_what_is_left() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let response: Response<Packet> = caller
            .unary(&RUN, request_with_timeout(LONG))
            .await
            .expect("there is time");
        let left = Duration::from_nanos(response.into_inner().number);
        assert!(Duration::ZERO < left && left <= LONG);

        let response: Response<Packet> = caller
            .unary(&RUN, Request::new(packet("")))
            .await
            .expect("it answers");
        assert_eq!(response.into_inner().number, u64::MAX);
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let left = request.remaining().map_or(u64::MAX, |left| {
            u64::try_from(left.as_nanos()).expect("less than 60 s")
        });
        Ok(Response::new(Packet {
            number: left,
            ..Packet::default()
        }))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn a_call_within_a_call_inherits_what_is_left() {
    async fn check<S: CallService>(caller: Caller<S>) {
        // The first calls are polled in tasks of their own, later ones in the session's.
        for round in 0..10 {
            let mut request = request_with_timeout(LONG);
            request.get_mut().text = if round % 2 == 0 { "hour" } else { "" }.to_owned();
            let response: Response<Packet> =
                caller.unary(&RUN, request).await.expect("there is time");
            let left = Duration::from_nanos(response.into_inner().number);
            assert!(Duration::ZERO < left && left <= LONG);
        }
        // Without a deadline there is nothing to inherit.
        let response: Response<Packet> = caller
            .unary(&RUN, Request::new(packet("")))
            .await
            .expect("it answers");
        assert_eq!(response.into_inner().number, u64::MAX);
    }
    let inner = serve(Server::builder().add_service(lab(|request| async move {
        let left = request.remaining().map_or(u64::MAX, |left| {
            u64::try_from(left.as_nanos()).expect("less than 60 s")
        });
        Ok(Response::new(Packet {
            number: left,
            ..Packet::default()
        }))
    })));
    let inner_caller = inner.caller().await;
    let outer = serve(Server::builder().add_service(lab(move |outer| {
        let inner_caller = inner_caller.clone();
        async move {
            tokio::task::yield_now().await;
            let mut request = Request::new(packet(""));
            if outer.get_ref().text == "hour" {
                // That is what the handler would like; it gets what its caller has left.
                request.set_timeout(Duration::from_secs(3600));
            }
            inner_caller.unary(&RUN, request).await
        }
    })));
    over_both_paths!(outer, check);
}

#[tokio::test]
async fn a_shorter_timeout_of_an_inner_call_stands() {
    let inner = serve(Server::builder().add_service(hang()));
    let inner_caller = inner.caller().await;
    let outer = serve(Server::builder().add_service(lab(move |_| {
        let inner_caller = inner_caller.clone();
        async move { inner_caller.unary(&RUN, request_with_timeout(SHORT)).await }
    })));
    let caller = outer.caller().await;
    let status = in_time(caller.unary::<_, Packet>(&RUN, request_with_timeout(LONG))).await;
    assert_eq!(
        status.expect_err("the inner call fails").code(),
        Code::DeadlineExceeded
    );
}

#[tokio::test]
async fn work_that_goes_on_learns_of_the_deadline() {
    let (sender, mut reasons) = mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(lab(move |request| {
        let cancellation = request.cancellation();
        let sender = sender.clone();
        tokio::spawn(async move { sender.send(cancellation.cancelled().await) });
        pending()
    })));
    let caller = running.caller().await;
    for time in growing() {
        let status = in_time(caller.unary::<_, Packet>(&RUN, request_with_timeout(time))).await;
        assert_eq!(
            status.expect_err("it never answers").code(),
            Code::DeadlineExceeded
        );
        if let Some(reason) = told(&mut reasons, time).await {
            assert_eq!(reason, CancelReason::DeadlineExceeded);
            return;
        }
    }
    panic!("no call gets to the handler");
}

/// Whatever way a call takes: what is gRPC's is not metadata.
#[tokio::test]
async fn a_timeout_in_metadata_is_none() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let mut request = Request::new(packet("hello"));
        let already = shmipc_rpc::http::HeaderValue::from_static("0n");
        request.metadata_mut().insert("grpc-timeout", already);
        let response = caller.unary::<_, Packet>(&RUN, request).await;
        assert_eq!(
            response.expect("there is time").into_inner(),
            packet("hello")
        );
    }
    let running = serve(Server::builder().add_service(echo()));
    over_both_paths!(running, check);
}

/// Reads a stream that never ends, and whose messages are always there, until it fails.
async fn flood<S: CallService>(caller: Caller<S>) {
    let mut messages = caller
        .server_streaming::<_, Packet>(&LIST, request_with_timeout(10 * SHORT))
        .await
        .expect("it begins")
        .into_inner();
    let status = loop {
        match messages.message().await {
            Ok(message) => assert!(message.is_some(), "it does not end well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

fn endless() -> Streams {
    streams().list(|_| async {
        let endless = (0..).map(|number| Ok(numbered(number)));
        Ok(Response::new(iter(endless)))
    })
}

#[tokio::test]
async fn a_stream_that_never_makes_anybody_wait_has_a_deadline_too() {
    let running = serve(Server::builder().add_service(endless()));
    over_both_paths!(running, flood);
    flood(Caller::new(Channel::in_process(endless()))).await;
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn a_stream_that_never_makes_anybody_wait_has_a_deadline_over_http2() {
    let server = Server::builder().add_service(endless());
    let server = server.bind("http://127.0.0.1:0").await;
    let server = server.expect("a port is free");
    let endpoint = server.endpoints()[0].clone();
    let _running = server.start();
    let channel = Channel::connect(endpoint).await;
    flood(Caller::new(channel.expect("the server listens"))).await;
}

#[tokio::test]
async fn a_reply_that_waits_for_memory_is_given_up_at_the_deadline() {
    let service = lab(|request| async move {
        let is_long = request.get_ref().text == "long";
        let payload = vec![7; if is_long { 300 << 10 } else { 0 }].into();
        Ok(Response::new(Packet {
            payload,
            ..Packet::default()
        }))
    });
    let config = Config::builder().memory_max(1 << 20).build().unwrap();
    let server = Server::builder().concurrent_calls_per_session(1);
    let running = serve_with(config, server.add_service(service));
    let caller = running.caller().await;
    let call = |text, timeout| {
        let mut request = Request::new(packet(text));
        request.set_timeout(timeout);
        caller.unary::<_, Packet>(&RUN, request)
    };
    // What is held fills the memory of the server's side.
    let _held = [
        call("long", LONG).await.unwrap(),
        call("long", LONG).await.unwrap(),
    ];
    // Its caller does not look, and so gives nothing up.
    let mut stuck = pin!(call("long", Duration::from_millis(300)));
    let polled = stuck.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    in_time(async {
        while let Err(status) = call("short", LONG).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
        }
    })
    .await;
}
