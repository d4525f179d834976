//! Hot restarts with threads: of servers within this process, and of processes.

mod common;

use std::{
    io::{BufRead, BufReader, Lines, Write, stdin, stdout},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use common::{
    PATIENCE,
    place::{LINKS, NATIVE, Place, config_in},
    threads::{Server, call, called, echo, late, wait_until},
};
use shmipc_transport::{
    Config, Flush, LinkKind, PoolConfig, RestartError, Shmipc,
    blocking::{Listener, Session, SessionPool},
};

/// Sessions of a pool.
const SESSIONS: usize = 3;

/// Calls that have to be answered between two restarts.
const CALLS: usize = 60;

fn pool(place: &Place, link: LinkKind) -> SessionPool {
    let config = PoolConfig::builder()
        .session(place.config(link))
        .size(SESSIONS);
    SessionPool::connect_with(place.socket(), config.build().unwrap()).unwrap()
}

/// Has threads call all the time while `act` runs, which is given what waits for further calls.
fn under_load(pool: &SessionPool, act: impl FnOnce(&dyn Fn())) {
    /// Ends the calls, even if it panics.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    let (stops, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stops.load(Relaxed) {
                    call(pool, calls.fetch_add(1, Relaxed));
                }
            });
        }
        let _stop = Stop(&stops);
        act(&|| {
            let begun = calls.load(Relaxed);
            wait_until("calls go on", || begun + CALLS < calls.load(Relaxed));
        });
    });
}

#[test]
fn no_call_fails_while_servers_restart() {
    const RESTARTS: u64 = 5;
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(place.socket(), place.config(link));
        let pool = pool(&place, link);
        under_load(&pool, |go_on| {
            for epoch in 1..=RESTARTS {
                go_on();
                // One that has moved again so soon pauses before.
                wait_until("all are here", || server.clients.len() == SESSIONS);
                let new = Server::start(place.socket(), place.config(link));
                let old = std::mem::replace(&mut server, new);
                let restart = old.clients.hot_restart(epoch, PATIENCE).unwrap();
                assert!(restart.is_complete(), "{link:?}: {restart:?}");
                assert_eq!(restart.moved, SESSIONS, "{link:?}: {restart:?}");
                old.leave();
            }
            go_on();
        });
        let stats = pool.stats();
        let acknowledged = if NATIVE.contains(&link) { RESTARTS } else { 0 };
        assert_eq!(stats.restarts, acknowledged, "{link:?}");
        assert_eq!((stats.restarts_given_up, stats.failed), (0, 0), "{link:?}");
        // Each has gone to each server, and to none of them twice.
        assert_eq!(
            stats.connected,
            (RESTARTS + 1) * SESSIONS as u64,
            "{link:?}"
        );
        drop(pool);
        server.leave();
    }
}

#[test]
fn a_pool_that_nobody_uses_learns_of_a_restart_when_it_is_attended() {
    for link in LINKS {
        let place = Place::new();
        let old = Server::start(place.socket(), place.config(link));
        let pool = pool(&place, link);
        let mut used = called(&pool, b"in use").unwrap();
        wait_until("all are here", || old.clients.len() == SESSIONS);
        let new = Server::start(place.socket(), place.config(link));
        let shortly = Duration::from_millis(20);
        let restart = old.clients.hot_restart(1, shortly).unwrap();
        assert_eq!(
            (restart.moved, restart.timed_out),
            (0, SESSIONS),
            "{link:?}"
        );
        assert_eq!(pool.stats().moved, 0);
        wait_until("it has moved", || {
            pool.attend(late());
            (2 * SESSIONS as u64) <= pool.stats().connected
        });
        let acknowledged = u64::from(NATIVE.contains(&link));
        assert_eq!(pool.stats().restarts, acknowledged, "{link:?}");
        // What is in use goes on.
        let mut message = used.buffer(5);
        message.put_slice(b"still");
        used.send_until(message, Flush::More, late()).unwrap();
        assert!(used.recv_until(late()).unwrap().is_some(), "{link:?}");
        assert!(!used.give_back());
        old.leave();
        assert!(called(&pool, b"new").unwrap().give_back());
        drop(pool);
        new.leave();
    }
}

/// A session of its own, which nobody serves, and its listener.
fn pair(place: &Place, link: LinkKind) -> (Listener, Session, Session) {
    let listener = Listener::bind_with(place.socket(), place.config(link)).unwrap();
    let (client, server) = thread::scope(|scope| {
        let client = scope.spawn(|| Session::connect_with(place.socket(), place.config(link)));
        let server = listener.accept_until(late()).unwrap();
        (client.join().unwrap(), server.expect("nobody came in time"))
    });
    (listener, client.unwrap(), server)
}

/// Waits until a session hears that its server wants it elsewhere.
fn hear(client: &Session) {
    wait_until("the word", || {
        client.attend();
        client.is_going_away()
    });
}

