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
    // Two calls end as an error of the server: one was shed, and one took too long.
    let failures = stderr
        .lines()
        .filter(|line| line.contains("response failed"));
    assert_ne!(failures.count(), 0, "{stderr}");
    let gets = stderr
        .lines()
        .filter(|line| line.contains("vault.v1.Vault/Get"));
    assert_ne!(gets.count(), 0, "{stderr}");
}
