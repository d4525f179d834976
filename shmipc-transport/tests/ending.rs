//! How sessions come to an end: drained, given up, and not while the peer answers.

mod common;

use std::time::Duration;

use bytes::BufMut;
use shmipc_transport::{Config, Flush, Keepalive, RecvError, SendError, SessionLost};
use tokio::time::timeout;

use crate::common::{PATIENCE, Pair, all, assert_echo, echo, send};

#[tokio::test]
async fn a_drained_session_serves_all_streams_and_opens_no_more() {
    let pair = Pair::new().await;
    let echoing = echo(pair.server.clone());
    // Each task calls for as long as it may.
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let client = pair.client.clone();
            tokio::spawn(async move {
                for calls in 0.. {
                    let mut stream = match client.open_stream() {
                        Ok(stream) => stream,
                        Err(_) => return calls,
                    };
                    let message = stream.buffer(0);
                    match stream.send(message, Flush::End).await {
                        Ok(()) => {}
                        Err(SendError::GoingAway | SendError::SessionLost(_)) => return calls,
                        Err(error) => panic!("{error}"),
                    }
                    let reply = stream.recv().await.expect("what was sent is answered");
                    assert!(reply.is_some());
                    assert!(stream.recv().await.expect("to the end").is_none());
                }
                0
            })
        })
        .collect();
    for _ in 0..100 {
        assert_echo(&pair.client, 64).await;
    }
    timeout(PATIENCE, pair.server.drain())
        .await
        .expect("an end");
    for caller in callers {
        assert_ne!(caller.await.unwrap(), 0);
    }
    assert!(matches!(
        pair.server.closed().await,
        SessionLost::ClosedHere | SessionLost::PeerDied
    ));
    assert!(matches!(
        pair.client.closed().await,
        SessionLost::ClosedByPeer
    ));
    echoing.await.unwrap();
}

#[tokio::test]
async fn a_drained_session_waits_for_its_streams() {
    let pair = Pair::new().await;
    let mut stream = pair.client.open_stream().unwrap();
    send(&mut stream, b"first", Flush::More).await;
    let mut accepted = pair.server.accept_stream().await.unwrap();
    assert!(accepted.recv().await.unwrap().is_some());
    let draining = tokio::spawn({
        let server = pair.server.clone();
        async move { server.drain().await }
    });
    pair.client.going_away().await;
    let mut late = pair.client.open_stream().unwrap();
    let message = late.buffer(0);
    assert!(matches!(
        late.send(message, Flush::End).await,
        Err(SendError::GoingAway)
    ));
    // The other direction is not concerned.
    let mut back = pair.server.open_stream().unwrap();
    send(&mut back, b"back", Flush::End).await;
    let mut served = pair.client.accept_stream().await.unwrap();
    assert!(served.recv().await.unwrap().is_some());
    send(&mut served, b"there", Flush::End).await;
    assert_eq!(all(back.recv().await.unwrap().unwrap()), b"there");
    send(&mut stream, b"last", Flush::End).await;
    assert_eq!(all(accepted.recv().await.unwrap().unwrap()), b"last");
    assert!(!draining.is_finished());
    send(&mut accepted, b"answer", Flush::End).await;
    timeout(PATIENCE, draining).await.expect("an end").unwrap();
    assert_eq!(all(stream.recv().await.unwrap().unwrap()), b"answer");
    assert!(pair.client.is_closed());
}

#[tokio::test]
async fn a_stream_that_waits_for_another_to_close_learns_of_going_away() {
    let one = Config::builder().streams_max(1).build().unwrap();
    let pair = Pair::with(Config::default(), one).await;
    let mut first = pair.client.open_stream().unwrap();
    send(&mut first, b"first", Flush::More).await;
    let mut second = pair.client.open_stream().unwrap();
    let waiting = tokio::spawn(async move {
        let message = second.buffer(0);
        second.send(message, Flush::End).await
    });
    tokio::task::yield_now().await;
    pair.server.go_away();
    let waited = timeout(PATIENCE, waiting)
        .await
        .expect("an answer")
        .unwrap();
    assert!(matches!(waited, Err(SendError::GoingAway)), "{waited:?}");
}

