//! Calls over several sessions, and to several servers.

mod common;

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use shmipc_rpc::{
    Address, Channel, Code, Config, Idempotency, Method, Request, Response, Server,
    client::{Caller, MethodConfig, RetryPolicy, ServiceConfig},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use common::{
    Handled, Lab, Packet, Plain, RUN, Running, echo, in_time, lab, packet, serve, serve_in,
    serve_with,
    streams::{LIST, numbered, queue, streams},
};

/// Makes a service that answers with its name.
fn named(name: &'static str) -> Lab {
    lab(move |_| async move { Ok(Response::new(packet(name))) })
}

fn balanced<'a>(servers: impl IntoIterator<Item = &'a Running>) -> Channel {
    let addresses: Vec<_> = servers.into_iter().map(Running::address).collect();
    Channel::balanced(addresses).connect_lazy()
}

async fn call(caller: &Caller) -> Handled {
    in_time(caller.unary(&RUN, Request::new(packet("")))).await
}

async fn name(caller: &Caller) -> String {
    call(caller)
        .await
        .expect("a server answers")
        .into_inner()
        .text
}

/// Calls until all of `names` have answered. With two of them, a hundred calls miss one once in 2^100 times.
async fn until_all_answer(caller: &Caller, names: &[&str]) {
    let mut seen = BTreeSet::new();
    for _ in 0..100 * names.len() {
        seen.insert(name(caller).await);
    }
    assert!(names.iter().all(|&name| seen.contains(name)), "{seen:?}");
}

#[tokio::test]
async fn calls_go_to_all_servers_through_any_path() {
    let servers = ["a", "b", "c"].map(|name| serve(Server::builder().add_service(named(name))));
    let channel = balanced(&servers);
    in_time(async {
        // Each is connected to when it is first looked at, and gets calls from then on.
        let caller = Caller::new(channel.clone());
        until_all_answer(&caller, &["a", "b", "c"]).await;
        let over_http = Caller::new(Plain(channel.clone()));
        let mut seen = BTreeSet::new();
        for _ in 0..300 {
            let request = Request::new(packet(""));
            let response = over_http.unary::<_, Packet>(&RUN, request).await;
            seen.insert(response.expect("a server answers").into_inner().text);
        }
        assert_eq!(seen.len(), 3);
    })
    .await;
    assert!(channel.address().is_none());
}

#[tokio::test]
async fn a_busy_server_gets_no_more_calls_than_a_free_one() {
    let (called, mut was_called) = mpsc::unbounded_channel();
    let busy = lab(move |_| {
        called.send(()).expect("the test listens");
        pending()
    });
    let servers = [
        serve(Server::builder().add_service(busy)),
        serve(Server::builder().add_service(named("free"))),
    ];
    let caller = Caller::new(
        Channel::balanced(servers.iter().map(Running::address))
            .connect()
            .await
            .expect("they listen"),
    );
    // One call after the other, until the busy one has one. Each that does not get there is answered.
    let stuck = {
        let caller = caller.clone();
        tokio::spawn(async move {
            loop {
                assert_eq!(
                    caller
                        .unary::<_, Packet>(&RUN, Request::new(packet("")))
                        .await
                        .expect("it answers")
                        .into_inner()
                        .text,
                    "free"
                );
            }
        })
    };
    in_time(was_called.recv())
        .await
        .expect("it is called sooner or later");
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "free");
    }
    // A call that is given up is no longer under way.
    stuck.abort();
    assert!(stuck.await.is_err_and(|error| error.is_cancelled()));
    let again = async {
        loop {
            tokio::select! {
                biased;
                Some(()) = was_called.recv() => return,
                _ = call(&caller) => {}
            }
        }
    };
    in_time(again).await;
}

