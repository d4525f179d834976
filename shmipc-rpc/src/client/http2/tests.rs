//! Both sides of HTTP/2, in one process.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use tokio::task::JoinHandle;

use tower_service::Service;

use super::*;
use crate::{
    Channel, Endpoint, Method, Request, Response, ServeError, Server,
    client::Caller,
    server::{NamedService, ResponseFuture},
};

const ECHO: Method = Method::unary("tests.Lab", "Echo", "/tests.Lab/Echo");
const FAIL: Method = Method::unary("tests.Lab", "Fail", "/tests.Lab/Fail");
const HANG: Method = Method::unary("tests.Lab", "Hang", "/tests.Lab/Hang");
const PANIC: Method = Method::unary("tests.Lab", "Panic", "/tests.Lab/Panic");
const NONE: Method = Method::unary("tests.Lab", "None", "/tests.Lab/None");

/// Longer than anything here takes, unless it hangs.
const LONG: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
struct Lab;

impl NamedService for Lab {
    const NAME: &'static str = "tests.Lab";
    const METHODS: &'static [Method] = &[ECHO];
}

impl Service<http::Request<Body>> for Lab {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        let path = request.uri().path().to_owned();
        if path == NONE.path() {
            return crate::server::unimplemented(request);
        }
        crate::server::unary(
            Arc::new(()),
            request,
            move |_, request: Request<Vec<u8>>| async move {
                match path.as_str() {
                    "/tests.Lab/Fail" => Err(Status::with_details(
                        Code::Aborted,
                        "ünlucky\n",
                        vec![0, 255],
                    )),
                    "/tests.Lab/Hang" => std::future::pending().await,
                    "/tests.Lab/Panic" => panic!("as asked"),
                    _ => {
                        let seen = request.metadata().get("x-tenant").cloned();
                        let timed = request.remaining().is_some();
                        let mut response = Response::new(request.into_inner());
                        if let Some(seen) = seen {
                            response.metadata_mut().insert("x-seen", seen);
                        }
                        if timed {
                            response
                                .metadata_mut()
                                .insert("x-timed", HeaderValue::from_static("yes"));
                        }
                        Ok(response)
                    }
                }
            },
        )
    }
}

struct Running {
    channel: Channel,
    stop: tokio::sync::oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

async fn run(endpoint: impl Into<Endpoint>) -> Running {
    let server = Server::builder()
        .add_service(Lab)
        .max_response_size(1 << 20);
    let server = server.bind(endpoint).await.expect("the endpoint is free");
    let channel = Channel::builder(server.endpoints()[0].clone()).connect_lazy();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(server.serve_with_shutdown(async {
        let _ = stopped.await;
    }));
    Running {
        channel,
        stop,
        server,
    }
}

async fn call(
    channel: &Channel,
    method: &Method,
    request: Request<Vec<u8>>,
) -> Result<Response<Vec<u8>>, Status> {
    let call = Caller::new(channel.clone());
    let call = call.unary(method, request);
    tokio::time::timeout(LONG, call)
        .await
        .expect("it does not hang")
}

async fn check(endpoint: impl Into<Endpoint>) {
    let running = run(endpoint).await;
    let channel = &running.channel;
    for len in [0, 1, 100_000, 1 << 20] {
        let mut request = Request::new(vec![7; len]);
        request
            .metadata_mut()
            .insert("x-tenant", HeaderValue::from_static("blue"));
        request.set_timeout(LONG);
        match call(channel, &ECHO, request).await {
            Ok(response) => {
                assert_eq!(
                    response.metadata().get("x-seen").expect("it was sent"),
                    "blue"
                );
                assert_eq!(
                    response.metadata().get("x-timed").expect("it was sent"),
                    "yes"
                );
                assert_eq!(response.into_inner(), vec![7; len]);
            }
            // With its tag and length, the message has a little more than the bytes.
            Err(status) => assert_eq!((status.code(), len), (Code::ResourceExhausted, 1 << 20)),
        }
    }
    let status = call(channel, &FAIL, Request::new(vec![]))
        .await
        .expect_err("it fails");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Aborted, "ünlucky\n")
    );
    assert_eq!(&status.details()[..], [0, 255]);
    let mut late = Request::new(vec![]);
    late.set_timeout(Duration::from_millis(20));
    let status = call(channel, &HANG, late).await.expect_err("it hangs");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let status = call(channel, &PANIC, Request::new(vec![]))
        .await
        .expect_err("it panics");
    assert_eq!(status.code(), Code::Internal);
    let status = call(channel, &NONE, Request::new(vec![]))
        .await
        .expect_err("it is not there");
    assert_eq!(status.code(), Code::Unimplemented);
    running.stop.send(()).expect("the server listens");
    let ended = tokio::time::timeout(LONG, running.server).await;
    ended
        .expect("it does not hang")
        .expect("it does not panic")
        .expect("it was stopped");
    let status = call(channel, &ECHO, Request::new(vec![]))
        .await
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn calls_cross_over_tcp() {
    check("http://127.0.0.1:0").await;
}

#[tokio::test]
async fn calls_cross_over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    check(format!(
        "unix:{}",
        directory.path().join("grpc.sock").display()
    ))
    .await;
    check(format!("unix-abstract:{}", directory.path().display())).await;
}
