//! The server of somebody who has none: a second process that ends with this one.
//!
//! They are tied together by a pipe. The server ends when its standard input does, and the kernel ends that when this
//! process is gone, however it went. The socket has an abstract name, so that there is no file to be left behind.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, BufRead as _, BufReader},
    process::{self, Child, Command, Stdio},
};

/// A running server.
#[derive(Debug)]
pub(crate) struct LocalServer {
    child: Child,
    address: String,
}

impl LocalServer {
    /// Starts this program again, as a server, and waits until it listens.
    pub(crate) fn start() -> io::Result<Self> {
        // Nobody is to guess the name and take it first. Whoever did would still have to run as the same user.
        let random = RandomState::new().build_hasher().finish();
        let address = format!("@digest-{}-{random:016x}", process::id());
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", "--attached", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut word = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut word)?;
        }
        let server = Self { child, address };
        if word != "ready\n" {
            server.stop();
            return Err(io::Error::other("the server did not start"));
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        // There is nothing to be done about an error.
        let _ = self.child.wait();
    }
}
