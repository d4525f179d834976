//! The tables of the report.

use super::numbers::{chosen, grouped, significant, size, time};
use super::summary::{Cost, Summary, count};
use crate::harness::case::{Case, PeerKind, Placement, Runtime, Waiting, Wire, Work};
use crate::harness::session::Sample;
use crate::harness::suite::{
    self, CONCURRENT_PEERS, CROWDS, Findings, IN_FLIGHT, LARGE, PING_PONG, PING_PONG_SIZES, Plan,
    SHMIPC, SIZED_PEERS, SIZES, SMALL, STREAMS, TONIC, TONIC_TWO_WORKERS,
};

/// What stands where nothing was measured.
const NOTHING: &str = "–";

/// Latency of small messages, for each peer and placement.
pub(super) fn small(findings: &Findings) -> String {
    let columns = [
        "peer",
        "runtime",
        "placement",
        "p50",
        "p50 of the rounds",
        "p99",
        "p99.9",
        "calls/s",
    ];
    let rows = suite::small_cases().into_iter().filter_map(|case| {
        let summary = Summary::of(findings, case)?;
        let (low, high) = summary.p50_range_ns;
        Some(vec![
            name(case.peer).to_owned(),
            runtime(case.peer).to_owned(),
            placement(case.placement).to_owned(),
            time(summary.p50_ns),
            format!("{} to {}", time(low), time(high)),
            time(summary.p99_ns),
            time(summary.p999_ns),
            grouped(summary.calls_per_second),
        ])
    });
    markdown(&columns, rows.collect())
}

/// Latency against size: p50 and p99 of each peer.
pub(super) fn sized(findings: &Findings) -> String {
    let mut columns = vec!["payload each way".to_owned()];
    columns.extend(SIZED_PEERS.map(|peer| format!("{}, p50 (p99)", name(peer))));
    let rows = SIZES.map(|len| {
        let mut row = vec![size(len)];
        row.extend(SIZED_PEERS.map(|peer| p50_and_p99(findings, Case::exchange(peer, len))));
        row
    });
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    markdown(&columns, rows.into())
}

/// Forwarding beside the small call.
pub(super) fn forwarding(findings: &Findings) -> String {
    let columns = [
        "call",
        "shmipc-rpc, adaptive, p50 (p99)",
        "tonic, p50 (p99)",
    ];
    let row = |what: String, case: &dyn Fn(PeerKind) -> Case| {
        vec![
            what,
            p50_and_p99(findings, case(SHMIPC)),
            p50_and_p99(findings, case(TONIC)),
        ]
    };
    let mut rows = vec![row("64 B, touched".to_owned(), &|peer| {
        Case::exchange(peer, SMALL)
    })];
    for len in LARGE {
        rows.push(row(format!("{}, forwarded", size(len)), &|peer| {
            Case::exchange(peer, len).forwarding()
        }));
    }
    markdown(&columns, rows)
}

/// Calls per second against calls in flight.
pub(super) fn concurrent(findings: &Findings) -> String {
    let mut columns = vec!["calls in flight".to_owned()];
    columns.extend(CONCURRENT_PEERS.map(|peer| format!("{}, {}", name(peer), runtime(peer))));
    let rows = IN_FLIGHT.map(|calls| {
        let mut row = vec![calls.to_string()];
        row.extend(CONCURRENT_PEERS.map(|peer| {
            Summary::of(findings, Case::exchange(peer, SMALL).in_flight(calls)).map_or_else(
                || NOTHING.to_owned(),
                |summary| grouped(summary.calls_per_second),
            )
        }));
        row
    });
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    markdown(&columns, rows.into())
}

/// Messages within one call: those of a stream per second, and the round trip of a conversation.
pub(super) fn streaming(findings: &Findings) -> String {
    let columns = [
        "peer",
        "runtime",
        "messages/s of a server's stream",
        "round trip within a call, p50",
        "a call of its own, p50",
    ];
    let peers = [
        SHMIPC,
        PeerKind::Shmipc(Waiting::Busy),
        TONIC,
        TONIC_TWO_WORKERS,
    ];
    let rows = peers.into_iter().filter_map(|peer| {
        let found = |work| Summary::of(findings, Case::exchange(peer, SMALL).work(work));
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        let watched = found(Work::Watch).map(|summary| grouped(summary.calls_per_second));
        let conversed = found(Work::Converse).map(|summary| time(summary.p50_ns));
        (watched.is_some() || conversed.is_some()).then(|| {
            vec![
                name(peer).to_owned(),
                runtime(peer).to_owned(),
                or_nothing(watched),
                or_nothing(conversed),
                or_nothing(found(Work::Exchange).map(|summary| time(summary.p50_ns))),
            ]
        })
    });
    markdown(&columns, rows.collect())
}

/// What layers and adapters add to a call.
pub(super) fn wrapped(findings: &Findings) -> String {
    let rows = [SHMIPC, PeerKind::Layered, PeerKind::TonicAdapter, TONIC]
        .into_iter()
        .map(|peer| {
            vec![
                name(peer).to_owned(),
                p50_and_p99(findings, Case::exchange(peer, SMALL)),
            ]
        });
    markdown(
        &["call of 64 B, one in flight", "p50 (p99)"],
        rows.collect(),
    )
}

