//! Calls go to the servers that say that they serve.
#![cfg(feature = "health")]

mod common;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use shmipc_rpc::{
    Channel, Code, Request, Response, ResponseStream, Server, Status,
    client::{Caller, ChannelBuilder, ServiceConfig},
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        HealthReporter, HealthServer, ServingStatus, health_server::Health,
    },
};
use tokio::sync::mpsc;

use common::{Handled, Lab, OnDrop, Packet, RUN, Running, in_time, lab, packet, serve, serve_in};

const LAB: &str = "lab.v1.Lab";

/// Makes a service that answers with its name.
fn named(name: &'static str) -> Lab {
    lab(move |_| async move { Ok(Response::new(packet(name))) })
}

/// A server that answers with its name, and says how it is. At first it serves.
fn healthy(name: &'static str) -> (Server, HealthReporter) {
    let health = HealthReporter::new();
    health.set_serving(LAB);
    let server = Server::builder().add_service(named(name));
    (server.add_service(health.service()), health)
}

fn balanced<'a>(servers: impl IntoIterator<Item = &'a Running>) -> ChannelBuilder {
    let addresses: Vec<_> = servers.into_iter().map(Running::address).collect();
    Channel::balanced(addresses).health_check(LAB)
}

async fn call(caller: &Caller) -> Handled {
    in_time(caller.unary(&RUN, Request::new(packet("")))).await
}

async fn name(caller: &Caller) -> String {
    let response = call(caller).await.expect("a server answers");
    response.into_inner().text
}

/// Calls until `name` answers.
async fn until_answered_by(caller: &Caller, expected: &str) {
    in_time(async {
        while name(caller).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Calls until a call fails, and returns how.
async fn until_fails(caller: &Caller) -> Status {
    in_time(async {
        loop {
            match call(caller).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status,
            }
        }
    })
    .await
}

/// What a server says that does as the test tells it.
enum Says {
    Status(ServingStatus),
    Fails(Status),
}

/// A health service whose watches the test carries on.
struct Scripted {
    watches: mpsc::UnboundedSender<Watch>,
}

/// A watch that somebody has begun, and whose half is still there.
struct Watch {
    service: String,
    says: mpsc::UnboundedSender<Says>,
    ended: tokio::sync::oneshot::Receiver<()>,
}

struct Told {
    says: mpsc::UnboundedReceiver<Says>,
    _ended: OnDrop,
}

impl Stream for Told {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.says.poll_recv(cx).map(|said| {
            Some(match said? {
                Says::Status(status) => Ok(HealthCheckResponse {
                    status: status.into(),
                }),
                Says::Fails(status) => Err(status),
            })
        })
    }
}

impl Health for Scripted {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Err(Status::internal("nobody checks, clients watch"))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::internal("nobody lists, clients watch"))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<impl ResponseStream<HealthCheckResponse>>, Status> {
        let (says, told) = mpsc::unbounded_channel();
        let (ends, ended) = tokio::sync::oneshot::channel();
        let service = request.into_inner().service;
        let watch = Watch {
            service,
            says,
            ended,
        };
        // A test that has seen enough does not listen any more.
        let _ = self.watches.send(watch);
        Ok(Response::new(Told {
            says: told,
            _ended: OnDrop(Some(ends)),
        }))
    }
}

/// A server whose health the test makes up, watch by watch.
fn scripted(name: &'static str) -> (Server, mpsc::UnboundedReceiver<Watch>) {
    let (watches, began) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(named(name));
    (
        server.add_service(HealthServer::new(Scripted { watches })),
        began,
    )
}

impl Watch {
    fn say(&self, status: ServingStatus) {
        let said = self.says.send(Says::Status(status));
        said.expect("somebody watches");
    }

    fn fail(&self, status: Status) {
        self.says.send(Says::Fails(status)).expect("it is watched");
    }
}

