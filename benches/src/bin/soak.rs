//! `cargo run --release -p benches --bin soak`: nothing is lost, in ten million messages.
//!
//! Two processes exchange messages over eight streams of one session, in both directions at the same time, with random
//! sizes and random pauses. Which message comes next on a stream, its length and every byte of it follow from the seed
//! that both processes know, so that the receiver notices whatever is lost, doubled, reordered or damaged.
//!
//! * Lengths are log-uniform from 0 B to 2 MiB: one of 22 classes is drawn (nothing, and one for each power of two up to
//!   2 MiB), then a length within it. The mean is 0.14 MiB, so ten million messages move 1.4 TiB.
//! * Half of the larger messages are written into memory lent by the session and linked; the others are copied in.
//! * One message in a thousand is followed by a pause of 1 to 3 ms, on either side; one in four is kept by the receiver
//!   while others arrive, and verified only when it is let go.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use benches::{Result, pattern};
use bytes::{Buf, BufMut, Bytes};
use shmipc_transport::{Flush, Listener, RecvHalf, SendHalf, Session};
use tokio::task::JoinSet;
use tokio::time;

const USAGE: &str = "\
Exchanges messages of random sizes between two processes, and verifies every byte.

Usage: cargo run --release -p benches --bin soak -- [OPTIONS]

Options:
      --messages N   How many, both directions together [default: 10000000]
      --seed N       What sizes, pauses and contents follow from [default: 1]
  -h, --help         Print this text";

/// The hidden subcommand of the second process.
const SERVE: &str = "serve";

/// Streams of the session. Each carries messages in both directions.
const STREAMS: u64 = 8;

/// Length classes: class 0 is the empty message, class `n` has lengths from `2^(n-1)` to `2^n`.
const CLASSES: u64 = 22;

/// Messages that a receiver keeps at most.
const KEPT_MAX: usize = 4;

/// From this length on, messages may be written into lent memory.
const LENT_MIN: usize = 4096;

/// How long nothing may arrive before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the progress is told.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What both processes agree on.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Messages of each stream in each direction.
    per_half: u64,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Server,
}

/// What has arrived, of all streams.
#[derive(Debug, Default)]
struct Arrived {
    messages: AtomicU64,
    bytes: AtomicU64,
}

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let [SERVE, socket, per_half, seed] = arguments[..] {
        let plan = Plan {
            per_half: per_half.parse()?,
            seed: seed.parse()?,
        };
        return runtime()?.block_on(serve(Path::new(socket), plan));
    }
    let mut messages = 10_000_000;
    let mut seed = 1;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match *argument {
            "--messages" => messages = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => return Err(format!("{argument} is not understood; --help tells what is").into()),
        }
    }
    // Every half of every stream carries the same number.
    let plan = Plan {
        per_half: u64::div_ceil(messages, 2 * STREAMS),
        seed,
    };
    runtime()?.block_on(call(plan))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// The second process: accepts the session and its streams.
async fn serve(socket: &Path, plan: Plan) -> Result<()> {
    let listener = Listener::bind(socket)?;
    println!("ready");
    let session = listener.accept().await?;
    let arrived = Arc::new(Arrived::default());
    let mut halves = JoinSet::new();
    for _ in 0..STREAMS {
        let mut stream = session.accept_stream().await?;
        let mut name = stream
            .recv()
            .await?
            .ok_or("a stream begins with its number")?;
        let number = name.get_u64_le();
        let (sender, receiver) = stream.split();
        halves.spawn(send_all(
            session.clone(),
            sender,
            plan,
            Side::Server,
            number,
        ));
        halves.spawn(receive_all(
            receiver,
            plan,
            Side::Client,
            number,
            Arc::clone(&arrived),
        ));
    }
    finish(&mut halves, &arrived, Side::Server).await?;
    // The client closes the session when it, too, has everything.
    session.closed().await;
    Ok(())
}

/// The first process: starts the second, opens the session and its streams, and reports.
async fn call(plan: Plan) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let mut server = start_server(&socket, plan)?;
    let started = Instant::now();
    let session = Session::connect(socket.as_path()).await?;
    let arrived = Arc::new(Arrived::default());
    let mut halves = JoinSet::new();
    for number in 0..STREAMS {
        let mut stream = session.open_stream()?;
        let mut name = stream.buffer(size_of::<u64>());
        name.put_u64_le(number);
        stream.send(name, Flush::More).await?;
        let (sender, receiver) = stream.split();
        halves.spawn(send_all(
            session.clone(),
            sender,
            plan,
            Side::Client,
            number,
        ));
        halves.spawn(receive_all(
            receiver,
            plan,
            Side::Server,
            number,
            Arc::clone(&arrived),
        ));
    }
    finish(&mut halves, &arrived, Side::Client).await?;
    session.close();
    if !server.wait()?.success() {
        return Err("the second process failed".into());
    }
    report(&arrived, started.elapsed());
    Ok(())
}

