//! Streams of shmipc-go: a program in Go on each side, which this process starts and asks for its figures.
//!
//! The program is that of the interoperability tests (`tests/interop-go`). It measures by itself, as this program does: one reading of the
//! clock for each call.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::foreign::{QUEUE, memory, prefix};
use super::streams::Streams;
use super::{Caller, Peer, Setting};
use crate::Result;
use crate::harness::case::{Wire, Work};
use crate::harness::window::{End, Latencies, Window};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop-go");

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Go {
    wire: Wire,
}

/// Builds the program, beside this one.
///
/// # Errors
///
/// Fails if `go` is not installed, or cannot get at shmipc-go.
pub fn build() -> Result<()> {
    let output = Command::new("go")
        .current_dir(SOURCE)
        .args(["build", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(program()?)
        .arg(".")
        .output()
        .map_err(|_| "go is not installed")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("go does not build it: {last}").into())
}

fn program() -> Result<PathBuf> {
    let folder = env::current_exe()?.with_file_name("interop-go");
    fs::create_dir_all(&folder)?;
    Ok(folder.join("interop-go"))
}

impl Go {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire }
    }

    fn start(self, role: &str, setting: &Setting) -> Result<Other> {
        let mode = match self.wire {
            Wire::V2 => "v2",
            Wire::V3 => "v3",
            Wire::V4Eventfd | Wire::V4Polling => return Err("shmipc-go has no V4".into()),
        };
        let case = &setting.case;
        let mut child = Command::new(program()?)
            .arg(role)
            .arg(format!("-socket={}", setting.socket.display()))
            .arg(format!("-prefix={}", prefix(&setting.socket)))
            .arg(format!("-mode={mode}"))
            .arg(format!("-size={}", case.size))
            .arg(format!("-streams={}", case.in_flight))
            .arg(format!("-touch={}", case.work != Work::Untouched))
            .arg(format!("-cap={}", memory(case)))
            .arg(format!("-queue={QUEUE}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take().ok_or("a piped child has an input")?;
        let output = child.stdout.take().ok_or("a piped child has an output")?;
        let mut other = Other {
            child,
            input,
            output: BufReader::new(output),
        };
        other.hear("ready ")?;
        Ok(other)
    }
}

impl Peer for Go {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut other = self.start("bench-server", &setting)?;
        ready()?;
        // The program ends with its input, which this process keeps open until it is ended itself.
        let said = other.hear("");
        Err(format!("the server in Go ended: {said:?}").into())
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.start("bench-client", &setting)?))
    }
}

/// A server of [`Go`], and a client of [`Streams`].
#[derive(Clone, Copy, Debug)]
pub(super) struct FromUs;

impl Peer for FromUs {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        Go::new(Wire::V3).serve(setting, ready)
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        Streams::over(Wire::V3).connect(setting)
    }
}

/// The program in Go. Killed when dropped.
#[derive(Debug)]
struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn hear(&mut self, beginning: &str) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim_end().strip_prefix(beginning) {
            Some(rest) if !line.is_empty() => Ok(rest.to_owned()),
            _ => Err(format!("the program in Go says {line:?}").into()),
        }
    }
}

impl Caller for Other {
    fn call_during(&mut self, window: Window) -> Result<Latencies> {
        let (duration, calls) = match window.end() {
            End::After(duration) => (duration, u64::from(u32::MAX)),
            End::Calls(calls) => (Duration::from_secs(60), calls),
        };
        writeln!(self.input, "time {} {calls}", duration.as_millis())?;
        let said = self.hear("timed ")?;
        let figure = |name: &str| {
            let mut fields = said.split(' ').filter_map(|field| field.split_once('='));
            let found = fields.find(|(found, _)| *found == name);
            let (_, value) = found.ok_or_else(|| format!("no {name} in {said}"))?;
            Result::Ok(value.parse::<u64>()?)
        };
        Ok(Latencies {
            calls: figure("calls")?,
            elapsed: Duration::from_nanos(figure("elapsed_ns")?),
            p50_ns: figure("p50_ns")?,
            p99_ns: figure("p99_ns")?,
            p999_ns: figure("p999_ns")?,
        })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
