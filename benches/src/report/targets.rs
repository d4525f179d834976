//! The figures to reach, each beside what this run found.

use std::time::Duration;

use super::numbers::{grouped, significant, size, time};
use super::ping_pong;
use super::summary::{Pair, Summary, count, rounds};
use crate::harness::case::{Case, PeerKind, Placement, Waiting, Work};
use crate::harness::suite::{CROWDS, Findings, LARGE, SHMIPC, SMALL, TONIC, TONIC_TWO_WORKERS};

/// Processor time that an idle side may show: reading the counters costs some.
const IDLE_CPU_MAX: Duration = Duration::from_millis(1);

/// System calls for each call that count as none: tokio looks for events every 61 turns of its loop whatever its tasks
/// do, and a neighbour on the machine can put a process to sleep.
const SYSCALLS_MAX: f64 = 0.1;

/// One figure to reach.
pub(super) struct Target {
    pub(super) work: String,
    pub(super) bound: String,
    pub(super) found: Option<Found>,
}

/// What this run found.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) met: bool,
}

/// The table, as Markdown.
pub(super) fn table(findings: &Findings) -> String {
    let mut table = "| work | to reach | found | |\n|---|---|---|---|\n".to_owned();
    for target in all(findings) {
        let (text, mark) = match target.found {
            Some(Found { text, met: true }) => (text, "met"),
            Some(Found { text, met: false }) => (text, "**missed**"),
            None => ("not measured".to_owned(), ""),
        };
        table.push_str(&format!(
            "| {} | {} | {text} | {mark} |\n",
            target.work, target.bound
        ));
    }
    table.push('\n');
    table
}

fn all(findings: &Findings) -> Vec<Target> {
    let mut targets = small(findings);
    targets.extend(large(findings));
    targets.push(rate(findings));
    targets.extend(streaming(findings));
    targets.extend(wrapped(findings));
    targets.extend(crowd(findings));
    targets.push(allocations(findings));
    targets.push(system_calls(findings));
    targets.push(idle(findings));
    targets.extend(ping_pong::targets(findings));
    targets
}

fn small(findings: &Findings) -> Vec<Target> {
    let small = |peer, placement| Case::exchange(peer, SMALL).placed(placement);
    let block = PeerKind::Shmipc(Waiting::Block);
    let p50 = |work: &str, ours, bound, theirs, name| Target {
        work: format!("unary, 64 B, one in flight, {work}, p50"),
        ..at_most(findings, ours, bound, theirs, name)
    };
    use Placement::{Apart, Free, Together};
    vec![
        p50(
            "adaptive",
            small(SHMIPC, Free),
            10.0,
            small(PeerKind::Limit, Free),
            "the limit's round trip",
        ),
        p50(
            "adaptive",
            small(SHMIPC, Free),
            1.0 / 25.0,
            small(TONIC, Free),
            "tonic over UDS",
        ),
        p50(
            "blocking, `Wait::Busy`",
            small(PeerKind::Blocking(Waiting::Busy), Free),
            4.0,
            small(PeerKind::Limit, Free),
            "the limit's round trip",
        ),
        p50(
            "`Wait::Block`",
            small(block, Free),
            1.3,
            small(PeerKind::Eventfd, Free),
            "eventfd ping-pong",
        ),
        p50(
            "`Wait::Block`, each process pinned to its own CPU",
            small(block, Apart),
            1.3,
            small(PeerKind::Eventfd, Apart),
            "eventfd ping-pong pinned the same way",
        ),
        p50(
            "adaptive, both processes pinned to one CPU",
            small(SHMIPC, Together),
            2.0,
            small(PeerKind::Eventfd, Together),
            "eventfd ping-pong pinned the same way",
        ),
    ]
}

