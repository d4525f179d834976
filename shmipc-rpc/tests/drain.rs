//! Servers that go out of service, and their successors.

mod common;

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use shmipc_rpc::{
    Body, Channel, Code, Config, Request, Response, Sender, ServeError, Server, Status,
    client::Caller,
    http,
    server::{Draining, ServerHandle},
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};
use tower::{Service, ServiceExt, layer::layer_fn};

use crate::common::{
    LONG, Lab, Packet, RUN, SECRET, echo, hang, in_time, lab, packet,
    streams::{self, LIST},
};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for the socket"))
    }

    async fn start(&self, service: Lab) -> ServerHandle {
        let server = Server::builder().take_over(true).add_service(service);
        server
            .start(self.0.path().join("lab.sock"))
            .await
            .expect("a path can be taken over")
    }

    async fn caller(&self) -> Caller {
        let channel = in_time(Channel::connect(self.0.path().join("lab.sock"))).await;
        Caller::new(channel.expect("the server listens"))
    }
}

async fn call(caller: &Caller, text: &str) -> Result<Packet, Status> {
    let call = caller.unary::<_, Packet>(&RUN, Request::new(packet(text)));
    in_time(call).await.map(Response::into_inner)
}

/// A handler that says that it was called, and then does as its name says.
fn signalling<F, Fut>(handler: F) -> (Lab, mpsc::UnboundedReceiver<()>)
where
    F: Fn(Request<Packet>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = common::Handled> + Send + 'static,
{
    let (called, was_called) = mpsc::unbounded_channel();
    let service = lab(move |request| {
        called.send(()).expect("the test waits");
        handler(request)
    });
    (service, was_called)
}

#[tokio::test]
async fn calls_that_end_in_time_are_served_and_counted() {
    let finish = Arc::new(Semaphore::new(0));
    let (service, mut was_called) = signalling({
        let finish = Arc::clone(&finish);
        move |request| {
            let finish = Arc::clone(&finish);
            async move {
                finish.acquire().await.expect("it is not closed").forget();
                Ok(Response::new(request.into_inner()))
            }
        }
    });
    let place = Place::new();
    let server = place.start(service).await;
    let caller = place.caller().await;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { call(&caller, "slow").await })
        })
        .collect();
    for _ in 0..3 {
        in_time(was_called.recv()).await.expect("a call");
    }
    let draining = tokio::spawn(async move { server.drain(LONG).await });
    finish.add_permits(3);
    for call in calls {
        assert_eq!(
            call.await.expect("no panic").expect("it is served"),
            packet("slow")
        );
    }
    let report = in_time(draining).await.expect("no panic");
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (3, 0),
        "{report:?}"
    );
    assert_eq!(
        std::fs::read_dir(place.0.path())
            .expect("it is there")
            .count(),
        0,
        "the address was given back"
    );
    let status = call(&caller, "late").await.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn calls_that_do_not_end_are_cut_off_and_reported() {
    let (service, mut was_called) = signalling(|_| std::future::pending());
    let place = Place::new();
    let server = place.start(service).await;
    let caller = place.caller().await;
    let calls: Vec<_> = [RUN, SECRET]
        .into_iter()
        .map(|method| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let call = caller.unary::<_, Packet>(&method, Request::new(packet("")));
                in_time(call).await
            })
        })
        .collect();
    for _ in 0..2 {
        in_time(was_called.recv()).await.expect("a call");
    }
    let report = in_time(server.drain(Duration::from_millis(50))).await;
    assert_eq!(report.finished, 0);
    let mut methods: Vec<_> = report.cut_off.iter().map(|call| &*call.method).collect();
    methods.sort_unstable();
    assert_eq!(methods, [RUN.path(), SECRET.path()]);
    for cut_off in &report.cut_off {
        let peer = cut_off.peer.expect("it is known");
        assert_eq!(peer.pid(), Some(std::process::id().cast_signed()));
        assert_eq!(cut_off.address, None);
        assert!(Duration::from_millis(50) <= cut_off.age);
    }
    for call in calls {
        let status = call.await.expect("no panic").expect_err("it was cut off");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("shut down"), "{status}");
    }
    // Whoever asks again is told the same.
    assert_eq!(server.shutdown_now().await.cut_off.len(), 2);
    in_time(server.finished()).await.expect("it has ended well");
}

/// A service that can be cloned for as long as it is asked no more than that.
struct Fragile<S> {
    inner: S,
    is_broken: Arc<AtomicBool>,
}

