//! Sessions whose users are threads.

mod common;

use std::{
    future::poll_fn,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use common::{PATIENCE, all, pattern, send_back};
use nix::time::{ClockId, clock_gettime};
use shmipc_transport::{
    AllocError, Config, Flush, RecvError, SendError, SessionLost, Wait,
    blocking::{Listener, Session, Stream},
};

/// Both ends of a session in this process.
struct Pair {
    client: Session,
    server: Session,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(wait: Wait) -> Self {
        let config = Config::builder().wait(wait).build().unwrap();
        Self::with(config.clone(), config)
    }

    fn with(client: Config, server: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Listener::bind_with(path.as_path(), server).unwrap();
        let (client, server) = thread::scope(|scope| {
            let client = scope.spawn(|| Session::connect_with(path.as_path(), client).unwrap());
            let server = listener.accept().unwrap();
            (client.join().unwrap(), server)
        });
        Self {
            client,
            server,
            _dir: dir,
        }
    }
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(10))
}

fn late() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

fn send(stream: &mut Stream, bytes: &[u8], flush: Flush) {
    let mut message = stream.buffer(bytes.len());
    message.put_slice(bytes);
    stream.send_until(message, flush, late()).unwrap();
}

/// Sends every message of every stream back, one stream after the other, until the session ends.
fn echo(session: &Session) {
    while let Ok(mut stream) = session.accept_stream() {
        send_back(&mut stream);
        drop(stream.finish());
    }
}

fn assert_echo(client: &Session, len: usize, seed: usize) {
    let mut stream = client.open_stream().unwrap();
    let sent = pattern(len, seed);
    send(&mut stream, &sent, Flush::End);
    let received = stream.recv_until(late()).unwrap().expect("an echo");
    assert!(all(received) == sent, "{len} bytes came back changed");
    assert!(stream.recv_until(late()).unwrap().is_none());
}

const WAITS: [Wait; 3] = [Wait::Adaptive, Wait::Block, Wait::Busy];
const SIZES: [usize; 9] = [
    0,
    1,
    64,
    2048,
    2049,
    65_536,
    1 << 20,
    (16 << 20) + 5,
    40 << 20,
];

#[test]
fn messages_of_all_sizes_come_back_however_one_waits() {
    for wait in WAITS {
        let pair = Pair::new(wait);
        thread::scope(|scope| {
            scope.spawn(|| echo(&pair.server));
            for len in SIZES {
                assert_echo(&pair.client, len, len);
            }
            pair.client.close();
        });
    }
}

#[test]
fn threads_and_tasks_talk_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // Tasks serve, a thread calls.
    let listener = {
        let _runtime = runtime.enter();
        shmipc_transport::Listener::bind(path.as_path()).unwrap()
    };
    runtime.spawn(async move {
        let session = listener.accept().await.unwrap();
        while let Ok(mut stream) = session.accept_stream().await {
            while let Ok(Some(message)) = stream.recv().await {
                let mut reply = stream.buffer(message.len());
                reply.put(message);
                stream.send(reply, Flush::More).await.unwrap();
            }
            drop(stream.finish().await);
        }
    });
    let client = Session::connect(path.as_path()).unwrap();
    SIZES.iter().for_each(|&len| assert_echo(&client, len, 1));
    drop(client);
    // A thread serves, tasks call.
    let path = dir.path().join("other");
    let listener = Listener::bind(path.as_path()).unwrap();
    let server = thread::spawn(move || echo(&listener.accept().unwrap()));
    runtime.block_on(async {
        let session = shmipc_transport::Session::connect(path).await.unwrap();
        for len in SIZES {
            let mut stream = session.open_stream().unwrap();
            let mut message = stream.buffer(len);
            message.put_slice(&pattern(len, 2));
            stream.send(message, Flush::End).await.unwrap();
            let echo = stream.recv().await.unwrap().unwrap();
            assert!(all(echo) == pattern(len, 2));
        }
        session.close();
    });
    server.join().unwrap();
}

