//! Servers that go out of service over HTTP/2, with a limit.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use bytes::Bytes;
use shmipc_rpc::{
    Channel, Code, Request, Response, ResponseStream, Sender, Server, Status, Streaming,
    server::{DrainReport, ServerHandle},
};
use tests::{LONG, in_time, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    our_uid,
    protos::{
        Hanging,
        ours::{
            Answer, Question,
            probe_client::ProbeClient,
            probe_methods,
            probe_server::{Probe, ProbeServer},
        },
        theirs,
    },
    unix,
};

/// How long the servers here have, whose calls do not end.
const LIMIT: Duration = Duration::from_millis(50);

/// A service whose handlers heed that their server drains, or do not, as they are asked.
#[derive(Clone, Debug, Default)]
struct Told {
    hanging: Hanging,
}

fn answer(text: &str) -> Answer {
    Answer {
        text: text.to_owned(),
        ..Answer::default()
    }
}

fn question(text: &str) -> Question {
    Question {
        text: text.to_owned(),
        ..Question::default()
    }
}

impl Probe for Told {
    /// Answers when the server drains; never if it is to hang.
    async fn unary(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let _one = self.hanging.one();
        let draining = request.draining();
        draining.begun().await;
        assert!(draining.has_begun() && draining.deadline().is_some());
        if request.get_ref().hang {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(answer("ask my successor")))
    }

    /// Answers once now and once when the server drains, and then hangs if it is to; if many answers are wanted, answers
    /// without end.
    async fn download(
        &self,
        request: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let (mut sender, sink) = Sender::for_responses();
        let (draining, hanging) = (request.draining(), self.hanging.clone());
        tokio::spawn(async move {
            let _one = hanging.one();
            let question = request.get_ref();
            if question.answers != 0 {
                let payload = Bytes::from(vec![0; 16 << 10]);
                let flood = Answer {
                    payload,
                    ..Answer::default()
                };
                loop {
                    sender.send(&flood).await?;
                }
            }
            sender.send(&answer("first")).await?;
            draining.begun().await;
            sender.send(&answer("last")).await?;
            if question.hang {
                std::future::pending::<()>().await;
            }
            Ok::<_, Status>(())
        });
        Ok(Response::new(sink))
    }

