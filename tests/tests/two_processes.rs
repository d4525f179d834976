//! Two processes, one of which is killed or stopped at the worst moment.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use shmipc_rpc::{Channel, Code, client::Caller};
use shmipc_transport::{
    Config, ConnectError, Flush, LinkKind, Listener, Session, SessionLost, Shmipc, ShmipcWakes,
    Stream, blocking,
};
use tests::{
    LONG, alone,
    echo::{self, Place, pattern},
    in_time,
    other::{self, Other, ready},
    process::{self, Holdings},
    service::{ANSWER, HANG, Named, Packet, ask, request},
    villain::{Role, Script},
};
use tokio::time::timeout;

/// How often processes are killed.
const ROUNDS: usize = 1000;

/// Long enough for a message to lie in a block.
const LONG_MESSAGE: usize = 100_000;

/// What the second process does. Nothing, in the first.
#[test]
fn other_process() {
    let Some((role, socket)) = other::role() else {
        return;
    };
    let (role, step) = role.split_once(' ').unwrap_or((&role, "0"));
    let step: usize = step.parse().unwrap();
    match role {
        "server" => run(server(&socket)),
        "service" => run(service(&socket)),
        "client" => run(client(&socket)),
        "last_words" => run(last_words(&socket, last_words_config(step))),
        "stalling_client" => {
            let stream = UnixStream::connect(&socket).unwrap();
            let _stalled = Script::new(Role::Client).stall(stream, step);
            ready();
            hang();
        }
        "stalling_server" => {
            let listener = UnixListener::bind(&socket).unwrap();
            ready();
            let _stalled = Script::new(Role::Server).stall(listener.accept().unwrap().0, step);
            hang();
        }
        unknown => panic!("nobody plays {unknown}"),
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future);
}

