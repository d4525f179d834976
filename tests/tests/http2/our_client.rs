//! Everything that a client of this project does with the probe, whoever serves it, and however it is reached.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use shmipc_rpc::{Channel, Code, Method, Request, Status, client::Caller, metadata};
use tests::{LONG, in_time, until};
use tokio_stream::{Stream, StreamExt};

use crate::protos::{
    Hanging,
    ours::{Answer, Question, probe_client::ProbeClient},
};

const BINARY: HeaderName = HeaderName::from_static("x-probe-bin");

/// A message of a failure that takes encoding in a header.
const ODD: &str = "100 % ünlucky\r\n\u{1f980}";

/// What is different from one server to the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Its handlers that wait without end, if they can be counted.
    pub(crate) hanging: Option<Hanging>,
    /// Whether it has trailers for streams that go well.
    pub(crate) has_trailers: bool,
    /// Whether a conversation goes on although its client has dropped the responses, as with tonic's own transport.
    pub(crate) keeps_conversations: bool,
    /// The user that it takes us for.
    pub(crate) uid: Option<u32>,
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let map = request.metadata_mut();
    map.append("x-probe", HeaderValue::from_static("one"));
    map.append("x-probe", HeaderValue::from_static("two"));
    map.insert("x-other", HeaderValue::from_static("not echoed"));
    metadata::insert_bin(map, BINARY, [0, 255, 10]).expect("the key is binary");
    request
}

fn check_metadata(map: &HeaderMap) {
    let all: Vec<_> = map.get_all("x-probe").iter().collect();
    assert_eq!(all, ["one", "two"]);
    assert!(!map.contains_key("x-other"));
    let binary = metadata::get_bin(map, &BINARY).expect("it is base64");
    assert_eq!(binary.as_deref(), Some(&[0, 255, 10][..]));
    for reserved in ["grpc-status", "grpc-message", "content-type"] {
        assert!(!map.contains_key(reserved), "{reserved} is no metadata");
    }
}

fn text(text: &str) -> Question {
    Question {
        text: text.to_owned(),
        ..Question::default()
    }
}

fn failing() -> Question {
    Question {
        code: Code::FailedPrecondition as u32,
        message: ODD.to_owned(),
        payload: Bytes::from_static(b"\0details\xff"),
        answers: 2,
        ..Question::default()
    }
}

fn check_failure(status: &Status) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_eq!(status.message(), ODD);
    assert_eq!(&status.details()[..], b"\0details\xff");
    check_metadata(status.metadata());
}

fn hanging() -> Question {
    Question {
        hang: true,
        answers: 2,
        ..Question::default()
    }
}

/// Requests with a stream that goes on after the last of them.
fn endless(first: Vec<Question>) -> impl Stream<Item = Question> + Send + 'static {
    tokio_stream::iter(first).chain(tokio_stream::pending())
}

/// Does everything.
pub(crate) async fn examine(channel: Channel, server: Server) {
    examine_by(ProbeClient::new(channel.clone()), channel, server).await;
}

/// The same with this client over the channel.
pub(crate) async fn examine_by(client: ProbeClient, channel: Channel, server: Server) {
    in_time("unary", unary(&client, &server)).await;
    in_time("download", download(&client, &server)).await;
    in_time("upload", upload(&client)).await;
    in_time("chat", chat(&client, &server)).await;
    in_time("deadlines", deadlines(&client)).await;
    in_time("unknown methods", unknown(channel)).await;
    in_time("limits", limits(&client)).await;
    in_time("cancellation", cancellation(&client, &server)).await;
}

async fn unary(client: &ProbeClient, server: &Server) {
    for len in [0, 1, 5_000, 300_000] {
        let payload = Bytes::from(vec![7; len]);
        let mut request = asked(Question {
            payload: payload.clone(),
            ..text("ping")
        });
        let timed = len == 1;
        if timed {
            request.set_timeout(LONG);
        }
        let response = client.unary(request).await.expect("it answers");
        check_metadata(response.metadata());
        let expected = Answer {
            text: "ping".to_owned(),
            payload,
            questions: 1,
            timed,
            uid: server.uid,
        };
        assert_eq!(response.into_inner(), expected);
    }
    let status = client.unary(asked(failing())).await;
    check_failure(&status.expect_err("it fails as asked"));
    let together = (0..50).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.unary(text(&number.to_string())).await })
    });
    for (number, call) in together.collect::<Vec<_>>().into_iter().enumerate() {
        let response = call.await.expect("no panic").expect("it answers");
        assert_eq!(response.into_inner().text, number.to_string());
    }
}

async fn download(client: &ProbeClient, server: &Server) {
    for count in [0, 1, 300] {
        let request = asked(Question {
            answers: count,
            payload: Bytes::from(vec![1; 1000]),
            ..text("more")
        });
        let response = client.download(request).await.expect("it answers");
        check_metadata(response.metadata());
        let mut answers = response.into_inner();
        let mut received = 0;
        while let Some(answer) = answers.message().await.expect("it goes well") {
            assert_eq!((answer.text.as_str(), answer.payload.len()), ("more", 1000));
            received += 1;
        }
        assert_eq!(received, count);
        let trailers = answers.trailers().await.expect("it went well");
        if server.has_trailers {
            check_metadata(&trailers);
        }
    }
    let answers = client.download(asked(failing())).await;
    let mut answers = answers.expect("it begins well").into_inner();
    for _ in 0..2 {
        let answer = answers.message().await.expect("it goes well for a while");
        assert!(answer.is_some());
    }
    check_failure(&answers.message().await.expect_err("it fails as asked"));
}

