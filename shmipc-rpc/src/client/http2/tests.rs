//! Both sides of HTTP/2, in one process.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
                        if request.metadata().contains_key(header::CONTENT_LENGTH) {
                            return Err(Status::internal("that is HTTP's"));
                        }
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
        // As if it came from a request that is relayed: it is HTTP's, and this one has another length.
        let length = HeaderValue::from_static("7");
        request
            .metadata_mut()
            .insert(header::CONTENT_LENGTH, length);
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

/// Tells the caller how its request was addressed, and by whom.
#[derive(Clone, Debug)]
struct Mirror;

impl NamedService for Mirror {
    const NAME: &'static str = "tests.Lab";
}

impl Service<http::Request<Body>> for Mirror {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let uri = request.uri();
        let agent = &request.headers()[header::USER_AGENT];
        let message = format!(
            "{}://{} {}",
            uri.scheme_str().expect("HTTP/2 has one"),
            uri.authority().expect("HTTP/2 has one"),
            agent.to_str().expect("it is text")
        );
        std::future::ready(Ok(Status::aborted(message).into_http()))
    }
}

/// Asks how requests of a channel are addressed.
async fn mirrored(channel: Channel) -> String {
    let status = call(&channel, &ECHO, Request::new(vec![])).await;
    status.expect_err("it is a mirror").message().to_owned()
}

#[tokio::test]
async fn requests_say_who_calls_and_whom() {
    let server = Server::builder().add_service(Mirror);
    let server = server.bind("http://127.0.0.1:0").await;
    let server = server.expect("a port is free");
    let endpoint = server.endpoints()[0].clone();
    let _handle = server.start();
    let builder = || Channel::builder(endpoint.clone());
    let version = env!("CARGO_PKG_VERSION");

    let usual = mirrored(builder().connect_lazy()).await;
    assert_eq!(usual, format!("{endpoint} grpc-rust-shmipc/{version}"));
    let named = builder().user_agent(HeaderValue::from_static("painter/1.2"));
    let named = mirrored(named.connect_lazy()).await;
    assert_eq!(
        named,
        format!("{endpoint} painter/1.2 grpc-rust-shmipc/{version}")
    );
    for (origin, address) in [
        ("https://paint.example:8443", "https://paint.example:8443"),
        ("https://paint.example/", "https://paint.example"),
        ("paint.example:8443", "http://paint.example:8443"),
        ("paint.example", "http://paint.example"),
    ] {
        let origin = builder().origin(Uri::from_static(origin));
        let addressed = mirrored(origin.connect_lazy()).await;
        assert_eq!(addressed, format!("{address} grpc-rust-shmipc/{version}"));
    }
    // By rules, and over several connections.
    let several = Channel::balanced([endpoint.clone(), endpoint.clone()]);
    let several = several.origin(Uri::from_static("https://paint.example"));
    let addressed = mirrored(several.connect_lazy()).await;
    assert!(
        addressed.starts_with("https://paint.example "),
        "{addressed}"
    );

    // What a request says of itself goes before what the channel says.
    let named = builder().user_agent(HeaderValue::from_static("painter/1.2"));
    let mut request = Request::new(vec![]);
    let own = HeaderValue::from_static("brush/3");
    request.metadata_mut().insert(header::USER_AGENT, own);
    let status = call(&named.connect_lazy(), &ECHO, request).await;
    let status = status.expect_err("it is a mirror");
    assert_eq!(status.message(), format!("{endpoint} brush/3"));
}