    async fn upload(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Answer>, Status> {
        let _one = self.hanging.one();
        let mut questions = request.into_inner();
        while questions.message().await?.is_some() {}
        Ok(Response::new(answer("all of it")))
    }

    async fn chat(
        &self,
        _: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

/// Starts a server over TCP, a Unix socket and shared memory.
async fn start(directory: &tempfile::TempDir) -> (ServerHandle, Hanging) {
    let told = Told::default();
    let hanging = told.hanging.clone();
    let server = Server::builder()
        .add_service(ProbeServer::new(told))
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free")
        .bind(unix(&directory.path().join("grpc.sock")))
        .await
        .expect("the path is free")
        .bind(directory.path().join("shm.sock"))
        .await
        .expect("the path is free");
    (server.start(), hanging)
}

async fn clients(server: &ServerHandle) -> Vec<ProbeClient> {
    let mut clients = Vec::new();
    for endpoint in server.endpoints() {
        let channel = in_time("it connects", Channel::connect(endpoint.clone())).await;
        clients.push(ProbeClient::new(channel.expect("the server is there")));
    }
    clients
}

fn hang() -> Question {
    Question {
        hang: true,
        ..Question::default()
    }
}

fn assert_cut_off(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shut down"), "{status:?}");
}

fn methods(report: &DrainReport) -> Vec<&str> {
    let mut methods: Vec<_> = report.cut_off.iter().map(|call| &*call.method).collect();
    methods.sort_unstable();
    methods
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_end_are_told_and_reported_whichever_way_they_came() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (server, hanging) = start(&directory).await;
    let clients = clients(&server).await;
    let mut calls = Vec::new();
    let mut requests = Vec::new();
    for client in &clients {
        let hangs = client.clone();
        calls.push(tokio::spawn(
            async move { hangs.unary(hang()).await.map(drop) },
        ));
        let (sends, receiver) = mpsc::channel(1);
        sends.send(question("one")).await.expect("it is read");
        requests.push(sends);
        let hangs = client.clone();
        calls.push(tokio::spawn(async move {
            let upload = hangs.upload(ReceiverStream::new(receiver));
            upload.await.map(drop)
        }));
    }
    until("all handlers run", || hanging.count() == calls.len()).await;
    let report = in_time("the drain", server.drain(LIMIT)).await;
    assert_eq!(report.finished, 0, "{report:?}");
    let (unary, upload) = (probe_methods::UNARY.path(), probe_methods::UPLOAD.path());
    assert_eq!(
        methods(&report),
        [unary, unary, unary, upload, upload, upload]
    );
    for call in &report.cut_off {
        assert!(LIMIT <= call.age, "{call:?}");
        match (call.peer, call.address) {
            (Some(peer), None) => assert_eq!(peer.uid(), Some(our_uid())),
            (None, Some(address)) => assert!(address.ip().is_loopback()),
            neither_or_both => panic!("{neither_or_both:?}"),
        }
    }
    let over_tcp = report.cut_off.iter().filter(|call| call.address.is_some());
    assert_eq!(over_tcp.count(), 2);
    for call in calls {
        let status = in_time("a call", call).await.expect("no panic");
        assert_cut_off(&status.expect_err("it was cut off"));
    }
    until("the handlers are dropped", || hanging.count() == 0).await;
    in_time("the server ends", server.finished())
        .await
        .expect("it ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_end_in_time_are_served_and_counted() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (server, hanging) = start(&directory).await;
    let calls: Vec<_> = clients(&server)
        .await
        .into_iter()
        .map(|client| tokio::spawn(async move { client.unary(question("")).await }))
        .collect();
    until("all handlers run", || hanging.count() == calls.len()).await;
    let report = in_time("the drain", server.drain(LONG)).await;
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (3, 0),
        "{report:?}"
    );
    for call in calls {
        let answered = in_time("a call", call).await.expect("no panic");
        assert_eq!(
            answered.expect("it is served").into_inner(),
            answer("ask my successor")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_and_those_that_go_on_are_cut_off() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (server, _) = start(&directory).await;
    let mut streams = Vec::new();
    for client in clients(&server).await {
        for hangs in [false, true] {
            let asked = if hangs { hang() } else { question("") };
            let stream = in_time("it begins", client.download(asked)).await;
            let mut stream = stream.expect("it begins").into_inner();
            let first = in_time("an answer", stream.message()).await;
            assert_eq!(first.expect("it goes well"), Some(answer("first")));
            streams.push((hangs, stream));
        }
    }
    let server = Arc::new(server);
    let draining = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.drain(LONG).await }
    });
    let mut hanging = Vec::new();
    for (hangs, mut stream) in streams {
        let last = in_time("an answer", stream.message()).await;
        assert_eq!(last.expect("it goes well"), Some(answer("last")));
        if hangs {
            hanging.push(stream);
        } else {
            let end = in_time("the end", stream.message()).await;
            assert_eq!(end.expect("it ends well"), None);
        }
    }
    // Those that heed it have come to their end; the others never would.
    in_time("the end of the drain", server.shutdown_now()).await;
    let report = in_time("the drain", draining).await.expect("no panic");
    assert_eq!(
        (report.finished, report.cut_off.len()),
        (3, 3),
        "{report:?}"
    );
    for mut stream in hanging {
        let end = in_time("the end", stream.message()).await;
        assert_cut_off(&end.expect_err("it was cut off"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_always_has_more_is_cut_off_and_so_is_one_that_nobody_reads() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (server, _) = start(&directory).await;
    let flood = || Question {
        answers: 1,
        ..Question::default()
    };
    let mut reading = Vec::new();
    let mut unread = Vec::new();
    for client in clients(&server).await {
        let stream = in_time("it begins", client.download(flood())).await;
        let mut stream = stream.expect("it begins").into_inner();
        reading.push(tokio::spawn(async move {
            loop {
                if let Err(status) = stream.message().await {
                    return status;
                }
            }
        }));
        let stream = in_time("it begins", client.download(flood())).await;
        unread.push(stream.expect("it begins").into_inner());
    }
    let report = in_time("the drain", server.drain(LIMIT)).await;
    assert_eq!(report.cut_off.len(), 6, "{report:?}");
    for reader in reading {
        let status = in_time("a stream ends", reader).await.expect("no panic");
        assert_cut_off(&status);
    }
    drop(unread);
}

/// Blocks its thread until the test lets go of it.
#[derive(Clone)]
struct Blocks(Arc<Barrier>);

impl Probe for Blocks {
    async fn unary(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        self.0.wait();
        self.0.wait();
        Ok(Response::new(Answer::default()))
    }

    async fn download(
        &self,
        _: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn upload(&self, _: Request<Streaming<Question>>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(Answer::default()))
    }

    async fn chat(
        &self,
        _: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_thread_is_reported_and_the_server_ends_all_the_same() {
    let barrier = Arc::new(Barrier::new(2));
    // A runtime of its own, with threads to spare.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let service = ProbeServer::new(Blocks(Arc::clone(&barrier)));
    let server = runtime.spawn(async move {
        let server = Server::builder().add_service(service);
        server.start("http://127.0.0.1:0").await
    });
    let server = in_time("it starts", server).await.expect("no panic");
    let server = server.expect("a port is free");
    let client = clients(&server).await.remove(0);
    let call = tokio::spawn(async move { client.unary(question("")).await });
    let wait = |barrier: &Arc<Barrier>| {
        let barrier = Arc::clone(barrier);
        tokio::task::spawn_blocking(move || {
            barrier.wait();
        })
    };
    in_time("the handler runs", wait(&barrier))
        .await
        .expect("no panic");
    let report = in_time("the drain", server.drain(LIMIT)).await;
    assert_eq!(methods(&report), [probe_methods::UNARY.path()]);
    let status = in_time("the call", call).await.expect("no panic");
    assert_eq!(
        status.expect_err("it was cut off").code(),
        Code::Unavailable
    );
    in_time("the handler ends", wait(&barrier))
        .await
        .expect("no panic");
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_tonic_learn_why_their_call_was_cut_off() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (server, hanging) = start(&directory).await;
    let endpoint = server.endpoints()[0].to_string();
    let client = theirs::probe_client::ProbeClient::connect(endpoint).await;
    let client = client.expect("the server is there");
    let hangs = || theirs::Question {
        hang: true,
        ..theirs::Question::default()
    };
    let mut unary = client.clone();
    let call = tokio::spawn(async move { unary.unary(hangs()).await });
    let mut download = client.clone();
    let stream = in_time("it begins", download.download(hangs())).await;
    let mut stream = stream.expect("it begins").into_inner();
    until("both handlers run", || hanging.count() == 2).await;
    let report = in_time("the drain", server.drain(LIMIT)).await;
    assert_eq!(report.cut_off.len(), 2, "{report:?}");
    let status = in_time("the call", call).await.expect("no panic");
    let streamed = in_time("the stream", async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    })
    .await;
    for status in [status.expect_err("it was cut off"), streamed] {
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(status.message().contains("shut down"), "{status:?}");
    }
}
