//! shmipc's own link, in every version, between sessions for threads.

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use common::{
    PATIENCE,
    modes::{Mode, message, modes, tight},
    send_back,
};
use shmipc_transport::{
    Address, Config, ConnectError, Flush, LinkKind, RecvBuf, RecvError, SendError, SessionLost,
    Shmipc, Wait,
    blocking::{Listener, Session, Stream},
};

struct Pair {
    client: Session,
    server: Session,
    _files: tempfile::TempDir,
}

/// While the client takes its leave, which it does only when the server has taken everything, the server looks.
impl Drop for Pair {
    fn drop(&mut self) {
        thread::scope(|scope| {
            scope.spawn(|| self.server.closed(late()));
            self.client.close();
        });
    }
}

impl Pair {
    fn new(mode: &Mode, shmipc: Shmipc, wait: Wait) -> Self {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = mode.config(files.path(), shmipc, wait);
        let address = mode.address(files.path());
        let listener = Listener::bind_with(address, config.clone()).unwrap();
        let address = listener.local_address().clone();
        let (client, server) = thread::scope(|scope| {
            let client = scope.spawn(|| Session::connect_with(address, config));
            let server = listener.accept_until(late()).unwrap();
            (client.join().unwrap(), server)
        });
        Self {
            client: client.unwrap_or_else(|error| panic!("{}: {error:?}", mode.name)),
            server: server.expect("nobody came in time"),
            _files: files,
        }
    }

    /// A stream that both have, and that has carried one message.
    fn stream(&self) -> (Stream, Stream) {
        let mut ours = self.client.open_stream().unwrap();
        send(&mut ours, &message(10, 0));
        let mut theirs = accept(&self.server);
        assert_eq!(recv(&mut theirs).unwrap(), message(10, 0));
        (ours, theirs)
    }
}

fn late() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(10))
}

fn try_send(stream: &mut Stream, bytes: &Bytes) -> Result<(), SendError> {
    let mut buffer = stream.buffer(bytes.len());
    buffer.put_slice(bytes);
    stream.send_until(buffer, Flush::More, late())
}

fn send(stream: &mut Stream, bytes: &Bytes) {
    try_send(stream, bytes).unwrap();
}

fn recv(stream: &mut Stream) -> Option<Bytes> {
    let whole = |mut message: RecvBuf| message.copy_to_bytes(message.remaining());
    stream.recv_until(late()).unwrap().map(whole)
}

fn accept(session: &Session) -> Stream {
    let accepted = session.accept_stream_until(late()).unwrap();
    accepted.expect("no stream came in time")
}

/// Sends back what comes on every stream, one stream after the other, until the session ends.
fn echo(session: &Session) {
    while let Ok(mut stream) = session.accept_stream() {
        send_back(&mut stream);
    }
}

fn assert_echo(stream: &mut Stream, len: usize, seed: usize, mode: &Mode) {
    let sent = message(len, seed);
    send(stream, &sent);
    let received = recv(stream).expect("an echo");
    assert!(received == sent, "{}: {len} bytes", mode.name);
}

#[test]
fn messages_of_every_size_come_back_however_one_waits() {
    for mode in modes() {
        for wait in [Wait::Adaptive, Wait::Block] {
            let pair = Pair::new(&mode, Shmipc::default(), wait);
            thread::scope(|scope| {
                scope.spawn(|| echo(&pair.server));
                let mut stream = pair.client.open_stream().unwrap();
                for (seed, len) in [1, 64, 2049, 8173, 131_053, 3 << 20]
                    .into_iter()
                    .enumerate()
                {
                    assert_echo(&mut stream, len, seed, &mode);
                }
                for round in 0..30 {
                    assert_echo(&mut stream, 100, round, &mode);
                }
                drop(stream);
                pair.client.close();
            });
        }
    }
}

#[test]
fn who_never_sleeps_is_woken_for_nothing_and_misses_nothing() {
    for mode in modes().iter().step_by(3) {
        let pair = Pair::new(mode, tight(), Wait::Busy);
        thread::scope(|scope| {
            scope.spawn(|| echo(&pair.server));
            let mut stream = pair.client.open_stream().unwrap();
            for (seed, len) in [10, 100_000, 20].into_iter().enumerate() {
                assert_echo(&mut stream, len, seed, mode);
            }
            drop(stream);
            pair.client.close();
        });
    }
}