/// Calls per second against clients.
pub(super) fn crowd(findings: &Findings) -> String {
    let columns = [
        "clients, each with a session and one call in flight",
        "calls/s",
        "resident memory of the server",
        "for each client",
    ];
    let rows = CROWDS.into_iter().filter_map(|clients| {
        let case = Case::exchange(SHMIPC, SMALL)
            .work(Work::Crowd)
            .in_flight(clients);
        let summary = Summary::of(findings, case)?;
        let mebibytes = |bytes: f64| format!("{:.2} MiB", bytes / f64::from(1 << 20));
        let clients = count(u64::try_from(clients).unwrap_or(u64::MAX));
        Some(vec![
            grouped(clients),
            grouped(summary.calls_per_second),
            mebibytes(summary.server_resident),
            mebibytes(summary.server_resident / clients),
        ])
    });
    markdown(&columns, rows.collect())
}

/// Messages per second of the parallel ping-pong: a table for each number of streams and each work.
pub(super) fn ping_pong(findings: &Findings) -> String {
    let mut tables = String::new();
    if let Some(why) = &findings.no_go {
        tables.push_str(&format!("shmipc-go is not among the peers: {why}.\n\n"));
    }
    for streams in STREAMS {
        for work in PING_PONG {
            let streams_text = if streams == 1 { "stream" } else { "streams" };
            let work_text = match work {
                Work::Untouched => "payload untouched",
                _ => "every byte written and read",
            };
            tables.push_str(&format!(
                "{streams} {streams_text}, {work_text}: messages/s, both ways together\n\n"
            ));
            let rate = |peer, len| {
                let case = Case::exchange(peer, len).work(work).in_flight(streams);
                Summary::of(findings, case).map_or_else(
                    || NOTHING.to_owned(),
                    |summary| grouped(2.0 * summary.calls_per_second),
                )
            };
            let peers = suite::ping_pong_peers(streams);
            let mut columns = vec!["payload"];
            columns.extend(peers.iter().map(|peer| name(*peer)));
            let rows = PING_PONG_SIZES.map(|len| {
                let mut row = vec![size(len)];
                row.extend(peers.iter().map(|peer| rate(*peer, len)));
                row
            });
            tables.push_str(&markdown(&columns, rows.into()));
        }
    }
    tables
}

/// Processor time and allocations of a call, on both sides.
pub(super) fn costs(findings: &Findings) -> String {
    let columns = [
        "call",
        "CPU seconds per million calls, client",
        "server",
        "allocations per call, client",
        "server",
        "bytes allocated per call, client",
        "server",
    ];
    let small = |peer| Case::exchange(peer, SMALL);
    let large = |peer| Case::exchange(peer, 1 << 20);
    let cases = [
        small(SHMIPC),
        small(PeerKind::Shmipc(Waiting::Block)),
        small(PeerKind::Shmipc(Waiting::Busy)),
        small(SHMIPC).in_flight(64),
        large(SHMIPC),
        small(TONIC),
        small(TONIC).in_flight(64),
        large(TONIC),
        small(PeerKind::Socket),
        large(PeerKind::Socket),
        small(PeerKind::Eventfd),
    ];
    let rows = cases.into_iter().filter_map(|case| {
        let Summary { client, server, .. } = Summary::of(findings, case)?;
        let pair =
            |figure: fn(&Cost) -> f64| [significant(figure(&client)), significant(figure(&server))];
        let mut row = vec![describe(case)];
        row.extend(pair(|cost| cost.cpu_seconds_per_million_calls));
        row.extend(pair(|cost| cost.allocations_per_call));
        row.extend([client, server].map(|cost| grouped(cost.bytes_per_call)));
        Some(row)
    });
    markdown(&columns, rows.collect())
}

/// System calls of a call, on both sides.
pub(super) fn system_calls(findings: &Findings) -> String {
    let columns = [
        "call",
        "calls",
        "system calls per call, client",
        "server",
        "which",
    ];
    let rows = findings.traced.iter().map(|(case, traced)| match traced {
        Ok(traced) => {
            let per_call = |total: u64| format!("{:.4}", count(total) / count(traced.calls));
            let named = |side: &str, counts: Vec<(String, u64)>| {
                let most = counts
                    .into_iter()
                    .take(4)
                    .map(|(name, times)| format!("{name} {times}"));
                let most: Vec<_> = most.collect();
                if most.is_empty() {
                    format!("{side}: none")
                } else {
                    format!("{side}: {}", most.join(", "))
                }
            };
            vec![
                describe(*case),
                grouped(count(traced.calls)),
                per_call(traced.client.total()),
                per_call(traced.server.total()),
                [
                    named("client", traced.client.named()),
                    named("server", traced.server.named()),
                ]
                .join("; "),
            ]
        }
        Err(why) => {
            let nothing = || NOTHING.to_owned();
            vec![
                describe(*case),
                nothing(),
                nothing(),
                nothing(),
                format!("not measured: {why}"),
            ]
        }
    });
    markdown(&columns, rows.collect())
}