fn large(findings: &Findings) -> Vec<Target> {
    let mut targets = Vec::new();
    for len in LARGE {
        let ours = Case::exchange(SHMIPC, len);
        let touched = format!(
            "echo of {}, every byte written once and read once per direction, p50",
            size(len)
        );
        targets.push(Target {
            work: touched.clone(),
            ..at_most(
                findings,
                ours,
                1.3,
                Case::exchange(PeerKind::Memory, len),
                "two spinning processes, one buffer",
            )
        });
        for (theirs, name) in [
            (TONIC, "tonic over UDS"),
            (PeerKind::TonicDefaults, "tonic over UDS with its defaults"),
        ] {
            targets.push(Target {
                work: touched.clone(),
                ..at_most(
                    findings,
                    ours,
                    1.0 / 10.0,
                    Case::exchange(theirs, len),
                    name,
                )
            });
        }
    }
    for len in LARGE {
        let ours = Case::exchange(SHMIPC, len).forwarding();
        targets.push(Target {
            work: format!("forwarding {} without touching it, p50", size(len)),
            ..at_most(
                findings,
                ours,
                1.5,
                Case::exchange(SHMIPC, SMALL),
                "the 64 B call",
            )
        });
    }
    targets
}

/// The median latency of `ours` is at most `bound` times that of `theirs`.
fn at_most(findings: &Findings, ours: Case, bound: f64, theirs: Case, name: &str) -> Target {
    let p50s = |case| rounds(findings, case, |latencies| count(latencies.p50_ns));
    let found = Pair::median(&p50s(ours), &p50s(theirs)).map(|pair| Found {
        text: format!(
            "{} ({} against {})",
            factor(pair.ratio()),
            time(pair.ours),
            time(pair.theirs)
        ),
        met: pair.ratio() <= bound,
    });
    let bound = if bound < 1.0 {
        format!("1/{:.0} of", 1.0 / bound)
    } else {
        format!("{bound} ×")
    };
    Target {
        work: String::new(),
        bound: format!("≤ {bound} {name}"),
        found,
    }
}

fn factor(ratio: f64) -> String {
    if ratio < 1.0 {
        format!("1/{}", significant(1.0 / ratio))
    } else {
        format!("{} ×", significant(ratio))
    }
}

fn rate(findings: &Findings) -> Target {
    const IN_FLIGHT: usize = 64;
    const BOUND: f64 = 12.0;
    let case = |peer| Case::exchange(peer, SMALL).in_flight(IN_FLIGHT);
    // Whichever runtime suits tonic better here.
    let theirs = [TONIC, TONIC_TWO_WORKERS].map(case);
    Target {
        work: format!("unary, 64 B, {IN_FLIGHT} in flight, calls/s"),
        bound: format!("≥ {BOUND} × tonic over UDS (its better runtime)"),
        found: at_least(findings, case(SHMIPC), BOUND, &theirs),
    }
}

/// The rate of `ours` is at least `bound` times the best of `theirs`.
fn at_least(findings: &Findings, ours: Case, bound: f64, theirs: &[Case]) -> Option<Found> {
    Pair::of_rates(findings, ours, theirs).map(|pair| Found {
        text: format!(
            "{} × ({} against {})",
            significant(pair.ratio()),
            grouped(pair.ours),
            grouped(pair.theirs)
        ),
        met: bound <= pair.ratio(),
    })
}

fn streaming(findings: &Findings) -> Vec<Target> {
    const BOUND: f64 = 10.0;
    const ITEMS: f64 = 3e6;
    const FAST: f64 = 150.0;
    let work = "server streaming, 64 B, messages/s";
    let case = |peer| Case::exchange(peer, SMALL).work(Work::Watch);
    let theirs = [TONIC, TONIC_TWO_WORKERS].map(case);
    let ours = Summary::of(findings, case(SHMIPC)).map(|ours| ours.calls_per_second);
    let limit = Summary::of(findings, Case::exchange(PeerKind::Limit, SMALL));
    vec![
        Target {
            work: work.to_owned(),
            bound: format!("≥ {BOUND} × tonic over UDS (its better runtime)"),
            found: at_least(findings, case(SHMIPC), BOUND, &theirs),
        },
        Target {
            work: work.to_owned(),
            bound: format!(
                "≥ {} where the limit's round trip is ≤ {}",
                grouped(ITEMS),
                time(FAST)
            ),
            found: ours.zip(limit).map(|(ours, limit)| Found {
                text: format!("{}, where it is {}", grouped(ours), time(limit.p50_ns)),
                met: ITEMS <= ours || FAST < limit.p50_ns,
            }),
        },
        Target {
            work: "bidirectional ping-pong, 64 B, p50".to_owned(),
            ..at_most(
                findings,
                Case::exchange(SHMIPC, SMALL).work(Work::Converse),
                1.3,
                Case::exchange(SHMIPC, SMALL),
                "the unary round trip",
            )
        },
    ]
}

