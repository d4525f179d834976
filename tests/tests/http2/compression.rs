//! Messages that are compressed: between our sides and those of tonic, over HTTP/2 and through shared memory, where nothing is.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use shmipc_rpc::{
    Channel, Code, Server,
    client::{MethodConfig, ServiceConfig},
    codec::CompressionEncoding,
    prost::Message as _,
};
use tests::in_time;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding as Theirs;

use crate::{
    Running, our_client, our_server, our_uid,
    protos::{
        Hanging, ours,
        ours::{Question, probe_client::ProbeClient, probe_server::ProbeServer},
        theirs::{
            self, probe_client::ProbeClient as TonicClient,
            probe_server::ProbeServer as TonicServer,
        },
    },
    their_client, their_server,
};

const ENCODINGS: [(CompressionEncoding, Theirs); 3] = [
    (CompressionEncoding::Gzip, Theirs::Gzip),
    (CompressionEncoding::Deflate, Theirs::Deflate),
    (CompressionEncoding::Zstd, Theirs::Zstd),
];

/// A server of ours that compresses all that its callers take.
fn our_probe() -> (Server, Hanging) {
    let probe = our_server::Probe::default();
    let hanging = probe.hanging.clone();
    let mut service = ProbeServer::new(probe);
    for (encoding, _) in ENCODINGS {
        service = service
            .accept_compressed(encoding)
            .send_compressed(encoding);
    }
    (Server::builder().add_service(service), hanging)
}

/// The same by tonic.
fn tonic_service() -> (TonicServer<their_server::Probe>, Hanging) {
    let probe = their_server::Probe::default();
    let hanging = probe.hanging.clone();
    let mut service = TonicServer::new(probe);
    for (_, encoding) in ENCODINGS {
        service = service
            .accept_compressed(encoding)
            .send_compressed(encoding);
    }
    (service, hanging)
}

/// Runs a server that is reached through shared memory, and over HTTP/2.
async fn run(server: Server, hanging: Hanging, directory: &tempfile::TempDir) -> Running {
    let server = server.bind(directory.path().join("shm.sock")).await;
    let server = server.expect("the path is free");
    let server = server.bind("http://127.0.0.1:0").await;
    Running::start(server.expect("a port is free"), hanging)
}

/// Returns channels that reach the server in each way, bare and by rules, and the user that it takes us for.
async fn ways(running: &Running) -> Vec<(Channel, Option<u32>)> {
    let mut ways = Vec::new();
    for endpoint in &running.endpoints {
        let uid = endpoint.is_shared_memory().then(our_uid);
        let rules = ServiceConfig::builder().default_method(MethodConfig::new());
        let rules = rules.build().expect("it is valid");
        let bare = Channel::builder(endpoint.clone());
        let by_rules = Channel::builder(endpoint.clone()).service_config(rules);
        for channel in [bare, by_rules] {
            let channel = channel.connect().await;
            ways.push((channel.expect("the server is there"), uid));
        }
    }
    ways
}

fn our_client_by(channel: Channel, encoding: CompressionEncoding) -> ProbeClient {
    ProbeClient::new(channel)
        .send_compressed(encoding)
        .accept_compressed(encoding)
}

fn tonic_client_by<T: their_client::Carrier>(channel: T, encoding: Theirs) -> TonicClient<T> {
    TonicClient::new(channel)
        .send_compressed(encoding)
        .accept_compressed(encoding)
}

