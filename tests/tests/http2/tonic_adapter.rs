//! What tonic generated, over shared memory and over our HTTP/2.

use shmipc_rpc::{
    Channel, Code, Request, Response, Server, Status,
    server::MessageLimits,
    tls::{ClientTls, ServerTls},
};
use tests::in_time;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    Running, our_client, our_uid, probe, protos,
    protos::{
        ours::{Question, probe_client::ProbeClient},
        theirs::{self, probe_server::ProbeServer},
    },
    their_client, their_server, tls,
};

/// tonic's probe on a server of ours.
fn tonic_probe() -> (Server, protos::Hanging) {
    let probe = their_server::Probe::default();
    let hanging = probe.hanging.clone();
    let server = Server::builder().add_tonic_service(ProbeServer::new(probe));
    (server, hanging)
}

async fn run(
    (server, hanging): (Server, protos::Hanging),
    directory: &tempfile::TempDir,
) -> Running {
    let path = directory.path().join("shm.sock");
    let server = server.bind(path).await.expect("the path is free");
    let server = server
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    Running::start(server, hanging)
}

/// Returns a channel in each way, and what is to be expected of the server.
async fn ways(running: &Running, has_trailers: bool) -> Vec<(Channel, our_client::Server)> {
    let mut ways = Vec::new();
    for endpoint in &running.endpoints {
        let uid = endpoint.is_shared_memory().then(our_uid);
        let channel = Channel::connect(endpoint.clone()).await;
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            has_trailers,
            uid,
            ..our_client::Server::default()
        };
        ways.push((channel.expect("the server is there"), server));
    }
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_tonic_runs_over_our_channel() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let running = run(probe(), &directory).await;
    for (channel, server) in ways(&running, true).await {
        their_client::examine(channel, server).await;
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_tonic_runs_on_our_server() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let running = run(tonic_probe(), &directory).await;
    for (channel, server) in ways(&running, false).await {
        our_client::examine(channel, server).await;
    }
    running.ended().await;
}

