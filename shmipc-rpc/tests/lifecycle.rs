//! Connecting, reconnecting, draining, and limits on what runs at once.

mod common;

use std::{error::Error as _, sync::Arc, time::Duration};

use shmipc_rpc::{
    Channel, Code, ConnectError, Listener, Request, Response, Server, SessionConnectError,
    client::{CallService, Caller},
};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::common::{LONG, Packet, RUN, echo, in_time, lab, packet, serve, serve_in};

async fn ask<S: CallService>(caller: &Caller<S>) -> Result<Packet, Code> {
    let result = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("ask")))).await;
    result
        .map(Response::into_inner)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn connecting_eagerly_fails_where_nobody_listens() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let result = Channel::connect(directory.path().join("nobody.sock")).await;
    assert!(matches!(
        result,
        Err(ConnectError::Session(SessionConnectError::NoServer { .. }))
    ));
}

#[tokio::test]
async fn calls_fail_fast_where_nobody_listens() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let channel = Channel::builder(directory.path().join("nobody.sock")).connect_lazy();
    let caller = Caller::new(channel);
    for _ in 0..3 {
        let result = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("")))).await;
        let status = result.expect_err("nobody listens");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status
                .source()
                .is_some_and(|source| source.is::<SessionConnectError>())
        );
    }
}

#[tokio::test]
async fn a_service_may_be_there_or_not() {
    for service in [Some(echo()), None] {
        let expected = match service {
            Some(_) => Ok(packet("ask")),
            None => Err(Code::Unimplemented),
        };
        let running = serve(Server::builder().add_optional_service(service));
        assert_eq!(ask(&running.caller().await).await, expected);
    }
}

#[tokio::test]
async fn a_call_may_wait_for_the_server() {
    async fn check<S: CallService>(caller: Caller<S>, directory: tempfile::TempDir) {
        let mut patient = Request::new(packet("patient"));
        patient.set_wait_for_ready(true);
        let mut call = Box::pin(caller.unary::<_, Packet>(&RUN, patient));
        // Long enough for attempts to fail.
        assert!(
            tokio::time::timeout(Duration::from_millis(50), &mut call)
                .await
                .is_err()
        );
        let _running = serve_in(directory, Server::builder().add_service(echo()));
        assert_eq!(
            in_time(call)
                .await
                .expect("the server is there")
                .into_inner(),
            packet("patient")
        );
    }
    for over_http in [false, true] {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let channel = Channel::builder(directory.path().join("lab.sock")).connect_lazy();
        if over_http {
            check(Caller::new(common::Plain(channel)), directory).await;
        } else {
            check(Caller::new(channel), directory).await;
        }
    }
}

#[tokio::test]
async fn waiting_for_the_server_ends_with_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let channel = Channel::builder(directory.path().join("nobody.sock"))
        .wait_for_ready(true)
        .connect_lazy();
    let mut request = Request::new(packet(""));
    request.set_timeout(Duration::from_millis(30));
    let result = in_time(Caller::new(channel).unary::<_, Packet>(&RUN, request)).await;
    assert_eq!(
        result.expect_err("nobody comes").code(),
        Code::DeadlineExceeded
    );
}

#[tokio::test]
async fn a_channel_finds_the_server_that_comes_back() {
    let mut running = serve(Server::builder().add_service(echo()));
    let caller = running.caller().await;
    for _ in 0..3 {
        assert_eq!(ask(&caller).await, Ok(packet("ask")));
        let directory = running.kill().await;
        assert_eq!(ask(&caller).await, Err(Code::Unavailable));
        running = serve_in(directory, Server::builder().add_service(echo()));
        let mut request = Request::new(packet("again"));
        request.set_wait_for_ready(true);
        let response = in_time(caller.unary::<_, Packet>(&RUN, request)).await;
        assert_eq!(
            response.expect("the server is back").into_inner(),
            packet("again")
        );
    }
}

