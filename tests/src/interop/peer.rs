//! A program that runs, in the hands of a test.

use std::{
    fmt,
    fs::Permissions,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::setting::{Plan, Setting};
use crate::LONG;

/// How long an answer may take. Programs give up earlier, and say why.
const PATIENCE: Duration = LONG.saturating_mul(3);

/// A folder for a socket and for named shared memory.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes the folder, in shared memory where there is such a file system. It is for our user alone: everybody may write to the files of
    /// the crate, and over TCP we take none of those from anywhere else.
    ///
    /// # Panics
    ///
    /// If that cannot be done.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "makes a folder")]
    pub fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.permissions(Permissions::from_mode(0o700));
        let folder = builder
            .tempdir_in("/dev/shm")
            .or_else(|_| builder.tempdir());
        Self {
            folder: folder.expect("a temporary directory"),
        }
    }

    /// A setting with the socket and the memory in this folder.
    #[must_use]
    pub fn setting(&self) -> Setting {
        Setting {
            socket: self.folder.path().join("socket"),
            prefix: self.folder.path().join("memory"),
            ..Setting::default()
        }
    }

    /// The names in the folder.
    ///
    /// # Panics
    ///
    /// If it is gone.
    #[must_use]
    pub fn names(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder exists");
        let paths = entries.map(|entry| entry.expect("the folder can be read").path());
        paths.collect()
    }
}

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The file.
    pub path: &'a Path,
    /// What its arguments begin with.
    pub implementation: Option<&'a str>,
}

/// A running program. Killed when it is dropped.
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    log: Arc<Mutex<String>>,
    place: PathBuf,
}

impl Peer {
    /// Starts a program, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not get ready.
    #[must_use]
    pub fn start(program: Program<'_>, role: &str, setting: &Setting) -> Self {
        let mut child = Command::new(program.path)
            .args(program.implementation)
            .arg(role)
            .args(setting.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let input = child.stdin.take().expect("its input is piped");
        let output = child.stdout.take().expect("its output is piped");
        let errors = child.stderr.take().expect("its errors are piped");
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let log = Arc::new(Mutex::default());
        thread::spawn({
            let log = Arc::clone(&log);
            move || keep(errors, &log)
        });
        let mut peer = Self {
            name: format!("{} {role}", program.implementation.unwrap_or("go")),
            child,
            input,
            answers,
            log,
            place: PathBuf::new(),
        };
        let ready = peer.hear("ready");
        peer.place = ready.strip_prefix("ready ").unwrap_or_default().into();
        peer
    }

    /// Where a server listens.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it what to do.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn tell(&mut self, line: impl fmt::Display) {
        let written = writeln!(self.input, "{line}");
        assert!(written.is_ok(), "{} has ended:\n{}", self.name, self.log());
    }

    /// Waits for an answer that begins with `word`.
    ///
    /// # Panics
    ///
    /// If it says something else, or nothing.
    pub fn hear(&self, word: &str) -> String {
        let answer = self.answers.recv_timeout(PATIENCE);
        match answer {
            Ok(line) if line.split(' ').next() == Some(word) => line,
            other => panic!("{}: {other:?} instead of {word}\n{}", self.name, self.log()),
        }
    }

    /// Has a client carry out a plan, and returns how many messages of its sessions went over the socket.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn run(&mut self, plan: &Plan) -> u64 {
        self.tell(format_args!("run {plan}"));
        let done = self.hear("done");
        let messages = plan.streams * plan.messages;
        let expected = format!("done {messages} ok fallbacks=");
        let fallbacks = done.strip_prefix(&expected).map(str::parse);
        match fallbacks {
            Some(Ok(fallbacks)) => fallbacks,
            _ => panic!("{}: {done} instead of {expected}", self.name),
        }
    }

    /// Asks a server for its counts: of streams accepted, ended and lost, and of messages served.
    ///
    /// # Panics
    ///
    /// If it does not tell.
    pub fn stats(&mut self) -> [u64; 4] {
        self.tell("stats");
        let line = self.hear("stats");
        let mut fields = line.split(' ').skip(1);
        ["accepted", "ended", "lost", "served"].map(|name| {
            let field = fields.next().and_then(|field| field.split_once('='));
            match field.map(|(found, value)| (found, value.parse())) {
                Some((found, Ok(value))) if found == name => value,
                _ => panic!("{}: no {name} in {line}", self.name),
            }
        })
    }

    /// Asks a server again and again until its [counts](Self::stats) are as `check` wants them.
    ///
    /// # Panics
    ///
    /// If they never are.
    pub fn until(&mut self, what: &str, check: impl Fn([u64; 4]) -> bool) {
        let start = std::time::Instant::now();
        loop {
            let stats = self.stats();
            if check(stats) {
                return;
            }
            assert!(
                start.elapsed() < LONG,
                "{}: never came true: {what}; {stats:?} were accepted, ended, lost and served",
                self.name
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Has it close everything, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn quit(mut self) {
        self.tell("quit");
        self.hear("done");
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "{}: {status}\n{}", self.name, self.log());
    }

    fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}

/// Keeps what a program writes to its standard error.
fn keep(mut errors: impl Read, log: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = errors.read(&mut buffer) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
