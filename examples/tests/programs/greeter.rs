//! The greeter, as two programs.

use std::process::Command;

use crate::process::{Guard, until};
use tempfile::TempDir;

#[test]
fn the_server_greets_by_name() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let _server = Guard(
        Command::new(env!("CARGO_BIN_EXE_greeter_server"))
            .arg(&socket)
            .spawn()
            .unwrap(),
    );
    until("the server listens", || socket.exists());
    let output = Command::new(env!("CARGO_BIN_EXE_greeter_client"))
        .arg("Ada")
        .arg(&socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"Hello, Ada!\n");
}
