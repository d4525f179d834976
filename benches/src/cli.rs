//! The command line.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::harness::process::SUBCOMMAND;
use crate::harness::role;
use crate::harness::suite::{self, Plan};
use crate::{Result, report};

const USAGE: &str = "\
Measures shmipc-rpc beside its peers, in two processes, and writes a report.

Usage: cargo run --release -p benches -- [OPTIONS]

Options:
      --quick          Measure briefly, to see that everything works; the figures are rough
      --only PATTERN   Measure only the cases whose names contain PATTERN, or one of several: outbox/,crate/
      --list           Print the names of the cases
      --out DIR        Where to write [default: docs/benchmarks; with --quick or --only: target/benchmarks]
  -h, --help           Print this text

Run it on a quiet machine: every other process that computes is measured too.";

/// The load of the last minute beyond which a machine is not quiet.
const LOAD_MAX: f64 = 0.5;

/// What the command line asks for.
#[derive(Debug)]
enum Request {
    Help,
    List,
    PlayRole(String),
    Measure { plan: Plan, out: PathBuf },
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    match parse(env::args().skip(1)).and_then(obey) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request> {
    let mut quick = false;
    let mut only = None;
    let mut out = None;
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            SUBCOMMAND => return Ok(Request::PlayRole(value()?)),
            "-h" | "--help" => return Ok(Request::Help),
            "--list" => return Ok(Request::List),
            "--quick" => quick = true,
            "--only" => only = Some(value()?),
            "--out" => out = Some(PathBuf::from(value()?)),
            _ => return Err(format!("{argument} is not understood; --help tells what is").into()),
        }
    }
    let partial = quick || only.is_some();
    let folder = if partial {
        "target/benchmarks"
    } else {
        "docs/benchmarks"
    };
    let out = out.unwrap_or_else(|| workspace().join(folder));
    let plan = if quick { Plan::quick() } else { Plan::full() };
    Ok(Request::Measure {
        plan: Plan { only, ..plan },
        out,
    })
}

/// The root of the workspace when cargo runs this program, and the current folder otherwise.
fn workspace() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(PathBuf::new, |package| PathBuf::from(package).join(".."))
}

fn obey(request: Request) -> Result<ExitCode> {
    match request {
        Request::Help => println!("{USAGE}"),
        Request::List => list()?,
        Request::PlayRole(assignment) => role::play(serde_json::from_str(&assignment)?)?,
        Request::Measure { plan, out } => return measure(&plan, out),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the names of all cases, or of as many as somebody reads.
fn list() -> Result<()> {
    let cases = suite::sampled_cases();
    let mut names: Vec<_> = cases.iter().map(ToString::to_string).collect();
    names.extend(["allocations", "idle", ""].map(str::to_owned));
    match io::stdout().write_all(names.join("\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn measure(plan: &Plan, out: PathBuf) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    if let Some(load) = load().filter(|load| LOAD_MAX < *load) {
        eprintln!(
            "warning: this machine is busy (load {load}); what follows is measured beside other work"
        );
    }
    fs::create_dir_all(&out)?;
    let out = out.canonicalize()?;
    let findings = suite::run(plan)?;
    report::write(plan, &findings, &out)?;
    print!("{}", report::targets(&findings));
    for (what, why) in &findings.failures {
        eprintln!("failed: {what}: {why}");
    }
    eprintln!("wrote {}", out.join("README.md").display());
    Ok(if findings.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The mean number of processes that wanted to compute during the last minute.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}
