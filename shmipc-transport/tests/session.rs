//! Sessions between two ends in one process.

mod common;

use std::{
    future::poll_fn,
    sync::{Arc, mpsc},
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use shmipc_transport::{
    Abandoned, AllocError, Config, Flush, Listener, Payloads, RecvBuf, RecvError, SendError,
    Session, SessionLost, Stream, Wait,
};
use tokio::time::timeout;

use crate::common::{PATIENCE, Pair, all, assert_echo, echo, pattern, send};

async fn echoes_of_all_sizes(client: Config, server: Config) {
    let pair = Pair::with(client, server).await;
    echo(pair.server.clone());
    for len in [
        0,
        1,
        15,
        16,
        17,
        64,
        2047,
        2048,
        2049,
        4096,
        65_535,
        65_536,
        1 << 20,
        (16 << 20) + 5,
        40 << 20,
    ] {
        timeout(PATIENCE, assert_echo(&pair.client, len))
            .await
            .unwrap_or_else(|_| panic!("{len} bytes took too long"));
    }
}

#[tokio::test]
async fn messages_of_all_sizes_come_back() {
    echoes_of_all_sizes(Config::default(), Config::default()).await;
}

#[tokio::test]
async fn so_they_do_between_sleepers() {
    let config = Config::builder().wait(Wait::Block).build().unwrap();
    echoes_of_all_sizes(config.clone(), config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_they_do_on_several_threads() {
    echoes_of_all_sizes(Config::default(), Config::default()).await;
}

#[tokio::test]
async fn so_they_do_where_payloads_are_guarded() {
    let config = Config::builder()
        .payloads(Payloads::Guarded)
        .build()
        .unwrap();
    echoes_of_all_sizes(config.clone(), config).await;
}

#[tokio::test]
async fn a_busy_waiter_gets_its_answer() {
    let config = Config::builder().wait(Wait::Busy).build().unwrap();
    let pair = Pair::with(config, Config::default()).await;
    echo(pair.server.clone());
    timeout(PATIENCE, assert_echo(&pair.client, 64))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_session() {
    let pair = Pair::new().await;
    echo(pair.server.clone());
    let client = Arc::new(pair.client.clone());
    let calls = (0..2000).map(|i| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { assert_echo(&client, (i * 37) % 5000).await })
    });
    for call in calls.collect::<Vec<_>>() {
        timeout(PATIENCE, call)
            .await
            .expect("no call may hang")
            .unwrap();
    }
    assert_eq!(client.stats().streams_open, 0);
}

#[tokio::test]
async fn memory_of_the_session_travels_by_reference_and_back() {
    let pair = Pair::new().await;
    echo(pair.server.clone());
    let mut lent = pair.client.alloc(1 << 20).await.unwrap();
    lent.copy_from_slice(&pattern(1 << 20, 3));
    let sent = lent.freeze();
    for _ in 0..3 {
        let mut stream = pair.client.open_stream().unwrap();
        let mut message = stream.buffer(sent.len() + 4);
        message.put_u32(7);
        message.put(sent.clone());
        stream.send(message, Flush::End).await.unwrap();
        let mut received = stream.recv().await.unwrap().unwrap();
        assert_eq!(received.get_u32(), 7);
        let back = received.copy_to_bytes(1 << 20);
        assert_eq!(
            back.as_ptr(),
            sent.as_ptr(),
            "our own memory, sent back to us"
        );
        assert_eq!(back, pattern(1 << 20, 3));
    }
    let stats = pair.client.stats();
    assert_eq!(
        stats.arena_used_max,
        1 << 20,
        "nothing was copied into other blocks"
    );
    drop(sent);
    // The server's shares go back with its next activity; then nothing is in use on either side.
    assert_echo(&pair.client, 1).await;
    timeout(PATIENCE, async {
        while pair.client.stats().segments_under_way != 0 {
            assert_echo(&pair.client, 1).await;
        }
    })
    .await
    .expect("all segments come back");
}

#[tokio::test]
async fn received_memory_outlives_its_session() {
    let pair = Pair::new().await;
    let mut sending = pair.client.open_stream().unwrap();
    send(&mut sending, &pattern(100_000, 1), Flush::End).await;
    let mut stream = pair.server.accept_stream().await.unwrap();
    let kept = stream.recv().await.unwrap().unwrap().copy_to_bytes(100_000);
    assert_eq!(pair.server.stats().leases_held, 1);
    drop((sending, stream));
    let Pair {
        client,
        server,
        _dir,
    } = pair;
    client.close();
    assert!(matches!(server.closed().await, SessionLost::ClosedByPeer));
    drop((client, server));
    assert_eq!(kept, pattern(100_000, 1));
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_own_stream_only() {
    let pair = Pair::new().await;
    let mut stalled = pair.client.open_stream().unwrap();
    let sender = tokio::spawn(async move {
        for i in 0..1000 {
            send(&mut stalled, &pattern(1000, i), Flush::More).await;
        }
        stalled.finish().await.unwrap();
    });
    let mut unread = pair.server.accept_stream().await.unwrap();
    echo(pair.server.clone());
    for _ in 0..100 {
        timeout(PATIENCE, assert_echo(&pair.client, 5000))
            .await
            .unwrap();
    }
    assert!(!sender.is_finished());
    for i in 0..1000 {
        assert_eq!(all(unread.recv().await.unwrap().unwrap()), pattern(1000, i));
    }
    assert!(unread.recv().await.unwrap().is_none());
    sender.await.unwrap();
}

#[tokio::test]
async fn exhausted_memory_is_waited_for() {
    let small = Config::builder().memory_max(1 << 20).build().unwrap();
    let pair = Pair::with(small, Config::default()).await;
    assert!(matches!(
        pair.client.alloc(2 << 20).await,
        Err(AllocError::TooLarge { .. })
    ));
    let all_of_it = pair.client.alloc(1 << 20).await.unwrap();
    // The next message is kept in private memory until there is a block for it.
    let mut stream = pair.client.open_stream().unwrap();
    let sending = tokio::spawn(async move {
        send(&mut stream, &pattern(500_000, 0), Flush::End).await;
        stream
    });
    let more = pair.client.alloc(4096);
    tokio::pin!(more);
    assert!(
        poll_once(&mut more).await.is_none(),
        "nothing is left to be lent"
    );
    drop(all_of_it);
    let more = timeout(PATIENCE, more)
        .await
        .expect("a block came back")
        .unwrap();
    let mut received = timeout(PATIENCE, pair.server.accept_stream())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        all(received.recv().await.unwrap().unwrap()),
        pattern(500_000, 0)
    );
    drop((more, sending.await.unwrap()));
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn a_message_that_could_never_fit_is_refused_at_once() {
    let small = Config::builder().memory_max(64 << 10).build().unwrap();
    let pair = Pair::with(small, Config::default()).await;
    let mut stream = pair.client.open_stream().unwrap();
    let mut message = stream.buffer(0);
    message.put_bytes(1, 65 << 10);
    let refused = stream.send(message, Flush::End).await;
    assert!(
        matches!(
            refused,
            Err(SendError::TooLarge {
                len: 66_560,
                max: 65_536
            })
        ),
        "{refused:?}"
    );
    // The stream is as it was.
    let mut fits = stream.buffer(0);
    fits.put_bytes(2, 64 << 10);
    stream.send(fits, Flush::End).await.unwrap();
    let received = pair
        .server
        .accept_stream()
        .await
        .unwrap()
        .recv()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received.len(), 64 << 10);
}

#[tokio::test]
async fn idle_memory_goes_back() {
    let config = Config::builder()
        .memory_idle(Duration::from_millis(1))
        .build()
        .unwrap();
    let pair = Pair::with(config.clone(), config).await;
    echo(pair.server.clone());
    assert_echo(&pair.client, 1 << 20).await;
    assert_eq!(pair.client.stats().regions_added, 1);
    timeout(PATIENCE, async {
        while pair.client.stats().arena_mapped != 0 || pair.server.stats().arena_mapped != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("regions are retired");
    assert_echo(&pair.client, 1 << 20).await;
    assert_eq!(pair.client.stats().regions_added, 2);
}

#[tokio::test]
async fn resets_reach_the_other_side() {
    let pair = Pair::new().await;
    let mut stream = pair.client.open_stream().unwrap();
    send(&mut stream, b"hello", Flush::More).await;
    let mut theirs = pair.server.accept_stream().await.unwrap();
    let watch = theirs.watch();
    stream.reset(42);
    assert!(matches!(stream.recv().await, Err(RecvError::Abandoned)));
    assert!(matches!(watch.abandoned().await, Abandoned::Reset(42)));
    assert_eq!(all(theirs.recv().await.unwrap().unwrap()), b"hello");
    assert!(matches!(theirs.recv().await, Err(RecvError::Reset(42))));
    let nothing = theirs.buffer(0);
    assert!(matches!(
        theirs.send(nothing, Flush::End).await,
        Err(SendError::Reset(42))
    ));

    let mut dropped = pair.client.open_stream().unwrap();
    send(&mut dropped, b"hello", Flush::End).await;
    let theirs = pair.server.accept_stream().await.unwrap();
    drop(dropped);
    assert!(matches!(
        theirs.watch().abandoned().await,
        Abandoned::Reset(0)
    ));
    assert_eq!(pair.server.stats().streams_open, 0);
}

#[tokio::test]
async fn more_streams_than_the_peer_accepts_wait_their_turn() {
    let few = Config::builder().streams_max(2).build().unwrap();
    let pair = Pair::with(Config::default(), few).await;
    echo(pair.server.clone());
    let calls: Vec<_> = (0..50)
        .map(|i| {
            let client = pair.client.clone();
            tokio::spawn(async move { assert_echo(&client, i * 100).await })
        })
        .collect();
    for call in calls {
        timeout(PATIENCE, call)
            .await
            .expect("no call may hang")
            .unwrap();
    }
}

/// A waker that looks at the session right away, as one does that polls its task where it is woken.
struct Looks {
    session: Session,
    looked: mpsc::Sender<()>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        drop(self.session.debug_dump());
        self.looked.send(()).expect("somebody counts");
    }
}

async fn wake_those_who_look(looked: mpsc::Sender<()>) {
    let single = Config::builder().streams_max(1).build().unwrap();
    let pair = Pair::with(Config::default(), single).await;
    let session = pair.client.clone();
    let waker = Waker::from(Arc::new(Looks { session, looked }));
    let mut cx = Context::from_waker(&waker);

    let mut first = pair.client.open_stream().unwrap();
    send(&mut first, b"first", Flush::More).await;
    let mut second = pair.client.open_stream().unwrap();
    let mut message = second.buffer(6);
    message.put_slice(b"second");
    let (sender, receiver) = second.halves_mut();
    let sent = sender.poll_send(&mut cx, &mut message, Flush::More);
    assert!(sent.is_pending(), "there is one stream at a time");
    first.reset(0);
    let sent = sender.poll_send(&mut cx, &mut message, Flush::More);
    assert!(sent.is_ready(), "there is no other");

    assert!(receiver.poll_recv(&mut cx).is_pending());
    pair.client.close();
}

#[test]
fn no_lock_is_held_where_wakers_of_streams_are_called() {
    let (looked, looks) = mpsc::channel();
    // In a thread of its own, which is left behind if it hangs.
    let scene = thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(wake_those_who_look(looked));
    });
    for what in ["who waits to open", "who waits to receive"] {
        assert_eq!(looks.recv_timeout(PATIENCE), Ok(()), "{what}");
    }
    scene.join().unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_session() {
    let pair = Pair::new().await;
    let stream = pair.client.open_stream().unwrap();
    drop(pair.client);
    assert!(!pair.server.is_closed(), "the stream is a handle, too");
    drop(stream);
    assert!(matches!(
        pair.server.closed().await,
        SessionLost::ClosedByPeer
    ));
    assert!(pair.server.open_stream().is_err());
    assert!(pair.server.alloc(1).await.is_err());
}

#[tokio::test]
async fn go_away_is_heard_and_open_streams_go_on() {
    let pair = Pair::new().await;
    let mut stream = pair.client.open_stream().unwrap();
    send(&mut stream, b"hello", Flush::More).await;
    let mut theirs = pair.server.accept_stream().await.unwrap();
    pair.server.go_away();
    pair.client.going_away().await;
    assert!(pair.client.is_going_away() && !pair.server.is_going_away());
    send(&mut stream, b"still here", Flush::End).await;
    assert_eq!(all(theirs.recv().await.unwrap().unwrap()), b"hello");
    assert_eq!(all(theirs.recv().await.unwrap().unwrap()), b"still here");
}

#[tokio::test]
async fn a_ping_is_answered_while_the_session_lives() {
    let pair = Pair::new().await;
    let (first, second) = tokio::join!(pair.client.ping(), pair.client.ping());
    first.and(second).unwrap();
    timeout(PATIENCE, pair.server.ping())
        .await
        .unwrap()
        .unwrap();
    pair.server.close();
    assert!(
        timeout(PATIENCE, pair.client.ping())
            .await
            .unwrap()
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn regions_that_several_threads_add_at_once_are_announced_in_order() {
    for _ in 0..20 {
        let pair = Pair::new().await;
        let together = Arc::new(tokio::sync::Barrier::new(8));
        let adding = (0..8).map(|_| {
            let (client, together) = (pair.client.clone(), Arc::clone(&together));
            tokio::spawn(async move {
                together.wait().await;
                // Longer than what shares a region, so that each needs one of its own.
                client.alloc(17 << 20).await.unwrap()
            })
        });
        for added in adding.collect::<Vec<_>>() {
            drop(timeout(PATIENCE, added).await.unwrap().unwrap());
        }
        timeout(PATIENCE, pair.client.ping())
            .await
            .unwrap()
            .expect("the peer has understood");
    }
}

#[tokio::test]
async fn bytes_of_elsewhere_are_copied() {
    let pair = Pair::new().await;
    echo(pair.server.clone());
    let foreign = Bytes::from(pattern(300_000, 9));
    let mut stream = pair.client.open_stream().unwrap();
    let mut message = stream.buffer(foreign.len());
    message.put(foreign.clone());
    stream.send(message, Flush::End).await.unwrap();
    assert_eq!(all(stream.recv().await.unwrap().unwrap()), foreign);
}

#[test]
fn what_users_hold_is_send_and_sync() {
    fn assert<T: Send + Sync + 'static>() {}
    assert::<Session>();
    assert::<shmipc_transport::WeakSession>();
    assert::<Listener>();
    assert::<shmipc_transport::Leftover>();
    assert::<shmipc_transport::plain::PlainListener>();
    assert::<Stream>();
    assert::<shmipc_transport::SendHalf>();
    assert::<shmipc_transport::RecvHalf>();
    assert::<shmipc_transport::StreamWatch>();
    assert::<shmipc_transport::Abandoned>();
    assert::<shmipc_transport::SendBuf>();
    assert::<RecvBuf>();
    assert::<shmipc_transport::Lent>();
    assert::<shmipc_transport::Address>();
    assert::<shmipc_transport::Peer>();
    assert::<shmipc_transport::Stats>();
    assert::<Config>();
    assert::<shmipc_transport::ConfigBuilder>();
    assert::<shmipc_transport::Keepalive>();
    assert::<shmipc_transport::Payloads>();
    assert::<shmipc_transport::blocking::Listener>();
    assert::<shmipc_transport::blocking::Stopper>();
    assert::<shmipc_transport::blocking::Session>();
    assert::<shmipc_transport::blocking::Stream>();
    assert::<shmipc_transport::blocking::SendHalf>();
    assert::<shmipc_transport::blocking::RecvHalf>();
    assert::<shmipc_transport::AcceptError>();
    assert::<shmipc_transport::AllocError>();
    assert::<shmipc_transport::BindError>();
    assert::<shmipc_transport::ConnectError>();
    assert::<shmipc_transport::InvalidAddress>();
    assert::<shmipc_transport::InvalidConfig>();
    assert::<shmipc_transport::PeerMisbehaved>();
    assert::<shmipc_transport::RecvError>();
    assert::<shmipc_transport::SendError>();
    assert::<SessionLost>();
}

#[tokio::test]
async fn a_message_is_sent_in_the_session_that_it_was_begun_for() {
    for len in [10, 10_000] {
        let (one, other) = (Pair::new().await, Pair::new().await);
        echo(one.server.clone());
        echo(other.server.clone());
        let mut stream = one.client.open_stream().unwrap();
        let mut message = stream.buffer(len);
        message.put_bytes(7, len);
        let mut elsewhere = other.client.open_stream().unwrap();
        let sent = poll_fn(|cx| {
            elsewhere
                .halves_mut()
                .0
                .poll_send(cx, &mut message, Flush::More)
        })
        .await;
        assert!(matches!(sent, Err(SendError::OtherSession)), "{sent:?}");
        // It is as it was.
        let sent = poll_fn(|cx| {
            stream
                .halves_mut()
                .0
                .poll_send(cx, &mut message, Flush::End)
        })
        .await;
        sent.unwrap();
        let echo = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap();
        assert_eq!(echo.unwrap().len(), len);
    }
}

#[tokio::test]
async fn a_message_that_was_sent_is_empty() {
    for len in [10, 10_000] {
        let pair = Pair::new().await;
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        let mut message = stream.buffer(len);
        for len in [len, len / 2, 1] {
            message.put_bytes(7, len);
            let sent = poll_fn(|cx| {
                stream
                    .halves_mut()
                    .0
                    .poll_send(cx, &mut message, Flush::More)
            })
            .await;
            sent.unwrap();
            assert!(message.is_empty());
            let echo = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap();
            assert_eq!(echo.unwrap().len(), len);
        }
    }
}
