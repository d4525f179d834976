//! The four kinds of call, about the places of an island.
//!
//! ```text
//! route_guide     starts a server in a second process, makes a call of each kind, and prints what came of it
//! ```
//!
//! What this shows: handlers are plain `async fn`s, which take and return streams ([`server`]). One filters a stream, one reads
//! requests as they come, and one answers through a `Sender` while it still reads. The client does the same from
//! the other end ([`client`]). The places are in `examples/data/route_guide.json` ([`map`]).

mod client;
mod map;
mod server;

use std::{env, error::Error, process::ExitCode};

use examples::second::Second;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("route_guide: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => {}
        // The second process.
        [serve, address] if serve == "serve" => return server::run(address.as_str()).await,
        _ => return Err("there are no arguments".into()),
    }
    let server = Second::start("route_guide", &[])?;
    let called = client::run(server.address()).await;
    server.stop()?;
    print!("{}", called?);
    Ok(())
}
