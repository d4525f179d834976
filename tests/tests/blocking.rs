//! Threads that wait on a session with another process, which is killed.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use shmipc_transport::{
    Config, Flush, RecvError, SendError, SessionLost, Wait,
    blocking::{Listener, Session, Stream},
};
use tests::{
    echo::Place,
    other::{self, Other, ready},
    process::Holdings,
};

/// How often a process is killed, for each way of waiting.
const ROUNDS: usize = 30;

const WAITS: [Wait; 3] = [Wait::Adaptive, Wait::Block, Wait::Busy];

/// Starts the second process.
fn start(role: &str, socket: &Path) -> Other {
    Other::start("other_process", role, socket)
}

/// What the second process does. Nothing, in the first.
#[test]
fn other_process() {
    let Some((role, socket)) = other::role() else {
        return;
    };
    match &*role {
        // Answers messages of one byte, and leaves longer ones unanswered.
        "server" => {
            let listener = Listener::bind(socket).unwrap();
            ready();
            let session = listener.accept().unwrap();
            let mut unanswered = Vec::new();
            while let Ok(mut stream) = session.accept_stream() {
                match stream.recv() {
                    Ok(Some(message)) if message.len() == 1 => say(&mut stream, 1, Flush::End),
                    _ => unanswered.push(stream),
                }
            }
        }
        // Opens streams until it is killed.
        "client" => {
            let session = Session::connect(socket).unwrap();
            let mut streams = Vec::new();
            loop {
                let mut stream = session.open_stream().unwrap();
                say(&mut stream, 100, Flush::More);
                streams.push(stream);
                if streams.len() == 10 {
                    ready();
                    session.accept_stream().expect("the server says nothing");
                }
            }
        }
        "counter" => {
            ready();
            count_what_is_left(&Place::new());
        }
        unknown => panic!("nobody plays {unknown}"),
    }
}

fn say(stream: &mut Stream, len: usize, flush: Flush) {
    let mut message = stream.buffer(len);
    message.put_bytes(1, len);
    stream.send(message, flush).unwrap();
}

/// Fails if something does not end.
fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

fn connect(place: &Place, wait: Wait) -> Session {
    let config = Config::builder().wait(wait).build().unwrap();
    Session::connect_with(place.path(), config).unwrap()
}

#[test]
fn threads_learn_that_the_peer_was_killed_whoever_of_them_leads() {
    for wait in WAITS {
        for _ in 0..ROUNDS {
            let place = Place::new();
            let server = start("server", &place.path());
            let session = connect(&place, wait);
            thread::scope(|scope| {
                let waiting: Vec<_> = (0..4)
                    .map(|_| {
                        let mut stream = session.open_stream().unwrap();
                        say(&mut stream, 100, Flush::End);
                        scope.spawn(move || stream.recv_until(soon()))
                    })
                    .collect();
                // It answers others meanwhile.
                let mut stream = session.open_stream().unwrap();
                say(&mut stream, 1, Flush::End);
                assert!(stream.recv_until(soon()).unwrap().is_some());
                drop(server);
                for waiter in waiting {
                    let lost = waiter.join().unwrap();
                    assert!(
                        matches!(lost, Err(RecvError::SessionLost(SessionLost::PeerDied))),
                        "{wait:?}: {lost:?}"
                    );
                }
            });
        }
    }
}

#[test]
fn a_sender_that_waits_for_credit_learns_it_too() {
    let place = Place::new();
    let server = start("server", &place.path());
    let session = connect(&place, Wait::Adaptive);
    // Before the peer may be dead: opening a stream would tell as well.
    let mut stream = session.open_stream().unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            loop {
                let mut message = stream.buffer(2);
                message.put_bytes(1, 2);
                if let Err(error) = stream.send_until(message, Flush::More, soon()) {
                    return error;
                }
            }
        });
        drop(server);
        let lost = sending.join().unwrap();
        assert!(
            matches!(lost, SendError::SessionLost(SessionLost::PeerDied)),
            "{lost:?}"
        );
    });
}

#[test]
fn an_idle_session_notices_when_it_is_next_used() {
    let place = Place::new();
    let server = start("server", &place.path());
    let session = connect(&place, Wait::Adaptive);
    drop(server);
    assert!(!session.is_closed(), "nobody has looked");
    let began = Instant::now();
    while session.open_stream().is_ok() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it is not noticed"
        );
        thread::yield_now();
    }
    assert!(session.is_closed());
}

#[test]
fn nothing_is_left_of_a_session_whose_peer_was_killed() {
    // Alone in its process: the others of this file hold descriptors and mappings meanwhile.
    start("counter", &Place::new().path()).ended();
}

fn count_what_is_left(place: &Place) {
    let before = Holdings::count();
    for wait in WAITS {
        let server = start("server", &place.path());
        let session = connect(place, wait);
        let mut stream = session.open_stream().unwrap();
        say(&mut stream, 100_000, Flush::End);
        drop(server);
        assert!(stream.recv_until(soon()).is_err());
        drop((session, stream));
        assert_eq!(Holdings::count(), before);
    }
}

#[test]
fn a_server_is_rid_of_a_client_that_was_killed() {
    for wait in WAITS {
        let place = Place::new();
        let config = Config::builder().wait(wait).build().unwrap();
        let listener = Listener::bind_with(place.path(), config).unwrap();
        let socket = place.path();
        let killing = thread::spawn(move || drop(start("client", &socket)));
        let session = listener.accept().unwrap();
        let mut streams = Vec::new();
        let lost = loop {
            match session.accept_stream_until(soon()) {
                Ok(Some(stream)) => streams.push(stream),
                Ok(None) => panic!("the client was killed, and nobody noticed"),
                Err(lost) => break lost,
            }
        };
        assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
        assert_eq!(streams.len(), 10, "what it had sent is there");
        for stream in &mut streams {
            assert!(stream.recv().unwrap().is_some());
            assert!(stream.recv().is_err());
        }
        killing.join().unwrap();
    }
}
