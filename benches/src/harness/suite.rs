//! All that is measured, how often, and in which order.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

use super::case::{Case, PeerKind, Placement, Runtime, Waiting, Wire, Work};
use super::distance::{self, Distance};
use super::session::{self, Sample, Sites};
use super::window;
use crate::peers::go;
use crate::syscalls::Traced;
use crate::{Failure, Result};

/// The length of a small message, in bytes.
pub const SMALL: usize = 64;

/// The lengths of the sweep, in bytes.
pub const SIZES: [usize; 9] = [
    SMALL,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
];

/// The lengths that count as large, in bytes.
pub const LARGE: [usize; 2] = [1 << 20, 4 << 20];

/// The numbers of calls in flight of the sweep.
pub const IN_FLIGHT: [usize; 5] = [1, 4, 16, 64, 256];

/// shmipc-rpc with its defaults.
pub const SHMIPC: PeerKind = PeerKind::Shmipc(Waiting::Adaptive);

/// tonic with one thread on each side.
pub const TONIC: PeerKind = PeerKind::Tonic(Runtime::CurrentThread);

/// tonic with two workers on each side.
pub const TONIC_TWO_WORKERS: PeerKind = PeerKind::Tonic(Runtime::TwoWorkers);

/// The streams of the parallel ping-pong.
pub const STREAMS: [usize; 2] = [1, 64];

/// The lengths of the parallel ping-pong, in bytes.
pub const PING_PONG_SIZES: [usize; 7] = [
    SMALL,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    1 << 20,
    4 << 20,
];

/// The versions of shmipc's protocol, with their ways to be woken.
pub const WIRES: [Wire; 4] = [Wire::V2, Wire::V3, Wire::V4Eventfd, Wire::V4Polling];

/// shmipc-go, as its own benchmark has it.
pub const GO: PeerKind = PeerKind::Go(Wire::V3);

/// How thorough to be, and about what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each case runs.
    pub rounds: usize,
    /// How often each case of the parallel ping-pong runs: there are many.
    pub ping_pong_rounds: usize,
    /// Whether the parallel ping-pong takes only its first size, unless [`only`](Self::only) asks for more.
    pub brief: bool,
    /// How long each case calls before it is measured; four times that where megabytes are written, and twelve times if that is done
    /// in many calls at a time.
    pub warm_up: Duration,
    /// How long each case is measured.
    pub duration: Duration,
    /// How much time may be spent altogether on waiting until the processors are close, and on taking samples once more.
    pub patience: Duration,
    /// How long the idle session is watched.
    pub idle: Duration,
    /// How many calls are traced. Peers whose calls all enter the kernel take a tenth.
    pub traced_calls: u64,
    /// How many calls the list of allocations is made of.
    pub listed_calls: u64,
    /// Only cases whose names contain this, or one of several that are separated by commas.
    pub only: Option<String>,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Of each case, one sample for each round that succeeded.
    pub samples: HashMap<Case, Vec<Sample>>,
    /// How many of these were taken while the processors were further apart than for others.
    pub far: u64,
    /// Of each traced case, its system calls, or why they could not be counted.
    pub traced: Vec<(Case, std::result::Result<Traced, String>)>,
    /// Where a call of shmipc-rpc allocates.
    pub sites: Option<Sites>,
    /// An idle session of shmipc-rpc.
    pub idle: Option<Sample>,
    /// What measuring adds to each call.
    pub overhead: Duration,
    /// What failed, and why.
    pub failures: Vec<(String, String)>,
    /// Why shmipc-go was not measured, if it was to be.
    pub no_go: Option<String>,
}

