//! Lists of endpoints of both kinds, and the rules of service configs over HTTP/2.

use std::{io::ErrorKind, net::TcpListener, path::Path, time::Duration};

use shmipc_rpc::{
    Channel, Code, Endpoint,
    client::{MethodConfig, RetryPolicy, ServiceConfig},
    health::{HealthReporter, ServingStatus},
};
use tests::in_time;

use crate::{
    Running, our_client, our_uid, probe,
    protos::ours::{Question, probe_client::ProbeClient, probe_methods},
    tonic_server, unix,
};

async fn start(endpoint: impl Into<Endpoint>) -> Running {
    let (server, hanging) = probe();
    let server = server.bind(endpoint).await.expect("the endpoint is free");
    Running::start(server, hanging)
}

/// Makes a call, and tells whether it went through shared memory: over TCP, a server does not know whose process calls.
async fn is_through_memory(client: &ProbeClient) -> bool {
    let answer = in_time("a call", client.unary(Question::default())).await;
    let uid = answer.expect("a server answers").into_inner().uid;
    assert!(uid.is_none_or(|uid| uid == our_uid()));
    uid.is_some()
}

fn config(method: MethodConfig) -> ServiceConfig {
    let config = ServiceConfig::builder().default_method(method);
    config.build().expect("it is valid")
}

