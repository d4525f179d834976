//! A second process that runs this same test program.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

const ROLE: &str = "SHMIPC_OTHER_ROLE";
const SOCKET: &str = "SHMIPC_OTHER_SOCKET";

/// The second process. Killed when it is dropped.
#[derive(Debug)]
pub struct Other {
    child: Child,
    /// Kept, because who runs tests says now and then how it goes, and gives up if nobody can hear it.
    _output: BufReader<ChildStdout>,
}

impl Other {
    /// Starts this program again with nothing but its test `test`, which finds its [`role`] there, and waits until it says
    /// that it is [`ready`].
    ///
    /// # Panics
    ///
    /// If it ends before.
    #[must_use]
    pub fn start(test: &str, role: &str, socket: &Path) -> Self {
        let program = std::env::current_exe().expect("this program has a name");
        let mut child = Command::new(program)
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("this program starts");
        let output = child.stdout.take().expect("its output is piped");
        let mut output = BufReader::new(output);
        let mut lines = output.by_ref().lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.ends_with("ready")));
        assert!(ready.is_some(), "the {role} ended early");
        Self {
            child,
            _output: output,
        }
    }

    /// Its number.
    ///
    /// # Panics
    ///
    /// If the kernel gave it one that is none.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's ids are positive"))
    }

    /// Stops it, and waits until it stands still.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("it runs");
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).expect("it is our child");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    }

    /// Lets it go on.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("it exists");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// If it failed.
    pub fn ended(mut self) {
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "{status}");
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process is to be, and where the socket is, if it is a second one.
#[must_use]
pub fn role() -> Option<(String, PathBuf)> {
    Some((
        std::env::var(ROLE).ok()?,
        PathBuf::from(std::env::var_os(SOCKET)?),
    ))
}

/// Says, in the second process, that it is where it should be.
///
/// # Panics
///
/// If nobody hears it.
pub fn ready() {
    let mut output = std::io::stdout();
    writeln!(output, "ready")
        .and_then(|()| output.flush())
        .expect("the first process listens");
}
