//! Computes SHA-256 of files as `sha256sum` does, except that another process does the computing.
//!
//! ```text
//! digest FILES…                     with a server of its own, which ends with it
//! digest serve SOCKET               serves others
//! digest --connect SOCKET FILES…    is served
//! ```
//!
//! What this shows: each file is read straight into memory that the session lends ([`read`]), so that the server hashes
//! the bytes where the client's `read` has put them; several calls are in flight, within a bound on memory ([`client`]); and
//! the second process ends with the first, whatever becomes of it ([`local`]).

mod client;
mod format;
mod local;
mod read;
mod server;

use std::{error::Error, ffi::OsString, num::NonZeroUsize, process::ExitCode, thread};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{client::Run, local::LocalServer};

/// Prints SHA-256 checksums, computed by another process.
#[derive(Debug, Parser)]
#[command(
    name = "digest",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Use the server at this socket (a path, or @name) instead of starting one.
    #[arg(long, value_name = "SOCKET")]
    connect: Option<String>,

    /// How many files to work on at a time. Default: two for each CPU.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// What to read: files, or - for the standard input, which is also read if there are none.
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve others until interrupted.
    Serve {
        /// Where to listen: a path, or @name.
        socket: String,

        /// Say on the standard output when the socket is there, and end with the standard input.
        #[arg(long, hide = true)]
        attached: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Runtime::new().map_err(Into::into).and_then(|runtime| {
        let done = runtime.block_on(run(arguments));
        // A thread that reads a pipe may never return, and nobody waits for it any longer.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("digest: {}", format::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Does what the command line says. Returns whether all went well.
async fn run(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    match arguments.command {
        Some(Command::Serve { socket, attached }) => {
            server::run(socket, attached).await.map(|()| true)
        }
        None => digest(arguments).await,
    }
}

/// Prints a line for each file. Returns whether all of them could be digested.
async fn digest(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let Arguments {
        connect,
        jobs,
        mut files,
        ..
    } = arguments;
    if files.is_empty() {
        files.push("-".into());
    }
    let run = Run {
        files,
        jobs: jobs.map_or_else(jobs_default, NonZeroUsize::get),
    };
    match connect {
        Some(socket) => run.with(socket).await,
        None => {
            let server = LocalServer::start()?;
            let done = run.with(server.address()).await;
            server.stop();
            done
        }
    }
}

fn jobs_default() -> usize {
    2 * thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
