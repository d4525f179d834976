//! Servers that end, and come back.

use shmipc_rpc::{Channel, Code, ConnectError, ServeError, client::Http2ConnectError};
use tests::{in_time, until};

use crate::{
    Running, probe,
    protos::ours::{Question, probe_client::ProbeClient},
    unix,
};

fn question(text: &str) -> Question {
    Question {
        text: text.to_owned(),
        ..Question::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_lets_calls_end_and_sends_clients_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let endpoint = unix(&directory.path().join("grpc.sock"));
    let (server, hanging) = probe();
    let server = server
        .bind(endpoint.as_str())
        .await
        .expect("the path is free");
    let running = Running::start(server, hanging);
    let client = ProbeClient::new(
        Channel::connect(endpoint.as_str())
            .await
            .expect("it is there"),
    );

    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    questions
        .send(question("before"))
        .await
        .expect("the call reads it");
    let chat = client
        .chat(tokio_stream::wrappers::ReceiverStream::new(receiver))
        .await;
    let mut answers = chat.expect("it answers").into_inner();
    let answer = in_time("an answer", answers.message())
        .await
        .expect("it answers");
    assert_eq!(answer.expect("it answers").text, "before");
    running.stop.notify_one();

    // From the moment at which the path is free, a successor takes all new calls, while the old server goes on with its own.
    until("the path is given back", || {
        !directory.path().join("grpc.sock").exists()
    })
    .await;
    let (successor, hanging) = probe();
    let successor = successor
        .bind(endpoint.as_str())
        .await
        .expect("the path is free");
    let successor = Running::start(successor, hanging);
    for _ in 0..20 {
        let answer = in_time("a call", client.unary(question("new"))).await;
        assert_eq!(
            answer.expect("the successor answers").into_inner().text,
            "new"
        );
        questions
            .send(question("old"))
            .await
            .expect("the call reads it");
        let answer = in_time("an answer", answers.message())
            .await
            .expect("it goes on");
        assert_eq!(answer.expect("it goes on").text, "old");
        assert!(!running.server.is_finished());
    }
    drop(questions);
    assert_eq!(
        in_time("the end", answers.message())
            .await
            .expect("it ends well"),
        None
    );
    running.ended().await;
    successor.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_drops_its_handlers_and_calls_fail() {
    let (server, hanging) = probe();
    let server = server
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    let running = Running::start(server, hanging);
    let channel = Channel::connect(running.endpoints[0].clone())
        .await
        .expect("it is there");
    let client = ProbeClient::new(channel.clone());
    let call = tokio::spawn(async move {
        let hangs = Question {
            hang: true,
            ..Question::default()
        };
        client.unary(hangs).await
    });
    until("the handler runs", || running.hanging.count() == 1).await;
    running.server.abort();
    let status = in_time("the call", call)
        .await
        .expect("no panic")
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    until("the handler is dropped", || running.hanging.count() == 0).await;
    let client = ProbeClient::new(channel);
    let status = in_time("a call", client.unary(question("")))
        .await
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    // It comes back at the same port.
    let (server, hanging) = probe();
    let server = server
        .bind(running.endpoints[0].clone())
        .await
        .expect("the port is free");
    let running = Running::start(server, hanging);
    let mut patient = shmipc_rpc::Request::new(question("again"));
    patient.set_wait_for_ready(true);
    let answer = in_time("a patient call", client.unary(patient)).await;
    assert_eq!(answer.expect("it is there").into_inner().text, "again");
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_lead_nowhere_are_named() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("nobody.sock");
    let error = Channel::connect(unix(&path))
        .await
        .expect_err("nobody is there");
    assert!(matches!(
        error,
        ConnectError::Http2(Http2ConnectError::Socket { .. })
    ));
    assert_eq!(
        error.to_string(),
        format!("could not connect to unix:{}", path.display())
    );
    let error = Channel::connect("localhost:1")
        .await
        .expect_err("it is no endpoint");
    assert!(
        error
            .to_string()
            .contains("did you mean \"http://localhost:1\"?"),
        "{error}"
    );
    let lazy = ProbeClient::new(Channel::builder("ftp://host").connect_lazy());
    let status = lazy
        .unary(question(""))
        .await
        .expect_err("it is no endpoint");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");

    let (server, _) = probe();
    let error = server
        .bind("localhost:1")
        .await
        .expect_err("it is no endpoint");
    assert!(matches!(error, ServeError::Endpoint(_)), "{error}");
    let (server, hanging) = probe();
    let server = server.bind(unix(&path)).await.expect("the path is free");
    let running = Running::start(server, hanging);
    let (second, _) = probe();
    let error = second
        .bind(unix(&path))
        .await
        .expect_err("somebody listens there");
    assert!(error.to_string().contains("nobody.sock"), "{error}");
    running.ended().await;
}
