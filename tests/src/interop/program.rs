//! The program in Rust.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use tokio::{
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    client, crate_peer::CratePeer, implementation::Implementation, our_peer::OurPeer, server,
    setting::Setting, threads_peer::ThreadsPeer,
};

/// Does what the command line asks for: the name of an implementation, a role, and a [`Setting`].
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let implementation = arguments.next().unwrap_or_default();
    let role = arguments.next().unwrap_or_default();
    let done = Setting::parse(arguments).and_then(|setting| match implementation.as_str() {
        "crate" => play::<CratePeer>(&role, &setting),
        "ours" => play::<OurPeer>(&role, &setting),
        "threads" => play::<ThreadsPeer>(&role, &setting),
        _ => Err(format!("{implementation} is no implementation")),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("failed {}", why.replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

fn play<I: Implementation>(role: &str, setting: &Setting) -> Result<(), String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let done = runtime.block_on(async {
        match role {
            "server" => server::serve::<I>(setting).await,
            "client" => client::connect::<I>(setting).await,
            _ => Err(format!("{role} is no role")),
        }
    });
    // What the implementation does in the background is not waited for.
    runtime.shutdown_background();
    done
}

/// Says something to whoever drives the program. If nobody listens, the input ends, too.
pub(super) fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// The lines that the program is to obey.
pub(super) fn commands() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