async fn next(watches: &mut mpsc::UnboundedReceiver<Watch>) -> Watch {
    in_time(watches.recv()).await.expect("the server runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_serve_gets_no_calls_under_load_until_it_does_again() {
    let [(a, health), (b, _b)] = ["a", "b"].map(healthy);
    let servers = [serve(a), serve(b)];
    let caller = Caller::new(balanced(&servers).connect().await.expect("they listen"));
    until_answered_by(&caller, "a").await;
    until_answered_by(&caller, "b").await;
    // Callers that never pause, none of which may ever fail.
    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (caller, over) = (caller.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    call(&caller).await.expect("another server serves");
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        health.set_not_serving(LAB);
        in_time(async {
            // It takes a moment to be known; from then on it holds.
            let mut in_a_row = 0;
            while in_a_row < 50 {
                in_a_row = if name(&caller).await == "b" {
                    in_a_row + 1
                } else {
                    0
                };
            }
        })
        .await;
        for _ in 0..50 {
            assert_eq!(name(&caller).await, "b");
        }
        health.set_serving(LAB);
        until_answered_by(&caller, "a").await;
    }
    over.store(true, Ordering::Relaxed);
    for calls in load {
        in_time(calls).await.expect("no call fails");
    }
}

#[tokio::test]
async fn a_server_that_does_not_tell_how_it_is_counts_as_healthy_and_is_asked_once_per_connection()
{
    let asked = Arc::new(AtomicUsize::new(0));
    let without = |name| {
        let asked = Arc::clone(&asked);
        let count = tower::util::MapRequestLayer::new(
            move |request: shmipc_rpc::http::Request<shmipc_rpc::Body>| {
                if request.uri().path() == "/grpc.health.v1.Health/Watch" {
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                request
            },
        );
        Server::builder().layer(count).add_service(named(name))
    };
    let first = serve(without("first"));
    let caller = Caller::new(balanced([&first]).connect().await.expect("it listens"));
    for _ in 0..100 {
        assert_eq!(name(&caller).await, "first");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Its successor may be another.
    let directory = first.kill().await;
    let _second = serve_in(directory, without("second"));
    in_time(async {
        while !call(&caller)
            .await
            .is_ok_and(|answer| answer.into_inner().text == "second")
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..100 {
        assert_eq!(name(&caller).await, "second");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn nobody_is_asked_unless_that_is_wanted() {
    let (server, mut watches) = scripted("a");
    let running = serve(server);
    let channel = Channel::balanced([running.address(), running.address()]);
    let caller = Caller::new(channel.connect().await.expect("it listens"));
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "a");
    }
    assert!(watches.try_recv().is_err());
}

#[tokio::test]
async fn a_service_config_names_the_service_unless_the_channel_does() {
    let (server, mut watches) = scripted("a");
    let running = serve(server);
    let config = ServiceConfig::builder().health_check("by.Config").build();
    let config = config.expect("it is valid");
    let builder = || Channel::builder(running.address()).service_config(config.clone());
    for (builder, service) in [
        (builder(), "by.Config"),
        (builder().health_check("by.Channel"), "by.Channel"),
        (builder().health_check(""), ""),
    ] {
        let caller = Caller::new(builder.connect_lazy());
        let calling = tokio::spawn(async move { name(&caller).await });
        let watch = next(&mut watches).await;
        assert_eq!(watch.service, service);
        watch.say(ServingStatus::Serving);
        assert_eq!(in_time(calling).await.expect("no panic"), "a");
    }
}

#[tokio::test]
async fn a_server_that_has_not_answered_yet_is_waited_for_only_if_there_is_no_other() {
    let (server, mut watches) = scripted("mute");
    let (healthy, _health) = healthy("b");
    let (mute, other) = (serve(server), serve(healthy));
    let both = Caller::new(
        balanced([&mute, &other])
            .connect()
            .await
            .expect("they listen"),
    );
    for _ in 0..50 {
        assert_eq!(name(&both).await, "b");
    }
    let _mute = next(&mut watches).await;

    let alone = Caller::new(balanced([&mute]).connect().await.expect("it listens"));
    let mut call = Box::pin(name(&alone));
    let watch = tokio::select! {
        name = &mut call => panic!("{name} was called before it said that it serves"),
        watch = next(&mut watches) => watch,
    };
    watch.say(ServingStatus::Serving);
    assert_eq!(call.await, "mute");
}

#[tokio::test]
async fn if_no_server_is_healthy_calls_fail_and_say_so_or_wait() {
    let (mut servers, mut healths) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let (server, health) = healthy(name);
        health.set_not_serving(LAB);
        servers.push(serve(server));
        healths.push(health);
    }
    let caller = Caller::new(balanced(&servers).connect().await.expect("they listen"));
    let status = call(&caller).await.expect_err("none of them serves");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "none of 2 servers is healthy");
    let reason = std::error::Error::source(&status).expect("one of them is named");
    assert!(
        reason.to_string().contains("lab.v1.Lab is NOT_SERVING"),
        "{reason}"
    );
    let single = Caller::new(balanced(&servers[..1]).connect().await.expect("it listens"));
    let status = call(&single).await.expect_err("it does not serve");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("lab.v1.Lab is NOT_SERVING"),
        "{status}"
    );

    let mut hasty = Request::new(packet(""));
    hasty.set_wait_for_ready(true);
    hasty.set_timeout(Duration::from_millis(20));
    let late = in_time(caller.unary::<_, Packet>(&RUN, hasty)).await;
    assert_eq!(
        late.expect_err("nothing changes").code(),
        Code::DeadlineExceeded
    );
    let mut patient = Request::new(packet(""));
    patient.set_wait_for_ready(true);
    let mut waiting = Box::pin(in_time(caller.unary::<_, Packet>(&RUN, patient)));
    tokio::select! {
        _ = &mut waiting => panic!("there is nobody to answer"),
        status = call(&caller) => assert!(status.is_err()),
    }
    healths[1].set_serving(LAB);
    let answer = waiting.await.expect("one of them serves now");
    assert_eq!(answer.into_inner().text, "b");
    // What cannot be reached besides is told as well.
    healths[1].set_not_serving(LAB);
    until_fails(&caller).await;
    drop(servers.pop().expect("there are two").kill().await);
    in_time(async {
        while call(&caller).await.expect_err("nobody serves").message()
            != "none of 2 servers can be reached and is healthy"
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_dies_is_left_out_and_asked_anew_when_it_is_back() {
    let [(a, _a), (b, b_health)] = ["a", "b"].map(healthy);
    let (a, b) = (serve(a), serve(b));
    let caller = Caller::new(balanced([&a, &b]).connect().await.expect("they listen"));
    until_answered_by(&caller, "a").await;
    until_answered_by(&caller, "b").await;
    let directory = a.kill().await;
    in_time(async {
        // A call may be on its way when its server dies.
        while call(&caller).await.is_err() {}
    })
    .await;
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "b");
    }
    // What the first one said does not hold for its successor.
    let (again, again_health) = healthy("again");
    again_health.set_not_serving(LAB);
    let _again = serve_in(directory, again);
    b_health.set_not_serving(LAB);
    in_time(async {
        loop {
            match call(&caller).await {
                Ok(answer) => assert_eq!(answer.into_inner().text, "b"),
                Err(status) if status.message() == "none of 2 servers is healthy" => return,
                Err(status) => assert_eq!(status.code(), Code::Unavailable),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    again_health.set_serving(LAB);
    let mut request = Request::new(packet(""));
    request.set_wait_for_ready(true);
    let answer = in_time(caller.unary::<_, Packet>(&RUN, request)).await;
    assert_eq!(answer.expect("it serves now").into_inner().text, "again");
}

#[tokio::test]
async fn a_watch_that_breaks_off_is_begun_again_and_the_server_unhealthy_meanwhile() {
    let (server, mut watches) = scripted("a");
    let running = serve(server);
    let caller = Caller::new(balanced([&running]).connect().await.expect("it listens"));
    let mut calling = Box::pin(name(&caller));
    let mut watch = tokio::select! {
        name = &mut calling => panic!("{name} was called before it said that it serves"),
        watch = next(&mut watches) => watch,
    };
    watch.say(ServingStatus::Serving);
    assert_eq!(calling.await, "a");
    for round in 0..4 {
        // With a status, or with none.
        if round % 2 == 0 {
            watch.fail(Status::internal("it went wrong"));
        } else {
            drop(watch.says);
        }
        watch = next(&mut watches).await;
        // The next watch has told nothing yet.
        let status = call(&caller).await.expect_err("nothing is known");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("cannot be watched"), "{status}");
        watch.say(ServingStatus::Unknown);
        watch.say(ServingStatus::ServiceUnknown);
        in_time(async {
            while !call(&caller)
                .await
                .expect_err("it does not serve")
                .message()
                .contains("SERVICE_UNKNOWN")
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        watch.say(ServingStatus::Serving);
        in_time(async {
            while call(&caller).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // A server that learns that it cannot tell is taken to be healthy.
    watch.fail(Status::unimplemented("not any more"));
    for _ in 0..50 {
        assert_eq!(name(&caller).await, "a");
    }
    assert!(watches.try_recv().is_err());
}

#[tokio::test]
async fn watches_end_with_the_channel_and_its_sessions_with_them() {
    let (server, mut watches) = scripted("a");
    let mut running = serve(server);
    let builder = balanced([&running]).sessions(3);
    let channel = builder.connect().await.expect("it listens");
    let caller = Caller::new(channel.clone());
    let calling = tokio::spawn(async move { call(&caller).await });
    let mut begun = Vec::new();
    for _ in 0..3 {
        let watch = next(&mut watches).await;
        begun.push(watch);
    }
    begun[0].say(ServingStatus::Serving);
    in_time(calling)
        .await
        .expect("no panic")
        .expect("it serves");
    // The last handle: all of them end, those that have had an answer and those that wait for one.
    drop(channel);
    for watch in begun {
        in_time(watch.ended).await.expect("its stream is dropped");
    }
    // A session that somebody kept would hold the server back.
    running.stop();
    in_time(running.task).await.expect("the server ends");
    assert!(watches.recv().await.is_none(), "nobody watched again");
}

#[tokio::test]
async fn a_server_that_drains_fails_no_call() {
    let [(a, _a), (b, _b)] = ["a", "b"].map(healthy);
    let (mut a, b) = (serve(a), serve(b));
    let caller = Caller::new(balanced([&a, &b]).connect().await.expect("they listen"));
    until_answered_by(&caller, "a").await;
    until_answered_by(&caller, "b").await;
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
async fn a_watch_that_its_server_never_ends_does_not_hold_back_its_drain() {
    let (server, mut watches) = scripted("a");
    let mut running = serve(server);
    let channel = balanced([&running]).connect().await.expect("it listens");
    let caller = Caller::new(channel);
    let calling = {
        let caller = caller.clone();
        tokio::spawn(async move { call(&caller).await })
    };
    let watch = next(&mut watches).await;
    watch.say(ServingStatus::Serving);
    in_time(calling)
        .await
        .expect("no panic")
        .expect("it serves");
    running.stop();
    in_time(running.task).await.expect("the server ends");
    drop(watch);
}

#[test]
fn a_channel_outlives_the_runtime_in_which_its_servers_were_asked() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let servers = runtime();
    let (server, _health) = healthy("a");
    let running = servers.block_on(async { serve(server) });
    let caller = Caller::new(balanced([&running]).connect_lazy());
    for _ in 0..3 {
        let clients = runtime();
        let caller = caller.clone();
        // A session ends with the runtime in which it was made; the next call may be the one that notices.
        let answered = clients.block_on(async move {
            in_time(async {
                loop {
                    match call(&caller).await {
                        Ok(answer) => return answer.into_inner().text,
                        Err(status) => assert_eq!(status.code(), Code::Unavailable),
                    }
                }
            })
            .await
        });
        assert_eq!(answered, "a");
    }
    servers.block_on(async {
        running.kill().await;
    });
}
