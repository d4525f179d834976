//! Calls in both directions over one session.

mod common;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use shmipc_rpc::{
    Channel, Code, Request, Response, Server, Status,
    client::Caller,
    server::{ConnectedPeer, ServerHandle},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::common::{
    Handled, LONG, Lab, OnDrop, Packet, RUN, echo, growing, in_time, lab, packet,
    streams::{CHAT, queue},
    told,
};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for the socket"))
    }

    /// Serves, and passes on whoever connects.
    async fn start(&self, service: Lab) -> (ServerHandle, mpsc::UnboundedReceiver<ConnectedPeer>) {
        let (connected, peers) = mpsc::unbounded_channel();
        let server = Server::builder()
            .take_over(true)
            .add_service(service)
            .on_session(move |peer| drop(connected.send(peer)))
            .start(self.0.path().join("lab.sock"))
            .await
            .expect("a path can be taken over");
        (server, peers)
    }

    /// Connects, and serves over the same session.
    async fn connect(&self, service: Lab) -> Caller {
        let connecting = Channel::builder(self.0.path().join("lab.sock"))
            .serve(Server::builder().add_service(service))
            .connect();
        Caller::new(in_time(connecting).await.expect("the server listens"))
    }
}

async fn call(caller: &Caller, packet: Packet) -> Result<Packet, Status> {
    let call = caller.unary::<_, Packet>(&RUN, Request::new(packet));
    in_time(call).await.map(Response::into_inner)
}

/// The caller of a handler, as somebody who can be called.
fn back(request: &Request<Packet>) -> Caller {
    Caller::new(request.channel().expect("it came through a session"))
}

/// Answers with how many calls there were until the number of the packet had become zero: one each way, in turns.
fn ping_pong() -> Lab {
    lab(|request| async move {
        let left = request.get_ref().number;
        if left == 0 {
            return Ok(Response::new(packet("0")));
        }
        let next = Packet {
            number: left - 1,
            ..packet("")
        };
        let answer = back(&request)
            .unary::<_, Packet>(&RUN, Request::new(next))
            .await?;
        let calls: u64 = answer.into_inner().text.parse().expect("a number");
        Ok(Response::new(packet(&(calls + 1).to_string())))
    })
}

async fn nested_calls_in_both_directions_at_once() {
    const DEPTH: u64 = 50;

    let place = Place::new();
    let (server, mut peers) = place.start(ping_pong()).await;
    let client = place.connect(ping_pong()).await;
    let peer = in_time(peers.recv()).await.expect("it has connected");
    let from_server = Caller::new(peer.channel());
    let mut calls = tokio::task::JoinSet::new();
    for caller in [client, from_server] {
        for _ in 0..8 {
            let caller = caller.clone();
            calls.spawn(async move {
                for _ in 0..20 {
                    let first = Packet {
                        number: DEPTH,
                        ..packet("")
                    };
                    let answer = call(&caller, first).await.expect("it comes back");
                    assert_eq!(answer, packet(&DEPTH.to_string()));
                }
            });
        }
    }
    in_time(calls.join_all()).await;
    assert!(in_time(server.drain(LONG)).await.cut_off.is_empty());
}

