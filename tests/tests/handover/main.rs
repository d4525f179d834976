//! A server is replaced by its successor, over and over, while clients keep calling: no call fails.

mod activation;
mod passed_on;

use std::{
    io::{BufRead, BufReader, Lines, Write, stdin, stdout},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use shmipc_rpc::{Channel, Request, Sender, Status, blocking, client::Caller};
use tests::{
    LONG,
    echo::Place,
    in_time,
    service::{ANSWER, COLLECT, CONVERSE, LIST, Named, Packet, request},
};
use tokio::task::JoinSet;

/// How often the server is replaced.
const ROUNDS: usize = 100;

const CLIENTS: usize = 3;

/// Channels of each client, and tasks that call over each of them.
const CHANNELS: usize = 2;
const CALLERS: usize = 8;

/// Messages of each stream.
const ITEMS: usize = 20;

/// Messages of each conversation, every one of which waits for the other side.
const TURNS: usize = 4;

const ROLE: &str = "SHMIPC_HANDOVER_ROLE";
const SOCKET: &str = "SHMIPC_HANDOVER_SOCKET";

/// A second process that runs this same program, until its standard input ends; killed when it is dropped.
struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(role: &str, socket: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    /// Reads what it says until it says something that begins with `word`, and returns the rest of that.
    fn says(&mut self, word: &str) -> String {
        for line in &mut self.lines {
            let line = line.unwrap();
            assert!(!line.starts_with("failed"), "{line}");
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("it ended without saying {word:?}");
    }

    /// Tells it to come to an end.
    fn stop(&mut self) {
        drop(self.stdin.take());
    }

    fn ends(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It fails if it has ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes that call whoever serves.
struct Clients(Vec<Other>);

impl Clients {
    /// Starts them, and waits until the first server serves them.
    fn start(place: &Place) -> Self {
        // One of them has a thread that calls, besides its tasks.
        let role = |number| match number {
            0 => "client thread",
            _ => "client",
        };
        let start = |number| Other::start(role(number), &place.path());
        let mut clients = Self((0..CLIENTS).map(start).collect());
        clients.are_served_by(0);
        clients
    }

    /// Waits until the server of a round serves each of them, as the next one.
    fn are_served_by(&mut self, round: usize) {
        for client in &mut self.0 {
            assert_eq!(client.says("served by"), round.to_string());
        }
    }

    /// Brings them to an end. Each must have called more often than once in a round over each of its channels.
    fn stop(self, rounds: usize) {
        for mut client in self.0 {
            client.stop();
            let calls: usize = client.says("calls").parse().unwrap();
            assert!(rounds * CHANNELS < calls, "{calls} calls");
            client.ends();
        }
    }
}

/// What the other processes do. Nothing, in the first.
#[test]
fn other_process() {
    let (Ok(role), Some(socket)) = (std::env::var(ROLE), std::env::var_os(SOCKET)) else {
        return;
    };
    let socket = PathBuf::from(socket);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match role.split_once(' ') {
        Some(("server", name)) => runtime.block_on(server(&socket, name)),
        Some(("heir", name)) => runtime.block_on(passed_on::heir(&socket, name)),
        Some(("activated", "tasks")) => runtime.block_on(activation::tasks()),
        Some(("activated", "threads")) => activation::threads(),
        Some(("client", "thread")) => runtime.block_on(client(&socket, true)),
        None if role == "client" => runtime.block_on(client(&socket, false)),
        _ => panic!("nobody plays {role}"),
    }
}

fn say(line: &str) {
    // On a line of its own: the harness begins one with the name of the test.
    let mut out = stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

async fn told_to_stop() {
    let ended = tokio::task::spawn_blocking(|| stdin().lines().for_each(drop));
    ended.await.unwrap();
}

async fn server(socket: &Path, name: &str) {
    let server = Named::server(name)
        .take_over(true)
        .start(socket)
        .await
        .unwrap();
    say("ready");
    told_to_stop().await;
    let report = server.drain(LONG).await;
    say(&format!("cut off {}", report.cut_off.len()));
}

/// Who has answered, and how often.
#[derive(Default)]
struct Tally {
    latest: Mutex<String>,
    calls: AtomicU64,
    stops: AtomicBool,
}

impl Tally {
    /// Says the name of whoever answers for the first time.
    fn answered(&self, name: String) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut latest = self.latest.lock().unwrap();
        let number = |name: &str| name.parse::<usize>().ok();
        if number(&latest) < number(&name) {
            say(&format!("served by {name}"));
            *latest = name;
        }
    }
}

async fn client(socket: &Path, with_a_thread: bool) {
    let tally = Arc::new(Tally::default());
    let mut callers = JoinSet::new();
    for _ in 0..CHANNELS {
        let caller = Caller::new(Channel::connect(socket).await.unwrap());
        for task in 0..CALLERS {
            let (caller, tally) = (caller.clone(), Arc::clone(&tally));
            callers.spawn(async move {
                let mut turn = 0;
                while !tally.stops.load(Ordering::Relaxed) {
                    match in_time("a call", call(&caller, task, turn)).await {
                        Ok(name) => tally.answered(name),
                        Err(status) => say(&format!("failed: {status:?}")),
                    }
                    turn += 1;
                }
            });
        }
    }
    let address = socket.to_owned();
    let counted = Arc::clone(&tally);
    let waiting = tokio::task::spawn_blocking(move || {
        if with_a_thread {
            client_that_blocks(&address, &counted);
        }
    });
    told_to_stop().await;
    tally.stops.store(true, Ordering::Relaxed);
    callers.join_all().await;
    waiting.await.unwrap();
    say(&format!("calls {}", tally.calls.load(Ordering::Relaxed)));
}

/// Makes a call of the kind that a task is for, and returns who has answered. Most calls are short; some take memory, more than
/// fits into a record, and some are streams, of each kind in turn.
async fn call(caller: &Caller, task: usize, turn: usize) -> Result<String, Status> {
    let len = match (task, turn % 3) {
        (1, 0) => return list(caller).await,
        (1, 1) => return collect(caller).await,
        (1, _) => return converse(caller).await,
        (0, _) => 100_000,
        _ => 64,
    };
    let answer = caller.unary::<_, Packet>(&ANSWER, request(vec![7; len]));
    Ok(answer.await?.into_inner().name)
}

/// Receives a stream of packets, all of which one server must have made.
async fn list(caller: &Caller) -> Result<String, Status> {
    let call = caller.server_streaming::<_, Packet>(&LIST, request(vec![7; ITEMS]));
    let mut packets = call.await?.into_inner();
    let mut names = Vec::new();
    while let Some(packet) = packets.message().await? {
        names.push(packet.name);
    }
    one_of(&names, ITEMS)
}

/// Sends a stream of packets, all of which must have come.
async fn collect(caller: &Caller) -> Result<String, Status> {
    let packets = tokio_stream::iter(packets(ITEMS));
    let call = caller.client_streaming::<_, _, Packet>(&COLLECT, Request::new(packets));
    complete(call.await?.into_inner())
}

/// Sends packets, each of which is answered before the next.
async fn converse(caller: &Caller) -> Result<String, Status> {
    let (mut sender, requests) = Sender::for_requests();
    let call = caller.bidi_streaming::<_, Packet, Packet>(&CONVERSE, Request::new(requests));
    let mut answers = call.await?.into_inner();
    let mut names = Vec::new();
    for packet in packets(TURNS) {
        sender.send(&packet).await?;
        let answer = answers.message().await?;
        names.extend(answer.map(|answer| answer.name));
    }
    sender.finish();
    names.extend(answers.message().await?.map(|answer| answer.name));
    one_of(&names, TURNS)
}

/// The packets of a stream of requests.
fn packets(count: usize) -> impl Iterator<Item = Packet> + Send + 'static {
    (0..count).map(|_| request(vec![7]).into_inner())
}

/// Returns who has made all packets of a stream, of which there are to be so many.
fn one_of(names: &[String], count: usize) -> Result<String, Status> {
    let name = names.first().cloned().unwrap_or_default();
    if names.len() != count || names.iter().any(|other| *other != name) {
        return Err(Status::data_loss(format!("a stream of {names:?}")));
    }
    Ok(name)
}

/// Returns who has collected all packets.
fn complete(answer: Packet) -> Result<String, Status> {
    match answer.payload.len() {
        ITEMS => Ok(answer.name),
        len => Err(Status::data_loss(format!("{len} packets of {ITEMS}"))),
    }
}

/// Makes calls of all kinds, one after the other, from this thread.
fn client_that_blocks(socket: &Path, tally: &Tally) {
    let caller = blocking::Caller::new(blocking::Channel::connect(socket).unwrap());
    let call = |turn: usize| match turn % 4 {
        0 => {
            let answer = caller.unary::<_, Packet>(&ANSWER, timed(request(vec![7; 64])));
            answer.map(|answer| answer.into_inner().name)
        }
        1 => {
            let list = timed(request(vec![7; ITEMS]));
            let packets = caller.server_streaming::<_, Packet>(&LIST, list)?;
            let names = packets.into_inner().map(|packet| Ok(packet?.name));
            one_of(&names.collect::<Result<Vec<_>, Status>>()?, ITEMS)
        }
        2 => {
            let packets = timed(Request::new(packets(ITEMS)));
            let answer = caller.client_streaming::<_, _, Packet>(&COLLECT, packets);
            complete(answer?.into_inner())
        }
        _ => {
            let request = timed(Request::new(()));
            let mut duplex = caller.bidi_streaming::<Packet, Packet>(&CONVERSE, request)?;
            let mut names = Vec::new();
            for packet in packets(TURNS) {
                duplex.send(&packet)?;
                names.extend(duplex.message()?.map(|answer| answer.name));
            }
            duplex.finish()?;
            names.extend(duplex.message()?.map(|answer| answer.name));
            one_of(&names, TURNS)
        }
    };
    let mut turn = 0;
    while !tally.stops.load(Ordering::Relaxed) {
        match call(turn) {
            Ok(name) => tally.answered(name),
            Err(status) => say(&format!("failed: {status:?}")),
        }
        turn += 1;
    }
    assert!(4 <= turn, "a call of each kind");
}

/// No thread is to wait for ever.
fn timed<T>(mut request: Request<T>) -> Request<T> {
    request.set_timeout(LONG);
    request
}

#[test]
fn no_call_fails_while_processes_succeed_each_other() {
    let place = Place::new();
    let start = |round: usize| {
        let mut server = Other::start(&format!("server {round}"), &place.path());
        server.says("ready");
        server
    };
    let mut current = start(0);
    let mut clients = Clients::start(&place);
    for round in 1..=ROUNDS {
        let successor = start(round);
        let mut predecessor = std::mem::replace(&mut current, successor);
        predecessor.stop();
        // Whatever was in flight has gone to one of the two.
        clients.are_served_by(round);
        assert_eq!(predecessor.says("cut off"), "0");
        predecessor.ends();
        assert_eq!(place.files(), 1, "nothing but the socket");
    }
    clients.stop(ROUNDS);
    current.stop();
    assert_eq!(current.says("cut off"), "0");
    current.ends();
    assert_eq!(place.files(), 0, "the last one takes its socket along");
}
