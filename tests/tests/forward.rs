//! Three processes pass large frames on, and each of them is killed in the middle of it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use shmipc_transport::{Config, Flush, Listener, RecvError, Session, SessionLost, Stream};
use tests::{alone, echo::Place, in_time, process::inode};

const ROLE: &str = "SHMIPC_TEST_ROLE";
const FROM: &str = "SHMIPC_TEST_FROM";
const TO: &str = "SHMIPC_TEST_TO";

const MIB: usize = 1 << 20;
/// Bytes of a frame that say which one it is, how long, and which file its sender has it in.
const HEAD: usize = 64;

/// How many frames of each length go through before and after somebody is killed.
const FRAMES: u64 = 12;

/// Room for five of the longest frames.
fn config() -> Config {
    let config = Config::builder().memory_max(32 << 20);
    config
        .memory_idle(Duration::from_millis(50))
        .build()
        .unwrap()
}

/// Another process that runs this same program; killed when it is dropped.
struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Other {
    /// Starts it, and waits until it is where it should be.
    fn start(role: &str, from: &Path, to: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, role)
            .env(FROM, from)
            .env(TO, to)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        let mut other = Self {
            child,
            lines,
            stdin,
        };
        other.says("ready");
        other
    }

    /// Waits for a line that ends so, and returns what comes before.
    fn says(&mut self, what: &str) -> String {
        let found = self
            .lines
            .find_map(|line| Some(line.unwrap().strip_suffix(what)?.to_owned()));
        found.unwrap_or_else(|| panic!("it ended before it said {what}"))
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It fails if it was killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the other processes do. Nothing, in the first.
#[test]
fn other_process() {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let (Ok(role), Some(from), Some(to)) = (std::env::var(ROLE), path(FROM), path(TO)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match &*role {
            "producer" => produce(&to).await,
            "filter" => filter(&from, &to).await,
            "consumer" => consume(&from).await,
            unknown => panic!("nobody plays {unknown}"),
        }
    });
}