#[test]
fn sessions_that_no_thread_waits_on_are_looked_after() {
    for link in LINKS {
        let place = Place::new();
        let (listener, client, server) = pair(&place, link);
        let restart = thread::scope(|scope| {
            let restart = scope.spawn(|| listener.hot_restart(7, PATIENCE).unwrap());
            hear(&client);
            if NATIVE.contains(&link) {
                assert_eq!(client.restart_epoch(), Some(7));
                assert!(client.acknowledge_restart());
            }
            wait_until("the server knows", || {
                client.attend();
                restart.is_finished()
            });
            restart.join().unwrap()
        });
        assert_eq!((restart.moved, restart.timed_out), (1, 0), "{link:?}");
        assert_eq!(server.is_closed(), !NATIVE.contains(&link));
        // And drained, likewise.
        let clients = listener.clients();
        thread::scope(|scope| {
            let drained = scope.spawn(|| clients.drain(late()));
            wait_until("it is drained", || {
                client.attend();
                drained.is_finished()
            });
            assert!(drained.join().unwrap());
        });
        assert!(server.is_closed() && clients.is_empty(), "{link:?}");
    }
}

#[test]
fn who_does_not_move_is_not_waited_for_longer() {
    for link in LINKS {
        let place = Place::new();
        let (listener, client, server) = pair(&place, link);
        thread::spawn(move || echo(&server));
        let mut stream = client.open_stream().unwrap();
        let mut message = stream.buffer(6);
        message.put_slice(b"in use");
        stream.send_until(message, Flush::More, late()).unwrap();
        assert!(stream.recv_until(late()).unwrap().is_some());
        let shortly = Duration::from_millis(20);
        let restart = listener.hot_restart(1, shortly).unwrap();
        assert_eq!((restart.moved, restart.timed_out), (0, 1), "{link:?}");
        let drained = listener.clients().drain(Some(Instant::now() + shortly));
        assert!(!drained, "{link:?}");
        assert!(!listener.clients().is_empty());
        listener.clients().close();
        assert!(listener.clients().is_empty());
        assert!(listener.clients().drain(late()));
    }
}

#[test]
fn one_restart_at_a_time_and_each_with_an_epoch_of_its_own() {
    let place = Place::new();
    let (listener, client, server) = pair(&place, LinkKind::ShmipcV3);
    let clients = listener.clients();
    let none = clients.hot_restart(0, PATIENCE);
    assert_eq!(none, Err(RestartError::Epoch { epoch: 0 }));
    thread::scope(|scope| {
        let first = scope.spawn(|| clients.hot_restart(1, PATIENCE));
        hear(&client);
        let second = clients.hot_restart(2, PATIENCE);
        assert_eq!(second, Err(RestartError::UnderWay { epoch: 1 }));
        assert!(client.acknowledge_restart());
        assert_eq!(first.join().unwrap().unwrap().moved, 1);
    });
    let again = clients.hot_restart(1, PATIENCE);
    assert_eq!(again, Err(RestartError::Epoch { epoch: 1 }));
    server.close();
    let last = clients.hot_restart(3, PATIENCE).unwrap();
    assert_eq!((last.moved, last.timed_out), (0, 0));
}

#[test]
fn hazard_h62_who_comes_behind_a_restart_is_told() {
    for link in LINKS {
        let place = Place::new();
        let (listener, client, server) = pair(&place, link);
        client.close();
        server.close();
        assert_eq!(listener.hot_restart(1, PATIENCE).unwrap().moved, 0);
        thread::scope(|scope| {
            let late = scope.spawn(|| Session::connect_with(place.socket(), place.config(link)));
            let _served = listener.accept_until(common::threads::late()).unwrap();
            hear(&late.join().unwrap().unwrap());
        });
        // One that has queued up is told as well.
        let queued = UnixStream::connect(place.socket()).unwrap();
        let mut leftover = listener.close();
        thread::scope(|scope| {
            let address = OwnedFd::from(queued);
            let last = scope.spawn(|| Session::connect_with(address, place.config(link)));
            let _served = leftover.next().expect("it has come before the end");
            hear(&last.join().unwrap().unwrap());
        });
        assert!(leftover.next().is_none());
    }
}