fn start_server(socket: &Path, plan: Plan) -> Result<Child> {
    let mut server = Command::new(env::current_exe()?)
        .arg(SERVE)
        .arg(socket)
        .args([plan.per_half.to_string(), plan.seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = server.stdout.take().ok_or("a piped child has an output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() == "ready" {
        Ok(server)
    } else {
        Err("the second process did not start".into())
    }
}

fn report(arrived: &Arrived, elapsed: Duration) {
    // The other side received as many; it would have failed otherwise.
    let messages = 2 * arrived.messages.load(Relaxed);
    let mebibytes = arrived.bytes.load(Relaxed) >> 20;
    println!(
        "{messages} messages over {STREAMS} streams, {mebibytes} MiB in one direction, in {} s: nothing lost",
        elapsed.as_secs()
    );
}

/// Waits for all halves; gives up when nothing arrives any more. The client tells the progress.
async fn finish(halves: &mut JoinSet<Result<()>>, arrived: &Arrived, side: Side) -> Result<()> {
    let mut ticks = time::interval(REPORT_EVERY);
    let mut seen = 0;
    let mut seen_at = Instant::now();
    loop {
        tokio::select! {
            ended = halves.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let messages = arrived.messages.load(Relaxed);
                if messages != seen {
                    (seen, seen_at) = (messages, Instant::now());
                } else if PATIENCE < seen_at.elapsed() {
                    return Err(format!("nothing has arrived for {PATIENCE:?}, after {messages} messages").into());
                }
                if let Side::Client = side {
                    eprintln!("{messages} messages, {} MiB received", arrived.bytes.load(Relaxed) >> 20);
                }
            }
        }
    }
}

/// Sends the messages of `side` on the stream `number`.
async fn send_all(
    session: Session,
    mut half: SendHalf,
    plan: Plan,
    side: Side,
    number: u64,
) -> Result<()> {
    let mut scratch = Vec::new();
    for position in 0..plan.per_half {
        let message = Expected::new(plan, side, number, position);
        let mut buffer;
        if message.lent {
            let mut lent = session.alloc(message.len).await?;
            pattern::fill(&mut lent, message.seed);
            buffer = half.buffer(0);
            buffer.put(lent.freeze());
        } else {
            buffer = half.buffer(message.len);
            scratch.resize(message.len, 0);
            pattern::fill(&mut scratch, message.seed);
            buffer.put_slice(&scratch);
        }
        half.send(buffer, Flush::More).await?;
        pause(&mut Random(!message.seed)).await;
    }
    half.finish().await?;
    Ok(())
}

/// Receives and verifies the messages of `side` on the stream `number`.
async fn receive_all(
    mut half: RecvHalf,
    plan: Plan,
    side: Side,
    number: u64,
    arrived: Arc<Arrived>,
) -> Result<()> {
    let mut kept: VecDeque<(Bytes, Expected)> = VecDeque::new();
    for position in 0..plan.per_half {
        let expected = Expected::new(plan, side, number, position);
        let mut received = half
            .recv()
            .await?
            .ok_or_else(|| expected.failure("is missing"))?;
        if received.remaining() != expected.len {
            return Err(expected.failure(&format!("has {} bytes", received.remaining())));
        }
        let bytes = received.copy_to_bytes(expected.len);
        if expected.kept {
            kept.push_back((bytes, expected));
        } else {
            expected.verify(&bytes)?;
        }
        if KEPT_MAX < kept.len()
            && let Some((bytes, expected)) = kept.pop_front()
        {
            expected.verify(&bytes)?;
        }
        arrived.messages.fetch_add(1, Relaxed);
        arrived.bytes.fetch_add(expected.len as u64, Relaxed);
        pause(&mut Random(expected.seed.rotate_left(32))).await;
    }
    if half.recv().await?.is_some() {
        return Err(format!(
            "more than {} messages arrived on stream {number}",
            plan.per_half
        )
        .into());
    }
    kept.iter()
        .try_for_each(|(bytes, expected)| expected.verify(bytes))
}

/// Rests for 1 to 3 ms, once in a thousand times.
async fn pause(random: &mut Random) {
    if random.below(1000) == 0 {
        time::sleep(Duration::from_millis(1 + random.below(3))).await;
    }
}

/// What both processes know of a message before it is sent.
#[derive(Clone, Copy, Debug)]
struct Expected {
    number: u64,
    position: u64,
    seed: u64,
    len: usize,
    lent: bool,
    kept: bool,
}

impl Expected {
    fn new(plan: Plan, side: Side, number: u64, position: u64) -> Self {
        let place = (position * STREAMS + number) * 2 + side as u64;
        let mut random = Random(plan.seed ^ place.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let seed = random.next();
        let len = length(&mut random);
        let lent = LENT_MIN <= len && random.below(2) == 0;
        let kept = random.below(4) == 0;
        Self {
            number,
            position,
            seed,
            len,
            lent,
            kept,
        }
    }

    fn verify(&self, bytes: &[u8]) -> Result<()> {
        if pattern::matches(bytes, self.seed) {
            Ok(())
        } else {
            Err(self.failure("has wrong bytes"))
        }
    }

    fn failure(&self, what: &str) -> benches::Failure {
        let Self {
            number,
            position,
            len,
            ..
        } = self;
        format!("message {position} of stream {number} (of {len} bytes) {what}").into()
    }
}

/// A length from 0 B to 2 MiB: log-uniform.
fn length(random: &mut Random) -> usize {
    match random.below(CLASSES) {
        0 => 0,
        class => {
            let low = 1_usize << (class - 1);
            // `low` is at most 2^20, so nothing is lost.
            low + usize::try_from(random.below(low as u64 + 1)).unwrap_or(0)
        }
    }
}

/// SplitMix64: small, and good enough to choose sizes.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; the bias of the remainder does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_reach_both_ends() {
        let mut random = Random(7);
        let lengths: Vec<_> = (0..1_000_000).map(|_| length(&mut random)).collect();
        assert!(lengths.contains(&0));
        assert!(lengths.iter().all(|len| *len <= 2 << 20));
        assert!(lengths.iter().any(|len| 2_000_000 < *len));
    }
}
