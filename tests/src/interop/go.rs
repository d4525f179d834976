//! The program in Go, built once for each run of a test program.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Names the `go` to use, and demands that it works.
const GO: &str = "SHMIPC_GO";

/// Said once by each test program.
const SKIPPED: &str = "skipped: no go, so the tests with shmipc-go do nothing\n";

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop-go");

/// Returns the program, or says why the test is skipped: `go` is not installed, and `SHMIPC_GO` does not name it.
///
/// It is built into `folder`, which should be cargo's folder for the files of tests.
///
/// # Panics
///
/// If `go` is there and does not build the program. It needs the modules that `go.sum` names, which it finds in its cache or fetches.
#[must_use]
pub fn program(folder: &str) -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let named = env::var_os(GO);
        let go = named.clone().unwrap_or_else(|| OsString::from("go"));
        match Command::new(&go).arg("version").output() {
            Ok(output) if output.status.success() => Some(build(&go, folder)),
            problem => {
                assert!(named.is_none(), "{GO} does not name a go: {problem:?}");
                // Not by a macro: what those print is only seen of tests that fail.
                let _ = io::stderr().write_all(SKIPPED.as_bytes());
                None
            }
        }
    });
    program.as_deref()
}

fn build(go: &OsString, folder: &str) -> PathBuf {
    let program = Path::new(folder).join("interop-go");
    let output = Command::new(go)
        .current_dir(SOURCE)
        .args(["build", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .output()
        .expect("go can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "go does not build {SOURCE}:\n{said}"
    );
    program
}
