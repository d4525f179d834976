//! Counts the system calls that two processes make between two points, by tracing them.
//!
//! The tracer needs no tool and no privilege beyond what a process has over its children: it seizes every thread of both
//! processes with `ptrace` and is told of every system call. The client marks the beginning and the end of the window
//! with a system call that nothing else here makes ([`mark`]); the tracer, which sees all in one order, counts between
//! the marks on both sides. A thread that makes no system call never stops, so code that makes none runs at full speed.

#![expect(
    unsafe_code,
    reason = "the kernel's answer about a stopped thread is a union"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use crate::Result;

/// The system calls of one window.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Calls of the peer in the window.
    pub calls: u64,
    /// How often the client made each system call, by number.
    pub client: Counts,
    /// How often the server did.
    pub server: Counts,
}

/// How often each system call was made, by its number.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<u64, u64>);

impl Counts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Each with its name, the most frequent first.
    #[must_use]
    pub fn named(&self) -> Vec<(String, u64)> {
        let mut named: Vec<_> = self
            .0
            .iter()
            .map(|(number, count)| (name(*number), *count))
            .collect();
        named.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        named
    }
}

/// Marks the beginning or the end of the window, in the client.
pub fn mark() {
    // `getppid` is a real system call that no library here has a reason to make.
    let _ = getppid();
}

/// Traces both processes until the client has marked twice; kills and reaps them.
///
/// `go` is called when the tracer is in place, to let the client begin. After `patience` the processes are killed.
///
/// # Errors
///
/// Fails if this machine does not permit tracing, and if a process ends before the second mark.
pub fn count(
    client: Pid,
    server: Pid,
    calls: u64,
    patience: Duration,
    go: impl FnOnce() -> Result<()>,
) -> Result<Traced> {
    let (finished, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if watch.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            kill_both(client, server);
        }
    });
    let mut tracer = Tracer::new(client, server);
    let outcome = seize(client)
        .and_then(|()| seize(server))
        .and_then(|()| go())
        .and_then(|()| tracer.run());
    kill_both(client, server);
    reap();
    drop(finished);
    if watchdog.join().is_err() {
        return Err("the tracer's watchdog failed".into());
    }
    outcome?;
    Ok(Traced {
        calls,
        client: tracer.client.counts,
        server: tracer.server.counts,
    })
}

/// Stops every thread of `process` at its next system call.
fn seize(process: Pid) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = Pid::from_raw(entry?.file_name().to_string_lossy().parse()?);
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(thread, options)
            .map_err(|error| format!("ptrace is not permitted: {error}"))?;
        ptrace::interrupt(thread)?;
    }
    Ok(())
}

fn kill_both(client: Pid, server: Pid) {
    for process in [client, server] {
        // An error means that it has ended already.
        let _ = kill(process, Signal::SIGKILL);
    }
}

/// Waits for every thread of the killed processes: a traced thread that nobody waits for holds up its process.
fn reap() {
    while waitpid(None, Some(WaitPidFlag::__WALL)) != Err(Errno::ECHILD) {}
}

#[derive(Debug)]
struct Side {
    process: Pid,
    counts: Counts,
}

#[derive(Debug)]
struct Tracer {
    client: Side,
    server: Side,
    marks: u32,
    /// The process of each thread seen so far.
    owners: HashMap<Pid, Pid>,
}

impl Tracer {
    fn new(client: Pid, server: Pid) -> Self {
        let side = |process| Side {
            process,
            counts: Counts::default(),
        };
        Self {
            client: side(client),
            server: side(server),
            marks: 0,
            owners: HashMap::new(),
        }
    }

    /// Lets the threads run from stop to stop, until the second mark.
    fn run(&mut self) -> Result<()> {
        while self.marks < 2 {
            match waitpid(None, Some(WaitPidFlag::__WALL))? {
                WaitStatus::PtraceSyscall(thread) => {
                    self.note(thread)?;
                    proceed(thread, None)?;
                }
                WaitStatus::PtraceEvent(thread, ..) => proceed(thread, None)?,
                WaitStatus::Stopped(thread, signal) => proceed(thread, Some(signal))?,
                WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..)
                    if process == self.client.process || process == self.server.process =>
                {
                    return Err("a traced process ended before its time".into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts a stop, if it is the beginning of a system call inside the window.
    fn note(&mut self, thread: Pid) -> Result<()> {
        let Some(number) = entered(thread)? else {
            return Ok(());
        };
        let process = self.owner(thread)?;
        if process == self.client.process && i64::try_from(number) == Ok(libc::SYS_getppid) {
            self.marks += 1;
        } else if self.marks == 1 {
            let side = if process == self.client.process {
                &mut self.client
            } else {
                &mut self.server
            };
            *side.counts.0.entry(number).or_default() += 1;
        }
        Ok(())
    }

    fn owner(&mut self, thread: Pid) -> Result<Pid> {
        if let Some(process) = self.owners.get(&thread) {
            return Ok(*process);
        }
        let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let process = Pid::from_raw(
            group
                .ok_or("a thread belongs to a process")?
                .trim()
                .parse()?,
        );
        self.owners.insert(thread, process);
        Ok(process)
    }
}

/// Lets a thread run to its next stop. A thread that has been killed meanwhile is no error: waiting reports it.
fn proceed(thread: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The number of the system call that `thread` has stopped at the entrance of, or `None` if it is leaving one.
fn entered(thread: Pid) -> Result<Option<u64>> {
    let info = match ptrace::syscall_info(thread) {
        Ok(info) => info,
        Err(Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: The kernel fills `entry` when `op` says that the thread is entering a system call, and it does.
    let entry = unsafe { info.u.entry };
    Ok(Some(entry.nr))
}

/// The name of the system calls that a message transport is likely to make; the number of any other.
fn name(number: u64) -> String {
    const KNOWN: [(libc::c_long, &str); 15] = [
        (libc::SYS_brk, "brk"),
        (libc::SYS_clock_nanosleep, "clock_nanosleep"),
        (libc::SYS_epoll_pwait, "epoll_pwait"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_read, "read"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_sched_yield, "sched_yield"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_write, "write"),
        (libc::SYS_writev, "writev"),
    ];
    #[cfg(target_arch = "x86_64")]
    if i64::try_from(number) == Ok(libc::SYS_epoll_wait) {
        return "epoll_wait".to_owned();
    }
    let known = KNOWN
        .iter()
        .find(|(known, _)| i64::try_from(number) == Ok(*known));
    known.map_or_else(
        || format!("number {number}"),
        |(_, name)| (*name).to_owned(),
    )
}
