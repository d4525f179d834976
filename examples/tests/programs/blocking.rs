//! Calls without a runtime, as two processes.

use std::process::Command;

use crate::process::run;

const EXPECTED: &str = "\
360 = 2 × 2 × 2 × 3 × 3 × 5
9973 = 9973
1000001 = 101 × 9901
600851475143 = 71 × 839 × 1471 × 6857
from 1000 on: 1009, 1013, 1019, 1021, 1031, …
20! = 2432902008176640000
21!: the product has more than 64 bits
18446744073709551557: no answer in time
";

#[test]
fn threads_call_without_a_runtime() {
    let (said, complaints) = run(&mut Command::new(env!("CARGO_BIN_EXE_blocking")));
    assert_eq!(complaints, "");
    assert_eq!(said, EXPECTED);
}
