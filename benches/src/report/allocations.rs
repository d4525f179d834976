//! `allocations.md`: where a call allocates, on both sides.

use std::fmt::Write;

use super::numbers::significant;
use super::sites::Site;
use super::summary::count;
use crate::harness::session::Sites;

/// Sites that allocate less often than this are about the process, not the call.
const PER_CALL_MIN: f64 = 0.01;

/// The list as a Markdown page.
pub(super) fn list(sites: Option<&Sites>) -> String {
    let mut page = "\
# Allocations of a unary call

Written by `cargo run --release -p benches`: where the processes of a 64-byte call (shmipc-rpc, `Wait::Adaptive`, one in
flight, steady state) ask for heap memory. The benchmark's own handler and client are part of it. Each stack lists the
functions that asked, the innermost first, without those of the standard library. Taking the stacks slows the calls down, so
that the server takes some of them in tasks of their own, which it allocates as well: more than is counted where nobody looks.

"
    .to_owned();
    let Some(sites) = sites else {
        page.push_str("Not measured in this run.\n");
        return page;
    };
    for (side, sites_of_side) in [("Client", &sites.client), ("Server", &sites.server)] {
        section(&mut page, side, sites_of_side, sites.calls);
    }
    page
}

fn section(page: &mut String, side: &str, sites: &[Site], calls: u64) {
    let per_call = |value: u64| count(value) / count(calls);
    let (regular, rare): (Vec<_>, Vec<_>) = sites
        .iter()
        .partition(|site| PER_CALL_MIN <= per_call(site.count));
    let total: u64 = sites.iter().map(|site| site.count).sum();
    let bytes: u64 = sites.iter().map(|site| site.bytes).sum();
    push(
        page,
        format_args!(
            "## {side}: {} for each call, {} bytes\n\n",
            significant(per_call(total)),
            significant(per_call(bytes))
        ),
    );
    for site in regular {
        push(
            page,
            format_args!(
                "- {} × {} bytes\n",
                significant(per_call(site.count)),
                significant(count(site.bytes) / count(site.count))
            ),
        );
        for frame in &site.frames {
            push(page, format_args!("  - `{frame}`\n"));
        }
    }
    if !rare.is_empty() {
        let total: u64 = rare.iter().map(|site| site.count).sum();
        push(
            page,
            format_args!(
                "- {total} allocations at {} places in {calls} calls: growth of buffers that stay\n",
                rare.len()
            ),
        );
    }
    page.push('\n');
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = page.write_fmt(text);
}