/// Examines a server of ours by clients of both sides that compress.
async fn examine(running: Running, has_trailers: bool) {
    for (channel, uid) in ways(&running).await {
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            has_trailers,
            uid,
            ..our_client::Server::default()
        };
        for (ours, theirs) in ENCODINGS {
            let client = our_client_by(channel.clone(), ours);
            our_client::examine_by(client, channel.clone(), server.clone()).await;
            let client = tonic_client_by(channel.clone(), theirs);
            their_client::examine_by(client, server.clone()).await;
        }
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_sides_compress_for_our_server() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (server, hanging) = our_probe();
    examine(run(server, hanging, &directory).await, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_sides_compress_for_a_service_of_tonic() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (service, hanging) = tonic_service();
    let server = Server::builder().add_tonic_service(service);
    examine(run(server, hanging, &directory).await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_compresses_for_a_server_of_tonic() {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let (service, hanging) = tonic_service();
    let router = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::connect(format!("http://127.0.0.1:{port}")).await;
    let channel = channel.expect("the server is there");
    for (encoding, _) in ENCODINGS {
        let server = our_client::Server {
            hanging: Some(hanging.clone()),
            ..our_client::Server::default()
        };
        let client = our_client_by(channel.clone(), encoding);
        our_client::examine_by(client, channel.clone(), server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_server_takes_what_a_client_of_tonic_compresses() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (server, hanging) = our_probe();
    let running = run(server, hanging, &directory).await;
    let endpoint = tonic::transport::Endpoint::from_shared(running.endpoints[1].to_string());
    let channel = endpoint.expect("it is a URI").connect().await;
    let channel = channel.expect("the server is there");
    for (_, encoding) in ENCODINGS {
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            keeps_conversations: true,
            ..our_client::Server::default()
        };
        let client = tonic_client_by(channel.clone(), encoding);
        their_client::examine_by(client, server).await;
    }
    running.ended().await;
}

fn long() -> Bytes {
    Bytes::from(vec![7; 100_000])
}

fn question() -> Question {
    Question {
        payload: long(),
        ..Question::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_take_is_refused_over_http2_alone() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let probe = our_server::Probe::default();
    let hanging = probe.hanging.clone();
    let service = ProbeServer::new(probe).accept_compressed(CompressionEncoding::Zstd);
    let server = Server::builder().add_service(service);
    let running = run(server, hanging, &directory).await;
    for (channel, uid) in ways(&running).await {
        let through_memory = uid.is_some();
        let client = our_client_by(channel.clone(), CompressionEncoding::Gzip);
        let ours = client.unary(question()).await;
        let ours = ours.map(|answer| answer.into_inner().payload);
        let mut client = tonic_client_by(channel, Theirs::Gzip);
        let asked = theirs::Question {
            payload: long(),
            ..theirs::Question::default()
        };
        let theirs = client.unary(asked).await;
        let theirs = theirs.map(|answer| answer.into_inner().payload);
        if through_memory {
            assert_eq!(ours.expect("nothing is compressed there"), long());
            assert_eq!(theirs.expect("nothing is compressed there"), long());
        } else {
            let status = ours.expect_err("it was to be refused");
            assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
            let status = theirs.expect_err("it was to be refused");
            assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
        }
    }
    running.ended().await;
}

/// Says something to a server over HTTP/2 as no client would. Returns the head of the response, the messages, and its end.
async fn ask(
    running: &Running,
    headers: &[(&str, &str)],
    body: Bytes,
) -> (HeaderMap, Bytes, HeaderMap) {
    let address = running.endpoints[1].to_string().replace("http://", "");
    let stream = TcpStream::connect(address).await;
    let stream = TokioIo::new(stream.expect("the server is there"));
    let connection = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = connection.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = http::Request::post("http://localhost/probe.v1.Probe/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_str(value).expect("it is a value"));
    }
    let request = request.body(Full::new(body)).expect("it is well-formed");
    let response = in_time("a response", sender.send_request(request)).await;
    let (parts, body) = response.expect("it answers").into_parts();
    let body = in_time("the body", body.collect())
        .await
        .expect("it ends well");
    let trailers = body.trailers().cloned().unwrap_or_default();
    (parts.headers, body.to_bytes(), trailers)
}

fn framed(flags: u8, message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).expect("it is short");
    let mut framed = BytesMut::from(&[flags][..]);
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_are_those_of_the_specification() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (server, hanging) = our_probe();
    let running = run(server, hanging, &directory).await;
    let plain = framed(0, &question().encode_to_vec());
    let everything = "gzip,deflate,zstd,identity";

    // What the caller likes best of what it takes.
    for (accepted, encoding) in [
        ("br, zstd,gzip", "zstd"),
        ("deflate", "deflate"),
        ("gzip", "gzip"),
    ] {
        let headers = [("grpc-accept-encoding", accepted)];
        let (head, body, trailers) = ask(&running, &headers, plain.clone()).await;
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(head["grpc-encoding"], encoding);
        assert_eq!(head["grpc-accept-encoding"], everything);
        assert_eq!(body[0], 1, "it is compressed");
        assert_eq!(
            body.len(),
            5 + u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize
        );
        assert!(body.len() < 1000, "100,000 times the same is short");
    }
    for accepted in ["identity", "br", ""] {
        let headers = [("grpc-accept-encoding", accepted)];
        let (head, body, _) = ask(&running, &headers, plain.clone()).await;
        assert!(!head.contains_key("grpc-encoding"));
        assert_eq!(body[0], 0, "it is not compressed");
    }
    // What would not get shorter is not compressed.
    let short = framed(0, &[]);
    let headers = [("grpc-accept-encoding", "gzip")];
    let (_, body, _) = ask(&running, &headers, short).await;
    assert_eq!(body[0], 0, "it is not compressed");

    // By something else, by nothing, and not what it is said to be.
    for (encoding, code) in [
        ("br", "12"),
        ("identity", "13"),
        ("gzip", "13"),
        ("zstd", "13"),
    ] {
        let headers = [("grpc-encoding", encoding)];
        let (head, _, trailers) = ask(&running, &headers, framed(1, &[7])).await;
        let found = head.get("grpc-status").or(trailers.get("grpc-status"));
        assert_eq!(found.expect("there is a status"), code, "{encoding}");
        assert_eq!(head["grpc-accept-encoding"], everything);
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_what_is_decompressed() {
    const LIMIT: usize = 100_000;

    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (server, hanging) = our_probe();
    let server = server.max_request_size(LIMIT);
    let running = run(server, hanging, &directory).await;
    for (channel, uid) in ways(&running).await {
        for (ours, theirs) in ENCODINGS {
            for (len, fits) in [
                (LIMIT - 100, true),
                (LIMIT + 1, false),
                (100 * LIMIT, false),
            ] {
                let payload = Bytes::from(vec![7; len]);
                let asked = Question {
                    payload: payload.clone(),
                    ..Question::default()
                };
                let client = our_client_by(channel.clone(), ours);
                let called = client
                    .unary(asked)
                    .await
                    .map(|_| ())
                    .map_err(|status| status.code());
                let expected = if fits {
                    Ok(())
                } else {
                    Err(Code::ResourceExhausted)
                };
                assert_eq!(called, expected, "{len} bytes by {ours}, {uid:?}");
                let asked = theirs::Question {
                    payload,
                    ..theirs::Question::default()
                };
                let mut client =
                    tonic_client_by(channel.clone(), theirs).max_decoding_message_size(usize::MAX);
                let called = client
                    .unary(asked)
                    .await
                    .map(|_| ())
                    .map_err(|status| status.code().into());
                assert_eq!(called, expected, "{len} bytes by {theirs}, {uid:?}");
            }
        }
    }
    running.ended().await;
}

/// A response that was compressed by something else than what the client takes.
#[tokio::test(flavor = "multi_thread")]
async fn clients_take_what_they_have_asked_for() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let (server, hanging) = our_probe();
    let running = run(server, hanging, &directory).await;
    for (channel, _) in ways(&running).await {
        // Nothing is asked for, so nothing comes compressed.
        let client = ProbeClient::new(channel.clone()).send_compressed(CompressionEncoding::Zstd);
        let answer: ours::Answer = client
            .unary(question())
            .await
            .expect("all is well")
            .into_inner();
        assert_eq!(answer.payload, long());
        // The server has it, and this client wants it, among others.
        let client = client.accept_compressed(CompressionEncoding::Deflate);
        let client = client.accept_compressed(CompressionEncoding::Gzip);
        let answer = client
            .unary(question())
            .await
            .expect("all is well")
            .into_inner();
        assert_eq!(answer.payload, long());
    }
    running.ended().await;
}
