//! Servers that are started by somebody who listens for them, as systemd does.

use std::{
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Child, Command, Stdio},
    time::Instant,
};

use bytes::BufMut;
use shmipc_rpc::{Address, Channel, client::Caller};
use shmipc_transport::{
    Flush, Session, blocking,
    systemd::{self, ActivationError},
};
use tests::{
    LONG,
    echo::{Place, all},
    in_time,
    service::{ANSWER, Named, Packet, request},
};

use crate::{ROLE, SOCKET, say};

/// Whoever is started has the socket as descriptor 3, and nothing of interest as 4.
const AS_SYSTEMD_DOES: &str = r#"exec 3<&0 4</dev/null 0</dev/null
LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=route:other exec "$0" "$@""#;

/// A server that was started with a listening socket. Killed when it is dropped.
struct Activated(Child);

impl Activated {
    fn start(role: &str, socket: &UnixListener) -> Self {
        let socket = OwnedFd::from(socket.try_clone().unwrap());
        let mut child = Command::new("sh")
            .args(["-c", AS_SYSTEMD_DOES])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, "none of its own")
            .stdin(socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"), "it ended early");
        Self(child)
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was passed, and what is to be said of what was not.
fn passed() -> Address {
    let sockets = systemd::sockets().unwrap();
    let names: Vec<_> = sockets.iter().map(systemd::Socket::name).collect();
    assert_eq!(names, ["route", "other"]);
    assert!(matches!(
        Address::from_systemd("other"),
        Err(ActivationError::NotListening { .. })
    ));
    assert!(matches!(
        Address::from_systemd("missing"),
        Err(ActivationError::NoSuchName { .. })
    ));
    // O_CLOEXEC.
    let info = std::fs::read_to_string("/proc/self/fdinfo/3").unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_ne!(flags & 0o2_000_000, 0, "it would be inherited");
    // It may be asked for in either way, and again.
    let first = Address::from_systemd("route").unwrap();
    drop(first);
    let again = sockets.into_iter().next();
    again.map(systemd::Socket::into_address).unwrap()
}

pub(crate) async fn tasks() {
    let server = Named::server("activated").start(passed()).await.unwrap();
    say("ready");
    std::future::pending::<()>().await;
    drop(server);
}

pub(crate) fn threads() {
    let listener = blocking::Listener::bind(passed()).unwrap();
    say("ready");
    loop {
        let session = listener.accept().unwrap();
        let mut stream = session.accept_stream().unwrap();
        let request = stream.recv().unwrap().unwrap();
        let mut reply = stream.buffer(request.len());
        reply.put(request);
        stream.send(reply, Flush::End).unwrap();
        session.closed(Some(Instant::now() + LONG));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_connects_before_the_server_is_there_is_served_by_it() {
    let place = Place::new();
    let socket = UnixListener::bind(place.path()).unwrap();
    for _restart in 0..2 {
        let path = place.path();
        let early = tokio::spawn(async move {
            let caller = Caller::new(Channel::connect(path).await.unwrap());
            let call = caller.unary::<_, Packet>(&ANSWER, request(vec![7; 10]));
            call.await.unwrap().into_inner()
        });
        let server = Activated::start("activated tasks", &socket);
        assert_eq!(in_time("an answer", early).await.unwrap().name, "activated");
        drop(server);
        assert_eq!(place.files(), 1, "the file is systemd's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_take_what_was_passed_as_well() {
    let place = Place::new();
    let socket = UnixListener::bind(place.path()).unwrap();
    let _server = Activated::start("activated threads", &socket);
    let calling = async {
        let session = Session::connect(place.path()).await.unwrap();
        let mut stream = session.open_stream().unwrap();
        let mut request = stream.buffer(3);
        request.put_slice(b"abc");
        stream.send(request, Flush::End).await.unwrap();
        all(stream.recv().await.unwrap().unwrap())
    };
    let reply = tokio::time::timeout(LONG, calling).await.unwrap();
    assert_eq!(reply, b"abc");
}
