//! What a child process does: be a server, or be a client.

use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::case::{Measure, Placement};
use super::control::{Assignment, Command, Message, Outcome, Role, hear, say};
use super::counters::Counters;
use super::window::{End, Window};
use crate::peers::{self, Caller, Setting};
use crate::report::sites;
use crate::{Result, alloc, inherit, syscalls};

/// Calls before a session is left idle, and how long it may take to give back what it no longer needs.
const IDLE_WARM_UP_CALLS: u64 = 1_000;
const IDLE_SETTLING: Duration = Duration::from_secs(2);

/// Plays the role given by `assignment`, to its end. Failures are told to the parent.
///
/// # Errors
///
/// Fails if the parent does not listen.
pub fn play(assignment: Assignment) -> Result<()> {
    match try_play(assignment) {
        Ok(()) => Ok(()),
        Err(why) => say(&Message::Failed(why.to_string())),
    }
}

fn try_play(assignment: Assignment) -> Result<()> {
    // Nobody is left to read the results of a process whose parent has died, and a spinning one would never notice.
    set_pdeathsig(Signal::SIGKILL)?;
    pin(assignment.role, assignment.case.placement)?;
    raise_descriptor_limit()?;
    let peer = peers::of(assignment.case.peer);
    let setting = Setting {
        case: assignment.case,
        descriptors: inherit::claim(&assignment.descriptors)?,
        socket: assignment.socket,
    };
    match assignment.role {
        Role::Server => {
            thread::spawn(obey);
            peer.serve(setting, &|| say(&Message::Ready))
        }
        Role::Client => {
            let mut caller = peer.connect(setting)?;
            measure(caller.as_mut(), assignment.measure)?;
            // The connection stays until the server has reported what the calls cost it.
            while hear()?.is_some() {}
            Ok(())
        }
    }
}

/// Answers the parent's questions while the server serves, and ends the process with the parent's interest.
fn obey() {
    alloc::exempt_this_thread();
    let ended = loop {
        let answered = match hear() {
            Ok(Some(Command::Count)) => {
                Counters::read().and_then(|counters| say(&Message::Counted(counters)))
            }
            Ok(Some(Command::StartTrace)) => {
                alloc::start_trace();
                Ok(())
            }
            Ok(Some(Command::StopTrace)) => {
                say(&Message::Sites(sites::gather(&alloc::stop_trace())))
            }
            Ok(Some(Command::Go)) => Err("a server does not go".into()),
            Ok(None) => break Ok(()),
            Err(error) => Err(error),
        };
        if answered.is_err() {
            break answered;
        }
    };
    std::process::exit(i32::from(ended.is_err()));
}

/// Warms up, waits for the word, and does what is to be measured.
fn measure(caller: &mut dyn Caller, measure: Measure) -> Result<()> {
    match measure {
        Measure::Timed { warm_up, duration } => {
            // Twice: when all calls are over, memory is free that was never touched, and may be what is taken next.
            for _ in 0..2 {
                caller.call_during(Window::open(End::After(warm_up / 2))?)?;
            }
            let window = Window::open(End::After(duration))?;
            await_go()?;
            let before = Counters::read()?;
            let latencies = caller.call_during(window)?;
            let spent = Counters::read()? - before;
            say(&Message::Done(Outcome {
                latencies: Some(latencies),
                spent,
            }))
        }
        Measure::Traced { ramp, calls } => {
            caller.call_during(Window::open(End::Calls(ramp))?)?;
            let windows = (
                Window::open(End::Calls(ramp))?,
                Window::open(End::Calls(calls))?,
            );
            await_go()?;
            // The word to go was waited for, so the peer may have fallen asleep: wake it before the count begins.
            caller.call_during(windows.0)?;
            syscalls::mark();
            caller.call_during(windows.1)?;
            syscalls::mark();
            Ok(())
        }
        Measure::Allocations { warm_up, calls } => {
            caller.call_during(Window::open(End::Calls(warm_up))?)?;
            let window = Window::open(End::Calls(calls))?;
            await_go()?;
            alloc::start_trace();
            caller.call_during(window)?;
            say(&Message::Sites(sites::gather(&alloc::stop_trace())))
        }
        Measure::Idle { duration } => {
            caller.call_during(Window::open(End::Calls(IDLE_WARM_UP_CALLS))?)?;
            caller.idle(IDLE_SETTLING)?;
            await_go()?;
            let before = Counters::read()?;
            caller.idle(duration)?;
            let spent = Counters::read()? - before;
            say(&Message::Done(Outcome {
                latencies: None,
                spent,
            }))
        }
    }
}

fn await_go() -> Result<()> {
    say(&Message::Ready)?;
    match hear()? {
        Some(Command::Go) => Ok(()),
        other => Err(format!("a client waits for the word to go, not for {other:?}").into()),
    }
}

/// Lets the process have as many descriptors as it may: a crowd of clients needs thousands.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Binds the process, with all the threads it will have, to where `placement` wants it.
///
/// The processors are the first and the last of those it may use: on most machines these share no core.
fn pin(role: Role, placement: Placement) -> Result<()> {
    let this_process = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_process)?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = usable
        .next()
        .ok_or("a process may use at least one processor")?;
    let last = usable.next_back().unwrap_or(first);
    let cpu = match (placement, role) {
        (Placement::Free, _) => return Ok(()),
        (Placement::Together, _) | (Placement::Apart, Role::Client) => last,
        (Placement::Apart, Role::Server) => first,
    };
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(this_process, &only)?;
    Ok(())
}
