//! Three processes in a row that pass frames on, without copying the large ones: a producer, a filter and a consumer.
//!
//! ```text
//! pipeline        starts the filter and the consumer, sends frames through, and prints what was copied and what was not
//! ```
//!
//! What this shows: pictures are written where the next process reads them ([`producer`]); the one in the middle looks at a small
//! field and passes the rest on as it came, once it has allowed for that ([`filter`]); and so the last one checks the
//! pictures in the memory of the first ([`consumer`]). All of it goes over streams, which exert backpressure from end to end.

mod consumer;
mod filter;
mod producer;

use std::{env, error::Error, process::ExitCode};

use examples::second::Second;
use sha2::{Digest as _, Sha256};
use shmipc_rpc::{Channel, Stats};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {}
        // The other processes.
        ["filter", next, "serve", address] => return filter::run(address, next).await,
        ["consumer", "serve", address] => return consumer::run(address).await,
        _ => return Err("there are no arguments".into()),
    }
    let consumer = Second::start("pipeline", &["consumer"])?;
    let filter = Second::start("pipeline", &["filter", &consumer.address()])?;
    let produced = producer::run(filter.address()).await;
    // In the direction of the frames, so that each may finish with the next.
    let filtered = filter.stop()?;
    consumer.stop()?;
    print!("{}{filtered}", produced?);
    Ok(())
}

/// Returns a line for each session of a channel: how many bytes were sent without a copy, how many of them lay in the memory
/// of a third process, and how many were copied.
fn figures(stage: &str, channel: &Channel) -> String {
    let line = |stats: &Stats| {
        let copied = stats.bytes_sent - stats.bytes_linked;
        format!(
            "{stage:<8} {:>10} {:>9} {copied:>6}\n",
            stats.bytes_linked, stats.bytes_forwarded
        )
    };
    channel.stats().iter().map(line).collect()
}

/// Computes what a frame's `sha256` is to be.
fn sha256(pixels: &[u8]) -> Vec<u8> {
    Sha256::digest(pixels).to_vec()
}