#[test]
fn threads_and_tasks_talk_to_each_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _runtime = runtime.enter();
    for mode in modes() {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = mode.config(files.path(), Shmipc::default(), Wait::Adaptive);
        // Tasks serve, a thread calls.
        let at = mode.address(files.path());
        let listener = shmipc_transport::Listener::bind_with(at, config.clone()).unwrap();
        let address = listener.local_address().clone();
        let serving = runtime.spawn(async move {
            let session = listener.accept().await.unwrap();
            common::echo(session).await.unwrap();
        });
        let client = Session::connect_with(address, config.clone()).unwrap();
        let mut stream = client.open_stream().unwrap();
        for len in [10, 50_000] {
            assert_echo(&mut stream, len, len, &mode);
        }
        drop((stream, client));
        runtime.block_on(serving).unwrap();
        // A thread serves, tasks call.
        let at = mode.address(files.path());
        let listener = Listener::bind_with(at, config.clone()).unwrap();
        let address = listener.local_address().clone();
        let serving = thread::spawn(move || echo(&listener.accept().unwrap()));
        runtime.block_on(async {
            let client = shmipc_transport::Session::connect_with(address, config);
            let client = client.await.unwrap();
            let mut stream = client.open_stream().unwrap();
            for len in [10, 50_000] {
                let sent = message(len, len);
                common::send(&mut stream, &sent, Flush::More).await;
                let received = stream.recv().await.unwrap().unwrap();
                assert!(common::all(received) == sent, "{}: {len}", mode.name);
            }
        });
        serving.join().unwrap();
    }
}

#[test]
fn many_threads_share_a_session() {
    for mode in modes() {
        let pair = Pair::new(&mode, Shmipc::default(), Wait::Adaptive);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| echo(&pair.server));
            }
            let callers: Vec<_> = (0..4)
                .map(|seed| {
                    let (client, mode) = (&pair.client, &mode);
                    scope.spawn(move || {
                        for round in 0..10 {
                            let mut stream = client.open_stream().unwrap();
                            assert_echo(&mut stream, 1 + 1000 * seed, round, mode);
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.join().unwrap();
            }
            pair.client.close();
        });
    }
}

#[test]
fn what_falls_back_to_the_socket_arrives_in_order_though_its_sender_never_waits_again() {
    let sizes = [10, 300_000, 20, 3000, 100_000, 5, 1 << 20, 7, 2 << 20];
    for mode in modes() {
        let pair = Pair::new(&mode, tight(), Wait::Adaptive);
        let (mut ours, mut theirs) = pair.stream();
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                for (seed, len) in sizes.into_iter().enumerate() {
                    let received = recv(&mut theirs).unwrap();
                    assert!(received == message(len, seed), "{}: {len}", mode.name);
                }
                theirs
            });
            for (seed, len) in sizes.into_iter().enumerate() {
                send(&mut ours, &message(len, seed));
            }
            // Nobody waits here any more.
            theirs = receiver.join().unwrap();
            assert_ne!(pair.client.stats().fallbacks_sent, 0, "{}", mode.name);
            // And the other way.
            let reply = message(400_000, 9);
            let expected = reply.clone();
            scope.spawn(move || send(&mut theirs, &reply));
            assert!(recv(&mut ours).unwrap() == expected, "{}", mode.name);
        });
    }
}

#[test]
fn hazard_h51_a_full_queue_is_waited_for_and_nothing_is_lost() {
    const COUNT: usize = 300;
    for mode in modes() {
        let pair = Pair::new(&mode, tight(), Wait::Block);
        let (mut ours, mut theirs) = pair.stream();
        thread::scope(|scope| {
            scope.spawn(|| (0..COUNT).for_each(|seed| send(&mut ours, &message(8, seed))));
            for seed in 0..COUNT {
                let received = recv(&mut theirs).unwrap();
                assert_eq!(received, message(8, seed), "{}", mode.name);
            }
        });
    }
}

#[test]
fn hazard_h45_what_was_sent_before_a_close_arrives() {
    for mode in modes() {
        let pair = Pair::new(&mode, tight(), Wait::Adaptive);
        let (mut ours, mut theirs) = pair.stream();
        thread::scope(|scope| {
            scope.spawn(|| {
                for seed in 0..10 {
                    send(&mut ours, &message(100, seed));
                }
                send(&mut ours, &message(300_000, 10));
                pair.client.close();
            });
            for seed in 0..10 {
                assert_eq!(
                    recv(&mut theirs).unwrap(),
                    message(100, seed),
                    "{}",
                    mode.name
                );
            }
            let last = theirs.recv_until(late());
            assert!(
                last.is_ok(),
                "{}: {last:?} {:?}",
                mode.name,
                pair.server.stats()
            );
            assert!(last.unwrap().is_some_and(|last| last.len() == 300_000));
            let lost = pair.server.closed(late());
            assert!(
                matches!(lost, Some(SessionLost::ClosedByPeer)),
                "{}: {lost:?}",
                mode.name
            );
        });
    }
}

#[test]
fn hazard_h54_a_session_ends_though_its_peer_takes_nothing() {
    for mode in [&modes()[2], &modes()[5]] {
        let pair = Pair::new(mode, Shmipc::default(), Wait::Block);
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, &message(100, 1));
        drop(stream);
        pair.client.close();
        assert!(pair.client.is_closed());
        let mut theirs = accept(&pair.server);
        assert_eq!(recv(&mut theirs).unwrap(), message(100, 1));
        assert!(pair.server.closed(late()).is_some());
    }
}

