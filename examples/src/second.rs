//! A second process for an example to call: the program again, tied to the first by a pipe.
//!
//! It ends when its standard input does, and the kernel ends that when the first process is gone, however it went.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    process::{self, Child, ChildStdout, Command, Stdio},
    thread,
};

use tokio::sync::oneshot;

/// A running server.
#[derive(Debug)]
pub struct Second {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Second {
    /// Starts this program again, with the arguments `serve` and an address after `options`, and waits until it says that
    /// it is ready. `name` is part of the address.
    ///
    /// # Errors
    ///
    /// Returns an error if the program does not start, or says anything else.
    pub fn start(name: &str, options: &[&str]) -> io::Result<Self> {
        // Nobody is to guess the name and take it first.
        let random = RandomState::new().build_hasher().finish();
        let address = format!("@{name}-{}-{random:016x}", process::id());
        let mut child = Command::new(env::current_exe()?)
            .args(options)
            .args(["serve", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take();
        let mut output = BufReader::new(output.ok_or_else(|| io::Error::other("no output"))?);
        let mut word = String::new();
        output.read_line(&mut word)?;
        let second = Self {
            child,
            output,
            address,
        };
        if word == "ready\n" {
            return Ok(second);
        }
        second.stop()?;
        Err(io::Error::other("the server did not start"))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Waits for the next line that it says, and returns that.
    ///
    /// # Errors
    ///
    /// Returns an error if what it says is not text, or cannot be read.
    pub fn says(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to end, waits until it has, and returns what else it said.
    ///
    /// # Errors
    ///
    /// Returns an error if what it said is not text, or cannot be read.
    pub fn stop(mut self) -> io::Result<String> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        self.child.wait()?;
        Ok(said)
    }
}

/// Says, in the second process, that it listens, and returns a future that tells when it is to end.
///
/// # Errors
///
/// Returns an error if nobody hears it.
pub fn ready() -> io::Result<impl Future<Output = ()>> {
    say_ready()?;
    Ok(told_to_end())
}

/// Says, in the second process, that it listens.
///
/// # Errors
///
/// Returns an error if nobody hears it.
pub fn say_ready() -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "ready")?;
    output.flush()
}

/// Waits, in the second process, until it is to end.
pub fn wait_for_end() {
    // There is nothing to read, and an error is an end, too.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}

fn told_to_end() -> impl Future<Output = ()> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        wait_for_end();
        let _ = ended.send(());
    });
    async {
        // Whether the thread said so or is gone makes no difference.
        let _ = end.await;
    }
}