/// Starts the second process.
fn start(role: &str, socket: &Path) -> Other {
    Other::start("other_process", role, socket)
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Answers each message with a copy, in memory of its own.
async fn server(socket: &Path) {
    let listener = Listener::bind(socket).unwrap();
    ready();
    while let Ok(session) = listener.accept().await {
        tokio::spawn(async move {
            while let Ok(stream) = session.accept_stream().await {
                tokio::spawn(answer(stream));
            }
        });
    }
}

async fn service(socket: &Path) {
    let listener = Listener::bind(socket).unwrap();
    ready();
    let serving = Named::server("other").serve_with_listener(listener);
    serving.await.unwrap();
}

async fn answer(mut stream: Stream) {
    while let Ok(Some(message)) = stream.recv().await {
        let mut reply = stream.buffer(message.len());
        reply.put_slice(&echo::all(message));
        if stream.send(reply, Flush::More).await.is_err() {
            return;
        }
    }
    let _ = stream.finish().await;
}

/// Sends messages without end, and reads nothing.
async fn client(socket: &Path) {
    let session = Session::connect(socket).await.unwrap();
    ready();
    let mut stream = session.open_stream().unwrap();
    loop {
        echo::send(&mut stream, &pattern(LONG_MESSAGE, 0), Flush::More).await;
    }
}

/// Configurations for shmipc's own link with a region in which little fits.
const LAST_WORDS_CONFIGS: usize = 3;

fn last_words_config(number: usize) -> Config {
    let (link, wakes) = [
        (LinkKind::ShmipcV3, ShmipcWakes::Socket),
        (LinkKind::ShmipcV4, ShmipcWakes::Socket),
        (LinkKind::ShmipcV4, ShmipcWakes::EventFd),
    ][number];
    let shmipc = Shmipc::default()
        .buffer_len(64 << 10)
        .slices([(1024, 20), (4096, 80)])
        .queue_len(16)
        .wakes(wakes);
    let builder = Config::builder().links([link]).shmipc(shmipc);
    builder.stream_window(1000, 1 << 20).build().unwrap()
}

/// The lengths of messages of which the last fall back to the socket, whose buffer takes them all.
fn last_words_lens() -> impl Iterator<Item = usize> {
    [8192; 10].into_iter().chain([100; 60])
}

/// Sends some messages, and ends with its session.
async fn last_words(socket: &Path, config: Config) {
    ready();
    let session = Session::connect_with(socket, config).await.unwrap();
    let mut stream = session.open_stream().unwrap();
    for (seed, len) in last_words_lens().enumerate() {
        echo::send(&mut stream, &pattern(len, seed), Flush::More).await;
    }
    assert!(60 < session.stats().fallbacks_sent);
    session.close();
    std::process::exit(0);
}

fn shared_names() -> usize {
    std::fs::read_dir("/dev/shm").map_or(0, Iterator::count)
}

/// A long answer of the server's, as a lease.
async fn long_answer(session: &Session) -> (Stream, Bytes) {
    let mut stream = session.open_stream().unwrap();
    echo::send(&mut stream, &pattern(LONG_MESSAGE, 0), Flush::More).await;
    let mut reply = stream.recv().await.unwrap().unwrap();
    let lease = reply.copy_to_bytes(LONG_MESSAGE);
    assert_eq!(session.stats().leases_held, 1);
    (stream, lease)
}

#[test]
fn a_killed_server_is_missed_at_once_and_leaves_nothing() {
    alone(async {
        let names = shared_names();
        let (mut before, mut resident) = (None, 0);
        for round in 0..ROUNDS {
            let place = Place::new();
            let other = start("server", &place.path());
            let session = in_time("connecting", Session::connect(place.path()))
                .await
                .unwrap();
            let (mut stream, lease) = in_time("an answer", long_answer(&session)).await;
            // Every other one dies in the middle of a message.
            if round % 2 == 0 {
                echo::send(&mut stream, &pattern(LONG_MESSAGE, 1), Flush::More).await;
            }
            other.kill();
            let lost = in_time("the end", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
            assert!(
                lease == pattern(LONG_MESSAGE, 0),
                "what was received stays readable"
            );
            drop((stream, session));
            assert!(lease == pattern(LONG_MESSAGE, 0), "even without a session");
            drop(lease);
            assert!(place.files() <= 1, "nothing but the socket");
            drop(place);
            if round == 20 {
                before = Some(Holdings::count());
                resident = process::resident();
            }
        }
        before
            .expect("more than 20 rounds")
            .are_back("killed servers")
            .await;
        let growth = process::resident().saturating_sub(resident);
        assert!(growth < 4 << 20, "{growth} bytes after {ROUNDS} rounds");
        assert!(shared_names() <= names);
    });
}

#[test]
fn a_killed_client_is_missed_at_once_and_leaves_nothing() {
    alone(async {
        let (names, place) = (shared_names(), Place::new());
        let listener = Listener::bind(place.path()).unwrap();
        let (mut before, mut resident) = (None, 0);
        for round in 0..ROUNDS {
            let path = place.path();
            let starting = tokio::task::spawn_blocking(move || start("client", &path));
            let session = in_time("accepting", listener.accept()).await.unwrap();
            let other = starting.await.unwrap();
            let mut stream = in_time("a stream", session.accept_stream()).await.unwrap();
            let mut message = in_time("a message", stream.recv()).await.unwrap().unwrap();
            let lease = message.copy_to_bytes(LONG_MESSAGE);
            other.kill();
            let lost = in_time("the end", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
            // What had arrived is received first.
            while let Ok(Some(message)) = in_time("the rest", stream.recv()).await {
                assert_eq!(message.len(), LONG_MESSAGE);
            }
            drop((stream, session, message));
            assert!(
                lease == pattern(LONG_MESSAGE, 0),
                "what was received stays readable"
            );
            drop(lease);
            assert_eq!(place.files(), 1, "nothing but the socket");
            if round == 20 {
                before = Some(Holdings::count());
                resident = process::resident();
            }
        }
        before
            .expect("more than 20 rounds")
            .are_back("killed clients")
            .await;
        let growth = process::resident().saturating_sub(resident);
        assert!(growth < 4 << 20, "{growth} bytes after {ROUNDS} rounds");
        assert!(shared_names() <= names);
    });
}

#[test]
fn peers_killed_at_each_step_of_the_handshake() {
    alone(async {
        let place = Place::new();
        let acceptor = echo::listen(Listener::bind(place.path()).unwrap());
        let session = Session::connect(place.path()).await.unwrap();
        echo::call(&session, 64).await;
        let before = Holdings::count();
        for step in 0..=3 {
            let other = start(&format!("stalling_client {step}"), &place.path());
            echo::call(&session, 64).await;
            other.kill();
            before
                .are_back(&format!("a client killed after {step} messages"))
                .await;
        }
        for step in 0..3 {
            let place = Place::new();
            let other = start(&format!("stalling_server {step}"), &place.path());
            let connecting = tokio::spawn(Session::connect(place.path()));
            // As much of the handshake happens as can; when exactly it ends is nobody's matter.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            other.kill();
            let refused = in_time("the end", connecting).await.unwrap().unwrap_err();
            assert!(
                matches!(
                    refused,
                    ConnectError::Closed { .. } | ConnectError::NoServer { .. }
                ),
                "{refused:?}"
            );
            drop(place);
            before
                .are_back(&format!("a server killed after {step} messages"))
                .await;
        }
        acceptor.abort();
    });
}

#[test]
fn a_stopped_peer_holds_up_no_deadline() {
    alone(async {
        let place = Place::new();
        let other = start("server", &place.path());
        let session = in_time("connecting", Session::connect(place.path()))
            .await
            .unwrap();
        echo::call(&session, 64).await;
        other.stop();
        let mut stream = session.open_stream().unwrap();
        echo::send(&mut stream, b"anybody?", Flush::End).await;
        let waited = timeout(Duration::from_millis(200), stream.recv()).await;
        assert!(waited.is_err(), "a stopped process answers nothing");
        let waited = timeout(Duration::from_millis(200), async {
            loop {
                let mut stream = session.open_stream().unwrap();
                echo::send(&mut stream, &[0; 2048], Flush::End).await;
                drop(stream);
            }
        });
        assert!(waited.await.is_err(), "its ring is full at some time");
        assert!(!session.is_closed(), "stopped is not dead");
        other.go_on();
        let reply = in_time("an answer", stream.recv()).await.unwrap().unwrap();
        assert_eq!(echo::all(reply), b"anybody?");
        echo::call(&session, LONG_MESSAGE).await;
    });
}

#[test]
fn a_stopped_server_holds_up_no_call() {
    alone(async {
        let place = Place::new();
        let other = start("service", &place.path());
        let caller = Caller::new(Channel::connect(place.path()).await.unwrap());
        assert_eq!(ask(&caller, "awake?").await.unwrap(), "other");
        other.stop();
        for payload in [64, LONG_MESSAGE] {
            let mut asked = request(vec![0; payload]);
            asked.set_timeout(Duration::from_millis(200));
            let call = caller.unary::<_, Packet>(&ANSWER, asked);
            let status = in_time("a deadline", call).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        }
        other.go_on();
        assert_eq!(ask(&caller, "awake?").await.unwrap(), "other");
        assert_eq!(ask(&caller, vec![1; LONG_MESSAGE]).await.unwrap(), "other");
    });
}

#[test]
fn calls_in_flight_fail_with_their_server() {
    alone(async {
        let place = Place::new();
        let other = start("service", &place.path());
        let caller = Caller::new(Channel::connect(place.path()).await.unwrap());
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let caller = caller.clone();
                let hanging = async move { caller.unary::<_, Packet>(&HANG, request("")).await };
                tokio::spawn(hanging)
            })
            .collect();
        // Records are read in order, so what was sent before has come when this is answered.
        assert_eq!(ask(&caller, "there?").await.unwrap(), "other");
        other.kill();
        for call in calls {
            let status = in_time("the end", call).await.unwrap().unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        let _other = start("service", &place.path());
        let mut patient = request("again");
        patient.set_wait_for_ready(true);
        let answer = in_time("an answer", caller.unary::<_, Packet>(&ANSWER, patient)).await;
        assert_eq!(answer.unwrap().into_inner().name, "other");
    });
}

#[test]
fn hazard_h45_the_last_words_of_a_process_are_heard() {
    // Alone, but not on a runtime that hears them as they come.
    alone(async {
        let hearing = std::thread::spawn(|| {
            for number in 0..LAST_WORDS_CONFIGS {
                last_words_heard_by_a_task(number);
                last_words_heard_by_a_thread(number);
            }
        });
        hearing.join().unwrap();
    });
}

fn last_words_heard_by_a_task(number: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let place = Place::new();
    let listener = {
        let _entered = runtime.enter();
        Listener::bind_with(place.path(), last_words_config(number)).unwrap()
    };
    let other = start(&format!("last_words {number}"), &place.path());
    let accepting = async { in_time("accepting", listener.accept()).await.unwrap() };
    let session = runtime.block_on(accepting);
    // Nothing runs here before the other process is gone.
    other.ended();
    runtime.block_on(async {
        let mut stream = in_time("a stream", session.accept_stream()).await.unwrap();
        for (seed, len) in last_words_lens().enumerate() {
            let message = in_time("a message", stream.recv()).await;
            let message = message.unwrap_or_else(|error| panic!("{number}, {seed}: {error}"));
            assert!(echo::all(message.unwrap()) == pattern(len, seed));
        }
        let lost = in_time("the end", session.closed()).await;
        assert!(
            matches!(lost, SessionLost::ClosedByPeer),
            "{number}: {lost:?}"
        );
    });
}

fn last_words_heard_by_a_thread(number: usize) {
    let place = Place::new();
    let config = last_words_config(number);
    let listener = blocking::Listener::bind_with(place.path(), config).unwrap();
    let other = start(&format!("last_words {number}"), &place.path());
    let session = listener.accept().unwrap();
    other.ended();
    let deadline = Some(Instant::now() + LONG);
    let mut stream = session.accept_stream_until(deadline).unwrap().unwrap();
    for (seed, len) in last_words_lens().enumerate() {
        let message = stream.recv_until(deadline);
        let message = message.unwrap_or_else(|error| panic!("{number}, {seed}: {error}"));
        assert!(echo::all(message.unwrap()) == pattern(len, seed));
    }
    let lost = session.closed(deadline);
    assert!(
        matches!(lost, Some(SessionLost::ClosedByPeer)),
        "{number}: {lost:?}"
    );
}
