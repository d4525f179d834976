//! Turns findings into `README.md`, `allocations.md` and the plots.

mod allocations;
mod machine;
mod method;
mod numbers;
mod ping_pong;
mod plot;
pub mod sites;
mod summary;
mod table;
mod targets;

use std::fs;
use std::path::Path;

use crate::Result;
use crate::harness::suite::{Findings, Plan};

/// Writes the report into the folder `out`, over an earlier one.
///
/// # Errors
///
/// Fails if a file cannot be written.
pub fn write(plan: &Plan, findings: &Findings, out: &Path) -> Result<()> {
    fs::write(out.join("README.md"), readme(plan, findings))?;
    fs::write(
        out.join("allocations.md"),
        allocations::list(findings.sites.as_ref()),
    )?;
    plot::latency_against_size(findings, &out.join("latency.svg"))?;
    plot::rate_against_calls_in_flight(findings, &out.join("throughput.svg"))?;
    Ok(())
}

/// The table of the figures to reach, as Markdown.
#[must_use]
pub fn targets(findings: &Findings) -> String {
    targets::table(findings)
}

fn readme(plan: &Plan, findings: &Findings) -> String {
    [
        method::introduction(plan),
        machine::describe(),
        method::heading("Figures to reach"),
        targets(findings),
        method::heading("64 bytes, one call in flight"),
        table::small(findings),
        method::heading("Latency against size"),
        "![Latency against size](latency.svg)\n\n".to_owned(),
        table::sized(findings),
        method::heading("Sending on what was received"),
        table::forwarding(findings),
        method::heading("Calls per second against calls in flight"),
        "![Calls per second against calls in flight](throughput.svg)\n\n".to_owned(),
        table::concurrent(findings),
        method::heading("Messages within one call"),
        table::streaming(findings),
        method::heading("Through layers and adapters"),
        table::wrapped(findings),
        method::heading("Many clients"),
        table::crowd(findings),
        method::heading("Streams, beside shmipc's own implementations"),
        table::ping_pong(findings),
        method::heading("What a call costs"),
        table::costs(findings),
        method::heading("System calls"),
        table::system_calls(findings),
        method::heading("An idle session"),
        table::idle(plan, findings),
        method::how(plan, findings),
    ]
    .concat()
}