#[test]
fn many_threads_share_a_session() {
    const THREADS: usize = 8;
    const CALLS: usize = 300;
    for wait in WAITS {
        let pair = Pair::new(wait);
        thread::scope(|scope| {
            // Several threads also serve it.
            for _ in 0..2 {
                scope.spawn(|| echo(&pair.server));
            }
            let callers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let client = &pair.client;
                    scope.spawn(move || {
                        (0..CALLS).for_each(|call| assert_echo(client, call % 100, thread));
                    })
                })
                .collect();
            callers
                .into_iter()
                .for_each(|caller| caller.join().unwrap());
            pair.client.close();
        });
        assert_eq!(pair.client.stats().streams_open, 0);
    }
}

#[test]
fn a_leader_whose_deadline_passes_leaves_the_lead_to_others() {
    for wait in WAITS {
        let pair = Pair::new(wait);
        let (tell, told) = mpsc::channel::<()>();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            let server = &pair.server;
            scope.spawn(move || {
                let mut streams: Vec<_> = (0..3).map(|_| server.accept_stream().unwrap()).collect();
                told.recv().unwrap();
                // Only the last two are answered.
                for stream in &mut streams[1..] {
                    send(stream, b"at last", Flush::End);
                }
                server.closed(late()).expect("the client leaves");
            });
            let asked = || {
                let mut stream = pair.client.open_stream().unwrap();
                send(&mut stream, b"?", Flush::End);
                stream
            };
            let (mut first, others) = (asked(), [asked(), asked()]);
            let waiting = others.map(|mut stream| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    stream.recv_until(late()).unwrap().map(all)
                })
            });
            barrier.wait();
            for _ in 0..10 {
                let timed_out = first.recv_until(soon());
                assert!(
                    matches!(timed_out, Err(RecvError::TimedOut)),
                    "{timed_out:?}"
                );
            }
            tell.send(()).unwrap();
            for waiter in waiting {
                assert_eq!(waiter.join().unwrap().as_deref(), Some(&b"at last"[..]));
            }
            drop(first);
            pair.client.close();
        });
    }
}

#[test]
fn nobody_is_forgotten_however_often_the_lead_changes_hands() {
    const THREADS: usize = 6;
    const ANSWERS: usize = 400;
    for wait in [Wait::Adaptive, Wait::Block] {
        let pair = Pair::new(wait);
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| echo_slowly(&pair.server));
            let callers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (client, answered) = (&pair.client, &answered);
                    scope.spawn(move || {
                        for call in 0..ANSWERS {
                            let mut stream = client.open_stream().unwrap();
                            send(&mut stream, &[1], Flush::End);
                            // Deadlines that pass all the time, so that leaders leave without an answer.
                            let patience =
                                Duration::from_micros((37 * (thread + call) % 300) as u64);
                            while let Err(error) =
                                stream.recv_until(Some(Instant::now() + patience))
                            {
                                assert!(matches!(error, RecvError::TimedOut), "{error}");
                            }
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            callers
                .into_iter()
                .for_each(|caller| caller.join().unwrap());
            pair.client.close();
        });
        assert_eq!(answered.into_inner(), THREADS * ANSWERS);
    }
}

/// Answers in bursts, so that those who wait are woken by each other.
fn echo_slowly(session: &Session) {
    let mut waiting = Vec::new();
    loop {
        let patience = Instant::now() + Duration::from_micros(100);
        match session.accept_stream_until(Some(patience)) {
            Ok(Some(stream)) => waiting.push(stream),
            Ok(None) => {
                for mut stream in waiting.drain(..) {
                    send(&mut stream, b"!", Flush::End);
                }
            }
            Err(_) => return,
        }
    }
}

#[test]
fn closing_wakes_all_who_wait() {
    for wait in WAITS {
        let pair = Pair::new(wait);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| {
                    let mut stream = pair.client.open_stream().unwrap();
                    send(&mut stream, b"?", Flush::More);
                    scope.spawn(move || stream.recv_until(late()))
                })
                .collect();
            let accepting = scope.spawn(|| pair.client.accept_stream_until(late()));
            // The first of them leads by the time that the peer has heard of all.
            for _ in 0..4 {
                pair.server.accept_stream().unwrap();
            }
            pair.client.close();
            for waiter in waiting {
                let lost = waiter.join().unwrap();
                assert!(
                    matches!(
                        lost,
                        Err(RecvError::SessionLost(SessionLost::ClosedHere) | RecvError::Reset(_))
                    ),
                    "{lost:?}"
                );
            }
            let lost = accepting.join().unwrap().map(drop);
            assert!(matches!(lost, Err(SessionLost::ClosedHere)), "{lost:?}");
            let lost = pair.server.closed(late());
            assert!(matches!(lost, Some(SessionLost::ClosedByPeer)), "{lost:?}");
        });
    }
}

