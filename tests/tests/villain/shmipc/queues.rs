//! Lies in the queues.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::BufMut;
use shmipc_transport::{
    Flush,
    InvalidShmipc::{self, QueueCursors, Status},
    PeerMisbehaved::Shmipc,
    SessionLost, blocking,
};
use tests::{
    LONG, alone,
    echo::{self, Place},
    in_time, until,
    villain::{
        Role,
        shmipc::{Dialect, Element, ShmipcScript, ShmipcVillain},
    },
};

use super::{borne, config, session, shmipc_lies, stage, stream_after_theirs, told};

/// Has the victim put in more than half of what its queue holds, so that it looks at how much was taken out, by the
/// villain's account.
fn taken_out(villain: &mut ShmipcVillain, claimed: u32) {
    let stream = villain.prod(b"echo");
    villain.queues.store(villain.from_victim.head, claimed);
    for _ in 0..villain.from_victim.cap {
        // Over the socket, so that all slices are left for the answers.
        villain.fall_back(stream, 0, b"more");
    }
}

fn odd_status(villain: &mut ShmipcVillain, status: u32) {
    let (stream, offset) = (villain.stream(), villain.buffers.write(b"echo"));
    villain.put(Element {
        stream,
        offset,
        status,
    });
}

#[test]
fn hazard_h20_cursors_that_cannot_be_end_the_session() {
    alone(async {
        told(shmipc_lies! {
            "one element more than fit": |v| v.say_tail(v.tail() + v.to_victim.cap + 1) => Shmipc(QueueCursors { cap: 16, .. }),
            "elements that were taken out already": |v| v.say_tail(v.tail().wrapping_sub(1)) => Shmipc(QueueCursors { .. }),
            "half of all numbers": |v| v.say_tail(v.tail().wrapping_add(1 << 31)) => Shmipc(QueueCursors { .. }),
            "more taken out than was put in": |v| taken_out(v, 1000) => Shmipc(QueueCursors { head: 1000, .. }),
            "fewer taken out than before": |v| taken_out(v, u32::MAX - 15) => Shmipc(QueueCursors { .. }),
            "a status that nobody has": |v| odd_status(v, 2) => Shmipc(Status { status: 2 }),
            "all bits of a status": |v| odd_status(v, u32::MAX) => Shmipc(Status { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_v2_what_was_verified_or_is_our_own_is_not_read_again() {
    alone(async {
        borne(&[
            ("capacities that change", |v| {
                for queue in [v.to_victim, v.from_victim] {
                    for cap in [0, 1, u32::MAX] {
                        v.queues.store(queue.cap_at(), cap);
                    }
                }
            }),
            ("how much the victim has taken out", |v| {
                v.queues.store(v.to_victim.head, 7);
                v.queues.store(v.to_victim.head + 4, u32::MAX);
                // Which it says again as soon as it takes something out.
                v.queues.store(v.to_victim.head, 0);
            }),
            ("how much the victim has put in", |v| {
                // What it has put in just now may not be seen until it puts in more.
                v.set_stream_aside();
                v.queues.store(v.from_victim.tail, 1 << 20);
                v.queues.store(v.from_victim.tail + 4, u32::MAX);
            }),
            ("the upper half of a counter", |v| {
                v.queues.store(v.to_victim.tail + 4, u32::MAX);
                v.queues.store(v.from_victim.head + 4, 77);
            }),
            ("neither asleep nor awake", |v| {
                for value in [2, u32::MAX, 0] {
                    v.queues.store(v.from_victim.working, value);
                    v.queues.store(v.to_victim.working, value);
                }
            }),
        ])
        .await;
    });
}

#[test]
fn hazard_c1_who_never_sleeps_is_not_overtaken_and_not_waited_for() {
    alone(async {
        let dialect = Dialect::V4Eventfd;
        let mut stage = stage(dialect).await;
        let (mut villains, mut sessions) = (Vec::new(), Vec::new());
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = session(&mut stage, role, dialect).await;
            let stream = stream_after_theirs(&mut villain);
            villain.send(stream, b"echo");
            expect(&mut villain, stream, b"echo");
            // From now on, all answers would have to go over the socket.
            for list in villain.buffers.lists.clone() {
                // The last is never handed out.
                for _ in 1..list.count {
                    let _hoarded = villain.buffers.take(&list);
                }
            }
            let is_awake = || villain.queues.load(villain.from_victim.working) == 1;
            until("the victim has woken the villain", is_awake).await;
            villain.fall_back(stream, 0, b"echo");
            villains.push(villain);
            sessions.push(session);
        }
        for (mut villain, session) in villains.into_iter().zip(sessions) {
            let lost = in_time("the end", session.closed()).await;
            let is_found = matches!(
                lost,
                SessionLost::PeerMisbehaved(Shmipc(InvalidShmipc::Restless { .. }))
            );
            assert!(is_found, "{:?}: {lost:?}", villain.role);
            // Nothing has overtaken anything.
            assert_eq!(villain.peek(), None);
            villain.wait_to_be_left();
        }
        stage.bystander_is_well("who never sleeps").await;
    });
}

/// Whether others speak it, who may forget to wake their peers.
fn is_woken(dialect: Dialect) -> bool {
    dialect.is_native() && dialect != Dialect::V4Polling
}

/// Sends a message as a peer does that has lost its wake-up.
fn send_unwoken(villain: &mut ShmipcVillain, stream: u32, bytes: &[u8]) {
    let offset = villain.buffers.write(bytes);
    villain.put_unwoken(Element {
        stream,
        offset,
        status: 0,
    });
}

#[test]
fn hazard_h50_what_nobody_was_woken_for_is_found_while_a_stream_is_open() {
    alone(async {
        let mut sessions = Vec::new();
        for dialect in Dialect::those(is_woken) {
            let mut stage = stage(dialect).await;
            for role in [Role::Client, Role::Server] {
                let (mut villain, session) = session(&mut stage, role, dialect).await;
                let stream = villain.prod(b"echo");
                sessions.push((villain, stream, session));
            }
        }
        // All at once, since each takes its time.
        let messages = [&b"echo"[..], b"more", b"again"];
        for (message, next) in messages.iter().zip(1..) {
            for (villain, stream, _) in &mut sessions {
                let echo = loop {
                    match villain.message().expect("the victim answers") {
                        (of, message) if of == *stream => break message,
                        _ => {}
                    }
                };
                assert_eq!(&echo, message, "{:?}, {:?}", villain.role, villain.dialect);
                if let Some(next) = messages.get(next) {
                    send_unwoken(villain, *stream, next);
                }
            }
        }
    });
}

/// The villain's next message, which must be this one, on this stream.
fn expect(villain: &mut ShmipcVillain, stream: u32, message: &[u8]) {
    let heard = villain.message().expect("the victim answers");
    let dialect = villain.dialect;
    assert_eq!(heard, (stream, message.to_vec()), "{dialect:?}");
}

#[test]
fn hazard_h50_so_is_the_first_message_of_a_stream() {
    alone(async {
        let (mut stages, mut sessions) = (Vec::new(), Vec::new());
        for dialect in Dialect::those(is_woken) {
            let mut stage = stage(dialect).await;
            let (mut villain, session) = session(&mut stage, Role::Client, dialect).await;
            // A stream that is over, since which the victim sleeps.
            let stream = villain.prod(b"echo");
            expect(&mut villain, stream, b"echo");
            villain.put(Element {
                stream,
                offset: 0,
                status: 1,
            });
            until("no stream is open", || session.stats().streams_open == 0).await;
            sessions.push((villain, session));
            stages.push(stage);
        }
        // While a stream was open, the victim has looked once in a second, and may do so once more. Without this pause that look might be
        // what finds the message: the test would pass, and show less.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let streams: Vec<u32> = sessions
            .iter_mut()
            .map(|(villain, _)| {
                let stream = villain.stream();
                send_unwoken(villain, stream, b"first");
                stream
            })
            .collect();
        for ((villain, _), stream) in sessions.iter_mut().zip(streams) {
            expect(villain, stream, b"first");
        }
    });
}

#[test]
fn hazard_h50_a_thread_that_accepts_finds_it_too() {
    for dialect in Dialect::those(|dialect| is_woken(dialect) && !dialect.is_tcp()) {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = config(dialect, files.path(), |shmipc| shmipc);
        let place = Place::new();
        let listener = blocking::Listener::bind_with(place.path(), config.build().unwrap());
        let listener = listener.unwrap();
        let victim = thread::spawn(move || {
            let session = listener.accept().unwrap();
            for _ in 0..2 {
                let mut stream = session.accept_stream().unwrap();
                let message = stream.recv().unwrap().unwrap();
                let mut answer = stream.buffer(message.len());
                answer.put(message);
                stream.send(answer, Flush::More).unwrap();
            }
        });
        let socket = UnixStream::connect(place.path()).unwrap();
        let ending = ShmipcScript::new(Role::Client, dialect, files.path()).play(socket);
        let mut villain = ending.session();
        let stream = villain.prod(b"echo");
        expect(&mut villain, stream, b"echo");
        let stream = villain.stream();
        send_unwoken(&mut villain, stream, b"first");
        expect(&mut villain, stream, b"first");
        drop(villain);
        victim.join().unwrap();
    }
}

#[test]
fn hazard_h50_a_thread_finds_it_too() {
    for dialect in Dialect::those(|dialect| is_woken(dialect) && !dialect.is_tcp()) {
        a_thread_finds_it_too(dialect);
    }
}

fn a_thread_finds_it_too(dialect: Dialect) {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = config(dialect, files.path(), |shmipc| shmipc);
    let config = config.build().unwrap();
    let place = Place::new();
    let listener = UnixListener::bind(place.path()).unwrap();
    let path = place.path();
    let (tell, told) = mpsc::channel();
    let _victim = thread::spawn(move || {
        let session = blocking::Session::connect_with(path, config).unwrap();
        let mut stream = session.open_stream().unwrap();
        let mut message = stream.buffer(5);
        message.put_slice(b"hello");
        stream.send(message, Flush::More).unwrap();
        // Without a deadline: it would be a reason to look.
        for _ in 0..2 {
            let answer = stream.recv().unwrap().unwrap();
            tell.send(echo::all(answer)).unwrap();
        }
    });
    let (socket, _) = listener.accept().unwrap();
    let ending = ShmipcScript::new(Role::Server, dialect, files.path()).play(socket);
    let mut villain = ending.session();
    let (stream, hello) = villain.message().unwrap();
    assert_eq!(hello, b"hello");
    // Who has waited once counts as awake until it sleeps again.
    villain.send(stream, b"answer");
    send_unwoken(&mut villain, stream, b"another");
    for answer in [&b"answer"[..], b"another"] {
        assert_eq!(told.recv_timeout(LONG).unwrap(), answer, "{dialect:?}");
    }
}
