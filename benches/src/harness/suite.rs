//! All that is measured, how often, and in which order.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::case::{Case, PeerKind, Placement, Runtime, Waiting, Work};
use super::session::{self, Sample, Sites};
use super::window;
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

/// How thorough to be, and about what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each case runs.
    pub rounds: usize,
    /// How long each case calls before it is measured.
    pub warm_up: Duration,
    /// How long each case is measured.
    pub duration: Duration,
    /// How long the idle session is watched.
    pub idle: Duration,
    /// How many calls are traced. Peers whose calls all enter the kernel take a tenth.
    pub traced_calls: u64,
    /// How many calls the list of allocations is made of.
    pub listed_calls: u64,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Of each case, one sample for each round that succeeded.
    pub samples: HashMap<Case, Vec<Sample>>,
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
}

impl Plan {
    /// Enough to publish: below eight minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 7,
            warm_up: Duration::from_millis(100),
            duration: Duration::from_millis(300),
            idle: Duration::from_secs(60),
            traced_calls: 100_000,
            listed_calls: 1_000,
            only: None,
        }
    }

    /// Enough to see that everything works: below forty seconds.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            warm_up: Duration::from_millis(20),
            duration: Duration::from_millis(50),
            idle: Duration::from_secs(5),
            traced_calls: 10_000,
            listed_calls: 100,
            only: None,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|pattern| name.contains(pattern.as_str()))
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

/// Measures everything that `plan` asks for. Failures of single cases are among the findings.
///
/// # Errors
///
/// Fails if nothing can be measured at all.
pub fn run(plan: &Plan) -> Result<Findings> {
    let mut findings = Findings {
        overhead: window::overhead()?,
        ..Findings::default()
    };
    let progress = Progress::new();
    sample_all(plan, &mut findings, &progress);
    trace_all(plan, &mut findings, &progress);
    let small = Case::exchange(SHMIPC, SMALL);
    if plan.wants("allocations") {
        progress.show("listing the allocations of a call");
        let sites = session::sites(small, 10 * plan.listed_calls, plan.listed_calls);
        findings.sites = keep(sites, "allocations", &mut findings.failures);
    }
    if plan.wants("idle") {
        progress.show(&format!(
            "watching an idle session for {} s",
            plan.idle.as_secs()
        ));
        findings.idle = keep(
            session::idle(small, plan.idle),
            "idle",
            &mut findings.failures,
        );
    }
    progress.finish();
    Ok(findings)
}

fn sample_all(plan: &Plan, findings: &mut Findings, progress: &Progress) {
    let mut cases = sampled_cases();
    cases.retain(|case| plan.wants(&case.to_string()));
    for round in 1..=plan.rounds {
        for (position, case) in (1..).zip(&cases) {
            progress.show(&format!(
                "round {round}/{}, case {position}/{}: {case}",
                plan.rounds,
                cases.len()
            ));
            let sample = session::sample(*case, plan.warm_up, plan.duration);
            if let Some(sample) = keep(sample, &case.to_string(), &mut findings.failures) {
                findings.samples.entry(*case).or_default().push(sample);
            }
        }
    }
}

fn trace_all(plan: &Plan, findings: &mut Findings, progress: &Progress) {
    for case in traced_cases() {
        if !plan.wants(&case.to_string()) {
            continue;
        }
        progress.show(&format!("counting the system calls of {case}"));
        let calls = match case.peer {
            PeerKind::Shmipc(Waiting::Adaptive | Waiting::Busy) => plan.traced_calls,
            _ => plan.traced_calls / 10,
        };
        let calls = if case.size == SMALL {
            calls
        } else {
            calls / 10
        };
        let traced = session::trace(case, calls / 10, calls).map_err(|error| error.to_string());
        findings.traced.push((case, traced));
    }
}

fn keep<T>(found: Result<T>, what: &str, failures: &mut Vec<(String, String)>) -> Option<T> {
    let note = |error: Failure| failures.push((what.to_owned(), error.to_string()));
    found.map_err(note).ok()
}

/// Tells the person at the terminal what is going on.
#[derive(Debug)]
struct Progress {
    terminal: bool,
    started: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            started: Instant::now(),
        }
    }

    fn show(&self, what: &str) {
        if self.terminal {
            // The line is rewritten in place; an error here is not worth stopping for.
            let _ = write!(
                io::stderr(),
                "\r\x1b[K{:>4} s  {what}",
                self.started.elapsed().as_secs()
            );
        }
    }

    fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        eprintln!("measured in {} s", self.started.elapsed().as_secs());
    }
}
