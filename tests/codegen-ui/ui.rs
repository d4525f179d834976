//! What the compiler says to users of generated code who get something wrong, and that it says nothing to those who do not.
//!
//! The words are the compiler's, and change from release to release, so they are only compared with the release that they
//! were recorded with; what is right has to compile with every one. To record them with another one, review what
//! `TRYBUILD=overwrite cargo test -p codegen-ui` writes, and change [`RECORDED_WITH`].

use std::{env, process::Command};

/// How the compiler names the release whose messages are recorded.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn what_is_right_compiles() {
    trybuild::TestCases::new().pass("ui/pass/*.rs");
}

#[test]
fn mistakes_are_explained() {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    if version.starts_with(RECORDED_WITH) || env::var_os("TRYBUILD").is_some() {
        trybuild::TestCases::new().compile_fail("ui/*.rs");
    } else {
        println!("skipped: the messages were recorded with {RECORDED_WITH}x, this is {version}");
    }
}