async fn upload(client: &ProbeClient) {
    for count in [0, 1, 300] {
        let question = Question {
            payload: Bytes::from(vec![2; 1000]),
            ..text("a")
        };
        let questions = asked(tokio_stream::iter(vec![question; count]));
        let response = client.upload(questions).await.expect("it answers");
        check_metadata(response.metadata());
        let answer = response.into_inner();
        assert_eq!(answer.questions as usize, count);
        assert_eq!(answer.text, "a".repeat(count));
        assert_eq!(answer.payload.len(), count * 1000);
    }
    // The server does not wait for the rest.
    let questions = asked(endless(vec![text("a"), failing(), text("b")]));
    check_failure(
        &client
            .upload(questions)
            .await
            .expect_err("it fails as asked"),
    );
}

async fn chat(client: &ProbeClient, server: &Server) {
    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    let request = asked(tokio_stream::wrappers::ReceiverStream::new(receiver));
    // Some servers do not begin to answer before they were asked.
    questions.send(text("0")).await.expect("the call reads it");
    let response = client.chat(request).await.expect("it answers");
    check_metadata(response.metadata());
    let mut answers = response.into_inner();
    for number in 0..20 {
        let answer = answers.message().await.expect("it goes well");
        let answer = answer.expect("each question is answered");
        assert_eq!(
            (answer.text, answer.questions),
            (number.to_string(), number + 1)
        );
        let next = text(&(number + 1).to_string());
        questions.send(next).await.expect("the call reads it");
    }
    drop(questions);
    assert!(answers.message().await.expect("it goes well").is_some());
    assert_eq!(answers.message().await.expect("it ends well"), None);
    let trailers = answers.trailers().await.expect("it ended well");
    if server.has_trailers {
        check_metadata(&trailers);
    }
    let request = asked(endless(vec![text("a"), failing()]));
    let mut answers = client
        .chat(request)
        .await
        .expect("it begins well")
        .into_inner();
    let answer = answers.message().await.expect("the first is answered");
    assert_eq!(answer.expect("the first is answered").text, "a");
    check_failure(&answers.message().await.expect_err("it fails as asked"));
}

async fn deadlines(client: &ProbeClient) {
    fn late<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_millis(100));
        request
    }
    let status = client.unary(late(hanging())).await.expect_err("it hangs");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let questions = late(endless(vec![text("a"), hanging()]));
    let status = client.upload(questions).await.expect_err("it hangs");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let mut code = None;
    match client.download(late(hanging())).await {
        Err(status) => code = Some(status.code()),
        Ok(response) => {
            let mut answers = response.into_inner();
            while code.is_none() {
                match answers.message().await {
                    Ok(answer) => assert!(answer.is_some(), "it hangs"),
                    Err(status) => code = Some(status.code()),
                }
            }
        }
    }
    assert_eq!(code, Some(Code::DeadlineExceeded));
}

async fn unknown(channel: Channel) {
    let caller = Caller::new(channel);
    for path in ["/probe.v1.Probe/Nothing", "/probe.v1.Nobody/Nothing"] {
        let method = Method::unary("unused", "unused", path);
        let called = caller
            .unary::<_, Answer>(&method, Request::new(text("")))
            .await;
        let status = called.expect_err("there is none");
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
}

async fn limits(client: &ProbeClient) {
    let small = client.clone().max_response_size(100).max_request_size(5000);
    let question = |len| Question {
        payload: Bytes::from(vec![7; len]),
        answers: 1,
        ..Question::default()
    };
    let exhausted = |result: Result<(), Status>, what| {
        let code = result.expect_err("it is too large").code();
        assert_eq!(code, Code::ResourceExhausted, "{what}");
    };
    exhausted(small.unary(question(10_000)).await.map(drop), "a request");
    exhausted(small.unary(question(1000)).await.map(drop), "a response");
    let sent = small.upload(tokio_stream::iter([question(10_000)])).await;
    exhausted(sent.map(drop), "one of many requests");
    let received = match small.download(question(1000)).await {
        Ok(response) => response.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    exhausted(received, "one of many responses");
}

/// What nobody waits for any more is dropped at the server as well.
async fn cancellation(client: &ProbeClient, server: &Server) {
    let Some(handlers) = &server.hanging else {
        return;
    };
    until("the calls whose time has passed are over", || {
        handlers.count() == 0
    })
    .await;
    let calls = client.clone();
    let call = tokio::spawn(async move { calls.unary(hanging()).await.map(drop) });
    until("the handler runs", || handlers.count() == 1).await;
    call.abort();
    until("the handler of one request is dropped", || {
        handlers.count() == 0
    })
    .await;

    let answers = client.download(hanging()).await;
    let mut answers = answers.expect("it begins well").into_inner();
    assert!(answers.message().await.expect("it goes well").is_some());
    until("the handler runs", || handlers.count() == 1).await;
    drop(answers);
    until("the stream of responses is dropped", || {
        handlers.count() == 0
    })
    .await;

    let questions = endless(vec![text("a"), hanging()]);
    let answers = client.chat(questions).await;
    let mut answers = answers.expect("it begins well").into_inner();
    assert!(answers.message().await.expect("it goes well").is_some());
    until("the handler runs", || handlers.count() == 1).await;
    drop(answers);
    until("the conversation is dropped", || handlers.count() == 0).await;
}