/// Sends frames of both lengths, one after the other, to whoever connects, for as long as it is there.
async fn produce(to: &Path) {
    let listener = Listener::bind_with(to, config()).unwrap();
    println!("ready");
    loop {
        let session = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut stream = session.open_stream().unwrap();
            for number in 0.. {
                let Ok(mut block) = session.alloc(length(number)).await else {
                    return;
                };
                make(&mut block, number);
                if put(&mut stream, block.freeze()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Connects to a producer and to a consumer, again and again, and passes everything on.
async fn filter(from: &Path, to: &Path) {
    println!("ready");
    loop {
        let Ok(source) = Session::connect_with(from, config()).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let Ok(sink) = Session::connect_with(to, config()).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        sink.forward_from(&source);
        let (Ok(mut inward), Ok(mut outward)) = (source.accept_stream().await, sink.open_stream())
        else {
            continue;
        };
        let mut passed = 0;
        while let Ok(Some(frame)) = inward.recv().await {
            let frame = bytes(frame);
            passed += frame.len() as u64;
            if put(&mut outward, frame).await.is_err() {
                break;
            }
            let stats = sink.stats();
            if source.is_closed() {
                continue; // What is left over is no longer known to be its, and copied.
            }
            assert_eq!(stats.bytes_forwarded, stats.bytes_sent, "nothing is copied");
            assert!(stats.bytes_sent <= passed && stats.arena_used_max == 0);
        }
    }
}

/// Checks what arrives, and says so after each round of frames.
async fn consume(from: &Path) {
    let listener = Listener::bind_with(from, config()).unwrap();
    println!("ready");
    loop {
        let session = listener.accept().await.unwrap();
        let mut stream = session.accept_stream().await.unwrap();
        let first = bytes(stream.recv().await.unwrap().unwrap());
        let number = u64::from_ne_bytes(first[..8].try_into().unwrap());
        check(&first, number);
        drop(first);
        let rest = 2 * FRAMES - 1;
        if read(&session, &mut stream, rest, number + 1).await.is_ok() {
            println!("checked");
            let held = bytes(stream.recv().await.unwrap().unwrap());
            println!("held");
            session.closed().await;
            drop((stream, session));
            println!("lost");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            check(&held, number + rest + 1);
            println!("still right");
        }
    }
}

/// Frames of 1 MiB and of 4 MiB by turns.
fn length(number: u64) -> usize {
    if number.is_multiple_of(2) {
        MIB
    } else {
        4 * MIB
    }
}

/// Any sum in which a changed or misplaced byte shows.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Fills a frame: its number, the sum of its content, the file that it lies in, and content that depends on the number.
fn make(frame: &mut [u8], number: u64) {
    let file = inode(frame);
    let (head, content) = frame.split_at_mut(HEAD);
    for (i, word) in (number..).zip(content.chunks_exact_mut(8)) {
        word.copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
    }
    head.fill(b' ');
    head[..8].copy_from_slice(&number.to_ne_bytes());
    head[8..16].copy_from_slice(&sum(content).to_ne_bytes());
    head[16..16 + file.len()].copy_from_slice(file.as_bytes());
}

/// Checks that a frame is what its producer made, in the memory in which it was made.
fn check(frame: &[u8], number: u64) {
    check_content(frame, number);
    let made_in = std::str::from_utf8(&frame[16..HEAD]).unwrap().trim_end();
    assert_eq!(made_in, inode(frame), "frame {number} was copied");
}

/// Checks that a frame is what its producer made, wherever it lies.
fn check_content(frame: &[u8], number: u64) {
    assert_eq!(frame.len(), length(number), "frame {number}");
    let (head, content) = frame.split_at(HEAD);
    assert_eq!(head[..8], number.to_ne_bytes(), "in order");
    assert_eq!(
        head[8..16],
        sum(content).to_ne_bytes(),
        "frame {number} has changed"
    );
}

/// Receives and checks `frames` frames, the first of which has the number `first`.
async fn read(
    session: &Session,
    stream: &mut Stream,
    frames: u64,
    first: u64,
) -> Result<(), RecvError> {
    for number in first..first + frames {
        let frame = stream.recv().await?.expect("nobody ends a stream");
        let frame = bytes(frame);
        check(&frame, number);
    }
    let stats = session.stats();
    assert_eq!(stats.bytes_lent, stats.bytes_received);
    Ok(())
}

fn bytes(mut message: shmipc_transport::RecvBuf) -> Bytes {
    message.copy_to_bytes(message.len())
}

async fn put(stream: &mut Stream, frame: Bytes) -> Result<(), shmipc_transport::SendError> {
    let mut message = stream.buffer(frame.len());
    message.put(frame);
    stream.send(message, Flush::More).await
}

/// A consumer in this process, and the frames that it has got from a filter.
struct Consumer {
    listener: Listener,
}

impl Consumer {
    fn new(place: &Place) -> Self {
        Self {
            listener: Listener::bind_with(place.path(), config()).unwrap(),
        }
    }

    /// Waits for a filter, and checks a round of frames.
    async fn round(&self) -> (Session, Stream) {
        in_time("a round of frames", async {
            loop {
                let session = self.listener.accept().await.unwrap();
                // A filter that finds no producer goes away again.
                let Ok(mut stream) = session.accept_stream().await else {
                    continue;
                };
                if read(&session, &mut stream, 2 * FRAMES, 0).await.is_ok() {
                    return (session, stream);
                }
            }
        })
        .await
    }
}

#[test]
fn a_killed_producer_takes_nothing_with_it() {
    alone(async {
        let (from, to) = (Place::new(), Place::new());
        let consumer = Consumer::new(&to);
        let mut producer = Other::start("producer", &from.path(), &from.path());
        let _filter = Other::start("filter", &from.path(), &to.path());
        for _ in 0..3 {
            let (session, mut stream) = consumer.round().await;
            let held = bytes(in_time("one more", stream.recv()).await.unwrap().unwrap());
            producer.kill();
            check(&held, 2 * FRAMES);
            // The filter passes on what it has, for which there must be room, and gives up.
            in_time("the filter gives up", async {
                for number in 2 * FRAMES + 1.. {
                    match stream.recv().await {
                        Ok(frame) => check_content(&bytes(frame.expect("no end")), number),
                        Err(_) => return,
                    }
                }
            })
            .await;
            let lost = in_time("the filter is gone", session.closed()).await;
            assert!(!lost.is_misbehaviour(), "{lost:?}");
            check(&held, 2 * FRAMES);
            producer = Other::start("producer", &from.path(), &from.path());
        }
        drop(consumer.round().await);
    });
}

#[test]
fn a_killed_filter_leaves_what_has_arrived_as_it_was() {
    alone(async {
        let (from, to) = (Place::new(), Place::new());
        let consumer = Consumer::new(&to);
        // It goes on with the next filter, and has every reason to use its memory again.
        let _producer = Other::start("producer", &from.path(), &from.path());
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut filter = Other::start("filter", &from.path(), &to.path());
            let (session, mut stream) = consumer.round().await;
            held.push(bytes(
                in_time("one more", stream.recv()).await.unwrap().unwrap(),
            ));
            filter.kill();
            let lost = in_time("the filter is missed", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
            held.iter().for_each(|frame| check(frame, 2 * FRAMES));
        }
    });
}

/// What this process, as a filter, holds of a producer's, and passes on to consumers.
struct Filter {
    source: Session,
    inward: Stream,
    number: u64,
}

impl Filter {
    async fn new(from: &Place) -> Self {
        let source = Session::connect_with(from.path(), config()).await.unwrap();
        let inward = in_time("the producer begins", source.accept_stream()).await;
        Self {
            inward: inward.unwrap(),
            source,
            number: 0,
        }
    }

    /// Passes `frames` frames on to a session with a consumer.
    async fn pass(&mut self, stream: &mut Stream, frames: u64) {
        for _ in 0..frames {
            let frame = in_time("a frame", self.inward.recv())
                .await
                .unwrap()
                .unwrap();
            let frame = bytes(frame);
            check(&frame, self.number);
            self.number += 1;
            in_time("room for a frame", put(stream, frame))
                .await
                .unwrap();
        }
    }

    /// Takes frames, and lets go of them.
    async fn swallow(&mut self, frames: u64) {
        for _ in 0..frames {
            let frame = in_time("a frame", self.inward.recv())
                .await
                .unwrap()
                .unwrap();
            check(&bytes(frame), self.number);
            self.number += 1;
        }
    }
}

#[test]
fn a_killed_consumer_gives_everything_back() {
    alone(async {
        let (from, to) = (Place::new(), Place::new());
        let _producer = Other::start("producer", &from.path(), &from.path());
        for _ in 0..3 {
            let mut filter = Filter::new(&from).await;
            // What it takes in is more than the producer could send if anything of it were lost.
            for _ in 0..4 {
                let mut consumer = Other::start("consumer", &to.path(), &to.path());
                let sink = Session::connect_with(to.path(), config()).await.unwrap();
                assert!(sink.forward_from(&filter.source));
                let mut stream = sink.open_stream().unwrap();
                // The consumer is killed with some of them in its hands, or not yet looked at.
                filter.pass(&mut stream, 3).await;
                consumer.kill();
                in_time("the consumer is missed", sink.closed()).await;
                filter.swallow(2 * FRAMES).await;
            }
            let held = || filter.source.stats().leases_held;
            tests::until("nothing is held for the dead", || held() <= 4).await;
        }
    });
}

#[test]
fn what_a_living_consumer_holds_is_kept_for_it_when_its_session_is_over() {
    alone(async {
        let (from, to) = (Place::new(), Place::new());
        let _producer = Other::start("producer", &from.path(), &from.path());
        let mut filter = Filter::new(&from).await;
        let mut consumer = Other::start("consumer", &to.path(), &to.path());
        let sink = Session::connect_with(to.path(), config()).await.unwrap();
        assert!(sink.forward_from(&filter.source));
        let mut stream = sink.open_stream().unwrap();
        filter.pass(&mut stream, 2 * FRAMES).await;
        consumer.says("checked");
        filter.pass(&mut stream, 1).await;
        consumer.says("held");
        sink.close();
        consumer.says("lost");
        // The producer writes into all that it has got back.
        filter.swallow(4 * FRAMES).await;
        consumer.tell("look again");
        consumer.says("still right");
        consumer.kill();
        filter.swallow(FRAMES).await;
    });
}
