//! Who may talk to whom over the Unix sockets of HTTP/2, and who keeps others waiting.

use std::{error::Error, iter, time::Duration};

use shmipc_rpc::{Channel, Config};
use tests::in_time;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    Running, our_uid, probe,
    protos::ours::{Question, probe_client::ProbeClient},
    unix,
};

/// A server at a path with HTTP/2, and at one with shared memory.
async fn serve(directory: &tempfile::TempDir, config: Config) -> Running {
    let (server, hanging) = probe();
    let server = server.config(config);
    let server = server.bind(unix(&directory.path().join("grpc.sock"))).await;
    let server = server.expect("the path is free");
    let server = server.bind(directory.path().join("shm.sock")).await;
    Running::start(server.expect("the path is free"), hanging)
}

fn nobody() -> Config {
    let config = Config::builder().authorize(|_| false).build();
    config.expect("it is within bounds")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_not_admitted_reach_no_handler() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let running = serve(&directory, nobody()).await;
    for endpoint in &running.endpoints {
        let channel = Channel::builder(endpoint.clone()).connect_lazy();
        let client = ProbeClient::new(channel);
        let answer = in_time("an answer", client.unary(Question::default())).await;
        answer.expect_err("nobody is admitted");
    }
    let raw = UnixStream::connect(directory.path().join("grpc.sock")).await;
    let mut heard = Vec::new();
    let mut raw = raw.expect("somebody listens");
    let end = in_time("the end", raw.read_to_end(&mut heard)).await;
    assert!(end.is_err() || heard.is_empty(), "{heard:?}");
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_admitted_are_not_called() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let running = serve(&directory, Config::default()).await;
    for endpoint in &running.endpoints {
        let channel = Channel::builder(endpoint.clone()).config(nobody());
        let error = in_time("an error", channel.connect()).await;
        let error = error.expect_err("the server is not admitted");
        let told = iter::successors(Some(&error as &dyn Error), |&error| error.source());
        let told: Vec<_> = told.map(ToString::to_string).collect();
        let uid = format!("user {}", our_uid());
        assert!(told.iter().any(|line| line.contains(&uid)), "{told:?}");
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_clients_than_allowed_are_about_to_begin() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let config = Config::builder().handshakes_max(1).build();
    let running = serve(&directory, config.expect("it is within bounds")).await;
    let path = directory.path().join("grpc.sock");
    // Connected first, and so accepted first.
    let silent = UnixStream::connect(&path).await.expect("somebody listens");
    let waiting = UnixStream::connect(&path).await;
    let mut waiting = waiting.expect("somebody listens");
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    waiting.write_all(begin).await.expect("it is open");
    let mut byte = [0];
    let answered = waiting.read_exact(&mut byte);
    let answered = tokio::time::timeout(Duration::from_millis(300), answered).await;
    answered.expect_err("the only place is taken");
    drop(silent);
    let answered = in_time("settings", waiting.read_exact(&mut byte)).await;
    answered.expect("it is served");
    let channel = Channel::connect(running.endpoints[0].clone()).await;
    let client = ProbeClient::new(channel.expect("the place is free again"));
    let answer = in_time("an answer", client.unary(Question::default())).await;
    answer.expect("it is served");
    drop(waiting);
    running.ended().await;
}
