//! Peers that live, and do not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use shmipc_rpc::{Channel, Code, Config, Endpoint, Keepalive, Server, tls::ServerTls};
use tests::{LONG, in_time, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use crate::{
    Running, probe,
    protos::ours::{Question, probe_client::ProbeClient},
    tls,
};

/// Stands between a client and a server, until it is told to pass nothing on any more. It keeps both connections open all the same.
struct Between {
    endpoint: String,
    is_frozen: Arc<AtomicBool>,
    /// How often something has come from the server.
    heard: Arc<AtomicUsize>,
    /// Told when the server has hung up.
    server_left: Arc<Notify>,
}

impl Between {
    async fn start(server: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = server.to_string().replace("http://", "");
        let is_frozen = Arc::new(AtomicBool::new(false));
        let server_left = Arc::new(Notify::new());
        let (frozen, left) = (Arc::clone(&is_frozen), Arc::clone(&server_left));
        let heard = Arc::new(AtomicUsize::new(0));
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.expect("a client");
            let server = TcpStream::connect(server).await.expect("the server");
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let up = pass(from_client, to_server, &frozen, || {});
            let down = async {
                let hear = || {
                    hears.fetch_add(1, Ordering::Relaxed);
                };
                let ends = pass(from_server, to_client, &frozen, hear).await;
                left.notify_one();
                ends
            };
            // Whatever one side does, the other hears nothing of it.
            let _ends = tokio::join!(up, down);
            std::future::pending::<()>().await;
        });
        Self {
            endpoint: format!("http://{address}"),
            is_frozen,
            heard,
            server_left,
        }
    }

    fn freeze(&self) {
        self.is_frozen.store(true, Ordering::Relaxed);
    }
}

/// Passes on what comes, and swallows it once that is frozen. Returns when nothing comes any more.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_frozen: &AtomicBool,
    hear: impl Fn(),
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return (from, to),
            Ok(_) if is_frozen.load(Ordering::Relaxed) => {}
            Ok(len) => {
                hear();
                let _ = to.write_all(&buffer[..len]).await;
            }
        }
    }
}

/// Asks often, and gives a machine that is busy time to answer.
fn soon() -> Keepalive {
    Keepalive::new(Duration::from_millis(50), Duration::from_secs(5))
}

fn config() -> Config {
    let config = Config::builder().keepalive(soon()).build();
    config.expect("it makes sense")
}

fn hanging() -> Question {
    Question {
        hang: true,
        ..Question::default()
    }
}

async fn serve(configure: impl FnOnce(Server) -> Server) -> (Running, Between) {
    let (server, hanging) = probe();
    let server = configure(server).bind("http://127.0.0.1:0").await;
    let running = Running::start(server.expect("a port is free"), hanging);
    let between = Between::start(&running.endpoints[0]).await;
    (running, between)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_a_server_out_that_does_not_answer() {
    for by_config in [true, false] {
        let (running, between) = serve(|server| server).await;
        let channel = Channel::builder(between.endpoint.as_str());
        let channel = match by_config {
            true => channel.config(config()),
            false => channel.keepalive(soon()),
        };
        let channel = in_time("connecting", channel.connect()).await;
        let client = ProbeClient::new(channel.expect("the server is there"));
        let call = tokio::spawn(async move { client.unary(hanging()).await });
        until("it hangs", || running.hanging.count() == 1).await;
        // While the call hangs, a server says nothing but that it is there.
        let before = between.heard.load(Ordering::Relaxed);
        let heard = || between.heard.load(Ordering::Relaxed) - before;
        until("pings are answered", || 5 <= heard()).await;
        assert!(!call.is_finished(), "the server answers");
        between.freeze();
        let called = in_time("the call", call).await.expect("no panic");
        let status = called.expect_err("the server does not answer");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_finds_a_client_out_that_does_not_answer() {
    for by_config in [true, false] {
        let (running, between) = serve(|server| match by_config {
            true => server.config(config()),
            false => server.keepalive(soon()),
        })
        .await;
        let channel = in_time("connecting", Channel::connect(between.endpoint.as_str())).await;
        let client = ProbeClient::new(channel.expect("the server is there"));
        let call = tokio::spawn(async move { client.unary(hanging()).await });
        until("it hangs", || running.hanging.count() == 1).await;
        between.freeze();
        in_time("the server hangs up", between.server_left.notified()).await;
        until("the handler is dropped", || running.hanging.count() == 0).await;
        assert!(!call.is_finished(), "nobody has told the client");
        call.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_an_idle_client_that_does_not_answer() {
    let (running, between) = serve(|server| server.config(config())).await;
    let channel = in_time("connecting", Channel::connect(between.endpoint.as_str())).await;
    let client = ProbeClient::new(channel.expect("the server is there"));
    let answer = in_time("a call", client.unary(Question::default())).await;
    answer.expect("it answers");
    between.freeze();
    in_time("the server hangs up", between.server_left.notified()).await;
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_left() {
    let (certificate, key) = tls::self_signed();
    let tls = ServerTls::new(&certificate, &key).expect("they belong together");
    let config = |timeout| {
        let config = Config::builder().handshake_timeout(timeout).build();
        config.expect("it makes sense")
    };
    let (server, hanging) = probe();
    let server = server.tls(tls).config(config(Duration::from_millis(200)));
    let server = server.bind("http://127.0.0.1:0").await;
    let server = server
        .expect("a port is free")
        .bind("https://127.0.0.1:0")
        .await;
    let running = Running::start(server.expect("a port is free"), hanging);
    for endpoint in &running.endpoints {
        let endpoint = endpoint.to_string();
        let address = endpoint.rsplit('/').next().expect("it has an address");
        for said in ["", "PRI * HTTP/2.0"] {
            let mut socket = TcpStream::connect(address).await.expect("it listens");
            socket.write_all(said.as_bytes()).await.expect("it listens");
            // Whatever TLS may say about it before.
            let mut heard = Vec::new();
            let _ended = in_time("it hangs up", socket.read_to_end(&mut heard)).await;
        }
    }
    running.ended().await;

    // A server that drains does not wait for it.
    let (server, hanging) = probe();
    let server = server
        .config(config(2 * LONG))
        .bind("http://127.0.0.1:0")
        .await;
    let running = Running::start(server.expect("a port is free"), hanging);
    let address = running.endpoints[0].to_string().replace("http://", "");
    let _socket = TcpStream::connect(address).await.expect("it listens");
    running.ended().await;
}
