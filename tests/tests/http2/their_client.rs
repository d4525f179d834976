//! Everything that a client which tonic generated does with the probe, over whatever carries its calls.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use tests::{LONG, in_time, until};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Code, Request, Status,
    body::Body,
    client::GrpcService,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    our_client::Server,
    protos::theirs::{Answer, Question, probe_client::ProbeClient},
};

/// A message of a failure that takes encoding in a header.
const ODD: &str = "100 % ünlucky\r\n\u{1f980}";

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let map = request.metadata_mut();
    map.append("x-probe", MetadataValue::from_static("one"));
    map.append("x-probe", MetadataValue::from_static("two"));
    map.insert_bin("x-probe-bin", MetadataValue::from_bytes(&[0, 255, 10]));
    request
}

fn check_metadata(map: &MetadataMap) {
    let all: Vec<_> = map.get_all("x-probe").iter().collect();
    assert_eq!(all, ["one", "two"]);
    let binary = map.get_bin("x-probe-bin").expect("it is there");
    assert_eq!(&binary.to_bytes().expect("it is base64")[..], [0, 255, 10]);
}

fn text(text: &str) -> Question {
    Question {
        text: text.to_owned(),
        ..Question::default()
    }
}

fn failing() -> Question {
    Question {
        code: 9,
        message: ODD.to_owned(),
        payload: Bytes::from_static(b"\0details\xff"),
        answers: 2,
        ..Question::default()
    }
}

fn check_failure(status: &Status) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_eq!(status.message(), ODD);
    assert_eq!(status.details(), b"\0details\xff");
    let map: &HeaderMap = status.metadata().as_ref();
    let all: Vec<_> = map.get_all("x-probe").iter().collect();
    assert_eq!(all, ["one", "two"]);
}

fn hanging() -> Question {
    Question {
        hang: true,
        answers: 2,
        ..Question::default()
    }
}

fn endless(first: Vec<Question>) -> impl Stream<Item = Question> + Send + 'static {
    tokio_stream::iter(first).chain(tokio_stream::pending())
}

/// The bounds that tonic's clients have.
pub(crate) trait Carrier:
    GrpcService<
        Body,
        Future: Send,
        Error: Into<BoxError>,
        ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<T> Carrier for T where
    T: GrpcService<
            Body,
            Future: Send,
            Error: Into<BoxError>,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send>
                              + Send
                              + 'static,
        > + Clone
        + Send
        + 'static
{
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Does everything.
pub(crate) async fn examine<T: Carrier>(service: T, server: Server) {
    examine_by(ProbeClient::new(service), server).await;
}

/// The same with this client.
pub(crate) async fn examine_by<T: Carrier>(client: ProbeClient<T>, server: Server) {
    in_time("unary", unary(client.clone(), &server)).await;
    in_time("streams", streams(client.clone())).await;
    in_time("deadlines", deadlines(client.clone())).await;
    in_time("cancellation", cancellation(client, &server)).await;
}

async fn unary<T: Carrier>(mut client: ProbeClient<T>, server: &Server) {
    for len in [0, 1, 300_000] {
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
}

async fn streams<T: Carrier>(mut client: ProbeClient<T>) {
    for count in [0, 1, 300] {
        let question = Question {
            answers: count,
            ..text("more")
        };
        let response = client.download(asked(question)).await.expect("it answers");
        check_metadata(response.metadata());
        let answers: Vec<_> = response.into_inner().collect().await;
        assert_eq!(answers.len(), count as usize);
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref().is_ok_and(|answer| answer.text == "more"))
        );

        let questions = tokio_stream::iter(vec![text("a"); count as usize]);
        let response = client.upload(asked(questions)).await.expect("it answers");
        check_metadata(response.metadata());
        assert_eq!(response.into_inner().questions, count);
    }
    let mut answers = client
        .download(asked(failing()))
        .await
        .expect("it begins well")
        .into_inner();
    for _ in 0..2 {
        assert!(
            answers
                .message()
                .await
                .expect("it goes well for a while")
                .is_some()
        );
    }
    check_failure(&answers.message().await.expect_err("it fails as asked"));
    let questions = asked(endless(vec![text("a"), failing(), text("b")]));
    check_failure(
        &client
            .upload(questions)
            .await
            .expect_err("it fails as asked"),
    );

    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    questions.send(text("0")).await.expect("the call reads it");
    let request = asked(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let response = client.chat(request).await.expect("it answers");
    check_metadata(response.metadata());
    let mut answers = response.into_inner();
    for number in 0..20 {
        let answer = answers
            .message()
            .await
            .expect("it goes well")
            .expect("each is answered");
        assert_eq!(
            (answer.text, answer.questions),
            (number.to_string(), number + 1)
        );
        questions
            .send(text(&(number + 1).to_string()))
            .await
            .expect("the call reads it");
    }
    drop(questions);
    assert!(answers.message().await.expect("it goes well").is_some());
    assert_eq!(answers.message().await.expect("it ends well"), None);
}

async fn deadlines<T: Carrier>(mut client: ProbeClient<T>) {
    fn late<M>(message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_millis(100));
        request
    }
    // A side that finds out first may say that it cancelled the call.
    let is_late = |status: Status| {
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status:?}"
        );
    };
    is_late(client.unary(late(hanging())).await.expect_err("it hangs"));
    match client.download(late(hanging())).await {
        Err(status) => is_late(status),
        Ok(response) => {
            let answers: Vec<_> = response.into_inner().collect().await;
            let last = answers.into_iter().last().expect("it does not end well");
            is_late(last.expect_err("it hangs"));
        }
    }
}

/// What nobody waits for any more is dropped at the server as well.
async fn cancellation<T: Carrier>(mut client: ProbeClient<T>, server: &Server) {
    let Some(handlers) = &server.hanging else {
        return;
    };
    until("the calls whose time has passed are over", || {
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
    if server.keeps_conversations {
        return;
    }
    let questions = endless(vec![text("a"), hanging()]);
    let mut answers = client
        .chat(questions)
        .await
        .expect("it begins well")
        .into_inner();
    assert!(answers.message().await.expect("it goes well").is_some());
    until("the handler runs", || handlers.count() == 1).await;
    drop(answers);
    until("the conversation is dropped", || handlers.count() == 0).await;
}
