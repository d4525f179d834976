//! What no client of gRPC would say, said with a client of HTTP/2.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::in_time;
use tokio::net::UnixStream;

use crate::{Running, probe, unix};

struct Raw {
    sender: SendRequest<Full<Bytes>>,
    running: Running,
    _directory: tempfile::TempDir,
}

impl Raw {
    async fn connect() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("grpc.sock");
        let (server, hanging) = probe();
        let server = server.bind(unix(&path)).await.expect("the path is free");
        let running = Running::start(server, hanging);
        let stream = UnixStream::connect(&path)
            .await
            .expect("the server is there");
        let connection = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = connection
            .handshake(TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self {
            sender,
            running,
            _directory: directory,
        }
    }

    /// Returns the HTTP status, and that of gRPC with its message.
    async fn ask(
        &mut self,
        change: impl FnOnce(&mut http::Request<Full<Bytes>>),
    ) -> (StatusCode, Option<String>, http::HeaderMap) {
        let framed: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, b'h', b'i'];
        let request = http::Request::post("http://localhost/probe.v1.Probe/Unary")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(framed)));
        let mut request = request.expect("it is well-formed");
        change(&mut request);
        let response = in_time("a response", self.sender.send_request(request)).await;
        let (parts, body) = response.expect("it answers").into_parts();
        let body = in_time("the body", body.collect())
            .await
            .expect("it ends well");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let all = [&parts.headers, &trailers];
        let code = all.iter().find_map(|map| map.get("grpc-status"));
        let code = code.map(|code| code.to_str().expect("it is a number").to_owned());
        (parts.status, code, parts.headers)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_as_the_specification_has_it() {
    let mut raw = Raw::connect().await;
    let (http, code, headers) = raw.ask(|_| {}).await;
    assert_eq!((http, code.as_deref()), (StatusCode::OK, Some("0")));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-accept-encoding"], "identity");

    let (http, code, headers) = raw
        .ask(|request| *request.method_mut() = http::Method::GET)
        .await;
    assert_eq!((http, code), (StatusCode::METHOD_NOT_ALLOWED, None));
    assert_eq!(headers["allow"], "POST");
    let json = HeaderValue::from_static("application/json");
    let (http, code, _) = raw
        .ask(|request| {
            request.headers_mut().insert("content-type", json);
        })
        .await;
    assert_eq!((http, code), (StatusCode::UNSUPPORTED_MEDIA_TYPE, None));

    // Cut short, compressed by nothing, with flags that do not exist, too long, without a message, and not of this type.
    let bodies: [&[u8]; 6] = [
        &[0, 0, 0, 0, 9, 7],
        &[1, 0, 0, 0, 1, 7],
        &[2, 0, 0, 0, 1, 7],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[],
        &[0, 0, 0, 0, 1, 0xff],
    ];
    for body in bodies {
        let (http, code, _) = raw
            .ask(|request| *request.body_mut() = Full::new(body.into()))
            .await;
        assert_eq!(
            (http, code.as_deref()),
            (StatusCode::OK, Some("13")),
            "{body:?}"
        );
    }
    for (timeout, expected) in [
        ("1S", "0"),
        ("0n", "4"),
        ("never", "13"),
        ("99999999H", "0"),
    ] {
        let (_, code, _) = raw
            .ask(|request| {
                let value = HeaderValue::from_static(timeout);
                request.headers_mut().insert("grpc-timeout", value);
            })
            .await;
        assert_eq!(code.as_deref(), Some(expected), "{timeout}");
    }
    raw.running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_is_refused_unless_the_server_takes_it() {
    let mut raw = Raw::connect().await;
    // Compressed by nothing, and by what this server does not take.
    let compressed: &[u8] = &[1, 0, 0, 0, 1, 7];
    for (encoding, expected) in [("identity", "13"), ("gzip", "12"), ("br", "12")] {
        let encoding = HeaderValue::from_static(encoding);
        let (http, code, headers) = raw
            .ask(|request| {
                request.headers_mut().insert("grpc-encoding", encoding);
                *request.body_mut() = Full::new(compressed.into());
            })
            .await;
        assert_eq!((http, code.as_deref()), (StatusCode::OK, Some(expected)));
        assert_eq!(headers["grpc-accept-encoding"], "identity");
    }
    // Named, but not used.
    let gzip = HeaderValue::from_static("gzip");
    let (_, code, _) = raw
        .ask(|request| {
            request.headers_mut().insert("grpc-encoding", gzip);
        })
        .await;
    assert_eq!(code.as_deref(), Some("0"));
    raw.running.ended().await;
}