#[test]
fn clients_that_wait_when_the_listener_closes_are_not_let_down() {
    const WAITING: usize = 5;
    let place = Place::new();
    let config = Config::builder().handshakes_max(2).build().unwrap();
    let first = Listener::bind_with(place.socket(), config).unwrap();
    let connect = || UnixStream::connect(place.socket()).unwrap();
    let waiting: Vec<_> = (0..WAITING).map(|_| connect()).collect();
    let second = Listener::take_over_with(place.socket(), Config::default()).unwrap();
    let leftover = first.close();
    thread::scope(|scope| {
        let connect = |socket| Session::connect_with(OwnedFd::from(socket), Config::default());
        let clients: Vec<_> = waiting
            .into_iter()
            .map(|socket| scope.spawn(move || connect(socket).unwrap()))
            .collect();
        let sessions: Vec<_> = leftover.collect();
        assert_eq!(sessions.len(), WAITING);
        for client in clients {
            client.join().unwrap();
        }
        let client = scope.spawn(|| Session::connect(place.socket()).unwrap());
        second.accept_until(late()).unwrap().expect("a session");
        client.join().unwrap();
    });
    drop(second);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

const ROLE: &str = "SHMIPC_RESTART_ROLE";
const DIRECTORY: &str = "SHMIPC_RESTART_DIRECTORY";

/// A server in a process of its own, which runs this same program; killed when it is dropped.
struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a server, and waits until connections come to it.
    fn start(role: &str, place: &Place) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, role)
            .env(DIRECTORY, place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut process = Self {
            input: input.unwrap(),
            lines: BufReader::new(output.unwrap()).lines(),
            child,
        };
        process.says("ready");
        process
    }

    fn says(&mut self, word: &str) {
        let said = self.lines.any(|line| line.unwrap() == word);
        assert!(said, "it ended without saying {word:?}");
    }

    /// Tells it that its successor is there, and waits until it is gone.
    fn restart(mut self, epoch: u64) {
        writeln!(self.input, "{epoch}").unwrap();
        self.says("moved");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails if it has ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    // On a line of its own: the harness begins one with the name of the test.
    let mut out = stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// Waits for the word that there is a successor, which is the epoch.
fn epoch() -> u64 {
    let line = stdin().lines().next().expect("a line").unwrap();
    line.parse().unwrap()
}

/// What the other processes do. Nothing, in the first.
#[test]
fn other_process() {
    let (Ok(role), Some(directory)) = (std::env::var(ROLE), std::env::var_os(DIRECTORY)) else {
        return;
    };
    let directory = Path::new(&directory);
    let (who, link) = role.split_once(' ').unwrap();
    let link = LINKS
        .into_iter()
        .find(|known| format!("{known:?}") == link)
        .unwrap();
    let config = config_in(directory, link, Shmipc::default().buffer_len(4 << 20));
    let socket = directory.join("socket");
    match who {
        "threads" => serve_with_threads(&socket, config),
        _ => serve_with_tasks(&socket, config),
    }
    say("moved");
}

fn serve_with_threads(socket: &Path, config: Config) {
    let server = Server::start(socket, config);
    say("ready");
    let restart = server.clients.hot_restart(epoch(), PATIENCE).unwrap();
    assert!(restart.is_complete(), "{restart:?}");
    assert_eq!(restart.moved, SESSIONS, "{restart:?}");
    server.leave();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn serve_with_tasks(socket: &Path, config: Config) {
    let listener = shmipc_transport::Listener::take_over_with(socket, config).unwrap();
    let clients = listener.clients().clone();
    say("ready");
    let restarted = async {
        let epoch = tokio::task::spawn_blocking(epoch).await.unwrap();
        clients.hot_restart(epoch, PATIENCE).await.unwrap()
    };
    let mut restarted = std::pin::pin!(restarted);
    let restart = loop {
        tokio::select! {
            accepted = listener.accept() => drop(common::echo(accepted.unwrap())),
            restart = &mut restarted => break restart,
        }
    };
    assert!(restart.is_complete(), "{restart:?}");
    assert_eq!(restart.moved, SESSIONS, "{restart:?}");
    let mut leftover = listener.close();
    while let Some(session) = leftover.next().await {
        drop(common::echo(session));
    }
    common::in_time("all sessions end", clients.drain()).await;
}

#[test]
fn no_call_fails_while_processes_succeed_each_other() {
    const RESTARTS: u64 = 6;
    for link in LINKS {
        let place = Place::new();
        // One with tasks is followed by one with threads, and the other way round.
        let start = |number: u64| {
            let who = ["threads", "tasks"][usize::from(number.is_multiple_of(2))];
            Process::start(&format!("{who} {link:?}"), &place)
        };
        let mut server = start(0);
        let pool = pool(&place, link);
        under_load(&pool, |go_on| {
            for number in 1..=RESTARTS {
                go_on();
                // One that has moved again so soon pauses before.
                let all = number * SESSIONS as u64;
                wait_until("all are here", || all <= pool.stats().connected);
                let successor = start(number);
                std::mem::replace(&mut server, successor).restart(number);
            }
            go_on();
        });
        let stats = pool.stats();
        assert_eq!((stats.restarts_given_up, stats.failed), (0, 0), "{link:?}");
        // Each has gone to each server, and to none of them twice.
        assert_eq!(
            stats.connected,
            (RESTARTS + 1) * SESSIONS as u64,
            "{link:?}"
        );
        pool.close();
    }
}