/// What an idle session spends.
pub(super) fn idle(plan: &Plan, findings: &Findings) -> String {
    let Some(Sample { client, server, .. }) = findings.idle else {
        return "Not measured in this run.\n\n".to_owned();
    };
    let columns = ["side", "CPU time", "allocations"];
    let row = |side: &str, counters: crate::harness::counters::Counters| {
        let cpu = format!(
            "{:.2} ms in {}",
            counters.cpu.as_secs_f64() * 1e3,
            chosen(plan.idle)
        );
        vec![side.to_owned(), cpu, counters.allocations.count.to_string()]
    };
    markdown(&columns, vec![row("client", client), row("server", server)])
}

fn p50_and_p99(findings: &Findings, case: Case) -> String {
    Summary::of(findings, case).map_or_else(
        || NOTHING.to_owned(),
        |summary| format!("{} ({})", time(summary.p50_ns), time(summary.p99_ns)),
    )
}

fn markdown(columns: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return "Not measured in this run.\n\n".to_owned();
    }
    let mut table = format!(
        "| {} |\n|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for row in rows {
        table.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    table.push('\n');
    table
}

/// What the report calls a peer.
pub(super) fn name(peer: PeerKind) -> &'static str {
    match peer {
        PeerKind::Limit => "cache-line ping-pong (the limit)",
        PeerKind::Memory => "two spinning processes, one buffer",
        PeerKind::Eventfd => "eventfd ping-pong",
        PeerKind::Socket => "blocking UDS",
        PeerKind::Tonic(_) => "tonic over UDS",
        PeerKind::TonicDefaults => "tonic over UDS, its defaults",
        PeerKind::Shmipc(Waiting::Adaptive) => "shmipc-rpc, adaptive",
        PeerKind::Shmipc(Waiting::Block) => "shmipc-rpc, `Wait::Block`",
        PeerKind::Shmipc(Waiting::Busy) => "shmipc-rpc, `Wait::Busy`",
        PeerKind::Blocking(Waiting::Adaptive) => "shmipc-rpc, blocking, adaptive",
        PeerKind::Blocking(Waiting::Block) => "shmipc-rpc, blocking, `Wait::Block`",
        PeerKind::Blocking(Waiting::Busy) => "shmipc-rpc, blocking, `Wait::Busy`",
        PeerKind::Layered => "shmipc-rpc, adaptive, behind layers",
        PeerKind::TonicAdapter => "tonic's client and server over shmipc-rpc",
        PeerKind::Outbox => "shmipc-transport, outbox link",
        PeerKind::Link(Wire::V2) => "shmipc-transport, shmipc link, V2",
        PeerKind::Link(Wire::V3) => "shmipc-transport, shmipc link, V3",
        PeerKind::Link(Wire::V4Eventfd) => "shmipc-transport, shmipc link, V4, eventfd",
        PeerKind::Link(Wire::V4Polling) => "shmipc-transport, shmipc link, V4, polling",
        PeerKind::LinkToGo => "shmipc-transport to shmipc-go, V3",
        PeerKind::Crate(Wire::V2) => "`shmipc` crate, V2",
        PeerKind::Crate(Wire::V3) => "`shmipc` crate, V3",
        PeerKind::Crate(Wire::V4Eventfd) => "`shmipc` crate, V4, eventfd",
        PeerKind::Crate(Wire::V4Polling) => "`shmipc` crate, V4, polling",
        PeerKind::Go(Wire::V2) => "shmipc-go, V2",
        PeerKind::Go(_) => "shmipc-go, V3",
        PeerKind::Sockets => "UDS, one for each stream",
    }
}

/// The runtime that both sides of a peer use.
pub(super) fn runtime(peer: PeerKind) -> &'static str {
    match peer {
        PeerKind::Limit
        | PeerKind::Memory
        | PeerKind::Eventfd
        | PeerKind::Socket
        | PeerKind::Blocking(_) => "threads",
        PeerKind::Shmipc(_)
        | PeerKind::Layered
        | PeerKind::TonicAdapter
        | PeerKind::Outbox
        | PeerKind::Link(_)
        | PeerKind::Sockets
        | PeerKind::Tonic(Runtime::CurrentThread)
        | PeerKind::TonicDefaults => "tokio, current thread",
        PeerKind::Tonic(Runtime::TwoWorkers) | PeerKind::Crate(_) => "tokio, two workers",
        PeerKind::LinkToGo => "tokio, current thread, and Go",
        PeerKind::Go(_) => "Go",
    }
}

fn placement(placement: Placement) -> &'static str {
    match placement {
        Placement::Free => "by the scheduler",
        Placement::Apart => "one CPU each",
        Placement::Together => "one CPU for both",
    }
}

fn describe(case: Case) -> String {
    let work = match case.work {
        Work::Exchange => "",
        Work::Forward => " forwarded",
        Work::Untouched => " untouched",
        Work::Crowd => " by as many clients",
        Work::Converse => " within one call",
        Work::Watch => " from one call",
    };
    format!(
        "{}, {}{work}, {} in flight",
        name(case.peer),
        size(case.size),
        case.in_flight
    )
}
