//! Pictures through a codec that was written by hand.

use std::process::{Command, Stdio};

use crate::process::Guard;

const EXPECTED: &str = "\
threads  outbox     100 pictures, 4950000 bytes
tasks    outbox     100 pictures, 4950000 bytes
tasks    shmipc-v4  100 pictures, 4950000 bytes
tasks    shmipc-v3  100 pictures, 4950000 bytes
";

#[test]
fn the_pictures_arrive_in_every_way() {
    let child = Command::new(env!("CARGO_BIN_EXE_idl"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Guard(child).output();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert_eq!(text(output.stderr), "");
    assert_eq!(text(output.stdout), EXPECTED);
    assert!(output.status.success());
}