#[tokio::test]
async fn a_stream_counts_until_it_ends() {
    let (sender, receiver) = queue();
    let receiver = std::sync::Mutex::new(Some(receiver));
    let streaming = streams().list(move |_| {
        let messages = receiver.lock().expect("nobody panicked").take();
        async move { Ok(Response::new(messages.expect("it is called once"))) }
    });
    let one = serve(
        Server::builder()
            .add_service(streaming)
            .add_service(named("one")),
    );
    let two = serve(Server::builder().add_service(named("two")));
    let channel = Channel::balanced([one.address(), two.address()]);
    let caller = Caller::new(channel.connect().await.expect("they listen"));
    let mut messages = loop {
        let request = Request::new(numbered(0));
        match in_time(caller.server_streaming::<_, Packet>(&LIST, request)).await {
            Ok(response) => break response.into_inner(),
            // Only one of them has the method.
            Err(status) => assert_eq!(status.code(), Code::Unimplemented),
        }
    };
    sender.send(Ok(numbered(1))).await.expect("it is streamed");
    let message = in_time(messages.message()).await.expect("it streams");
    assert_eq!(message, Some(numbered(1)));
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "two");
    }
    drop(sender);
    assert_eq!(
        in_time(messages.message()).await.expect("it ends well"),
        None
    );
    until_all_answer(&caller, &["one", "two"]).await;
}