impl Plan {
    /// Enough to publish: below twenty minutes, where the processors stay where they are.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 7,
            ping_pong_rounds: 3,
            brief: false,
            warm_up: Duration::from_millis(100),
            duration: Duration::from_millis(300),
            patience: Duration::from_secs(600),
            idle: Duration::from_secs(60),
            traced_calls: 100_000,
            listed_calls: 1_000,
            only: None,
        }
    }

    /// Enough to see that everything works: below a minute.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            ping_pong_rounds: 1,
            brief: true,
            warm_up: Duration::from_millis(20),
            duration: Duration::from_millis(50),
            patience: Duration::ZERO,
            idle: Duration::from_secs(5),
            traced_calls: 10_000,
            listed_calls: 100,
            only: None,
        }
    }

    /// How often `case` runs.
    fn rounds(&self, case: &Case) -> usize {
        match ping_pong_cases().contains(case) {
            true if self.brief && self.only.is_none() && case.size != SMALL => 0,
            true => self.ping_pong_rounds,
            false => self.rounds,
        }
    }

    /// How long `case` calls before it is measured. What writes megabytes goes through all of its memory once before none of it is
    /// touched for the first time, and half a gigabyte takes a second where the host backs it only then.
    fn warm_up(&self, case: &Case) -> Duration {
        let is_large = case.work == Work::Exchange && LARGE.contains(&case.size);
        match (is_large, case.in_flight) {
            (false, _) => self.warm_up,
            (true, 1) => 4 * self.warm_up,
            (true, _) => 12 * self.warm_up,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|patterns| patterns.split(',').any(|pattern| name.contains(pattern)))
    }
}

/// Latency of small messages: every peer, and the ways to wait and to be placed.
#[must_use]
pub fn small_cases() -> Vec<Case> {
    let small = |peer| Case::exchange(peer, SMALL);
    let block = PeerKind::Shmipc(Waiting::Block);
    vec![
        small(PeerKind::Limit),
        small(PeerKind::Blocking(Waiting::Busy)),
        small(PeerKind::Blocking(Waiting::Adaptive)),
        small(PeerKind::Shmipc(Waiting::Busy)),
        small(SHMIPC),
        small(PeerKind::Eventfd),
        small(block),
        small(PeerKind::Socket),
        small(TONIC),
        small(PeerKind::Eventfd).placed(Placement::Apart),
        small(block).placed(Placement::Apart),
        small(SHMIPC).placed(Placement::Apart),
        small(TONIC).placed(Placement::Apart),
        small(PeerKind::Limit).placed(Placement::Together),
        small(PeerKind::Eventfd).placed(Placement::Together),
        small(SHMIPC).placed(Placement::Together),
        small(block).placed(Placement::Together),
        small(PeerKind::Socket).placed(Placement::Together),
        small(TONIC).placed(Placement::Together),
    ]
}

/// The peers of the sweep over sizes.
pub const SIZED_PEERS: [PeerKind; 5] = [
    PeerKind::Memory,
    SHMIPC,
    PeerKind::Socket,
    TONIC,
    PeerKind::TonicDefaults,
];

/// Latency against size.
#[must_use]
pub fn sized_cases() -> Vec<Case> {
    SIZES
        .iter()
        .flat_map(|size| SIZED_PEERS.map(|peer| Case::exchange(peer, *size)))
        .collect()
}

/// Sending on what was received.
#[must_use]
pub fn forwarding_cases() -> Vec<Case> {
    LARGE
        .iter()
        .flat_map(|size| [SHMIPC, TONIC].map(|peer| Case::exchange(peer, *size).forwarding()))
        .collect()
}

/// The peers of the sweep over calls in flight.
pub const CONCURRENT_PEERS: [PeerKind; 3] = [SHMIPC, TONIC, TONIC_TWO_WORKERS];

/// Calls per second against calls in flight.
#[must_use]
pub fn concurrent_cases() -> Vec<Case> {
    let cases =
        |calls: &usize| CONCURRENT_PEERS.map(|peer| Case::exchange(peer, SMALL).in_flight(*calls));
    IN_FLIGHT.iter().flat_map(cases).collect()
}

/// Messages within one call, beside the call of one message.
#[must_use]
pub fn streaming_cases() -> Vec<Case> {
    let small = |peer, work| Case::exchange(peer, SMALL).work(work);
    let mut cases: Vec<_> = [SHMIPC, TONIC, TONIC_TWO_WORKERS]
        .iter()
        .flat_map(|peer| [Work::Watch, Work::Converse].map(|work| small(*peer, work)))
        .collect();
    cases.push(small(PeerKind::Shmipc(Waiting::Busy), Work::Watch));
    cases
}

