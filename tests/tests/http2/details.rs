//! The customary details of errors on their way: from our servers and tonic's to our clients and tonic's, in every way that these can meet.

use std::{pin::Pin, time::Duration};

use shmipc_rpc::{
    Channel, Code, Request, Response, ResponseStream, Server, Status, Streaming,
    error_details::{ErrorDetails, ResourceInfo},
};
use tests::in_time;
use tokio_stream::Stream;
use tonic_types::StatusExt as _;

use crate::{
    Running,
    protos::{
        Hanging,
        ours::{Answer, Question, probe_client::ProbeClient, probe_server},
        theirs,
    },
};

pub(crate) const MESSAGE: &str = "the question cannot be answered";

/// One message of each type.
pub(crate) fn ours() -> ErrorDetails {
    ErrorDetails::new()
        .with_error_info("EMPTY", "probe", [("field".to_owned(), "text".to_owned())])
        .with_retry_after(Duration::from_millis(1500))
        .with_debug_info("at the door", ["first".to_owned(), "second".to_owned()])
        .with_quota_failure("client:7", "one question a day")
        .with_quota_failure("client:*", "ten questions a day")
        .with_precondition_failure("OPEN", "door", "come by day")
        .with_bad_request("question.text", "must not be empty")
        .with_bad_request("question.answers", "must not be 0")
        .with_request_info("request-1", "served by nobody")
        .with_resource_info(ResourceInfo {
            resource_type: "shelf".to_owned(),
            resource_name: "shelf-9".to_owned(),
            owner: "librarian".to_owned(),
            description: "empty, too".to_owned(),
        })
        .with_help("how to ask", "https://example.com/ask")
        .with_localized_message("de", "Die Frage ist leer, schöner Mist")
}

/// The same, as tonic has them.
fn theirs() -> tonic_types::ErrorDetails {
    let mut details = tonic_types::ErrorDetails::new();
    details
        .set_error_info("EMPTY", "probe", [("field".to_owned(), "text".to_owned())])
        .set_retry_info(Some(Duration::from_millis(1500)))
        .set_debug_info(["first".to_owned(), "second".to_owned()], "at the door")
        .add_quota_failure_violation("client:7", "one question a day")
        .add_quota_failure_violation("client:*", "ten questions a day")
        .add_precondition_failure_violation("OPEN", "door", "come by day")
        .add_bad_request_violation("question.text", "must not be empty")
        .add_bad_request_violation("question.answers", "must not be 0")
        .set_request_info("request-1", "served by nobody")
        .set_resource_info("shelf", "shelf-9", "librarian", "empty, too")
        .add_help_link("how to ask", "https://example.com/ask")
        .set_localized_message("de", "Die Frage ist leer, schöner Mist");
    details
}

/// Fails with all details, whatever it is asked; streams after a first answer.
pub(crate) struct Failing;

fn failure() -> Status {
    Status::with_error_details(Code::InvalidArgument, MESSAGE, ours())
}

fn their_failure() -> tonic::Status {
    tonic::Status::with_error_details(tonic::Code::InvalidArgument, MESSAGE, theirs())
}

impl probe_server::Probe for Failing {
    async fn unary(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        Err(failure())
    }