#[tokio::test]
async fn what_is_no_origin_is_refused() {
    for (origin, wrong) in [
        ("/paint", "it has no host"),
        ("ftp://paint.example", "neither http nor https"),
        ("http://me@paint.example", "a user has no place there"),
        ("http://paint.example/brush", "nothing may follow"),
        ("http://paint.example/?brush", "nothing may follow"),
    ] {
        let channel = || {
            let builder = Channel::builder("http://127.0.0.1:1");
            builder.origin(Uri::from_static(origin))
        };
        let error = channel().connect().await.expect_err("it is none");
        let message = error.to_string();
        assert!(
            message.contains(origin) && message.contains(wrong),
            "{message}"
        );
        let status = call(&channel().connect_lazy(), &ECHO, Request::new(vec![])).await;
        let status = status.expect_err("it is none");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(wrong), "{status:?}");
    }
}

#[tokio::test]
async fn sockets_may_be_made_by_others() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = Server::builder().add_service(Lab).bind_http(listener);
    let server = server.expect("it listens");
    assert_eq!(
        server.endpoints()[0].to_string(),
        format!("http://{address}")
    );
    let _handle = server.start();

    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let asks = Arc::clone(&asked);
    // Nobody knows that name but the connector, which goes through a pipe within the process.
    let channel = Channel::builder("http://lab.invalid:7").http2_connector(move |endpoint| {
        asks.lock().expect("no panic").push(endpoint.to_string());
        async move {
            let mut socket = tokio::net::TcpStream::connect(address).await?;
            let (ours, mut theirs) = tokio::io::duplex(1 << 10);
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut theirs, &mut socket).await;
            });
            Ok(ours)
        }
    });
    let channel = channel.connect().await.expect("the server is there");
    let answer = call(&channel, &ECHO, Request::new(vec![7; 100_000])).await;
    assert_eq!(answer.expect("it answers").into_inner(), vec![7; 100_000]);
    assert_eq!(*asked.lock().expect("no panic"), ["http://lab.invalid:7"]);

    let refusing = Channel::builder("http://lab.invalid:7").http2_connector(|_| async {
        Err::<tokio::net::TcpStream, _>(std::io::Error::other("no way"))
    });
    let error = refusing.connect().await.expect_err("there is no way");
    let source = error.source().expect("it says why").to_string();
    assert!(source.contains("no way"), "{source}");
    let stuck = Channel::builder("http://lab.invalid:7")
        .http2_connect_timeout(Duration::from_millis(1))
        .http2_connector(|_| std::future::pending::<std::io::Result<tokio::net::TcpStream>>());
    let error = stuck.connect().await.expect_err("it takes too long");
    assert!(
        error.to_string().contains("did not answer within"),
        "{error}"
    );
}

/// A request as it came, and how to answer it.
type Came = (Vec<u8>, h2::server::SendResponse<bytes::Bytes>);

/// A server that does with each request what it is told, connection after connection. Returns its endpoint.
async fn serve_by<F>(mut answer: impl FnMut(usize, Came) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((socket, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(socket).await.expect("it is HTTP/2");
            while let Some(Ok((request, respond))) = connection.accept().await {
                let mut body = request.into_body();
                let mut message = Vec::new();
                let whole = async {
                    while let Some(data) = body.data().await {
                        let data = data.expect("it comes whole");
                        let _ = body.flow_control().release_capacity(data.len());
                        message.extend_from_slice(&data);
                    }
                };
                // The frames of the body come while the connection is looked at.
                tokio::select! {
                    biased;
                    () = whole => {}
                    _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => {}
                }
                count += 1;
                answer(count, (message, respond)).await;
            }
        }
    });
    format!("http://{address}")
}

/// Sends a message back as it came.
fn echo((message, mut respond): Came) {
    let response = http::Response::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(())
        .expect("it is one");
    let mut body = respond.send_response(response, false).expect("it waits");
    body.send_data(message.into(), false).expect("it waits");
    let trailers = HeaderMap::from_iter([(grpc_headers::STATUS, HeaderValue::from_static("0"))]);
    body.send_trailers(trailers).expect("it waits");
}