#[test]
fn who_receives_on_a_stream_that_nobody_has_heard_of_learns_of_the_end() {
    for wait in WAITS {
        let pair = Pair::new(wait);
        let mut stream = pair.client.open_stream().unwrap();
        let (sender, ended) = mpsc::channel();
        // It is not waited for: it might never end.
        thread::spawn(move || sender.send(stream.recv_until(late())));
        pair.server.close();
        let ended = ended.recv_timeout(PATIENCE).expect("it ends");
        assert!(
            matches!(
                ended,
                Err(RecvError::SessionLost(SessionLost::ClosedByPeer))
            ),
            "{ended:?}"
        );
    }
}

#[test]
fn halves_belong_to_two_threads_and_a_reset_wakes_the_other() {
    for wait in WAITS {
        let pair = Pair::new(wait);
        thread::scope(|scope| {
            let mut stream = pair.client.open_stream().unwrap();
            send(&mut stream, b"?", Flush::More);
            let mut theirs = pair.server.accept_stream().unwrap();
            let (mut send_half, mut recv_half) = stream.split();
            let waiting = scope.spawn(move || recv_half.recv_until(late()));
            send_half.reset(7);
            let abandoned = waiting.join().unwrap();
            assert!(
                matches!(abandoned, Err(RecvError::Abandoned)),
                "{abandoned:?}"
            );
            assert!(theirs.recv_until(late()).unwrap().is_some());
            let reset = theirs.recv_until(late());
            assert!(matches!(reset, Err(RecvError::Reset(7))), "{reset:?}");
        });
    }
}

#[test]
fn a_sender_waits_for_credit_and_no_longer_than_it_should() {
    let config = Config::builder().stream_window(2, 1 << 20).build().unwrap();
    let pair = Pair::with(Config::default(), config);
    let mut stream = pair.client.open_stream().unwrap();
    send(&mut stream, b"1", Flush::More);
    send(&mut stream, b"2", Flush::More);
    let message = stream.buffer(1);
    let late_error = stream.send_until(message, Flush::More, soon());
    assert!(
        matches!(late_error, Err(SendError::TimedOut)),
        "{late_error:?}"
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = pair.server.accept_stream().unwrap();
            let mut seen = Vec::new();
            while let Some(message) = stream.recv_until(late()).unwrap() {
                seen.extend(all(message));
            }
            assert_eq!(seen, (b'1'..=b'9').collect::<Vec<_>>());
            send(&mut stream, b"done", Flush::End);
        });
        for byte in b'3'..=b'9' {
            send(&mut stream, &[byte], Flush::More);
        }
        stream.finish_until(late()).unwrap();
        assert!(stream.recv_until(late()).unwrap().is_some());
    });
}

#[test]
fn memory_is_lent_and_waited_for() {
    let config = Config::builder().memory_max(1 << 20).build().unwrap();
    let pair = Pair::with(config.clone(), config);
    let mut lent = pair.client.alloc(1 << 20).unwrap();
    let late_error = pair.client.alloc_until(1 << 20, soon());
    assert!(matches!(late_error, Err(AllocError::TimedOut)));
    lent.fill(5);
    let mut stream = pair.client.open_stream().unwrap();
    let mut message = stream.buffer(1 << 20);
    message.put(lent.freeze());
    stream.send(message, Flush::End).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pair.client.alloc_until(1 << 20, late()).unwrap());
        let mut theirs = pair.server.accept_stream().unwrap();
        let received = theirs.recv().unwrap().unwrap();
        assert!(all(received).iter().all(|&byte| byte == 5));
        waiting.join().unwrap();
    });
}

#[test]
fn a_session_that_nobody_looked_at_notices_when_it_is_used_again() {
    let pair = Pair::new(Wait::Adaptive);
    assert_eq!(
        pair.client.ping(soon()).unwrap(),
        None,
        "nobody waits at the server"
    );
    pair.server.go_away();
    assert!(!pair.client.is_going_away(), "nobody has looked");
    wait_until(|| {
        pair.client.attend();
        pair.client.is_going_away()
    });
    pair.server.close();
    wait_until(|| pair.client.open_stream().is_err());
}

