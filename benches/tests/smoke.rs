//! Runs the benchmark itself, briefly, and looks at what it writes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn run(only: &str, out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_benches"))
        .args(["--quick", "--only", only, "--out"])
        .arg(out)
        .output()
        .expect("the benchmark can be started")
}

#[test]
fn each_peer_ends_up_in_the_report() {
    let out = tempfile::tempdir().expect("a folder");
    for (only, row) in [
        (
            "eventfd/free",
            "| eventfd ping-pong | threads | by the scheduler |",
        ),
        ("uds/free/exchange/1024B", "| 1 KiB | "),
        (
            "shmipc/adaptive/free/exchange/64B/1",
            "| shmipc-rpc, adaptive | tokio, current thread | by the scheduler |",
        ),
        (
            "tonic/free/exchange/64B/1",
            "| tonic over UDS | tokio, current thread | by the scheduler |",
        ),
        (
            "outbox/free/untouched/1024B,crate/v3/free/exchange/1024B",
            "64 streams, payload untouched: messages/s",
        ),
    ] {
        let output = run(only, out.path());
        assert!(output.status.success(), "{only}: {output:?}");
        let report = fs::read_to_string(out.path().join("README.md")).expect("a report");
        assert!(report.contains(row), "{only}: {report}");
    }
}

#[test]
fn the_plots_are_drawn() {
    let out = tempfile::tempdir().expect("a folder");
    let output = run("memory/free/exchange/4096B", out.path());
    assert!(output.status.success(), "{output:?}");
    for plot in ["latency.svg", "throughput.svg"] {
        let drawn = fs::read_to_string(out.path().join(plot)).expect("a plot");
        assert!(drawn.starts_with("<svg"), "{plot}: {drawn}");
    }
}

#[test]
fn an_option_that_does_not_exist_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_benches"))
        .arg("--fast")
        .output()
        .expect("the benchmark can be started");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--fast"),
        "{output:?}"
    );
}

#[test]
fn a_short_soak_loses_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--messages", "2000"])
        .output()
        .expect("the soak can be started");
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("nothing lost"),
        "{output:?}"
    );
}
