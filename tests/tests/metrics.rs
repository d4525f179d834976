//! `docs/metrics.md` and the code say the same of what is reported.

use std::fs;

use shmipc_rpc::metrics::{CALL_METRICS, Kind, SESSION_METRICS};

#[test]
fn the_document_lists_what_is_reported() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = fs::read_to_string(path).expect("the document is there");
    let listed: Vec<_> = document
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let sessions = SESSION_METRICS
        .iter()
        .map(|metric| row(metric.name, metric.kind, metric.unit, metric.description));
    let calls = CALL_METRICS
        .iter()
        .map(|metric| row(metric.name, metric.kind, metric.unit, metric.description));
    assert_eq!(listed, sessions.chain(calls).collect::<Vec<_>>());
}

fn row(name: &str, kind: Kind, unit: &str, description: &str) -> String {
    let kind = format!("{kind:?}").to_lowercase();
    format!("| `{name}` | {kind} | {unit} | {description} |")
}
