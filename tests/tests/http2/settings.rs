//! Settings of HTTP/2 and TCP take effect: on the wire, and for calls.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shmipc_rpc::{
    Channel, Code, Request, Server, Status,
    http::HeaderValue,
    http2::{Settings, SettingsBuilder},
};
use tests::{in_time, until};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::{
    Running,
    frames::{
        DATA, END_STREAM, GOAWAY, HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE,
        MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, Opening, PING, WINDOW_UPDATE,
        Wire,
    },
    probe,
    protos::ours::{Question, probe_client::ProbeClient},
    unix,
};

const WINDOW_MAX: u32 = (1 << 31) - 1;

/// A message, as it is framed.
const QUESTION: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, b'h', b'i'];

fn settings(set: impl FnOnce(SettingsBuilder) -> SettingsBuilder) -> Settings {
    set(Settings::builder())
        .build()
        .expect("it is within range")
}

async fn serve(configure: impl FnOnce(Server) -> Server) -> (Running, SocketAddr) {
    let (server, hanging) = probe();
    let server = configure(server).bind("http://127.0.0.1:0").await;
    let running = Running::start(server.expect("a port is free"), hanging);
    let address = running.endpoints[0].to_string().replace("http://", "");
    (running, address.parse().expect("it is an address"))
}

/// Connects a channel to nobody but those who listen.
async fn channel(address: SocketAddr, settings: Settings) -> Channel {
    let channel = Channel::builder(format!("http://{address}")).http2(settings);
    let channel = in_time("connecting", channel.connect()).await;
    channel.expect("the server is there")
}

fn hanging() -> Question {
    Question {
        hang: true,
        ..Question::default()
    }
}

/// Returns what a server says of itself.
async fn said_by_server(configure: impl FnOnce(Server) -> Server) -> Opening {
    let (running, address) = serve(configure).await;
    let socket = TcpStream::connect(address).await.expect("it listens");
    let mut wire = Wire::client(socket, &[]).await;
    let opening = in_time("the server's settings", wire.opening()).await;
    drop(wire);
    running.ended().await;
    opening
}

