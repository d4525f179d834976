//! Pictures through a codec that was written by hand.

use std::process::Command;

use crate::process::run;

const EXPECTED: &str = "\
threads  outbox     100 pictures, 4950000 bytes
threads  shmipc-v4  100 pictures, 4950000 bytes
threads  shmipc-v3  100 pictures, 4950000 bytes
tasks    outbox     100 pictures, 4950000 bytes
tasks    shmipc-v4  100 pictures, 4950000 bytes
tasks    shmipc-v3  100 pictures, 4950000 bytes
";

#[test]
fn the_pictures_arrive_in_every_way() {
    let (said, complaints) = run(&mut Command::new(env!("CARGO_BIN_EXE_idl")));
    assert_eq!(complaints, "");
    assert_eq!(said, EXPECTED);
}