#[test]
fn both_sides_close_streams() {
    for mode in modes() {
        let pair = Pair::new(&mode, Shmipc::default(), Wait::Adaptive);
        let (ours, mut theirs) = pair.stream();
        drop(ours);
        let ended = theirs.recv_until(late());
        assert!(
            matches!(ended, Ok(None) | Err(RecvError::Reset(_))),
            "{}: {ended:?}",
            mode.name
        );
        let (mut ours, theirs) = pair.stream();
        drop(theirs);
        let ended = ours.recv_until(late());
        assert!(
            matches!(ended, Ok(None) | Err(RecvError::Reset(_))),
            "{}: {ended:?}",
            mode.name
        );
        let refused = try_send(&mut ours, &message(10, 2));
        assert!(matches!(refused, Err(SendError::Reset(_))), "{}", mode.name);
    }
}

#[test]
fn a_deadline_limits_what_is_waited_for() {
    for mode in modes() {
        let pair = Pair::new(&mode, Shmipc::default(), Wait::Adaptive);
        let (mut ours, mut theirs) = pair.stream();
        let late_for_that = ours.recv_until(soon());
        assert!(matches!(late_for_that, Err(RecvError::TimedOut)));
        assert!(pair.client.closed(soon()).is_none());
        assert!(pair.server.accept_stream_until(soon()).unwrap().is_none());
        send(&mut theirs, &message(5, 1));
        assert_eq!(recv(&mut ours).unwrap(), message(5, 1), "{}", mode.name);
    }
}

#[test]
fn a_ping_is_answered_and_a_session_drains() {
    for mode in modes().iter().skip(1).step_by(4) {
        let pair = Pair::new(mode, Shmipc::default(), Wait::Adaptive);
        thread::scope(|scope| {
            scope.spawn(|| echo(&pair.server));
            let mut stream = pair.client.open_stream().unwrap();
            assert_echo(&mut stream, 10, 1, mode);
            let answered = pair.client.ping(late()).unwrap();
            assert!(answered.is_some(), "{}", mode.name);
            drop(stream);
            assert!(pair.client.drain(late()), "{}", mode.name);
        });
    }
}

#[test]
fn hazard_h46_a_session_that_holds_too_much_takes_nothing_more_and_goes_on_later() {
    // With what waits on its stream, more than a session may hold.
    const MESSAGES: usize = 5;
    let len = 20 << 20;
    let mode = &modes()[2];
    let pair = Pair::new(mode, tight(), Wait::Block);
    let (mut ours, mut theirs) = pair.stream();
    thread::scope(|scope| {
        scope.spawn(|| (0..MESSAGES).for_each(|seed| send(&mut ours, &message(len, seed))));
        // This thread waits for something else, until nothing more is taken.
        while pair.server.stats().messages_received < 4 {
            assert!(pair.server.accept_stream_until(soon()).unwrap().is_none());
        }
        for seed in 0..MESSAGES {
            assert!(recv(&mut theirs).unwrap() == message(len, seed), "{seed}");
        }
    });
}

#[test]
fn the_best_common_link_is_found_also_with_servers_that_know_no_negotiation() {
    for accepted in LinkKind::ALL {
        for at in ["socket", "tcp"] {
            let files = tempfile::tempdir_in("/dev/shm").unwrap();
            let address = match at {
                "socket" => Address::from(files.path().join("socket")),
                _ if accepted == LinkKind::Outbox => continue,
                _ => Address::from("tcp://127.0.0.1:0"),
            };
            let shmipc = Shmipc::default().directory(files.path());
            let config = Config::builder().shmipc(shmipc);
            let server = config.clone().links([accepted]).build().unwrap();
            let client = config.links(LinkKind::ALL).build().unwrap();
            let listener = Listener::bind_with(address, server).unwrap();
            let address = listener.local_address().clone();
            thread::scope(|scope| {
                scope.spawn(|| echo(&listener.accept_until(late()).unwrap().unwrap()));
                let client = Session::connect_with(address, client);
                let client = client.unwrap_or_else(|error| panic!("{accepted:?}: {error:?}"));
                let mut stream = client.open_stream().unwrap();
                send(&mut stream, &message(77, 1));
                assert_eq!(recv(&mut stream).unwrap(), message(77, 1));
            });
        }
    }
}

#[test]
fn hazard_c11_our_own_link_cannot_begin_over_tcp_and_whom_authorize_rejects_is_not_served_there() {
    let port: Address = "tcp://127.0.0.1:0".into();
    assert!(Listener::bind(port.clone()).is_err());
    let config = Config::builder().links([LinkKind::ShmipcV3]);
    let picky = config.clone().authorize(|peer| peer.uid() == Some(0));
    let listener = Listener::bind_with(port, picky.build().unwrap()).unwrap();
    let address = listener.local_address().clone();
    let unable = Session::connect(address.clone()).unwrap_err();
    assert!(matches!(unable, ConnectError::NoLink { .. }), "{unable:?}");
    thread::scope(|scope| {
        let stopper = listener.stopper();
        let accepting = scope.spawn(|| listener.accept().map(drop));
        let refused = Session::connect_with(address, config.build().unwrap());
        assert!(refused.is_err());
        stopper.stop();
        accepting.join().unwrap().unwrap_err();
    });
}
