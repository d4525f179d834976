//! Generates clients and servers from `.proto` files, for those who check the result in.
//!
//! `shmipc-gen --help` tells how it is used.

mod arguments;
mod options;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shmipc_codegen::Error;

use crate::arguments::{Arguments, Command};

/// Nothing was generated, or what is there is out of date.
const FAILED: u8 = 1;
/// The command line makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    match arguments::parse(lexopt::Parser::from_env()) {
        Ok(Command::Help) => print(&arguments::help()),
        Ok(Command::Version) => print(concat!("shmipc-gen ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Generate(arguments)) => match generate(*arguments) {
            Ok(()) => ExitCode::SUCCESS,
            // Its `Debug` form names the causes.
            Err(error) => complain(FAILED, &format!("{error:?}")),
        },
        Err(error) => complain(MISUSED, &format!("{error}\nSee `shmipc-gen --help`.")),
    }
}

fn generate(arguments: Arguments) -> Result<(), Error> {
    let Arguments {
        builder,
        protos,
        mut includes,
    } = arguments;
    if includes.is_empty() {
        includes = protos.iter().map(|proto| directory(proto)).collect();
        includes.dedup();
    }
    builder.compile_protos(&protos, &includes)
}

fn directory(proto: &Path) -> PathBuf {
    match proto.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn print(text: &str) -> ExitCode {
    // Whoever reads may have read enough.
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn complain(code: u8, text: &str) -> ExitCode {
    eprintln!("shmipc-gen: {text}");
    ExitCode::from(code)
}