impl<S: Clone> Clone for Fragile<S> {
    fn clone(&self) -> Self {
        assert!(!self.is_broken.load(Ordering::Relaxed), "it is broken");
        Self {
            inner: self.inner.clone(),
            is_broken: Arc::clone(&self.is_broken),
        }
    }
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Fragile<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        self.inner.call(request)
    }
}

#[tokio::test]
async fn a_server_that_has_panicked_has_not_ended_well() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let fragile = Arc::clone(&is_broken);
    let layer = layer_fn(move |inner| Fragile {
        inner,
        is_broken: Arc::clone(&fragile),
    });
    let place = Place::new();
    let server = Server::builder().layer(layer).add_service(echo());
    let server = server.start(place.0.path().join("lab.sock")).await;
    let server = server.expect("the path is free");
    call(&place.caller().await, "hello")
        .await
        .expect("it is served");
    is_broken.store(true, Ordering::Relaxed);
    // Connected or not, by the time that the panic is seen.
    let _ = Channel::connect(place.0.path().join("lab.sock")).await;
    let ended = in_time(server.finished()).await;
    assert!(matches!(ended, Err(ServeError::Broken)), "{ended:?}");
}

#[tokio::test]
async fn a_later_drain_may_shorten_the_time() {
    let (service, mut was_called) = signalling(|_| std::future::pending());
    let place = Place::new();
    let server = Arc::new(place.start(service).await);
    let caller = place.caller().await;
    let hanging = tokio::spawn(async move { call(&caller, "").await });
    in_time(was_called.recv()).await.expect("a call");
    let patient = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.drain(Duration::MAX).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(in_time(server.shutdown_now()).await.cut_off.len(), 1);
    assert_eq!(in_time(patient).await.expect("no panic").cut_off.len(), 1);
    let status = hanging
        .await
        .expect("no panic")
        .expect_err("it was cut off");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn handlers_learn_that_their_server_drains_and_until_when() {
    let (tell, mut told) = mpsc::unbounded_channel::<Draining>();
    let (service, mut was_called) = signalling(move |request| {
        let tell = tell.clone();
        async move {
            let draining = request.draining();
            assert!(!draining.has_begun() && draining.deadline().is_none());
            draining.begun().await;
            tell.send(draining).expect("the test waits");
            Ok(Response::new(packet("ask my successor")))
        }
    });
    let place = Place::new();
    let server = place.start(service).await;
    let caller = place.caller().await;
    let waiting = tokio::spawn(async move { call(&caller, "subscribe").await });
    in_time(was_called.recv()).await.expect("a call");
    let report = in_time(server.drain(LONG)).await;
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (1, 0),
        "{report:?}"
    );
    let answer = waiting.await.expect("no panic").expect("it is served");
    assert_eq!(answer, packet("ask my successor"));
    let draining = told.recv().await.expect("it was told");
    assert!(draining.has_begun() && draining.deadline().is_some());
    assert!(!Request::new(()).draining().has_begun());
}

#[tokio::test]
async fn dropping_the_handle_ends_the_server_at_once() {
    let (service, mut was_called) = signalling(|_| std::future::pending());
    let place = Place::new();
    let server = place.start(service).await;
    assert!(server.endpoints()[0].to_string().ends_with("lab.sock"));
    let caller = place.caller().await;
    let hanging = tokio::spawn(async move { call(&caller, "").await });
    in_time(was_called.recv()).await.expect("a call");
    drop(server);
    let status = in_time(hanging)
        .await
        .expect("no panic")
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_servers_succeed_each_other() {
    let place = Place::new();
    let mut current = place.start(echo()).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let caller = place.caller().await;
        for _ in 0..4 {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            clients.spawn(async move {
                let mut calls = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    call(&caller, "steady").await.expect("nobody notices");
                    calls += 1;
                }
                calls
            });
        }
    }
    for _ in 0..50 {
        let successor = place.start(echo()).await;
        let report = in_time(current.drain(LONG)).await;
        assert!(report.cut_off.is_empty(), "{report:?}");
        current = successor;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for calls in clients.join_all().await {
        assert_ne!(calls, 0);
    }
}

#[tokio::test]
async fn a_stuck_client_without_calls_does_not_hold_up_the_drain_for_long() {
    // Nothing in this process polls the session's driver any more.
    let place = Place::new();
    let server = place.start(hang()).await;
    let address = place.0.path().join("lab.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let session = std::thread::spawn(move || {
        let session = runtime.block_on(shmipc_transport::Session::connect(address));
        (runtime, session.expect("the server listens"))
    });
    while !session.is_finished() {
        tokio::task::yield_now().await;
    }
    let stuck = session.join().expect("no panic");
    let report = in_time(server.drain(LONG)).await;
    assert!(report.cut_off.is_empty());
    std::thread::spawn(move || drop(stuck))
        .join()
        .expect("no panic");
}

