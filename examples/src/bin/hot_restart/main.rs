//! A server is replaced by its successor twenty times, each a process of its own, while clients call without a pause: no call fails.
//!
//! ```text
//! hot_restart        does so over our own link, and over shmipc's, and prints how many calls there were
//! ```
//!
//! What this shows: a successor takes the address over from one moment to the next, and the old server then tells its clients, which
//! move, waits for them, and leaves ([`server`]); a pool of sessions follows by itself ([`client`]). Over our own link, and over shmipc's, for which
//! the old server could as well be one made with shmipc-go, and so could the clients.

mod client;
mod server;

use std::{
    env,
    error::Error,
    path::Path,
    process::{ExitCode, Stdio},
};

use shmipc_transport::{Config, LinkKind};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::client::Clients;

/// How often the server is replaced.
const RESTARTS: u64 = 20;

/// The links, and what they are called on the command line and in the output.
const LINKS: [(&str, LinkKind); 2] = [("outbox", LinkKind::Outbox), ("shmipc", LinkKind::ShmipcV3)];

/// The name of the argument that makes the program a server. The link, the socket and the number of the server follow.
const SERVER: &str = "--server";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match &*arguments {
        [] => restart_over_all_links().await,
        [role, link, socket, number] if role == SERVER => {
            server::run(link, Path::new(socket), number).await
        }
        _ => Err("usage: hot_restart".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hot_restart: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Settings that demand one link.
fn config(name: &str) -> Result<Config, Box<dyn Error>> {
    let (_, link) = LINKS
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or("there is no such link")?;
    Ok(Config::builder().links([link]).build()?)
}

async fn restart_over_all_links() -> Result<(), Box<dyn Error>> {
    for (link, _) in LINKS {
        let place = tempfile::tempdir()?;
        let socket = place.path().join("socket");
        let mut server = Process::start(link, &socket, 0).await?;
        let clients = Clients::start(link, &socket).await?;
        for number in 1..=RESTARTS {
            let successor = Process::start(link, &socket, number).await?;
            let predecessor = std::mem::replace(&mut server, successor);
            predecessor.restart(number).await?;
            clients.are_served_by(number).await?;
        }
        let (calls, failed) = clients.stop().await?;
        server.stop().await?;
        println!("{link}: {RESTARTS} restarts, {calls} calls, {failed} failed");
        if failed != 0 {
            return Err("calls have failed".into());
        }
    }
    Ok(())
}

/// A server, in a process of its own. It ends with its standard input.
struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a server, and waits until connections come to it.
    async fn start(link: &str, socket: &Path, number: u64) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(env::current_exe()?)
            .args([SERVER, link])
            .arg(socket)
            .arg(number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("its input is piped")?;
        let output = child.stdout.take().ok_or("its output is piped")?;
        let mut process = Self {
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        process.says("ready").await?;
        Ok(process)
    }

    /// Tells it that its successor is there, and waits until it is gone.
    async fn restart(mut self, epoch: u64) -> Result<(), Box<dyn Error>> {
        let line = format!("restart {epoch}\n");
        self.input.write_all(line.as_bytes()).await?;
        self.says("moved").await?;
        self.stop().await
    }

    /// Waits for a word of its.
    async fn says(&mut self, word: &str) -> Result<(), Box<dyn Error>> {
        match self.output.next_line().await? {
            Some(line) if line == word => Ok(()),
            other => Err(format!("a server said {other:?} instead of {word:?}").into()),
        }
    }

    /// Has it end, and waits for that.
    async fn stop(self) -> Result<(), Box<dyn Error>> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let status = child.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("a server ended with {status}").into())
        }
    }
}