#[tokio::test]
async fn draining_lets_calls_end_and_takes_no_new_ones() {
    let finish = Arc::new(Notify::new());
    let (called, mut was_called) = mpsc::unbounded_channel();
    let handler_finish = Arc::clone(&finish);
    let mut running = serve(Server::builder().add_service(lab(move |request| {
        let finish = Arc::clone(&handler_finish);
        called.send(()).expect("the test waits");
        async move {
            finish.notified().await;
            Ok(Response::new(request.into_inner()))
        }
    })));
    let idle = running.caller().await;
    let caller = running.caller().await;
    let call = {
        let caller = caller.clone();
        tokio::spawn(async move { ask(&caller).await })
    };
    in_time(was_called.recv()).await;

    running.stop();
    // The server is gone for new calls as soon as the channel has heard of it.
    in_time(async {
        while ask_briefly(&caller).await != Err(Code::Unavailable) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!running.task.is_finished());

    finish.notify_waiters();
    assert_eq!(
        in_time(call).await.expect("it does not panic"),
        Ok(packet("ask"))
    );
    in_time(&mut running.task)
        .await
        .expect("the server has returned");
    assert_eq!(ask(&idle).await, Err(Code::Unavailable));
}

/// Asks a server that may accept the call and not answer it.
async fn ask_briefly(caller: &Caller) -> Result<Packet, Code> {
    let mut request = Request::new(packet(""));
    request.set_timeout(Duration::from_millis(20));
    let result = in_time(caller.unary::<_, Packet>(&RUN, request)).await;
    result
        .map(Response::into_inner)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn draining_does_not_wait_for_clients_that_do_not_hang_up() {
    let mut running = serve(Server::builder().add_service(echo()));
    // A bare session, which knows nothing of going away.
    let session = shmipc_transport::Session::connect(running.address())
        .await
        .expect("the server listens");
    assert_eq!(ask(&running.caller().await).await, Ok(packet("ask")));
    running.stop();
    in_time(&mut running.task)
        .await
        .expect("the server has returned");
    drop(session);
}

#[tokio::test]
async fn calls_beyond_the_limit_of_a_session_are_refused() {
    async fn check<S: CallService + Sync>(
        caller: Caller<S>,
        running: Arc<Semaphore>,
        finish: Arc<Notify>,
    ) {
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move { ask(&caller).await })
            })
            .collect();
        running
            .acquire_many(2)
            .await
            .expect("it is not closed")
            .forget();
        assert_eq!(ask(&caller).await, Err(Code::ResourceExhausted));
        finish.notify_waiters();
        for call in calls {
            assert_eq!(
                in_time(call).await.expect("it does not panic"),
                Ok(packet("ask"))
            );
        }
    }
    let started = Arc::new(Semaphore::new(0));
    let finish = Arc::new(Notify::new());
    let (handler_started, handler_finish) = (Arc::clone(&started), Arc::clone(&finish));
    let server = Server::builder()
        .concurrent_calls_per_session(2)
        .add_service(lab(move |request| {
            let (started, finish) = (Arc::clone(&handler_started), Arc::clone(&handler_finish));
            async move {
                let mut finished = std::pin::pin!(finish.notified());
                finished.as_mut().enable();
                started.add_permits(1);
                finished.await;
                Ok(Response::new(request.into_inner()))
            }
        }));
    let running = serve(server);
    in_time(check(
        running.caller().await,
        Arc::clone(&started),
        Arc::clone(&finish),
    ))
    .await;
    in_time(check(running.caller_over_http().await, started, finish)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_does_not_hold_up_its_neighbours() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let (called, mut was_called) = mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(lab(move |request| {
        let (released, called) = (Arc::clone(&released), called.clone());
        async move {
            if request.get_ref().text == "block" {
                called.send(()).expect("the test waits");
                // As if it computed.
                released
                    .lock()
                    .expect("nobody panics")
                    .recv()
                    .expect("the test lets go");
            }
            Ok(Response::new(request.into_inner()))
        }
    })));
    // One session, so that both calls are taken by the same task.
    let caller = running.caller().await;
    let blocked = {
        let caller = caller.clone();
        tokio::spawn(async move {
            in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("block")))).await
        })
    };
    in_time(was_called.recv()).await;
    assert_eq!(ask(&caller).await, Ok(packet("ask")));
    release.send(()).expect("the handler waits");
    assert!(in_time(blocked).await.expect("it does not panic").is_ok());
}

#[tokio::test]
async fn a_server_with_a_listener_of_its_own_sees_what_its_sessions_do() {
    let counts = lab(|request| async move {
        let received = request.session_stats().map(|stats| stats.messages_received);
        Ok(Response::new(packet(&format!("{received:?}"))))
    });
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("lab.sock");
    let listener = Listener::bind(path.clone()).expect("nobody else listens there");
    let server = Server::builder().add_service(counts.clone());
    let server = server.start_with_listener(listener);
    let channel = in_time(Channel::connect(path)).await.expect("it listens");
    let caller = Caller::new(channel);
    for count in 1..=3 {
        let answer = ask(&caller).await.expect("it is served");
        assert_eq!(answer, packet(&format!("Some({count})")));
    }
    let report = in_time(server.drain(LONG)).await;
    assert!(report.cut_off.is_empty(), "{report:?}");
    assert_eq!(ask(&caller).await, Err(Code::Unavailable));

    let within = Caller::new(Channel::in_process(counts));
    assert_eq!(ask(&within).await, Ok(packet("None")));
}