/// Asks for `answers` answers with as many bytes.
fn asking(len: usize, answers: u32) -> Question {
    Question {
        payload: vec![7; len].into(),
        answers,
        ..Question::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_limits_hold_for_a_service_of_tonic() {
    let code =
        |result: Result<(), Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    let limits = [
        MessageLimits::new().max_request_size(1000),
        MessageLimits::new().max_response_size(1000),
    ];
    for limits in limits {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let (server, hanging) = tonic_probe();
        let server = server.limits_for_service("probe.v1.Probe", limits);
        let running = run((server, hanging), &directory).await;
        for (channel, _) in ways(&running, false).await {
            let client = ProbeClient::new(channel);
            for (len, expected) in [(900, Code::Ok), (1001, Code::ResourceExhausted)] {
                let answer = in_time("the answer", client.unary(asking(len, 1))).await;
                assert_eq!(code(answer.map(drop)), expected, "{len}");

                // The first messages of a stream are short, and pass.
                let questions = tokio_stream::iter([asking(9, 1), asking(9, 1), asking(len, 1)]);
                let answers = in_time("the answers", client.chat(questions)).await;
                let mut answers = answers.expect("it begins").into_inner();
                for _ in 0..2 {
                    let answer = in_time("an answer", answers.message()).await;
                    let answer = answer.expect("it is short").expect("there is one");
                    assert_eq!(answer.payload.len(), 9);
                }
                let answer = in_time("an answer", answers.message()).await;
                assert_eq!(code(answer.map(drop)), expected, "{len}");
            }
        }
        running.ended().await;
    }
}

/// Tells what a handler of tonic's knows of its caller: a word for what there is of address, certificates and credentials.
#[derive(Clone)]
struct Knowing;

impl Knowing {
    fn of(request: &tonic::Request<theirs::Question>) -> String {
        let uds = request.extensions().get::<UdsConnectInfo>();
        let uid = uds.and_then(|info| info.peer_cred).map(|cred| cred.uid());
        let tcp = request.extensions().get::<TcpConnectInfo>();
        let local = tcp.and_then(TcpConnectInfo::local_addr);
        format!(
            "remote {} local {} certificates {} uid {}",
            request
                .remote_addr()
                .is_some_and(|address| address.ip().is_loopback()),
            local.map_or(0, |address| address.port()),
            request
                .peer_certs()
                .map_or(0, |certificates| certificates.len()),
            uid.is_some_and(|uid| uid == our_uid()),
        )
    }
}

type Answers = tokio_stream::Empty<Result<theirs::Answer, tonic::Status>>;

#[tonic::async_trait]
impl theirs::probe_server::Probe for Knowing {
    type DownloadStream = Answers;
    type ChatStream = Answers;

    async fn unary(
        &self,
        request: tonic::Request<theirs::Question>,
    ) -> Result<tonic::Response<theirs::Answer>, tonic::Status> {
        Ok(tonic::Response::new(theirs::Answer {
            text: Self::of(&request),
            ..theirs::Answer::default()
        }))
    }

    async fn download(
        &self,
        _: tonic::Request<theirs::Question>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::empty()))
    }

    async fn upload(
        &self,
        _: tonic::Request<tonic::Streaming<theirs::Question>>,
    ) -> Result<tonic::Response<theirs::Answer>, tonic::Status> {
        Ok(tonic::Response::new(theirs::Answer::default()))
    }

    async fn chat(
        &self,
        _: tonic::Request<tonic::Streaming<theirs::Question>>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::empty()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_tonic_knows_its_caller_as_on_its_own_server() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (certificate, key) = tls::self_signed();
    let (authority, client_certificate, client_key) = tls::client_of_an_authority();
    let server_tls = ServerTls::new(&certificate, &key).expect("they belong together");
    let server_tls = server_tls
        .client_ca(&authority)
        .expect("it is an authority");
    let client_tls = ClientTls::new().ca_certificate(&certificate);
    let client_tls = client_tls.expect("it is a certificate");
    let client_tls = client_tls.identity(&client_certificate, &client_key);
    let client_tls = client_tls.expect("they belong together");

    let server = Server::builder().add_tonic_service(ProbeServer::new(Knowing));
    let server = server.tls(server_tls).bind("http://127.0.0.1:0").await;
    let server = server
        .expect("a port is free")
        .bind("https://localhost:0")
        .await;
    let unix = crate::unix(&directory.path().join("grpc.sock"));
    let server = server.expect("a port is free").bind(unix).await;
    let server = server
        .expect("the path is free")
        .bind(directory.path().join("shm.sock"))
        .await;
    let server = server.expect("the path is free");
    let running = Running::start(server, protos::Hanging::default());
    let plain = running.endpoints[0].to_string();
    let port = plain.rsplit(':').next().expect("it has a port");
    let expected = [
        format!("remote true local {port} certificates 0 uid false"),
        "remote true local 0 certificates 1 uid false".to_owned(),
        "remote false local 0 certificates 0 uid true".to_owned(),
        "remote false local 0 certificates 0 uid false".to_owned(),
    ];
    for (endpoint, expected) in running.endpoints.iter().zip(expected) {
        let channel = Channel::builder(endpoint.clone()).tls(client_tls.clone());
        let client = ProbeClient::new(channel.connect_lazy());
        let answer = in_time("the answer", client.unary(Question::default())).await;
        assert_eq!(
            answer.expect("it answers").into_inner().text,
            expected,
            "{endpoint}"
        );
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_be_of_tonic() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let running = run(tonic_probe(), &directory).await;
    for (channel, server) in ways(&running, false).await {
        their_client::examine(channel, server).await;
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_tonic_learns_that_nobody_is_there() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let nobody = directory.path().join("nobody.sock");
    let endpoints = [
        nobody.display().to_string(),
        crate::unix(&nobody),
        "http://127.0.0.1:1".to_owned(),
    ];
    for endpoint in endpoints {
        let channel = Channel::builder(endpoint.as_str()).connect_lazy();
        let mut client = protos::theirs::probe_client::ProbeClient::new(channel);
        let called = client.unary(protos::theirs::Question::default()).await;
        let status = called.expect_err("nobody is there");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(status.message().contains("cannot be reached"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_of_tonic_come_as_they_are() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<ProbeServer<their_server::Probe>>()
        .await;
    let descriptors = std::fs::read(protos::DESCRIPTORS).expect("they were generated");
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(&descriptors)
        .build_v1()
        .expect("they are descriptors");
    let (server, hanging) = tonic_probe();
    let server = server
        .add_tonic_service(health)
        .add_tonic_service(reflection);
    let running = run((server, hanging), &directory).await;
    for (channel, _) in ways(&running, false).await {
        let mut health = HealthClient::new(channel.clone());
        let request = HealthCheckRequest {
            service: "probe.v1.Probe".to_owned(),
        };
        let response = in_time("the check", health.check(request.clone())).await;
        assert_eq!(response.expect("it answers").into_inner().status, 1);
        let watch = in_time("the watch", health.watch(request)).await;
        let mut states = watch.expect("it answers").into_inner();
        let state = in_time("the state", states.message()).await;
        assert_eq!(state.expect("it answers").expect("there is one").status, 1);

        let mut reflection = ServerReflectionClient::new(channel);
        let request = tokio_stream::iter([ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(
                "probe.v1.Probe".to_owned(),
            )),
        }]);
        let response = in_time("the reflection", reflection.server_reflection_info(request)).await;
        let mut answers = response.expect("it answers").into_inner();
        let answer = in_time("the files", answers.message()).await;
        let answer = answer.expect("it answers").expect("there is one");
        assert!(matches!(
            answer.message_response,
            Some(MessageResponse::FileDescriptorResponse(files)) if files.file_descriptor_proto.len() == 1
        ));
    }
    running.ended().await;
}

#[test]
fn statuses_survive_the_conversion_there_and_back() {
    for code in Code::ALL {
        let mut status = Status::with_details(code, "a message", vec![1, 2, 255])
            .with_source(std::io::Error::other("the cause"));
        status
            .metadata_mut()
            .insert("x-key", http::HeaderValue::from_static("value"));
        let converted = tonic::Status::from(status.clone());
        assert_eq!(i32::from(converted.code()), code as i32);
        let source = std::error::Error::source(&converted).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("the cause"));
        let back = Status::from(converted);
        assert_eq!(back.code(), code);
        assert_eq!(back.message(), "a message");
        assert_eq!(&back.details()[..], [1, 2, 255]);
        assert_eq!(back.metadata(), status.metadata());
        // Behind other errors it is found as well.
        let hidden: Box<dyn std::error::Error + Send + Sync> =
            Box::new(tonic::Status::new(tonic::Code::Aborted, "hidden"));
        assert_eq!(Status::from_error(hidden).code(), Code::Aborted);
    }
}

#[test]
fn requests_and_responses_survive_the_conversion_there_and_back() {
    let mut request = Request::new("message");
    request.set_timeout(std::time::Duration::from_secs(60));
    request
        .metadata_mut()
        .insert("x-key", http::HeaderValue::from_static("value"));
    request.extensions_mut().insert(7_u8);
    let converted = tonic::Request::from(request);
    assert_eq!(
        converted.metadata().get("x-key").expect("it was kept"),
        "value"
    );
    assert!(converted.metadata().contains_key("grpc-timeout"));
    let back = Request::from(converted);
    assert_eq!(back.metadata().len(), 1, "the timeout is no metadata");
    assert_eq!(back.extensions().get::<u8>(), Some(&7));
    assert!(
        tonic::Request::from(back)
            .metadata()
            .contains_key("grpc-timeout")
    );

    let mut response = Response::new("message");
    response
        .metadata_mut()
        .insert("x-key", http::HeaderValue::from_static("value"));
    response
        .trailers_mut()
        .insert("x-last", http::HeaderValue::from_static("later"));
    let converted: tonic::Response<&str> = response.into();
    assert_eq!(
        converted.metadata().get("x-last").expect("it was kept"),
        "later"
    );
    let back: Response<&str> = converted.into();
    assert_eq!(back.metadata()["x-key"], "value");
    assert_eq!(back.into_inner(), "message");
}
