//! A client or a server that a test drives. See `tests::interop`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::interop::program::main()
}