#[tokio::test]
async fn whoever_holds_a_session_weakly_serves_it_until_nobody_else_uses_it() {
    let pair = Pair::new().await;
    let weak = pair.client.downgrade();
    let serving = tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|cx| weak.poll_accept_stream(cx)).await {
                Ok(mut stream) => {
                    let message = stream.recv().await.unwrap().unwrap();
                    assert!(weak.upgrade().is_some(), "a stream keeps the session going");
                    send(&mut stream, &all(message), Flush::End).await;
                }
                Err(lost) => break (weak.upgrade().is_none(), lost),
            }
        }
    });
    assert_echo(&pair.server, 64).await;
    drop(pair.client);
    let (is_gone, lost) = timeout(PATIENCE, serving).await.expect("an end").unwrap();
    assert!(
        is_gone && matches!(lost, SessionLost::ClosedHere),
        "{lost:?}"
    );
    assert!(matches!(
        pair.server.closed().await,
        SessionLost::ClosedByPeer
    ));
}

#[tokio::test]
async fn a_peer_that_answers_pings_may_take_its_time() {
    let timeout = Duration::from_secs(5);
    let keepalive = Keepalive::new(Duration::from_millis(5), timeout);
    let config = Config::builder().keepalive(keepalive).build().unwrap();
    let pair = Pair::with(config.clone(), config).await;
    let mut stream = pair.client.open_stream().unwrap();
    send(&mut stream, b"slow", Flush::End).await;
    let mut accepted = pair.server.accept_stream().await.unwrap();
    tokio::time::sleep(timeout + Duration::from_secs(1)).await;
    assert!(accepted.recv().await.unwrap().is_some());
    send(&mut accepted, b"done", Flush::End).await;
    assert_eq!(all(stream.recv().await.unwrap().unwrap()), b"done");
    assert!(!pair.client.is_closed() && !pair.server.is_closed());
}

/// A sender that meets the end of the session first, and is dropped for it, does not change why the stream is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hazard_h56_the_receiver_of_a_lost_session_is_told_so_whoever_hears_of_it_first() {
    const LEN: usize = 64 << 10;
    // Senders wait for memory, which wakes them before their streams are told.
    let little = Config::builder().memory_max(256 << 10).build().unwrap();
    for _ in 0..50 {
        let pair = Pair::with(little.clone(), Config::default()).await;
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..100 {
            let mut stream = pair.client.open_stream().unwrap();
            send(&mut stream, b"", Flush::More).await;
            let (mut sender, mut receiver) = stream.split();
            senders.push(tokio::spawn(async move {
                loop {
                    let mut message = sender.buffer(LEN);
                    message.put_bytes(1, LEN);
                    if sender.send(message, Flush::More).await.is_err() {
                        return;
                    }
                }
            }));
            receivers.push(tokio::spawn(async move { receiver.recv().await }));
        }
        while pair.client.stats().segments_under_way < 3 {
            tokio::task::yield_now().await;
        }
        let client = pair.client.clone();
        let closing = tokio::task::spawn_blocking(move || client.close());
        closing.await.unwrap();
        for sender in senders {
            timeout(PATIENCE, sender).await.expect("an end").unwrap();
        }
        for receiver in receivers {
            let end = timeout(PATIENCE, receiver).await.expect("an end").unwrap();
            assert!(
                matches!(end, Err(RecvError::SessionLost(SessionLost::ClosedHere))),
                "{end:?}"
            );
        }
    }
}

#[tokio::test]
async fn who_receives_on_a_stream_that_nobody_has_heard_of_is_woken_by_the_sessions_end() {
    let pair = Pair::new().await;
    let mut stream = pair.client.open_stream().unwrap();
    let receiving = tokio::spawn(async move { stream.recv().await });
    // On this runtime of one thread, it has been polled once we go on.
    tokio::task::yield_now().await;
    pair.client.close();
    let received = timeout(PATIENCE, receiving).await.expect("an end").unwrap();
    assert!(matches!(
        received,
        Err(RecvError::SessionLost(SessionLost::ClosedHere))
    ));
}
