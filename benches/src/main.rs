//! `cargo run --release -p benches`: measures every peer and writes `docs/benchmarks`.

use std::process::ExitCode;

fn main() -> ExitCode {
    benches::cli::main()
}