#[tokio::test]
async fn a_request_that_was_refused_is_sent_once_more() {
    let endpoint = serve_by(|count, (message, mut respond)| async move {
        match count {
            2 => echo((message, respond)),
            _ => respond.send_reset(h2::Reason::REFUSED_STREAM),
        }
    })
    .await;
    let channel = Channel::builder(endpoint.as_str()).connect_lazy();
    // The method is not idempotent; but the server has not looked at it.
    let answer = call(&channel, &ECHO, Request::new(vec![7; 10_000])).await;
    assert_eq!(
        answer.expect("it is tried again").into_inner(),
        vec![7; 10_000]
    );
    let status = call(&channel, &ECHO, Request::new(vec![7])).await;
    let status = status.expect_err("it is refused twice");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.is_unsent(), "rules may have it tried again");
}

#[tokio::test]
async fn what_is_too_long_to_be_kept_is_not_sent_again() {
    let endpoint = serve_by(|_, (_, mut respond)| async move {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    })
    .await;
    let channel = Channel::builder(endpoint.as_str()).connect_lazy();
    let request = Request::new(vec![7; sent::KEPT_MAX]);
    let status = call(&channel, &ECHO, request).await;
    assert_eq!(status.expect_err("it is refused").code(), Code::Unavailable);
}

/// Listens for one connection, waits on it for the end of a request, or for its beginning only, and says that it goes and has looked at
/// nothing. Further connections are served by [`echo`]. Tells how many requests those had.
async fn serve_and_go(wait_for_end: bool) -> (String, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HEADERS: u8 = 1;
    const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PREFACE_LEN: usize = 24;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let served = Arc::default();
    let counts: Arc<AtomicUsize> = Arc::clone(&served);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("somebody connects");
        let mut preface = [0; PREFACE_LEN];
        socket.read_exact(&mut preface).await.expect("it comes");
        socket.write_all(&NO_SETTINGS).await.expect("it is read");
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.expect("it comes");
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            socket.read_exact(&mut payload).await.expect("it comes");
            let ends = head[4] & 1 != 0 && head[3] <= HEADERS;
            if ends || !wait_for_end && head[3] == HEADERS {
                break;
            }
        }
        socket.write_all(&GO_AWAY).await.expect("it is read");
        while let Ok((socket, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(socket).await.expect("it is HTTP/2");
            while let Some(Ok((request, respond))) = connection.accept().await {
                counts.fetch_add(1, Ordering::Relaxed);
                let mut body = request.into_body();
                let message = tokio::select! {
                    biased;
                    message = body.data() => message.expect("there is one").expect("it comes"),
                    _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => break,
                };
                echo((message.to_vec(), respond));
            }
        }
    });
    (format!("http://{address}"), served)
}

#[tokio::test]
async fn a_call_that_crosses_the_servers_goodbye_is_made_over_the_next_connection() {
    let (endpoint, served) = serve_and_go(true).await;
    let channel = Channel::builder(endpoint.as_str()).connect_lazy();
    let answer = call(&channel, &ECHO, Request::new(vec![7; 100])).await;
    assert_eq!(answer.expect("it is made again").into_inner(), [7; 100]);
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

/// It may have been begun in that very moment, and then the server may look at it all the same.
#[tokio::test]
async fn a_stream_that_crosses_the_servers_goodbye_before_its_first_message_is_not_begun_again() {
    const TALK: Method = Method::bidi_streaming("tests.Lab", "Talk", "/tests.Lab/Talk");
    let (endpoint, served) = serve_and_go(false).await;
    let caller = Caller::new(Channel::builder(endpoint.as_str()).connect_lazy());
    let (_silent, requests) = crate::Sender::<Vec<u8>>::for_requests();
    let begun = caller.bidi_streaming::<_, _, Vec<u8>>(&TALK, Request::new(requests));
    let begun = tokio::time::timeout(LONG, begun).await;
    let status = begun
        .expect("it does not hang")
        .expect_err("the server goes");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(!status.is_unsent());
    assert_eq!(served.load(Ordering::Relaxed), 0);
}
