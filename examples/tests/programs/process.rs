//! Processes under test.

use std::{
    fs,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

/// How long anything may take. Only a failing test gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when the test ends, however it does.
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        pid(self.0.id())
    }

    /// Waits for its end and returns all that it has said.
    pub(crate) fn output(mut self) -> Output {
        use std::io::Read as _;
        let mut output = Output {
            status: wait(&mut self.0),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_end(&mut output.stdout).unwrap();
        }
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_end(&mut output.stderr).unwrap();
        }
        output
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program, which must succeed, to its end. Returns what it has said, and what it has complained of.
pub(crate) fn run(program: &mut Command) -> (String, String) {
    let child = program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Guard(child.spawn().unwrap()).output();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, complaints) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{complaints}");
    (said, complaints)
}

/// Looks again and again until `is_so`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for the end of a child.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the child ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// The processes whose parent is `parent`.
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(pid)
        .filter(|child| stat(*child).is_some_and(|(_, ppid)| ppid == parent))
        .collect()
}

/// Whether a process exists and is more than the memory of one.
pub(crate) fn is_running(process: Pid) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The state of a process and its parent.
fn stat(process: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, pid(fields.next()?.parse().ok()?)))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("the kernel's ids are positive"))
}