/// What lies between a call and its service.
#[must_use]
pub fn wrapped_cases() -> Vec<Case> {
    let small = |peer| Case::exchange(peer, SMALL);
    vec![small(PeerKind::Layered), small(PeerKind::TonicAdapter)]
}

/// The numbers of clients of the crowd.
pub const CROWDS: [usize; 3] = [16, 256, 1000];

/// Many clients, each with a session of its own and one call in flight.
#[must_use]
pub fn crowd_cases() -> Vec<Case> {
    CROWDS
        .map(|clients| {
            let case = Case::exchange(SHMIPC, SMALL).work(Work::Crowd);
            case.in_flight(clients)
        })
        .to_vec()
}

/// A peer of the parallel ping-pong for so many streams: of the two kinds of Unix sockets, the one that is faster at that.
#[must_use]
pub fn ping_pong_peers(streams: usize) -> Vec<PeerKind> {
    let sockets = if streams == 1 {
        PeerKind::Socket
    } else {
        PeerKind::Sockets
    };
    let mut peers = vec![PeerKind::Outbox];
    peers.extend(WIRES.map(PeerKind::Link));
    peers.extend(WIRES.map(PeerKind::Crate));
    peers.extend([GO, PeerKind::LinkToGo, sockets]);
    peers
}

/// The works of the parallel ping-pong.
pub const PING_PONG: [Work; 2] = [Work::Untouched, Work::Exchange];

/// The parallel ping-pong of shmipc's own benchmark: on each stream of a session a message goes to and fro.
#[must_use]
pub fn ping_pong_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for streams in STREAMS {
        for work in PING_PONG {
            for len in PING_PONG_SIZES {
                let case = |peer| Case::exchange(peer, len).work(work).in_flight(streams);
                cases.extend(ping_pong_peers(streams).into_iter().map(case));
            }
        }
    }
    cases
}

