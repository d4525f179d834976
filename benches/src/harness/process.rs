//! A child process that plays one role of a case.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command as ProcessCommand, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;

use super::control::{Assignment, Command, Message, Role};
use crate::{Failure, Result};

/// The hidden subcommand by which this program knows that it is a child.
pub const SUBCOMMAND: &str = "play-role";

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    role: Role,
    input: ChildStdin,
    messages: Receiver<Result<Message>>,
}

impl Process {
    /// Starts this program again, in the role that `assignment` gives it.
    ///
    /// # Errors
    ///
    /// Fails if the process cannot be started.
    pub fn start(assignment: &Assignment) -> Result<Self> {
        let mut child = ProcessCommand::new(env::current_exe()?)
            .arg(SUBCOMMAND)
            .arg(serde_json::to_string(assignment)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("a piped child has an input")?;
        let output = child.stdout.take().ok_or("a piped child has an output")?;
        Ok(Self {
            child,
            role: assignment.role,
            input,
            messages: listen(output),
        })
    }

    /// The process id.
    ///
    /// # Errors
    ///
    /// None in practice: fails if the id does not fit the type the kernel uses.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Tells the process something.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended.
    pub fn tell(&mut self, command: Command) -> Result<()> {
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        self.input
            .write_all(&line)
            .map_err(|error| self.failure(&error.to_string()))?;
        self.input.flush()?;
        Ok(())
    }

    /// Waits for what the process has to say.
    ///
    /// # Errors
    ///
    /// Fails if it says that it failed, if it ends, or if `patience` runs out.
    pub fn hear(&self, patience: Duration) -> Result<Message> {
        match self.messages.recv_timeout(patience) {
            Ok(Ok(Message::Failed(why))) => Err(self.failure(&why)),
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => {
                Err(self.failure(&format!("no answer within {patience:?}")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.failure("it ended without a word")),
        }
    }

    /// Waits until the process says that it is ready.
    ///
    /// # Errors
    ///
    /// As [`hear`](Self::hear), and if it says anything else.
    pub fn await_ready(&self, patience: Duration) -> Result<()> {
        match self.hear(patience)? {
            Message::Ready => Ok(()),
            other => Err(self.failure(&format!("it said {other:?} instead of being ready"))),
        }
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what is wanted.
        let _ = self.child.kill();
    }

    fn failure(&self, what: &str) -> Failure {
        format!("{:?}: {what}", self.role).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // An error means that somebody has waited for it already: the tracer does.
        let _ = self.child.wait();
    }
}

/// Parses what the child says, in a thread, so that waiting for it can have an end.
fn listen(output: ChildStdout) -> Receiver<Result<Message>> {
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let message = line
                .map_err(Failure::from)
                .and_then(|line| Ok(serde_json::from_str(&line)?));
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}