#[tokio::test]
async fn nested_calls_in_both_directions_at_once_on_one_thread() {
    nested_calls_in_both_directions_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nested_calls_in_both_directions_at_once_on_several_threads() {
    nested_calls_in_both_directions_at_once().await;
}

#[tokio::test]
async fn a_server_calls_its_clients_at_any_time_until_they_are_gone() {
    let place = Place::new();
    let (_server, mut peers) = place.start(echo()).await;
    let client = place.connect(echo()).await;
    let peer = in_time(peers.recv()).await.expect("it has connected");
    assert_eq!(peer.peer().pid(), Some(std::process::id().cast_signed()));
    let caller = Caller::new(peer.channel());
    assert_eq!(peer.channel().address().map(ToString::to_string), None);
    assert_eq!(
        call(&caller, packet("hello")).await.expect("it answers"),
        packet("hello")
    );
    assert_eq!(
        call(&client, packet("hello")).await.expect("it answers"),
        packet("hello")
    );
    // Serving keeps no session open that the client has no use for.
    drop(client);
    in_time(peer.closed()).await;
    for _ in 0..2 {
        let status = call(&caller, packet("anybody?"))
            .await
            .expect_err("it is gone");
        assert_eq!(status.code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn a_client_serves_in_each_session_anew() {
    let place = Place::new();
    let (server, mut peers) = place.start(echo()).await;
    let client = place.connect(echo()).await;
    let first = in_time(peers.recv()).await.expect("it has connected");
    let (_successor, mut others) = place.start(echo()).await;
    assert!(in_time(server.drain(LONG)).await.cut_off.is_empty());
    in_time(first.closed()).await;
    assert_eq!(
        call(&client, packet("there?")).await.expect("it answers"),
        packet("there?")
    );
    let second = in_time(others.recv()).await.expect("it has connected anew");
    let caller = Caller::new(second.channel());
    assert_eq!(
        call(&caller, packet("hello")).await.expect("it answers"),
        packet("hello")
    );
}

#[tokio::test]
async fn a_client_that_serves_nothing_says_so_at_once() {
    let place = Place::new();
    let (server, mut peers) = place.start(calling_back()).await;
    let channel = in_time(Channel::connect(place.0.path().join("lab.sock"))).await;
    let client = Caller::new(channel.expect("the server listens"));
    let peer = in_time(peers.recv()).await.expect("it has connected");
    let caller = Caller::new(peer.channel());
    // No call has a deadline.
    for text in ["anybody?", &"anybody? ".repeat(1000)] {
        let status = call(&caller, packet(text)).await;
        let status = status.expect_err("nobody serves");
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
        assert!(status.message().contains("serves nothing"), "{status:?}");
    }
    let (sender, requests) = queue::<Packet>();
    let chat = caller.bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests));
    let status = in_time(chat).await.expect_err("nobody serves");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    in_time(sender.closed()).await;
    // From within a call, which the client sees fail.
    let status = call(&client, packet("")).await.expect_err("nobody serves");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    // Many at once, too, and nothing is kept open by it.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let caller = caller.clone();
        calls.spawn(async move { call(&caller, packet("anybody?")).await });
    }
    for status in in_time(calls.join_all()).await {
        assert_eq!(
            status.expect_err("nobody serves").code(),
            Code::Unimplemented
        );
    }
    drop(client);
    in_time(peer.closed()).await;
    assert!(in_time(server.drain(LONG)).await.cut_off.is_empty());
}

/// A service that never answers, and says when its handler has begun, with the deadline, and when it was dropped.
fn hanging() -> (
    Lab,
    mpsc::UnboundedReceiver<Option<Duration>>,
    mpsc::UnboundedReceiver<()>,
) {
    let (begin, begun) = mpsc::unbounded_channel();
    let (drop_it, dropped) = mpsc::unbounded_channel();
    let service = lab(move |request| {
        begin.send(request.remaining()).expect("the test waits");
        let (on_drop, was_dropped) = tokio::sync::oneshot::channel();
        let drop_it = drop_it.clone();
        tokio::spawn(async move {
            let _ = was_dropped.await;
            let _ = drop_it.send(());
        });
        async move {
            let _on_drop = OnDrop(Some(on_drop));
            std::future::pending::<Handled>().await
        }
    });
    (service, begun, dropped)
}

/// A service that calls its caller back.
fn calling_back() -> Lab {
    lab(|request| async move {
        let caller = back(&request);
        caller
            .unary::<_, Packet>(&RUN, Request::new(packet("back")))
            .await
    })
}

#[tokio::test]
async fn deadlines_and_cancellation_go_there_and_back() {
    let place = Place::new();
    let (_server, _peers) = place.start(calling_back()).await;
    let (service, mut begun, mut dropped) = hanging();
    let client = place.connect(service).await;
    let mut was_called_back = false;
    for time in growing() {
        let mut request = Request::new(packet("in time?"));
        request.set_timeout(time);
        let status = in_time(client.unary::<_, Packet>(&RUN, request)).await;
        assert_eq!(status.expect_err("it hangs").code(), Code::DeadlineExceeded);
        if let Some(remaining) = told(&mut begun, time).await {
            assert!(remaining.is_some_and(|remaining| remaining <= time));
            in_time(dropped.recv())
                .await
                .expect("its future was dropped");
            was_called_back = true;
            break;
        }
    }
    assert!(was_called_back);

    let given_up = tokio::spawn(async move { call(&client, packet("never mind")).await });
    let remaining = in_time(begun.recv()).await.expect("it was called back");
    assert_eq!(remaining, None);
    given_up.abort();
    in_time(dropped.recv())
        .await
        .expect("its future was dropped");
}

#[tokio::test]
async fn a_draining_server_still_calls_back() {
    let place = Place::new();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let service = lab(move |request| {
        let begin = begin.clone();
        async move {
            let draining = request.draining();
            begin.send(()).expect("the test waits");
            draining.begun().await;
            back(&request)
                .unary::<_, Packet>(&RUN, Request::new(packet("last")))
                .await
        }
    });
    let (server, _peers) = place.start(service).await;
    let client = place.connect(echo()).await;
    let calling = tokio::spawn(async move { call(&client, packet("")).await });
    in_time(begun.recv()).await.expect("it was called");
    let report = in_time(server.drain(LONG)).await;
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (1, 0),
        "{report:?}"
    );
    let answer = in_time(calling).await.expect("no panic");
    assert_eq!(answer.expect("it is served"), packet("last"));
}

