//! The gateway, as a program.

use std::process::Command;

#[test]
fn both_ways_lead_to_the_same_service() {
    let output = Command::new(env!("CARGO_BIN_EXE_grpc_gateway"))
        .arg("Grace")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let [memory, http, through_memory, through_http] = lines[..] else {
        panic!("it says four lines:\n{said}");
    };
    let memory = memory.strip_prefix("listening at ").unwrap();
    // The process that calls is the one that has named the address.
    let pid = memory.strip_prefix("@grpc-gateway-").unwrap();
    let (pid, _) = pid.split_once('-').unwrap();
    assert_eq!(
        through_memory,
        format!("through {memory}: Hello, Grace! You are process {pid}.")
    );
    let http = http.strip_prefix("listening at ").unwrap();
    assert!(http.starts_with("http://127.0.0.1:"));
    assert_eq!(
        through_http,
        format!("through {http}: Hello, Grace! You are at 127.0.0.1.")
    );
}
