//! A host that has lines of text rendered by a plug-in, which is a process of its own. It kills the plug-in in the middle of a
//! line, starts it again, and goes on where it was.
//!
//! ```text
//! plugin_host                       starts the plug-in by itself
//! ```
//!
//! What this shows: calls in both directions over one session ([`plugin`] connects, and serves what [`host`] calls; while it does
//! so, it calls back); a process that dies takes nothing along but the call that it was at; and a host that drains tells its
//! plug-ins, so that they end by themselves.

mod host;
mod plugin;

use std::{env, error::Error, process::ExitCode};

/// The name of the host's argument that makes it a plug-in. The socket follows.
const PLUGIN: &str = "--plugin";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match &*arguments {
        [] => host::run().await,
        [role, socket] if role == PLUGIN => plugin::run(socket).await,
        _ => Err("usage: plugin_host".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugin_host: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Shows an error with all its sources.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