    async fn download(
        &self,
        _: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let answers = [Ok(Answer::default()), Err(failure())];
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn upload(&self, _: Request<Streaming<Question>>) -> Result<Response<Answer>, Status> {
        Err(failure())
    }

    async fn chat(
        &self,
        _: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let answers = [Ok(Answer::default()), Err(failure())];
        Ok(Response::new(tokio_stream::iter(answers)))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<theirs::Answer, tonic::Status>> + Send>>;

fn their_answers() -> Result<tonic::Response<Answers>, tonic::Status> {
    let answers = [Ok(theirs::Answer::default()), Err(their_failure())];
    Ok(tonic::Response::new(Box::pin(tokio_stream::iter(answers))))
}

#[tonic::async_trait]
impl theirs::probe_server::Probe for Failing {
    type DownloadStream = Answers;
    type ChatStream = Answers;

    async fn unary(
        &self,
        _: tonic::Request<theirs::Question>,
    ) -> Result<tonic::Response<theirs::Answer>, tonic::Status> {
        Err(their_failure())
    }

    async fn download(
        &self,
        _: tonic::Request<theirs::Question>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        their_answers()
    }

    async fn upload(
        &self,
        _: tonic::Request<tonic::Streaming<theirs::Question>>,
    ) -> Result<tonic::Response<theirs::Answer>, tonic::Status> {
        Err(their_failure())
    }

    async fn chat(
        &self,
        _: tonic::Request<tonic::Streaming<theirs::Question>>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        their_answers()
    }
}

pub(crate) fn check(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.message(), MESSAGE);
    let details = status.check_error_details();
    assert_eq!(details.expect("they are well-formed"), ours());
}

fn check_theirs(status: &tonic::Status) {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    assert_eq!(status.message(), MESSAGE);
    let details = status.check_error_details().expect("they are well-formed");
    assert_eq!(format!("{details:?}"), format!("{:?}", theirs()));
}

/// Fails in every way with a client of ours.
async fn fail(client: ProbeClient) {
    let question = Question::default();
    let status = client.unary(question.clone()).await;
    check(&status.expect_err("it fails"));
    let status = client.upload(tokio_stream::iter([question.clone()])).await;
    check(&status.expect_err("it fails"));
    let answers = [
        client.download(question.clone()).await,
        client.chat(tokio_stream::iter([question])).await,
    ];
    for answers in answers {
        let mut answers = answers.expect("it begins").into_inner();
        answers.message().await.expect("the first one comes");
        check(&answers.message().await.expect_err("it fails"));
    }
}

/// Fails in every way with a client of tonic's, over whatever it runs.
macro_rules! fail_theirs {
    ($channel:expr) => {{
        let mut client = theirs::probe_client::ProbeClient::new($channel);
        let question = theirs::Question::default();
        let status = client.unary(question.clone()).await;
        check_theirs(&status.expect_err("it fails"));
        let status = client.upload(tokio_stream::iter([question.clone()])).await;
        check_theirs(&status.expect_err("it fails"));
        let answers = [
            client.download(question.clone()).await,
            client.chat(tokio_stream::iter([question])).await,
        ];
        for answers in answers {
            let mut answers = answers.expect("it begins").into_inner();
            answers.message().await.expect("the first one comes");
            check_theirs(&answers.message().await.expect_err("it fails"));
        }
    }};
}

/// A server of ours, through shared memory and over HTTP/2, with clients of all kinds.
async fn fail_at(server: Server) {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let server = server.bind(directory.path().join("shm.sock")).await;
    let server = server
        .expect("the path is free")
        .bind("http://127.0.0.1:0")
        .await;
    let running = Running::start(server.expect("a port is free"), Hanging::default());
    for endpoint in &running.endpoints {
        let channel = Channel::connect(endpoint.clone()).await;
        let channel = channel.expect("the server is there");
        in_time("our client", fail(ProbeClient::new(channel.clone()))).await;
        in_time("tonic's client over our channel", async {
            fail_theirs!(channel);
        })
        .await;
        if !endpoint.is_shared_memory() {
            let endpoint = tonic::transport::Endpoint::from_shared(endpoint.to_string());
            let channel = endpoint.expect("it is a URI").connect().await;
            in_time("tonic's client", async {
                fail_theirs!(channel.expect("the server is there"));
            })
            .await;
        }
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn details_of_our_service_reach_every_client() {
    fail_at(Server::builder().add_service(probe_server::ProbeServer::new(Failing))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn details_of_a_service_of_tonic_on_our_server_reach_every_client() {
    let service = theirs::probe_server::ProbeServer::new(Failing);
    fail_at(Server::builder().add_tonic_service(service)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn details_of_a_server_of_tonic_reach_our_client() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let service = theirs::probe_server::ProbeServer::new(Failing);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Channel::connect(format!("http://{address}")).await;
    let client = ProbeClient::new(channel.expect("the server is there"));
    in_time("our client", fail(client)).await;
}
