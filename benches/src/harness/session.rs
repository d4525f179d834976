//! One case, once: its two processes from their start to their end.

use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::AsRawFd;

use super::case::{Case, Measure};
use super::control::{Assignment, Command, Message, Role};
use super::counters::Counters;
use super::process::Process;
use super::window::Latencies;
use crate::report::sites::Site;
use crate::syscalls::{self, Traced};
use crate::{Result, peers};

/// How long a process may take for anything beyond what it was asked to measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one run of a case found.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The calls. None of an idle session.
    pub latencies: Option<Latencies>,
    /// What the client spent on them.
    pub client: Counters,
    /// What the server spent on them.
    pub server: Counters,
}

/// Where both sides allocate.
#[derive(Clone, Debug)]
pub struct Sites {
    /// In the client.
    pub client: Vec<Site>,
    /// In the server.
    pub server: Vec<Site>,
    /// How many calls they belong to.
    pub calls: u64,
}

/// Two connected and warm processes.
#[derive(Debug)]
struct Pair {
    client: Process,
    server: Process,
    /// Holds the socket's folder for as long as the processes run.
    _folder: tempfile::TempDir,
}

/// Calls for a time.
///
/// # Errors
///
/// Fails if a process fails, or does not answer in good time.
pub fn sample(case: Case, warm_up: Duration, duration: Duration) -> Result<Sample> {
    run(
        Pair::start(case, Measure::Timed { warm_up, duration })?,
        PATIENCE + duration,
    )
}

/// Leaves a session alone for a time.
///
/// # Errors
///
/// Fails if a process fails, or does not answer in good time.
pub fn idle(case: Case, duration: Duration) -> Result<Sample> {
    run(
        Pair::start(case, Measure::Idle { duration })?,
        PATIENCE + duration,
    )
}

/// Finds out where the allocations of `calls` calls are made.
///
/// # Errors
///
/// Fails if a process fails, or does not answer in good time.
pub fn sites(case: Case, warm_up: u64, calls: u64) -> Result<Sites> {
    let mut pair = Pair::start(case, Measure::Allocations { warm_up, calls })?;
    pair.server.tell(Command::StartTrace)?;
    pair.client.tell(Command::Go)?;
    let client = pair.client.hear(PATIENCE)?;
    pair.server.tell(Command::StopTrace)?;
    match (client, pair.server.hear(PATIENCE)?) {
        (Message::Sites(client), Message::Sites(server)) => Ok(Sites {
            client,
            server,
            calls,
        }),
        (client, server) => {
            Err(format!("expected allocation sites, got {client:?} and {server:?}").into())
        }
    }
}

/// Counts the system calls of `calls` calls.
///
/// # Errors
///
/// Fails if a process fails, and if this machine does not permit tracing.
pub fn trace(case: Case, ramp: u64, calls: u64) -> Result<Traced> {
    let mut pair = Pair::start(case, Measure::Traced { ramp, calls })?;
    let (client, server) = (pair.client.pid()?, pair.server.pid()?);
    syscalls::count(client, server, calls, PATIENCE, || {
        pair.client.tell(Command::Go)
    })
}

fn run(mut pair: Pair, patience: Duration) -> Result<Sample> {
    let before = pair.count()?;
    pair.client.tell(Command::Go)?;
    let done = pair.client.hear(patience)?;
    let server = pair.count()? - before;
    match done {
        Message::Done(outcome) => Ok(Sample {
            latencies: outcome.latencies,
            client: outcome.spent,
            server,
        }),
        other => Err(format!("expected a result, got {other:?}").into()),
    }
}

impl Pair {
    fn start(case: Case, measure: Measure) -> Result<Self> {
        // Named memory of the peers lies there too; it belongs into shared memory where there is such a file system.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let resources = peers::of(case.peer).resources(&case)?;
        for descriptor in &resources {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let assignment = |role| Assignment {
            role,
            case,
            measure,
            descriptors: resources.iter().map(AsRawFd::as_raw_fd).collect(),
            socket: folder.path().join("socket"),
        };
        let server = Process::start(&assignment(Role::Server))?;
        server.await_ready(PATIENCE)?;
        let client = Process::start(&assignment(Role::Client))?;
        client.await_ready(PATIENCE)?;
        Ok(Self {
            client,
            server,
            _folder: folder,
        })
    }

    /// Asks the server what it has spent.
    fn count(&mut self) -> Result<Counters> {
        self.server.tell(Command::Count)?;
        match self.server.hear(PATIENCE)? {
            Message::Counted(counters) => Ok(counters),
            other => Err(format!("expected the server's counters, got {other:?}").into()),
        }
    }
}