#[test]
fn who_waits_answers_pings() {
    let pair = Pair::new(Wait::Block);
    thread::scope(|scope| {
        scope.spawn(|| pair.server.accept_stream_until(late()));
        assert!(pair.client.ping(late()).unwrap().is_some());
        pair.client.close();
    });
}

#[test]
fn memory_that_lies_idle_goes_back() {
    let config = Config::builder()
        .memory_idle(Duration::from_millis(1))
        .build()
        .unwrap();
    let pair = Pair::with(config, Config::default());
    thread::scope(|scope| {
        scope.spawn(|| echo(&pair.server));
        assert_echo(&pair.client, 1 << 20, 3);
        // Once while somebody sleeps, and once with the next use.
        wait_until(|| {
            drop(pair.client.accept_stream_until(soon()));
            pair.client.stats().arena_mapped == 0
        });
        assert_echo(&pair.client, 1 << 20, 4);
        wait_until(|| {
            pair.client.attend();
            pair.client.stats().arena_mapped == 0
        });
        pair.client.close();
    });
}

fn wait_until(mut happens: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happens() {
        assert!(began.elapsed() < PATIENCE, "it never happened");
        thread::yield_now();
    }
}

#[test]
fn a_thread_that_panics_while_it_writes_holds_up_nobody() {
    let pair = Pair::new(Wait::Adaptive);
    thread::scope(|scope| {
        scope.spawn(|| echo(&pair.server));
        for call in 0..20 {
            let panicking = scope.spawn(|| {
                let mut stream = pair.client.open_stream().unwrap();
                stream
                    .as_async()
                    .try_send_exact_then_recv(64, Flush::End, |_| panic!("on purpose"))
            });
            assert!(panicking.join().is_err());
            assert_echo(&pair.client, 100, call);
        }
        pair.client.close();
    });
    assert_eq!(pair.client.stats().streams_open, 0);
}

#[test]
fn a_session_is_drained_when_its_streams_are_over() {
    let pair = Pair::new(Wait::Adaptive);
    thread::scope(|scope| {
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, b"last", Flush::More);
        let mut theirs = pair.server.accept_stream().unwrap();
        // The client looks, so that it answers the ping; one stream is still open.
        let waiting =
            scope.spawn(move || stream.recv_until(late()).map(|message| message.map(all)));
        assert!(!pair.server.drain(soon()));
        send(&mut theirs, b"bye", Flush::End);
        assert_eq!(
            waiting.join().unwrap().unwrap().as_deref(),
            Some(&b"bye"[..])
        );
        drop(theirs);
        let closing = scope.spawn(|| pair.client.closed(late()));
        assert!(pair.server.drain(late()));
        closing
            .join()
            .unwrap()
            .expect("the server has said goodbye");
        assert!(pair.client.open_stream().is_err());
    });
}

#[test]
fn a_future_that_waits_like_a_thread_itself_hides_no_wake_from_whoever_polls_it() {
    let pair = Pair::new(Wait::Block);
    let mut polls = 0;
    let done = pair.client.block_on(
        late(),
        poll_fn(|cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
                pair.client.block_on(soon(), async {}).unwrap();
                return Poll::Pending;
            }
            Poll::Ready(())
        }),
    );
    assert_eq!((done, polls), (Some(()), 2));
}

#[test]
fn who_waits_for_others_on_a_session_that_is_over_costs_nothing() {
    let spent = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let pair = Pair::new(Wait::Block);
    let client = &pair.client;
    // One sees it end while it waits, and the other finds it so.
    for session in [&pair.server, client] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (began, cpu) = (Instant::now(), spent().unwrap());
        thread::scope(|scope| {
            scope.spawn(move || {
                client.close();
                thread::sleep(Duration::from_millis(200)); // Which they might spend looking.
                tell.send(7).unwrap();
            });
            assert_eq!(session.block_on(late(), told), Some(Ok(7)));
        });
        let (cpu, passed) = (spent().unwrap() - cpu, began.elapsed());
        assert!(cpu < passed / 4, "{cpu:?} of {passed:?}");
    }
}