#[tokio::test]
async fn limits_of_what_a_client_serves_hold() {
    let place = Place::new();
    let (_server, mut peers) = place.start(echo()).await;
    let server = Server::builder().max_request_size(10).add_service(echo());
    let connecting = Channel::builder(place.0.path().join("lab.sock"))
        .serve(server)
        .connect();
    let _client = in_time(connecting).await.expect("the server listens");
    let peer = in_time(peers.recv()).await.expect("it has connected");
    let caller = Caller::new(peer.channel());
    assert!(call(&caller, packet("short")).await.is_ok());
    let status = call(&caller, packet("much too long"))
        .await
        .expect_err("it is too long");
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn requests_that_came_in_another_way_lead_nowhere() {
    let service = lab(|request| {
        let leads_nowhere = request.channel().is_none() && !request.draining().has_begun();
        async move { Ok(Response::new(packet(&leads_nowhere.to_string()))) }
    });
    let caller = Caller::new(Channel::in_process(service));
    assert_eq!(
        call(&caller, packet("")).await.expect("it answers"),
        packet("true")
    );
}

/// What is done with each new session may use the channel, also with those that come after the first.
#[tokio::test]
async fn what_is_done_with_a_session_may_use_its_channel() {
    let place = Place::new();
    let (server, _peers) = place.start(echo()).await;
    let own = Arc::new(OnceLock::<Channel>::new());
    let (looked, mut looks) = mpsc::unbounded_channel();
    let serving = {
        let own = Arc::clone(&own);
        Server::builder().add_service(echo()).on_session(move |_| {
            let stats = own.get().map(Channel::stats);
            looked.send(stats).expect("the test waits");
        })
    };
    let path = place.0.path().join("lab.sock");
    let channel = Channel::builder(path).serve(serving).connect();
    let channel = in_time(channel).await.expect("the server listens");
    assert!(in_time(looks.recv()).await.flatten().is_none());
    own.set(channel.clone()).expect("it is empty");
    let (_successor, _peers) = place.start(echo()).await;
    in_time(server.drain(LONG)).await;
    call(&Caller::new(channel), packet(""))
        .await
        .expect("the successor answers");
    assert!(in_time(looks.recv()).await.flatten().is_some());
}