/// All cases that are sampled, each once.
#[must_use]
pub fn sampled_cases() -> Vec<Case> {
    let all = [
        small_cases(),
        sized_cases(),
        forwarding_cases(),
        concurrent_cases(),
        streaming_cases(),
        wrapped_cases(),
        crowd_cases(),
        ping_pong_cases(),
    ];
    let mut cases = Vec::new();
    for case in all.concat() {
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

/// The cases whose system calls are counted.
#[must_use]
pub fn traced_cases() -> Vec<Case> {
    let small = |peer| Case::exchange(peer, SMALL);
    vec![
        small(SHMIPC),
        small(SHMIPC).in_flight(64),
        Case::exchange(SHMIPC, 1 << 20),
        small(PeerKind::Shmipc(Waiting::Busy)),
        small(PeerKind::Shmipc(Waiting::Block)),
        small(PeerKind::Eventfd),
        small(PeerKind::Socket),
        small(TONIC),
        small(TONIC).in_flight(64),
    ]
}

/// Measures everything that `plan` asks for. Failures of single cases are said as they come, and are among the findings.
///
/// # Errors
///
/// Fails if nothing can be measured at all.
pub fn run(plan: &Plan) -> Result<Findings> {
    let mut findings = Findings {
        overhead: window::overhead()?,
        ..Findings::default()
    };
    let mut progress = Progress::new();
    sample_all(plan, &mut findings, &mut progress);
    trace_all(plan, &mut findings, &mut progress);
    let small = Case::exchange(SHMIPC, SMALL);
    if plan.wants("allocations") {
        let sites = progress.step("listing the allocations of a call", || {
            session::sites(small, 10 * plan.listed_calls, plan.listed_calls)
        });
        findings.sites = keep(sites, "allocations", &mut findings.failures);
    }
    if plan.wants("idle") {
        let step = format!("watching an idle session for {} s", plan.idle.as_secs());
        let idle = progress.step(&step, || session::idle(small, plan.idle));
        findings.idle = keep(idle, "idle", &mut findings.failures);
    }
    progress.finish();
    Ok(findings)
}

fn sample_all(plan: &Plan, findings: &mut Findings, progress: &mut Progress) {
    let mut cases = sampled_cases();
    cases.retain(|case| plan.wants(&case.to_string()) && 0 < plan.rounds(case));
    let with_go = |case: &Case| matches!(case.peer, PeerKind::Go(_) | PeerKind::LinkToGo);
    if cases.iter().any(with_go) {
        progress.show("building the peer in Go");
        if let Err(why) = go::build() {
            cases.retain(|case| !with_go(case));
            findings.no_go = Some(why.to_string());
        }
    }
    let mut distance = Distance::new(plan.patience, distance::look);
    for round in 1..=plan.rounds {
        cases.retain(|case| round <= plan.rounds(case));
        for (position, case) in (1..).zip(&cases) {
            let step = format!(
                "round {round}/{}, case {position}/{}: {case}",
                plan.rounds,
                cases.len()
            );
            let sample = progress.step(&step, || {
                distance.sample(|| session::sample(*case, plan.warm_up(case), plan.duration))
            });
            if let Some(sample) = keep(sample, &case.to_string(), &mut findings.failures) {
                findings.samples.entry(*case).or_default().push(sample);
            }
        }
    }
    findings.far = distance.far();
}

fn trace_all(plan: &Plan, findings: &mut Findings, progress: &mut Progress) {
    for case in traced_cases() {
        if !plan.wants(&case.to_string()) {
            continue;
        }
        let calls = match case.peer {
            PeerKind::Shmipc(Waiting::Adaptive | Waiting::Busy) => plan.traced_calls,
            _ => plan.traced_calls / 10,
        };
        let calls = if case.size == SMALL {
            calls
        } else {
            calls / 10
        };
        let step = format!("counting the system calls of {case}");
        let traced = progress.step(&step, || session::trace(case, calls / 10, calls));
        let traced = traced.map_err(|error| error.to_string());
        findings.traced.push((case, traced));
    }
}

fn keep<T>(found: Result<T>, what: &str, failures: &mut Vec<(String, String)>) -> Option<T> {
    let note = |error: Failure| failures.push((what.to_owned(), error.to_string()));
    found.map_err(note).ok()
}

/// Tells the person at the terminal what is going on, and everybody what has failed.
#[derive(Debug)]
struct Progress<W = Stderr> {
    target: W,
    terminal: bool,
    started: Instant,
}

impl Progress {
    fn new() -> Self {
        let target = io::stderr();
        Self {
            terminal: target.is_terminal(),
            target,
            started: Instant::now(),
        }
    }
}

// Errors of writing are not worth stopping for.
impl<W: Write> Progress<W> {
    /// Takes a step of the run, and says at once if it fails: the rest may take long.
    fn step<T>(&mut self, what: &str, take: impl FnOnce() -> Result<T>) -> Result<T> {
        self.show(what);
        take().inspect_err(|why| {
            self.clear();
            let _ = writeln!(self.target, "failed: {what}: {why}");
        })
    }

    fn show(&mut self, what: &str) {
        self.clear();
        if self.terminal {
            let elapsed = self.started.elapsed().as_secs();
            let _ = write!(self.target, "{elapsed:>4} s  {what}");
        }
    }

    fn finish(&mut self) {
        self.clear();
        let elapsed = self.started.elapsed().as_secs();
        let _ = writeln!(self.target, "measured in {elapsed} s");
    }

    /// Begins the line anew, which is rewritten in place.
    fn clear(&mut self) {
        if self.terminal {
            let _ = write!(self.target, "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(terminal: bool) -> String {
        let mut progress = Progress {
            target: Vec::new(),
            terminal,
            started: Instant::now(),
        };
        let quiet = progress.step("round 1/2, case 1/1: uds", || Ok(1));
        let failed: Result<()> = progress.step("round 2/2, case 1/1: uds", || {
            Err("Client: no answer within 30s".into())
        });
        assert!(quiet.is_ok() && failed.is_err());
        String::from_utf8(progress.target).unwrap()
    }

    #[test]
    fn what_fails_is_said_at_once() {
        assert_eq!(
            told(false),
            "failed: round 2/2, case 1/1: uds: Client: no answer within 30s\n"
        );
    }

    #[test]
    fn what_fails_takes_the_place_of_what_is_going_on() {
        let told = told(true);
        let line = "\r\x1b[Kfailed: round 2/2, case 1/1: uds: Client: no answer within 30s\n";
        assert!(told.ends_with(line), "{told:?}");
    }
}
