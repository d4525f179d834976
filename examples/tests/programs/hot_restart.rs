//! A server that is replaced over and over, under load.

use std::process::{Command, Stdio};

use crate::process::Guard;

/// Calls that each of the 21 servers must have answered.
const CALLS_MIN: u64 = 20 * 500;

#[test]
fn no_call_fails_while_a_server_is_replaced_over_either_link() {
    let child = Command::new(env!("CARGO_BIN_EXE_hot_restart"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = Guard(child.unwrap()).output();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "");
    let mut lines = stdout.lines();
    for link in ["outbox", "shmipc"] {
        let line = lines.next().unwrap_or_default();
        let calls = line
            .strip_prefix(&format!("{link}: 20 restarts, "))
            .and_then(|rest| rest.strip_suffix(" calls, 0 failed"));
        let calls: u64 = calls.and_then(|calls| calls.parse().ok()).expect(line);
        assert!(CALLS_MIN <= calls, "{line}");
    }
    assert_eq!(lines.next(), None);
}
