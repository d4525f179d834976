//! A service behind a stack of layers, called through another.
//!
//! ```text
//! tower_stack             starts a server in a second process, calls it, and prints what became of the calls
//! tower_stack --trace     and says on the standard error what the layers for tracing see
//! ```
//!
//! What this shows: who may call is decided by the user id that the kernel reports of the calling process ([`auth`]); tower's own
//! layers limit time and concurrency, around a channel, around one service or around all of them ([`client`], [`server`]);
//! tower-http traces calls; and the library's own interceptor counts them on both sides ([`metrics`]).

mod auth;
mod client;
mod metrics;
mod server;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};
use examples::second::Second;
use tower_http::{
    classify::{GrpcErrorsAsFailures, SharedClassifier},
    trace::TraceLayer,
};

/// Calls a service in a second process through layers on both sides.
#[derive(Debug, Parser)]
#[command(name = "tower_stack", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Say on the standard error what the layers for tracing see.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until the standard input ends.
    #[command(hide = true)]
    Serve { socket: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tower_stack: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.trace {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    if let Some(Command::Serve { socket }) = arguments.command {
        return server::run(socket).await;
    }
    let options: &[&str] = if arguments.trace { &["--trace"] } else { &[] };
    let server = Second::start("tower_stack", options)?;
    let called = client::run(server.address()).await;
    let said = server.stop()?;
    print!("{}\nthe server:\n{said}", called?);
    Ok(())
}

/// tower-http's layer, which makes a span of each call and knows how gRPC says that one failed.
fn tracing_layer() -> TraceLayer<SharedClassifier<GrpcErrorsAsFailures>> {
    TraceLayer::new_for_grpc()
}