fn wrapped(findings: &Findings) -> Vec<Target> {
    let small = |peer| Case::exchange(peer, SMALL);
    vec![
        Target {
            work: "unary, 64 B, behind the trace, timeout and concurrency-limit layers, p50"
                .to_owned(),
            ..at_most(
                findings,
                small(PeerKind::Layered),
                1.6,
                small(SHMIPC),
                "the same without",
            )
        },
        Target {
            work: "through the tonic adapter, 64 B, one in flight, p50".to_owned(),
            ..at_most(
                findings,
                small(PeerKind::TonicAdapter),
                1.0 / 8.0,
                small(TONIC),
                "tonic over UDS",
            )
        },
    ]
}

fn crowd(findings: &Findings) -> Vec<Target> {
    const RATE: f64 = 0.7;
    const MEBIBYTE: f64 = 1048576.0;
    let [few, .., many] = CROWDS;
    let case = |clients| {
        let case = Case::exchange(SHMIPC, SMALL).work(Work::Crowd);
        case.in_flight(clients)
    };
    vec![
        Target {
            work: format!("{many} clients calling one server, 64 B, calls/s"),
            bound: format!("≥ {RATE} × that of {few} clients"),
            found: at_least(findings, case(many), RATE, &[case(few)]),
        },
        Target {
            work: format!("{many} clients, resident memory of the server for each"),
            bound: "≤ 1 MiB".to_owned(),
            found: Summary::of(findings, case(many)).map(|summary| {
                let each = summary.server_resident / count(u64::try_from(many).unwrap_or(u64::MAX));
                Found {
                    text: format!("{:.2} MiB", each / MEBIBYTE),
                    met: each <= MEBIBYTE,
                }
            }),
        },
    ]
}

fn allocations(findings: &Findings) -> Target {
    const BOUND: f64 = 12.0;
    let found = Summary::of(findings, Case::exchange(SHMIPC, SMALL)).map(|summary| {
        let (client, server) = (
            summary.client.allocations_per_call,
            summary.server.allocations_per_call,
        );
        Found {
            text: format!(
                "{} ({} client, {} server)",
                significant(client + server),
                significant(client),
                significant(server)
            ),
            // Growth of buffers that stay is spread over all calls; it is no allocation of a call.
            met: (client + server).round() <= BOUND,
        }
    });
    Target {
        work: "heap allocations per unary call, steady state, both sides".to_owned(),
        bound: format!("≤ {BOUND}, [listed](allocations.md)"),
        found,
    }
}

fn system_calls(findings: &Findings) -> Target {
    let case = Case::exchange(SHMIPC, SMALL);
    let traced = findings.traced.iter().find(|(traced, _)| *traced == case);
    let found = traced
        .and_then(|(_, traced)| traced.as_ref().ok())
        .map(|traced| {
            let total = traced.client.total() + traced.server.total();
            Found {
                text: format!("{total} in {} calls", grouped(count(traced.calls))),
                met: count(total) / count(traced.calls) <= SYSCALLS_MAX,
            }
        });
    Target {
        work: "system calls per call while calls follow each other, both sides".to_owned(),
        bound: format!("0 (below {SYSCALLS_MAX}: tokio looks for events every 61 turns)"),
        found,
    }
}

fn idle(findings: &Findings) -> Target {
    let found = findings.idle.map(|sample| Found {
        text: format!(
            "{:.2} ms client, {:.2} ms server",
            milliseconds(sample.client.cpu),
            milliseconds(sample.server.cpu)
        ),
        met: sample.client.cpu <= IDLE_CPU_MAX && sample.server.cpu <= IDLE_CPU_MAX,
    });
    Target {
        work: "idle session, CPU time".to_owned(),
        bound: format!(
            "none (below {} ms: reading the counters costs some)",
            IDLE_CPU_MAX.as_millis()
        ),
        found,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