fn both(http2: &Running, path: &Path) -> [Endpoint; 2] {
    [http2.endpoints[0].clone(), path.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_mixed_list_shared_memory_is_used_and_the_rest_not_even_connected() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("shm.sock");
    let running = start(path.as_path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("it can be");
    let http2 = format!("http://{}", listener.local_addr().expect("it is bound"));
    let endpoints = || [Endpoint::from(&http2), path.as_path().into()];
    let channel = in_time("it connects", Channel::balanced(endpoints()).connect()).await;
    let lazy = Channel::balanced(endpoints()).connect_lazy();
    for channel in [channel.expect("one of them is there"), lazy] {
        assert!(channel.endpoint().is_none());
        let client = ProbeClient::new(channel);
        for _ in 0..20 {
            assert!(is_through_memory(&client).await);
        }
    }
    let error = listener.accept().expect_err("nobody has come");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_move_to_http2_while_no_server_is_there_in_shared_memory() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("shm.sock");
    let near = start(path.as_path()).await;
    let far = start("http://127.0.0.1:0").await;
    let channel = Channel::balanced(both(&far, &path)).connect().await;
    let client = ProbeClient::new(channel.expect("both are there"));
    assert!(is_through_memory(&client).await);
    near.ended().await;
    for _ in 0..20 {
        assert!(!is_through_memory(&client).await);
    }
    let near = start(path.as_path()).await;
    in_time("the server in shared memory gets calls again", async {
        while !is_through_memory(&client).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..20 {
        assert!(is_through_memory(&client).await);
    }
    near.ended().await;
    far.ended().await;
    let status = in_time("a call", client.unary(Question::default())).await;
    let status = status.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "none of 2 servers can be reached");
}

/// Starts a server that says how it is. At first it serves.
async fn start_healthy(endpoint: impl Into<Endpoint>) -> (Running, HealthReporter) {
    let (server, hanging) = probe();
    let health = HealthReporter::new();
    let server = server.add_service(health.service()).bind(endpoint).await;
    let running = Running::start(server.expect("the endpoint is free"), hanging);
    (running, health)
}

/// Calls until the calls that are answered are answered through shared memory, or not.
async fn until_through_memory(client: &ProbeClient, expected: bool) {
    in_time("the calls move", async {
        while is_through_memory(client).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(is_through_memory(client).await, expected);
    }
}

/// Calls until a call is answered.
async fn until_answered(client: &ProbeClient) {
    in_time("a call is answered", async {
        while client.unary(Question::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_move_to_http2_while_no_server_in_shared_memory_is_healthy() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("shm.sock");
    let (near, near_health) = start_healthy(path.as_path()).await;
    let (far, far_health) = start_healthy("http://127.0.0.1:0").await;
    let channel = Channel::balanced(both(&far, &path)).health_check("");
    let client = ProbeClient::new(channel.connect().await.expect("both are there"));
    for _ in 0..5 {
        until_through_memory(&client, true).await;
        near_health.set_overall(ServingStatus::NotServing);
        until_through_memory(&client, false).await;
        near_health.set_overall(ServingStatus::Serving);
    }
    until_through_memory(&client, true).await;
    // The one over HTTP/2 is asked, too.
    near_health.set_overall(ServingStatus::NotServing);
    until_through_memory(&client, false).await;
    far_health.set_overall(ServingStatus::NotServing);
    let status = in_time("a call fails", async {
        loop {
            match client.unary(Question::default()).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "none of 2 servers is healthy");
    far_health.set_overall(ServingStatus::Serving);
    until_answered(&client).await;
    // Watches that are open do not keep a server from its end.
    near.ended().await;
    far.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_over_http2_is_asked_and_one_of_tonic_that_cannot_tell_is_healthy() {
    let (far, health) = start_healthy("http://127.0.0.1:0").await;
    health.set_overall(ServingStatus::NotServing);
    let channel = Channel::builder(far.endpoints[0].clone()).health_check("");
    let client = ProbeClient::new(channel.connect_lazy());
    let status = in_time("a call", client.unary(Question::default())).await;
    let status = status.expect_err("it does not serve");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("NOT_SERVING"), "{status}");
    health.set_overall(ServingStatus::Serving);
    until_answered(&client).await;
    far.ended().await;

    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (port, _hanging) = tonic_server(&directory.path().join("tonic.sock")).await;
    let channel = Channel::builder(format!("http://127.0.0.1:{port}")).health_check("");
    let client = ProbeClient::new(channel.connect_lazy());
    let answer = in_time("a call", client.unary(Question::default())).await;
    answer.expect("a server that cannot tell is called");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_crosses_by_rules_and_in_second_place() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let nobody = directory.path().join("nobody.sock");
    let running = start("http://127.0.0.1:0").await;
    let by_rules = Channel::builder(running.endpoints[0].clone())
        .service_config(config(MethodConfig::new()))
        .connect_lazy();
    assert_eq!(
        by_rules.endpoint().map(|endpoint| endpoint.to_string()),
        Some(running.endpoints[0].to_string())
    );
    let second = Channel::balanced(both(&running, &nobody)).connect_lazy();
    for channel in [by_rules, second] {
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            has_trailers: true,
            ..our_client::Server::default()
        };
        our_client::examine(channel, server).await;
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_over_http2_share_the_calls() {
    let servers = [
        start("http://127.0.0.1:0").await,
        start("http://127.0.0.1:0").await,
    ];
    let endpoints = servers.each_ref().map(|server| server.endpoints[0].clone());
    let channel = Channel::balanced(endpoints).connect().await;
    let client = ProbeClient::new(channel.expect("they are there"));
    let hangs = Question {
        hang: true,
        ..Question::default()
    };
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (client, hangs) = (client.clone(), hangs.clone());
            tokio::spawn(async move { client.unary(hangs).await })
        })
        .collect();
    // The less loaded of two is chosen, so that neither has all of them.
    let counts = || servers.each_ref().map(|server| server.hanging.count());
    tests::until("all calls have arrived", || {
        counts().iter().sum::<usize>() == calls.len()
    })
    .await;
    assert!(counts().iter().all(|&count| count != 0), "{:?}", counts());
    for call in calls {
        call.abort();
    }
    tests::until("all calls are given up", || counts() == [0, 0]).await;
    for server in servers {
        server.ended().await;
    }
}

#[tokio::test]
async fn a_call_that_could_not_be_sent_over_http2_is_made_again() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let endpoint = unix(&directory.path().join("grpc.sock"));
    // Nothing says that the methods are idempotent. One of them is not to be retried.
    let policy = RetryPolicy::new([Code::Unavailable])
        .max_attempts(5)
        .backoff(Duration::from_secs(1), Duration::from_secs(5));
    let config = ServiceConfig::builder()
        .method(
            &probe_methods::UNARY,
            MethodConfig::new().retry(policy.clone()),
        )
        .method(&probe_methods::UPLOAD, MethodConfig::new().retry(policy))
        .build();
    let channel = Channel::builder(endpoint.as_str())
        .service_config(config.expect("it is valid"))
        .connect_lazy();
    let client = ProbeClient::new(channel);
    let come = async {
        // The others share this attempt to connect, or have had one of their own.
        let status = client.download(Question::default()).await.map(drop);
        let status = status.expect_err("nobody is there");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        start(endpoint.as_str()).await
    };
    let questions = tokio_stream::iter([Question::default(), Question::default()]);
    let calls = async {
        tokio::join!(
            client.unary(Question::default()),
            client.upload(questions),
            come
        )
    };
    let (unary, upload, running) = in_time("the calls", calls).await;
    let unary = unary.expect("it is made again");
    let previous = unary.metadata().get("grpc-previous-rpc-attempts");
    assert!(previous.is_some(), "{:?}", unary.metadata());
    assert_eq!(upload.expect("it is made again").into_inner().questions, 2);
    running.ended().await;
}
