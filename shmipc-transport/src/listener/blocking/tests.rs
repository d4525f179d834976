use std::{
    io::{Read, Write},
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use super::*;
use crate::{ConfigBuilder, LinkKind, Shmipc, core::shmipc::frames::Frame};

/// Long enough for every handshake.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn stalled_clients_delay_nobody_and_rubbish_is_shown_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::bind(path.as_path()).unwrap();
    let _stalled = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
    let mut rubbish = UnixStream::connect(&path).unwrap();
    rubbish.write_all(b"PRI * HTTP/2.0\r\n\r\n").unwrap();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| Session::connect(path.as_path()).unwrap()))
            .collect();
        let sessions: Vec<_> = (0..20).map(|_| listener.accept().unwrap()).collect();
        for (client, session) in clients.into_iter().zip(&sessions) {
            assert_eq!(client.join().unwrap().peer(), session.peer());
        }
    });
}

#[test]
fn hazard_h41_s8_who_stalls_in_the_middle_of_shmipcs_own_handshake_delays_nobody() {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let shmipc = Shmipc::default().directory(files.path());
    let config = Config::builder().links([LinkKind::ShmipcV3]).shmipc(shmipc);
    let config = config.build().unwrap();
    for place in [
        Address::from(files.path().join("socket")),
        "tcp://127.0.0.1:0".into(),
    ] {
        let listener = Listener::bind_with(place, config.clone()).unwrap();
        let hello = Frame::Version(3).encode(3);
        let mut stalled: Box<dyn Write> = match listener.local_address() {
            Address::Tcp(port) => Box::new(TcpStream::connect(port).unwrap()),
            _ => Box::new(UnixStream::connect(files.path().join("socket")).unwrap()),
        };
        stalled.write_all(&hello).unwrap();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..5)
                .map(|_| {
                    let address = listener.local_address().clone();
                    let config = config.clone();
                    scope.spawn(|| Session::connect_with(address, config).unwrap())
                })
                .collect();
            let sessions: Vec<_> = (0..5).map(|_| listener.accept().unwrap()).collect();
            for client in clients {
                drop(client.join().unwrap());
            }
            drop(sessions);
        });
    }
}

/// A listener at a path, all of whose clients have long enough.
fn patient(
    directory: &TempDir,
    settings: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
) -> (Listener, PathBuf) {
    let path = directory.path().join("socket");
    let config = settings(Config::builder().handshake_timeout(LONG));
    let listener = Listener::bind_with(path.as_path(), config.build().unwrap());
    (listener.unwrap(), path)
}

/// Connects, with as much time as the listener grants.
fn connect(path: &Path) -> Session {
    let config = Config::builder().handshake_timeout(LONG);
    Session::connect_with(path, config.build().unwrap()).unwrap()
}

/// Accepts for as long as there is something to do without waiting for a client.
fn accept_nothing(listener: &Listener) {
    for _ in 0..50 {
        let accepted = listener.accept_until(Some(Instant::now()));
        assert!(accepted.unwrap().is_none(), "nobody has shaken hands");
    }
}

#[test]
fn beyond_the_limit_clients_wait_in_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, path) = patient(&directory, |config| config.handshakes_max(1));
    let stalled = UnixStream::connect(&path).unwrap();
    accept_nothing(&listener);
    let mut waiting = UnixStream::connect(&path).unwrap();
    waiting.write_all(b"PRI * HTTP/2.0\r\n\r\n").unwrap();
    accept_nothing(&listener);
    assert_eq!(lock(&listener.front).joining.len(), 1);
    // One is followed by the other, who is shown out, and by one that is served.
    drop(stalled);
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(&path));
        let session = listener.accept().unwrap();
        assert_eq!(client.join().unwrap().peer(), session.peer());
    });
}

#[test]
fn who_stalls_until_time_is_over_is_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let soon = Duration::from_millis(50);
    let (listener, path) = patient(&directory, |config| config.handshake_timeout(soon));
    let mut stalled = UnixStream::connect(&path).unwrap();
    stalled.set_read_timeout(Some(LONG)).unwrap();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept());
        assert_eq!(stalled.read(&mut [0]).unwrap(), 0);
        listener.stopper().stop();
        accepting.join().unwrap().unwrap_err();
    });
}

#[test]
fn while_nobody_accepts_no_time_passes_for_clients() {
    let directory = tempfile::tempdir().unwrap();
    let time = Duration::from_secs(5);
    let (listener, path) = patient(&directory, |config| config.handshake_timeout(time));
    let late = UnixStream::connect(&path).unwrap();
    accept_nothing(&listener);
    assert_eq!(lock(&listener.front).joining.len(), 1);
    // Who accepts has other things to do, for longer than a handshake may take.
    thread::sleep(time);
    thread::scope(|scope| {
        let late = Address::from(OwnedFd::from(late));
        let client = scope.spawn(|| Session::connect(late).unwrap());
        let session = listener.accept().unwrap();
        assert_eq!(client.join().unwrap().peer(), session.peer());
    });
}

#[test]
fn a_listener_can_be_stopped_and_waits_no_longer_than_it_should() {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::bind(directory.path().join("socket")).unwrap();
    let soon = Instant::now() + Duration::from_millis(5);
    assert!(listener.accept_until(Some(soon)).unwrap().is_none());
    let stopper = listener.stopper();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept());
        stopper.stop();
        assert!(matches!(
            accepting.join().unwrap(),
            Err(AcceptError::Stopped)
        ));
    });
    assert!(matches!(listener.accept(), Err(AcceptError::Stopped)));
}
