//! `digest`, as a program: its output against that of `sha256sum`, and what it leaves behind.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::process::{Guard, children_of, is_running, until, wait};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

fn digest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_digest"))
}

/// The line that `sha256sum` prints, of a name that needs no escapes.
fn line(content: &[u8], name: &str) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}  {name}\n")
}

/// Content that differs with `seed` and has no period that matters.
fn content(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("this output is ASCII")
}

/// Runs `digest` on these files of a directory, expects it to succeed and returns its output.
fn succeed(directory: &Path, names: &[&str]) -> Output {
    let output = digest()
        .current_dir(directory)
        .args(names)
        .output()
        .expect("digest starts");
    let complaints = text(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert_eq!(
        complaints.lines().count(),
        1,
        "only the throughput: {complaints}"
    );
    output
}

#[test]
fn files_of_all_sizes_are_printed_in_the_order_of_the_arguments() {
    let directory = TempDir::new().unwrap();
    let mut names = Vec::new();
    let mut expected = String::new();
    let small = (0..200).map(|at| (format!("small{at}"), at * 37));
    let others = [
        ("empty".to_owned(), 0),
        ("large".to_owned(), 20 << 20),
        ("page".to_owned(), 4096),
    ];
    // The large one comes early, so that others overtake it.
    for (seed, (name, len)) in (1..).zip(others.into_iter().chain(small)) {
        let content = content(len, seed);
        fs::write(directory.path().join(&name), &content).unwrap();
        expected += &line(&content, &name);
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(text(&succeed(directory.path(), &names).stdout), expected);
}

#[test]
fn the_output_is_that_of_sha256sum() {
    let directory = TempDir::new().unwrap();
    let names: [&[u8]; 8] = [
        b"plain",
        b"two words",
        b"back\\slash",
        b"two\nlines",
        b"not \xff UTF-8",
        "ümläut".as_bytes(),
        b"-dash",
        b"*star",
    ];
    let names = names.map(OsStr::from_bytes);
    for (seed, name) in (1..).zip(names) {
        fs::write(directory.path().join(name), content(1000, seed)).unwrap();
    }
    let run = |mut program: Command| {
        program
            .current_dir(directory.path())
            .arg("--")
            .args(names)
            .output()
    };
    let ours = run(digest()).unwrap();
    assert!(ours.status.success(), "{}", text(&ours.stderr));
    match run(Command::new("sha256sum")) {
        Ok(theirs) => assert_eq!(ours.stdout, theirs.stdout),
        // Not installed. The unit tests of the format know these lines, too.
        Err(_) => assert_eq!(
            ours.stdout.iter().filter(|byte| **byte == b'\n').count(),
            names.len()
        ),
    }
}

#[test]
fn what_cannot_be_read_is_reported_and_the_others_are_done() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("folder")).unwrap();
    fs::write(directory.path().join("a"), "a").unwrap();
    fs::write(directory.path().join("b"), "b").unwrap();
    let output = digest()
        .current_dir(directory.path())
        .args(["a", "missing", "folder", "b"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), line(b"a", "a") + &line(b"b", "b"));
    let complaints: Vec<&str> = text(&output.stderr).lines().collect();
    assert_eq!(
        complaints[..2],
        [
            "digest: missing: No such file or directory",
            "digest: folder: Is a directory"
        ]
    );
    assert!(complaints[2].starts_with("digest: 2 files, 2 B in "));
}

#[test]
fn a_file_that_needs_streaming_is_refused_with_a_word() {
    let directory = TempDir::new().unwrap();
    let sparse = fs::File::create(directory.path().join("sparse")).unwrap();
    sparse.set_len(2 << 30).unwrap();
    let output = digest()
        .current_dir(directory.path())
        .arg("sparse")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("digest: sparse: larger than "),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_standard_input_is_read_without_arguments_and_for_a_dash() {
    let content = content(3 << 20, 7);
    for arguments in [&[][..], &["-"]] {
        let mut child = digest()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&content).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), line(&content, "-"));
    }
}

#[test]
fn a_server_apart_serves_one_client_after_another() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    fs::write(directory.path().join("file"), "content").unwrap();
    let mut server = Guard(digest().arg("serve").arg(&socket).spawn().unwrap());
    until("the server listens", || socket.exists());
    for _ in 0..2 {
        let output = digest()
            .current_dir(directory.path())
            .arg("--connect")
            .arg(&socket)
            .arg("file")
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout), line(b"content", "file"));
        assert!(output.status.success());
    }
    kill(server.pid(), Signal::SIGTERM).unwrap();
    assert!(wait(&mut server.0).success());
    assert!(
        !socket.exists(),
        "a server that ends takes its socket along"
    );
    let output = digest()
        .arg("--connect")
        .arg(&socket)
        .arg("file")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no server listens"));
}

/// Starts `digest` on a pipe that nobody writes to yet. Returns it with its server, which has a session by then.
fn start_on_a_pipe(directory: &Path) -> (Guard, Pid) {
    let pipe = directory.join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let client = Guard(
        digest()
            .arg(&pipe)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut server = None;
    until("there is a server", || {
        server = children_of(client.pid()).first().copied();
        server.is_some()
    });
    (client, server.unwrap())
}

#[test]
fn the_server_of_a_client_that_is_killed_ends_too() {
    let directory = TempDir::new().unwrap();
    let (mut client, server) = start_on_a_pipe(directory.path());
    client.0.kill().unwrap();
    wait(&mut client.0);
    until("the server is gone", || !is_running(server));
}

#[test]
fn a_client_whose_server_is_killed_says_so_and_ends() {
    let directory = TempDir::new().unwrap();
    let (client, server) = start_on_a_pipe(directory.path());
    // Opening the pipe waits for its reader, so that the client has got past its connecting.
    let mut pipe = fs::File::create(directory.path().join("pipe")).unwrap();
    kill(server, Signal::SIGKILL).unwrap();
    pipe.write_all(b"content").unwrap();
    drop(pipe);
    let output = client.output();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let complaints = text(&output.stderr);
    assert!(complaints.contains("pipe: UNAVAILABLE"), "{complaints}");
    until("the server is gone", || !is_running(server));
}
