//! Calls that are given up, for want of time or of somebody who waits, while nobody on the other side takes what is sent.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use shmipc_rpc::{Channel, Code, Request, Response, ResponseStream, Server, Status, Streaming};
use tests::{in_time, until};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::{
    Running,
    protos::{
        Hanging, Tail,
        ours::{
            Answer, Question,
            probe_client::ProbeClient,
            probe_server::{Probe, ProbeServer},
        },
    },
    unix,
};

/// A service that takes nothing, or sends without end.
#[derive(Clone, Debug)]
struct Stubborn {
    hanging: Hanging,
    /// How the requests of an upload have ended.
    ends: mpsc::UnboundedSender<Result<(), Status>>,
}

impl Probe for Stubborn {
    /// Answers with metadata that is none.
    async fn unary(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        let mut response = Response::new(Answer::default());
        let value = HeaderValue::from_static("1");
        for key in ["content-length", "grpc-encoding", "x-probe"] {
            response.metadata_mut().insert(key, value.clone());
            response.trailers_mut().insert(key, value.clone());
        }
        Ok(response)
    }

    /// Answers without end.
    async fn download(
        &self,
        _: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let one = self.hanging.one();
        let answers = std::iter::repeat_with(move || {
            let _ = &one;
            Answer {
                payload: long(),
                ..Answer::default()
            }
        });
        Ok(Response::new(tokio_stream::iter(answers.map(Ok))))
    }

    /// Reads in a task of its own, and never answers.
    async fn upload(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Answer>, Status> {
        let mut questions = request.into_inner();
        let ends = self.ends.clone();
        tokio::spawn(async move {
            loop {
                match questions.message().await {
                    Ok(Some(_)) => {}
                    end => return ends.send(end.map(drop)),
                }
            }
        });
        self.hanging.forever().await
    }

    /// Answers once, and reads nothing.
    async fn chat(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let questions = request.into_inner();
        let answers = tokio_stream::iter([Ok(Answer::default())]);
        let answers = answers.chain(Tail::new(Some(self.hanging.one())));
        Ok(Response::new(answers.map(move |answer| {
            let _unread = &questions;
            answer
        })))
    }
}

fn long() -> Bytes {
    Bytes::from(vec![7; 64 << 10])
}

struct Served {
    running: Running,
    ends: mpsc::UnboundedReceiver<Result<(), Status>>,
    /// One over HTTP/2, and one over shared memory.
    clients: [ProbeClient; 2],
    _directory: tempfile::TempDir,
}

async fn serve() -> Served {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let hanging = Hanging::default();
    let (ends, ended) = mpsc::unbounded_channel();
    let service = ProbeServer::new(Stubborn {
        hanging: hanging.clone(),
        ends,
    });
    let server = Server::builder().add_service(service);
    let server = server.bind(unix(&directory.path().join("grpc.sock"))).await;
    let server = server.expect("the path is free");
    let server = server.bind(directory.path().join("shm.sock")).await;
    let running = Running::start(server.expect("the path is free"), hanging);
    let mut clients = Vec::new();
    for endpoint in &running.endpoints {
        let channel = Channel::connect(endpoint.clone()).await;
        clients.push(ProbeClient::new(channel.expect("the server is there")));
    }
    Served {
        running,
        ends: ended,
        clients: clients.try_into().expect("there are two endpoints"),
        _directory: directory,
    }
}

impl Served {
    async fn no_handler_is_left(&self) {
        let hanging = &self.running.hanging;
        until("the handler is dropped", || hanging.count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_nobody_reads_ends_when_its_answers_are_dropped() {
    let served = serve().await;
    for client in &served.clients {
        let (ask, questions) = mpsc::channel(1);
        let questions = Request::new(ReceiverStream::new(questions));
        let answers = in_time("it begins", client.chat(questions)).await;
        let mut answers = answers.expect("it begins").into_inner();
        let first = in_time("an answer", answers.message()).await;
        assert!(first.expect("it goes on").is_some());
        // Until nothing goes any more, or so it seems: then it ends as well if more would have gone.
        let question = || Question {
            payload: long(),
            ..Question::default()
        };
        let patience = Duration::from_millis(200);
        while let Ok(asked) = tokio::time::timeout(patience, ask.send(question())).await {
            asked.expect("the call goes on");
        }
        drop(answers);
        served.no_handler_is_left().await;
        let answer = in_time("another call", client.unary(question())).await;
        answer.expect("the connection is as good as before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_end_with_their_time() {
    let served = serve().await;
    for client in &served.clients {
        let mut request = Request::new(Question::default());
        request.set_timeout(Duration::from_millis(300));
        // Its caller does not look, and so gives nothing up.
        let unread = in_time("it begins", client.download(request)).await;
        served.no_handler_is_left().await;
        let answer = in_time("another call", client.unary(Question::default())).await;
        answer.expect("the connection is as good as before");
        drop(unread);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_requests_learns_that_they_were_given_up() {
    let mut served = serve().await;
    for client in &served.clients {
        let (_ask, questions) = mpsc::channel::<Question>(1);
        let questions = Request::new(ReceiverStream::new(questions));
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.upload(questions).await.map(drop) }
        });
        let hanging = &served.running.hanging;
        until("the handler has begun", || hanging.count() == 1).await;
        call.abort();
        let end = in_time("an end", served.ends.recv()).await;
        let end = end
            .expect("the service goes on")
            .expect_err("they break off");
        assert_eq!(end.code(), Code::Cancelled, "{end:?}");
        until("the handler is dropped", || hanging.count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_protocol_are_no_metadata_of_responses() {
    let served = serve().await;
    for client in &served.clients {
        let response = in_time("an answer", client.unary(Question::default())).await;
        let response = response.expect("it goes well");
        let metadata = response.metadata();
        assert!(!metadata.contains_key("content-length"), "{metadata:?}");
        assert!(!metadata.contains_key("grpc-encoding"), "{metadata:?}");
        // What comes before and after the message.
        assert_eq!(metadata.get_all("x-probe").iter().count(), 2);
    }
}
