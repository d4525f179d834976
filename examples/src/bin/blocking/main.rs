//! Calls and handlers that block their thread: no runtime anywhere.
//!
//! ```text
//! blocking     starts a server in a second process, calls it from several threads, and prints what came of it
//! ```
//!
//! What this shows: handlers are plain functions, and streams are iterators ([`server`]); any number of threads share one
//! channel, which has no thread of its own: of those that wait, one looks after the session for all ([`client`]).

mod client;
mod server;

use std::{env, error::Error, process::ExitCode};

use examples::second::Second;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blocking: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => {}
        // The second process.
        [serve, address] if serve == "serve" => return server::run(address),
        _ => return Err("there are no arguments".into()),
    }
    let server = Second::start("blocking", &[])?;
    let called = client::run(&server.address());
    server.stop()?;
    print!("{}", called?);
    Ok(())
}