#[tokio::test]
async fn streams_are_told_and_those_that_go_on_are_cut_off() {
    let place = Place::new();
    let service = streams::streams().list(|request| async move {
        let draining = request.draining();
        let (mut sender, sink) = Sender::for_responses();
        let goes_on = request.get_ref().text == "go on";
        tokio::spawn(async move {
            sender.send(&packet("first")).await?;
            draining.begun().await;
            sender.send(&packet("last")).await?;
            if goes_on {
                std::future::pending::<()>().await;
            }
            Ok::<_, Status>(())
        });
        Ok(Response::new(sink))
    });
    let server = Server::builder()
        .add_service(service)
        .start(place.0.path().join("lab.sock"))
        .await
        .expect("nobody listens there");
    let caller = place.caller().await;
    let mut received = Vec::new();
    for text in ["stop", "go on"] {
        let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet(text)));
        let mut stream = in_time(call).await.expect("it begins").into_inner();
        let first = in_time(stream.message()).await.expect("it goes well");
        assert_eq!(first, Some(packet("first")));
        received.push(stream);
    }
    // Enough for the one that ends.
    let report = in_time(server.drain(Duration::from_secs(5))).await;
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (1, 1),
        "{report:?}"
    );
    assert_eq!(report.cut_off[0].method, LIST.path());
    for stream in &mut received {
        let last = in_time(stream.message()).await.expect("it goes well");
        assert_eq!(last, Some(packet("last")));
    }
    assert_eq!(
        in_time(received[0].message()).await.expect("it ends well"),
        None
    );
    let status = in_time(received[1].message())
        .await
        .expect_err("it was cut off");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("shut down"), "{status}");
}

/// The request comes in pieces that are taken as they are encoded, and is encoded twice: for the server that goes, and its successor.
#[tokio::test]
async fn a_call_that_waited_goes_to_the_successor_with_its_message() {
    let (service, mut was_called) = signalling(|_| pending());
    let place = Place::new();
    let one_stream = Config::builder().streams_max(1).build();
    let path = place.0.path().join("lab.sock");
    let server = Server::builder()
        .config(one_stream.expect("it is valid"))
        .add_service(service);
    let server = server.start(path.clone()).await.expect("the path is free");
    let channel = in_time(Channel::connect(path)).await;
    let channel = channel.expect("the server listens");
    let holds = Caller::new(channel.clone());
    let held = tokio::spawn(async move { call(&holds, "hang").await });
    in_time(was_called.recv()).await.expect("it is called");

    let message = packet("in full").encode_to_vec();
    let len = u32::try_from(message.len()).expect("it is short");
    let mut framed = BytesMut::from(&[0][..]);
    framed.put_u32(len);
    framed.put_slice(&message);
    let request = http::Request::post(RUN.path())
        .body(Body::new(Full::new(framed.freeze())))
        .expect("it is one");
    let mut waiting = pin!(channel.oneshot(request));
    let waits = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
    assert!(waits.await, "one stream is all that the server accepts");

    let _successor = place.start(echo()).await;
    let (response, _) = in_time(async { tokio::join!(waiting, server.shutdown_now()) }).await;
    let response = response.expect("the successor answers").into_body();
    let response = in_time(response.collect()).await;
    let mut answer = response.expect("it comes whole").to_bytes();
    answer.advance(5);
    let answer = Packet::decode(answer).expect("it is one");
    assert_eq!(answer.text, "in full");
    let cut_off = in_time(held).await.expect("no panic");
    assert_eq!(cut_off.expect_err("it hangs").code(), Code::Unavailable);
}

/// Waiting for the end in one place, without going on to wait, does not keep others from it.
#[tokio::test]
async fn who_waits_for_the_end_does_not_hold_up_who_drains() {
    let place = Place::new();
    let server = place.start(echo()).await;
    let mut finished = pin!(server.finished());
    let waits = poll_fn(|cx| Poll::Ready(finished.as_mut().poll(cx).is_pending()));
    assert!(waits.await, "it serves");
    let report = in_time(server.drain(LONG)).await;
    assert!(report.cut_off.is_empty());
    in_time(finished).await.expect("it was drained");
}