#[tokio::test]
async fn several_sessions_to_one_server_share_its_calls() {
    let finish = Arc::new(Semaphore::new(0));
    let waiting = {
        let finish = Arc::clone(&finish);
        lab(move |request: Request<Packet>| {
            let finish = Arc::clone(&finish);
            async move {
                let _permit = finish.acquire().await;
                Ok(Response::new(request.into_inner()))
            }
        })
    };
    // One call at a time for each session.
    let server = Server::builder()
        .concurrent_calls_per_session(1)
        .add_service(waiting);
    let running = serve(server);
    let builder = Channel::builder(running.address()).sessions(3);
    let channel = builder.connect().await.expect("it listens");
    assert_eq!(
        channel.address().map(ToString::to_string),
        Some(running.address().to_string())
    );
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let caller = Caller::new(channel.clone());
        calls.spawn(async move { call(&caller).await });
    }
    let status = in_time(calls.join_next())
        .await
        .expect("there are four")
        .expect("it does not panic");
    assert_eq!(
        status.expect_err("one is too many").code(),
        Code::ResourceExhausted
    );
    finish.add_permits(3);
    let mut echoed = 0;
    while let Some(call) = in_time(calls.join_next()).await {
        match call.expect("it does not panic") {
            Ok(_) => echoed += 1,
            // Of two sessions that are looked at, both may be busy.
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
    // Two that are looked at while only one is busy are never both busy, so that the second call had a session of its own.
    assert!(2 <= echoed, "{echoed}");
}

#[tokio::test]
async fn a_server_that_dies_is_left_out_until_it_is_back() {
    const TWICE: Method = RUN.with_idempotency(Idempotency::Idempotent);

    let [a, b] = ["a", "b"].map(|name| serve(Server::builder().add_service(named(name))));
    // A call may be on its way when its server dies.
    let policy = RetryPolicy::new([Code::Unavailable])
        .backoff(Duration::from_millis(1), Duration::from_millis(10));
    let config = ServiceConfig::builder()
        .default_method(MethodConfig::new().retry(policy))
        .build()
        .expect("it is valid");
    let channel = Channel::balanced([a.address(), b.address()]).service_config(config);
    let caller = Caller::new(channel.connect().await.expect("they listen"));
    let name = async || {
        let request = Request::new(packet(""));
        let response = in_time(caller.unary::<_, Packet>(&TWICE, request)).await;
        response.expect("a server answers").into_inner().text
    };
    until_all_answer(&caller, &["a", "b"]).await;
    let directory = a.kill().await;
    for _ in 0..100 {
        assert_eq!(name().await, "b");
    }
    let _a = serve_in(directory, Server::builder().add_service(named("a")));
    in_time(async {
        while name().await != "a" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_drained_server_fails_no_call() {
    let mut a = serve(Server::builder().add_service(named("a")));
    let b = serve(Server::builder().add_service(named("b")));
    let channel = Channel::balanced([a.address(), b.address()]);
    let caller = Caller::new(channel.connect().await.expect("they listen"));
    until_all_answer(&caller, &["a", "b"]).await;
    a.stop();
    in_time(async {
        while !a.task.is_finished() {
            call(&caller).await.expect("nobody notices");
        }
    })
    .await;
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "b");
    }
}

#[tokio::test]
async fn without_any_server_calls_fail_or_wait() {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory for the socket"));
    let addresses = directories
        .each_ref()
        .map(|directory| Address::from(directory.path().join("lab.sock")));
    let error = in_time(Channel::balanced(addresses.clone()).connect()).await;
    assert!(error.is_err());
    let caller = Caller::new(Channel::balanced(addresses.clone()).connect_lazy());
    for _ in 0..3 {
        let status = call(&caller).await.expect_err("there is no server");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(std::error::Error::source(&status).is_some());
    }
    let waiting = {
        let caller = caller.clone();
        tokio::spawn(async move {
            let mut request = Request::new(packet("text"));
            request.set_wait_for_ready(true);
            in_time(caller.unary::<_, Packet>(&RUN, request)).await
        })
    };
    tokio::task::yield_now().await;
    let [_, directory] = directories;
    let _running = serve_in(directory, Server::builder().add_service(echo()));
    let response = in_time(waiting).await.expect("it does not panic");
    assert_eq!(
        response.expect("a server came").into_inner(),
        packet("text")
    );
    // The deadline ends the waiting.
    let caller = Caller::new(
        Channel::balanced(addresses[..1].to_vec())
            .sessions(2)
            .wait_for_ready(true)
            .connect_lazy(),
    );
    let mut request = Request::new(packet(""));
    request.set_timeout(Duration::from_millis(20));
    let status = in_time(caller.unary::<_, Packet>(&RUN, request))
        .await
        .expect_err("nobody comes");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_channel_to_no_server_says_so() {
    let caller = Caller::new(Channel::balanced(Vec::<Address>::new()).connect_lazy());
    assert_eq!(
        call(&caller).await.expect_err("nobody is there").code(),
        Code::Unavailable
    );
    let mut request = Request::new(packet(""));
    request.set_wait_for_ready(true);
    let status = in_time(caller.unary::<_, Packet>(&RUN, request))
        .await
        .expect_err("nobody will be");
    assert_eq!(status.code(), Code::Unavailable);
}

/// One that has not left for it yet, that is, whatever it waits for there.
#[tokio::test]
async fn a_call_that_waits_for_a_server_that_goes_is_made_at_another() {
    let few = Config::builder().streams_max(1).build();
    let (called, mut was_called) = mpsc::unbounded_channel();
    let release = Arc::new(Semaphore::new(0));
    let service = |hangs: bool| {
        let (called, release) = (called.clone(), Arc::clone(&release));
        lab(move |request| {
            let (called, release) = (called.clone(), Arc::clone(&release));
            async move {
                called.send(()).expect("the test waits");
                if hangs {
                    pending::<()>().await;
                }
                let _permit = release.acquire().await.expect("it is not closed");
                Ok(Response::new(request.into_inner()))
            }
        })
    };
    let few = few.expect("it is valid");
    let a = serve_with(few, Server::builder().add_service(service(true)));
    let b = serve(Server::builder().add_service(service(false)));
    let channel = Channel::balanced([a.address(), b.address()]);
    let caller = Caller::new(channel.connect().await.expect("they listen"));
    // Two each: the less loaded one is chosen. One of these four waits for its stream.
    let mut calls = JoinSet::new();
    for wait_for_ready in [false, false, true, true] {
        let caller = caller.clone();
        calls.spawn(async move {
            let mut request = Request::new(packet(""));
            request.set_wait_for_ready(wait_for_ready);
            in_time(caller.unary::<_, Packet>(&RUN, request)).await
        });
    }
    for _ in 0..3 {
        in_time(was_called.recv()).await.expect("they are called");
    }
    a.kill().await;
    in_time(was_called.recv())
        .await
        .expect("the last one is made at the other");
    release.add_permits(3);
    let mut failed = 0;
    while let Some(answer) = calls.join_next().await {
        if let Err(status) = answer.expect("no panic") {
            assert_eq!(status.code(), Code::Unavailable);
            failed += 1;
        }
    }
    assert_eq!(failed, 1, "the one that ran at the server that has gone");
}