/// Returns what a channel says of itself to each of several servers.
async fn said_by_channel(settings: Option<Settings>) -> Vec<Opening> {
    let mut listeners = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        listeners.push(listener.expect("a port is free"));
    }
    let endpoints = listeners.iter().map(|listener| {
        let address = listener.local_addr().expect("it is bound");
        format!("http://{address}")
    });
    let mut builder = Channel::balanced(endpoints);
    if let Some(settings) = settings {
        builder = builder.http2(settings);
    }
    let _channel = in_time("connecting", builder.connect()).await;
    let mut openings = Vec::new();
    for listener in listeners {
        let (socket, _) = in_time("a connection", listener.accept())
            .await
            .expect("it connects");
        let mut wire = Wire::server(socket, &[]).await;
        openings.push(in_time("the channel's settings", wire.opening()).await);
    }
    openings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_its_clients_what_was_set() {
    let opening = said_by_server(|server| server).await;
    let usual = BTreeMap::from([
        (MAX_CONCURRENT_STREAMS, 1_024),
        (INITIAL_WINDOW_SIZE, 1 << 20),
        (MAX_FRAME_SIZE, 16_384),
        (MAX_HEADER_LIST_SIZE, 65_536),
    ]);
    assert_eq!(opening.settings, usual);
    assert_eq!(opening.connection_window, 1 << 20);

    let own = settings(|settings| {
        settings
            .initial_stream_window_size(100_001)
            .initial_connection_window_size(WINDOW_MAX)
            .max_frame_size(16_777_215)
            .max_concurrent_streams(3)
            .max_header_list_size(4_097)
            .header_table_size(0)
    });
    // What is said of HTTP/2 goes before what is said of sessions and connections.
    let opening = said_by_server(|server| server.concurrent_calls_per_session(9).http2(own)).await;
    let set = BTreeMap::from([
        (HEADER_TABLE_SIZE, 0),
        (MAX_CONCURRENT_STREAMS, 3),
        (INITIAL_WINDOW_SIZE, 100_001),
        (MAX_FRAME_SIZE, 16_777_215),
        (MAX_HEADER_LIST_SIZE, 4_097),
    ]);
    assert_eq!(opening.settings, set);
    assert_eq!(opening.connection_window, WINDOW_MAX);

    let adaptive = settings(|settings| settings.adaptive_window(true));
    let opening =
        said_by_server(|server| server.concurrent_calls_per_session(9).http2(adaptive)).await;
    assert_eq!(opening.settings[&MAX_CONCURRENT_STREAMS], 9);
    assert_eq!(opening.settings[&INITIAL_WINDOW_SIZE], 65_535);
    assert_eq!(opening.connection_window, 65_535);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_tells_each_of_its_servers_what_was_set() {
    for opening in said_by_channel(None).await {
        assert_eq!(opening.settings[&INITIAL_WINDOW_SIZE], 2 << 20);
        assert_eq!(opening.settings[&MAX_FRAME_SIZE], 16_384);
        assert_eq!(opening.settings[&MAX_HEADER_LIST_SIZE], 65_536);
        assert!(!opening.settings.contains_key(&HEADER_TABLE_SIZE));
        assert_eq!(opening.connection_window, 5 << 20);
    }
    let own = settings(|settings| {
        settings
            .initial_stream_window_size(WINDOW_MAX)
            .initial_connection_window_size(65_537)
            .max_frame_size(1 << 20)
            .max_header_list_size(u32::MAX)
            .header_table_size(8_192)
    });
    for opening in said_by_channel(Some(own)).await {
        assert_eq!(opening.settings[&INITIAL_WINDOW_SIZE], WINDOW_MAX);
        assert_eq!(opening.settings[&MAX_FRAME_SIZE], 1 << 20);
        assert_eq!(opening.settings[&MAX_HEADER_LIST_SIZE], u32::MAX);
        assert_eq!(opening.settings[&HEADER_TABLE_SIZE], 8_192);
    }
    let window = settings(|settings| settings.initial_connection_window_size(3 << 20));
    for opening in said_by_channel(Some(window)).await {
        assert_eq!(opening.connection_window, 3 << 20);
    }
    let adaptive = settings(|settings| settings.adaptive_window(true));
    for opening in said_by_channel(Some(adaptive)).await {
        assert_eq!(opening.settings[&INITIAL_WINDOW_SIZE], 65_535);
        assert_eq!(opening.connection_window, 65_535);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_with_the_least_and_the_most_of_everything() {
    let least = settings(|settings| {
        settings
            .initial_stream_window_size(1)
            .initial_connection_window_size(65_535)
            .max_frame_size(16_384)
            .max_concurrent_streams(1)
            .header_table_size(0)
            .max_send_buffer_size(1)
            .tcp_nodelay(false)
    });
    let most = settings(|settings| {
        settings
            .initial_stream_window_size(WINDOW_MAX)
            .initial_connection_window_size(WINDOW_MAX)
            .max_frame_size(16_777_215)
            .max_concurrent_streams(u32::MAX)
            .max_header_list_size(u32::MAX)
            .max_send_buffer_size(u32::MAX)
    });
    let adaptive = settings(|settings| settings.adaptive_window(true));
    for (ours, len) in [(least, 200), (most, 1 << 20), (adaptive, 1 << 20)] {
        let (running, address) = serve(|server| server.http2(ours)).await;
        let client = ProbeClient::new(channel(address, ours).await);
        let payload: bytes::Bytes = vec![7; len].into();
        let question = Question {
            payload: payload.clone(),
            ..Question::default()
        };
        let answer = in_time("a call", client.unary(question)).await;
        let answer = answer.expect("it answers").into_inner();
        assert_eq!(answer.payload, payload);
        drop(client);
        running.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_those_that_a_connection_may_have_wait() {
    let one = settings(|settings| settings.max_concurrent_streams(1));
    let (running, address) = serve(|server| server.http2(one)).await;
    let client = ProbeClient::new(channel(address, Settings::default()).await);
    // Afterwards the client knows what it may do.
    let answer = in_time("a call", client.unary(Question::default())).await;
    answer.expect("it answers");

    let first = tokio::spawn({
        let client = client.clone();
        async move { client.unary(hanging()).await }
    });
    until("the first hangs", || running.hanging.count() == 1).await;
    let second = tokio::spawn(async move { client.unary(Question::default()).await });
    // Others are served meanwhile, over connections of their own.
    let other = ProbeClient::new(channel(address, Settings::default()).await);
    for _ in 0..50 {
        let answer = in_time("a call", other.unary(Question::default())).await;
        answer.expect("it answers");
    }
    assert!(!second.is_finished(), "it goes beside the first");
    first.abort();
    let answer = in_time("the second call", second).await;
    answer.expect("no panic").expect("its turn has come");
    assert_eq!(running.hanging.count(), 0);
    drop(other);
    running.ended().await;
}

/// Asks with as much metadata, which is sent back.
async fn ask(client: &ProbeClient<Channel>, metadata_len: usize) -> Result<(), Status> {
    let value = HeaderValue::try_from("x".repeat(metadata_len)).expect("it is text");
    let mut request = Request::new(Question::default());
    request.metadata_mut().insert("x-probe", value);
    in_time("a call", client.unary(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_long_fail_the_call_alone() {
    let short = settings(|settings| settings.max_header_list_size(2 << 10));
    for (ours, theirs, wrong) in [
        (Settings::default(), short, "the HTTP status 431"),
        (short, Settings::default(), "`max_header_list_size`"),
    ] {
        let (running, address) = serve(|server| server.http2(theirs)).await;
        let client = ProbeClient::new(channel(address, ours).await);
        let other = client.clone();
        let other = tokio::spawn(async move { other.unary(hanging()).await });
        until("it hangs", || running.hanging.count() == 1).await;
        ask(&client, 1 << 10).await.expect("that is not too long");
        let status = ask(&client, 4 << 10).await.expect_err("that is too long");
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        assert!(status.message().contains(wrong), "{status:?}");
        ask(&client, 1 << 10).await.expect("that is not too long");
        assert!(!other.is_finished(), "the connection was lost");
        other.abort();
        drop(client);
        running.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_trailers_that_are_too_long_the_rest_is_lost() {
    let short = settings(|settings| settings.max_header_list_size(2 << 10));
    for (ours, details_len) in [(short, 0), (Settings::default(), 3 << 10)] {
        let (running, address) = serve(|server| server).await;
        let client = ProbeClient::new(channel(address, ours).await);
        let fails = Question {
            payload: vec![7; 3 << 10].into(),
            answers: 1,
            code: Code::Aborted as u32,
            ..Question::default()
        };
        let answers = in_time("a call", client.download(fails)).await;
        let mut answers = answers.expect("it begins well").into_inner();
        let answer = in_time("an answer", answers.message()).await;
        answer.expect("it comes before the failure");
        let ended = in_time("the end", answers.message()).await;
        let status = ended.expect_err("it fails");
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
        assert_eq!(status.details().len(), details_len);
        drop((client, answers));
        running.ended().await;
    }
}

/// Speaks to a server as a client that sends a message, and tells whether the server asks how long the way is.
async fn is_probed(address: SocketAddr) -> bool {
    let socket = TcpStream::connect(address).await.expect("it listens");
    let mut wire = Wire::client(socket, &[]).await;
    wire.opening().await;
    wire.open("/probe.v1.Probe/Upload").await;
    wire.send(DATA, END_STREAM, 1, QUESTION).await;
    let mut is_probed = false;
    loop {
        let frame = wire.receive().await;
        is_probed |= frame.kind == PING && !frame.is_ack();
        if (frame.kind, frame.stream) == (HEADERS, 1) && frame.flags & END_STREAM != 0 {
            return is_probed;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_adapts_to_the_way_if_it_is_to() {
    for adaptive in [false, true] {
        let adapts = settings(|settings| settings.adaptive_window(adaptive));
        let (running, address) = serve(|server| server.http2(adapts)).await;
        let is_probed = in_time("the answer", is_probed(address)).await;
        assert_eq!(is_probed, adaptive);
        running.ended().await;
    }
}

/// Counts the bytes that a call takes from its source while the server reads nothing, over a socket that takes few.
struct Unread {
    taken: Arc<AtomicUsize>,
    _call: tokio::task::JoinHandle<()>,
    _wire: Wire<tokio::net::UnixStream>,
    _directory: tempfile::TempDir,
}

impl Unread {
    async fn start(settings: Settings) -> Self {
        const LEN: usize = 8 << 10;

        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("raw.sock");
        let listener = UnixListener::bind(&path).expect("the path is free");
        let channel = Channel::builder(unix(&path)).http2(settings);
        let channel = in_time("connecting", channel.connect()).await;
        let (socket, _) = listener.accept().await.expect("it connects");
        let mut wire = Wire::server(socket, &[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]).await;
        let more = (WINDOW_MAX - 65_535).to_be_bytes();
        wire.send(WINDOW_UPDATE, 0, 0, &more).await;
        in_time("the channel's settings", wire.opening()).await;

        let taken = Arc::new(AtomicUsize::new(0));
        let takes = Arc::clone(&taken);
        let questions = std::iter::repeat_with(move || {
            takes.fetch_add(LEN, Ordering::Relaxed);
            Question {
                payload: vec![7; LEN].into(),
                ..Question::default()
            }
        });
        let client = ProbeClient::new(channel.expect("the server is there"));
        let call = tokio::spawn(async move {
            let call = client.upload(tokio_stream::iter(questions));
            call.await.expect_err("nobody answers");
        });
        Self {
            taken,
            _call: call,
            _wire: wire,
            _directory: directory,
        }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_of_a_call_is_taken_up_as_was_set() {
    let size = |bytes| settings(|settings| settings.max_send_buffer_size(bytes));
    let little = Unread::start(size(64 << 10)).await;
    // The socket itself takes some 200 KiB.
    let much = Unread::start(size(16 << 20)).await;
    until("much is taken up", || 12 << 20 <= much.taken()).await;
    assert!(little.taken() <= 1 << 20, "{}", little.taken());
    let usual = Unread::start(Settings::default()).await;
    until("some is taken up", || 1 << 20 <= usual.taken()).await;
    assert!(little.taken() <= 1 << 20, "{}", little.taken());
}

/// Returns how long from now on the kernel is going to ask the peer of an idle connection, if it is.
fn keepalive_due(local: SocketAddr, remote: SocketAddr) -> Option<Duration> {
    /// The timer of a connection is the one for this.
    const KEEPALIVE: &str = "02";

    let name = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else {
            panic!("it is of version 4");
        };
        let ip = u32::from_ne_bytes(address.ip().octets());
        format!("{ip:08X}:{:04X}", address.port())
    };
    let table = fs::read_to_string("/proc/self/net/tcp").expect("the kernel tells");
    let connection = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1..3)? == [name(local), name(remote)];
        is_it.then(|| fields[5].to_owned())
    });
    let timer = connection.expect("it is connected");
    let (kind, ticks) = timer.split_once(':').expect("a timer and when");
    let ticks = u64::from_str_radix(ticks, 16).expect("it is a number");
    (kind == KEEPALIVE).then(|| Duration::from_millis(10 * ticks))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_asks_whether_the_peer_is_there_on_the_side_that_wants_it() {
    let asks = settings(|settings| settings.tcp_keepalive(Duration::from_secs(5_000)));
    for (ours, theirs) in [(asks, Settings::default()), (Settings::default(), asks)] {
        let (running, address) = serve(|server| server.http2(theirs)).await;
        // Somebody stands between them, so that it is known who is connected to whom.
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let between = listener.local_addr().expect("it is bound");
        let passed = tokio::spawn(async move {
            let (mut client, from) = listener.accept().await.expect("it connects");
            let mut server = TcpStream::connect(address).await.expect("it listens");
            let to = server.local_addr().expect("it is bound");
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
            (from, to)
        });
        let client = ProbeClient::new(channel(between, ours).await);
        let (from, to) = in_time("a connection", passed).await.expect("no panic");
        let answer = in_time("a call", client.unary(Question::default())).await;
        answer.expect("it answers");
        for (is_asked, local, remote) in
            [(ours == asks, from, between), (theirs == asks, address, to)]
        {
            // Meanwhile the timer may be the one for what was not acknowledged yet.
            until("the timer is set", || {
                let due = keepalive_due(local, remote);
                let is_near = |due: Duration| due.as_secs().abs_diff(5_000) < 100;
                due.is_some_and(is_near) == is_asked
            })
            .await;
        }
        drop(client);
        running.ended().await;
    }
}

/// Calls until a call that does not end is cut off, and tells how many others were answered meanwhile.
async fn calls_meanwhile(running: &Running, address: SocketAddr) -> usize {
    let client = ProbeClient::new(channel(address, Settings::default()).await);
    let mut answers = 0;
    let begun = running.hanging.count();
    // A call that does not end holds no connection up but its own.
    let hangs = tokio::spawn({
        let client = client.clone();
        async move { client.unary(hanging()).await }
    });
    until("it hangs", || begun < running.hanging.count()).await;
    while !hangs.is_finished() {
        match in_time("a call", client.unary(Question::default())).await {
            Ok(_) => answers += 1,
            // It was sent while the server said that it takes no more.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    let ended = hangs.await.expect("no panic");
    let status = ended.expect_err("it does not end by itself");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // That connection is closed, but there is another one.
    let again = async { while client.unary(Question::default()).await.is_err() {} };
    in_time("a call", again).await;
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_become_old_is_followed_by_another() {
    let ages = settings(|settings| {
        settings
            .max_connection_age(Duration::from_millis(20))
            .max_connection_age_grace(Duration::from_secs(1))
    });
    let (running, address) = serve(|server| server.http2(ages)).await;
    let answers = calls_meanwhile(&running, address).await;
    assert!(0 < answers, "none was made");
    until("its handler is dropped", || running.hanging.count() == 0).await;
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_connection_that_has_become_old_come_to_their_end() {
    let ages = settings(|settings| settings.max_connection_age(Duration::from_millis(50)));
    let (running, address) = serve(|server| server.http2(ages)).await;
    let socket = TcpStream::connect(address).await.expect("it listens");
    let mut wire = Wire::client(socket, &[]).await;
    wire.opening().await;
    wire.open("/probe.v1.Probe/Upload").await;
    let left = async { while wire.receive().await.kind != GOAWAY {} };
    in_time("the server wants no more", left).await;
    wire.send(DATA, END_STREAM, 1, QUESTION).await;
    let answered = async {
        loop {
            let frame = wire.receive().await;
            if (frame.kind, frame.stream) == (HEADERS, 1) && frame.flags & END_STREAM != 0 {
                break;
            }
        }
    };
    in_time("the answer", answered).await;
    in_time("it hangs up", wire.closed()).await;
    running.ended().await;
}
