//! Layers around a client and a server, as two processes.

use std::process::Command;

use crate::process::run;

const EXPECTED: &str = "\
get: blue
get what is not there: NOT_FOUND: there is no \"size\"
seal: PERMISSION_DENIED: Seal is not for you
watch: RESOURCE_EXHAUSTED: the service is overloaded
watch: red
watch: red
watch what does not change: DEADLINE_EXCEEDED: the time allowed by a layer has passed
the client:
  vault.v1.Vault/Get NOT_FOUND 1
  vault.v1.Vault/Get OK 1
  vault.v1.Vault/Put OK 2
  vault.v1.Vault/Seal PERMISSION_DENIED 1
  vault.v1.Watcher/Watch DEADLINE_EXCEEDED 1
  vault.v1.Watcher/Watch OK 2
  vault.v1.Watcher/Watch RESOURCE_EXHAUSTED 1

the server:
  vault.v1.Vault/Get NOT_FOUND 1
  vault.v1.Vault/Get OK 1
  vault.v1.Vault/Put OK 2
  vault.v1.Vault/Seal PERMISSION_DENIED 1
  vault.v1.Watcher/Watch CANCELLED 1
  vault.v1.Watcher/Watch OK 2
  vault.v1.Watcher/Watch RESOURCE_EXHAUSTED 1
";

fn tower_stack() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tower_stack"))
}

#[test]
fn each_layer_does_its_work() {
    let (stdout, stderr) = run(&mut tower_stack());
    assert_eq!(stdout, EXPECTED);
    assert_eq!(stderr, "");
}

#[test]
fn both_sides_trace_if_asked() {
    let (stdout, stderr) = run(tower_stack().arg("--trace"));
    assert_eq!(stdout, EXPECTED);
    // What the server refused or did not have, both sides know of; what took too long, the client gave up.
    let refused = [
        "vault.v1.Vault/Get NOT_FOUND",
        "vault.v1.Vault/Seal PERMISSION_DENIED",
        "vault.v1.Watcher/Watch RESOURCE_EXHAUSTED",
    ];
    let mut given_up = refused.to_vec();
    given_up.push("vault.v1.Watcher/Watch DEADLINE_EXCEEDED");
    given_up.sort_unstable();
    assert_eq!(failures(&stderr, false), given_up, "{stderr}");
    assert_eq!(failures(&stderr, true), refused, "{stderr}");
    // Each call begins and ends on both sides.
    for said in [
        "started processing request",
        "end of stream",
        "response failed",
    ] {
        let gets = stderr
            .lines()
            .filter(|line| line.contains("/vault.v1.Vault/Get"));
        let count = gets.filter(|line| line.contains(said)).count();
        let expected = if said.starts_with("started") { 4 } else { 2 };
        assert_eq!(count, expected, "{said}:\n{stderr}");
    }
}

/// The calls that the server, or the client, saw fail, in order. Spans of calls are the server's.
fn failures(stderr: &str, server: bool) -> Vec<String> {
    let lines = stderr
        .lines()
        .filter(|line| line.contains("response failed"));
    let lines = lines.filter(|line| line.contains("call{method=") == server);
    let mut failures: Vec<_> = lines
        .map(|line| {
            let after = |word: &str| line.split_once(word).unwrap().1;
            let method = after("uri=/").split(' ').next().unwrap();
            let code = after("classification=Error: ").split(':').next().unwrap();
            format!("{method} {code}")
        })
        .collect();
    failures.sort();
    failures
}
