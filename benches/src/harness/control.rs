//! What the processes of a case say to the one that started them, and hear from it: one line of JSON each.

use std::io::{self, BufRead, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::case::{Case, Measure};
use super::counters::Counters;
use super::window::Latencies;
use crate::Result;
use crate::report::sites::Site;

/// What a process is born to do. Its only argument beside the hidden subcommand.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Assignment {
    /// Which end to be.
    pub role: Role,
    /// What to be an end of.
    pub case: Case,
    /// What the client shall do. The server only answers.
    pub measure: Measure,
    /// The descriptors that the peer asked for, open in the child under these numbers.
    pub descriptors: Vec<RawFd>,
    /// Where peers with a named socket meet.
    pub socket: PathBuf,
}

/// The two ends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Role {
    /// Answers.
    Server,
    /// Calls.
    Client,
}

/// From the parent to a process. The end of the input means: leave.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Command {
    /// To a client: make the calls.
    Go,
    /// To a server: report your counters.
    Count,
    /// To a server: note the place of each allocation.
    StartTrace,
    /// To a server: report the places noted.
    StopTrace,
}

/// From a process to the parent.
#[derive(Debug, Deserialize, Serialize)]
pub enum Message {
    /// A server can be connected to; a client is connected and warm.
    Ready,
    /// A server's answer to [`Command::Count`].
    Counted(Counters),
    /// A server's answer to [`Command::StopTrace`], and a client's result when it traced its allocations.
    Sites(Vec<Site>),
    /// A client's result.
    Done(Outcome),
    /// The process cannot go on, and why.
    Failed(String),
}

/// What a client found.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// The calls. None of an idle client.
    pub latencies: Option<Latencies>,
    /// What the client spent meanwhile.
    pub spent: Counters,
}

/// Writes one message to the standard output.
///
/// # Errors
///
/// Fails if the parent no longer listens.
pub fn say(message: &Message) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()?;
    Ok(())
}

/// Reads one command from the standard input, or `None` if the parent is done with this process.
///
/// # Errors
///
/// Fails if the line is no command.
pub fn hear() -> Result<Option<Command>> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
