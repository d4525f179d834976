//! Hazards of shmipc's own link that show in what users do, in every version: each by its name.

mod common;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::BufMut;
use common::{
    in_time,
    modes::{message, modes, tight},
    shmipc::{LONG, Pair, connect, connect_with, echo, recv, send, whole},
    until,
};
use shmipc_transport::{
    Config, ConnectError, Flush, LinkKind, Listener, SendError, Session, Shmipc, Stream, Wait,
};
use tokio::{task::JoinSet, time::timeout};

/// Lists so short that no side keeps slices for its next messages, and a queue that is full before they are empty.
fn short() -> Shmipc {
    Shmipc::default()
        .buffer_len(64 << 10)
        .slices([(1024, 20), (4096, 80)])
        .queue_len(16)
}

/// A stream that both have, and that has carried one message.
async fn stream(pair: &Pair) -> (Stream, Stream) {
    let mut ours = pair.client.open_stream().unwrap();
    send(&mut ours, &message(10, 0)).await.unwrap();
    let accepting = timeout(LONG, pair.server.accept_stream());
    let mut theirs = accepting.await.unwrap().unwrap();
    assert_eq!(whole(recv(&mut theirs).await.unwrap()), message(10, 0));
    (ours, theirs)
}

/// Polls `future` once, and drops it if it has to wait.
async fn unless_it_waits<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let once = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    once.await
}

#[tokio::test]
async fn hazard_h14_c2_a_send_that_is_given_up_returns_its_slices() {
    for mode in modes() {
        let pair = connect_with(&mode, short(), Wait::Block).await;
        let unused = pair.client.stats().arena_used;
        let (mut ours, mut theirs) = stream(&pair).await;
        let (mut sent, mut given_up) = (0, 0);
        while sent < 200 || given_up < 20 {
            let first = sent;
            // Nobody else runs meanwhile, so the queue is full at some time.
            loop {
                let mut sending = ours.buffer(100);
                sending.put_slice(&message(100, sent));
                match unless_it_waits(ours.send(sending, Flush::More)).await {
                    Some(done) => done.unwrap(),
                    None => break,
                }
                sent += 1;
            }
            given_up += 1;
            // The same goes for what was written and never sent.
            let mut written = ours.buffer(3000);
            let mut place = written.reserve(3000).unwrap();
            place.fill(7);
            place.commit(3000);
            drop(written);
            for seed in first..sent {
                let received = whole(recv(&mut theirs).await.unwrap());
                assert_eq!(received, message(100, seed), "{}", mode.name);
            }
            tokio::task::yield_now().await;
        }
        until(mode.name, || pair.client.stats().arena_used == unused).await;
        assert!(!pair.client.is_closed() && !pair.server.is_closed());
    }
}

#[tokio::test]
async fn hazard_h14_a_stream_that_is_dropped_lets_go_of_what_it_holds() {
    for mode in modes() {
        let pair = connect_with(&mode, short(), Wait::Block).await;
        let unused = pair.client.stats().arena_used;
        for _ in 0..20 {
            let (mut ours, mut theirs) = stream(&pair).await;
            for seed in 0..5 {
                send(&mut ours, &message(3000, seed)).await.unwrap();
            }
            let kept = recv(&mut theirs).await.unwrap();
            // The rest is left unread.
            drop((theirs, ours));
            assert_eq!(whole(kept), message(3000, 0), "{}", mode.name);
            until(mode.name, || pair.client.stats().arena_used == unused).await;
        }
    }
}

#[tokio::test]
async fn hazard_h34_strangers_are_turned_away() {
    for link in [LinkKind::ShmipcV2, LinkKind::ShmipcV3, LinkKind::ShmipcV4] {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = files.path().join("socket");
        let shmipc = Shmipc::default().directory(files.path());
        let config = Config::builder().links([link]).shmipc(shmipc);
        let strict = config.clone().authorize(|_| false).build().unwrap();
        let listener = Listener::bind_with(path.as_path(), strict.clone()).unwrap();
        let turned_away = async {
            let connecting = Session::connect_with(path.as_path(), config.build().unwrap());
            // Version 2 has no answer that could be waited for, and no refusal.
            if let Ok(session) = connecting.await {
                session.closed().await;
            }
        };
        tokio::select! {
            () = in_time("a refusal", turned_away) => {}
            accepted = listener.accept() => panic!("{link:?}: {accepted:?}"),
        }
        let refused = Session::connect_with(path.as_path(), strict).await;
        assert!(
            matches!(refused, Err(ConnectError::ServerNotAuthorized(_))),
            "{link:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn hazard_h43_a_session_that_nobody_serves_holds_up_no_other() {
    for mode in modes() {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = mode.config(files.path(), tight(), Wait::Adaptive);
        let address = mode.address(files.path());
        let listener = Listener::bind_with(address, config.clone()).unwrap();
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let address = listener.local_address().clone();
            let connecting = Session::connect_with(address, config.clone());
            let (client, server) = tokio::join!(timeout(LONG, connecting), listener.accept());
            sessions.push((client.unwrap().unwrap(), server.unwrap()));
        }
        let [(crowded, _unserved), (client, server)] = &sessions[..] else {
            panic!("there are two");
        };
        let mut crowd = JoinSet::new();
        for seed in 0..100 {
            let mut stream = crowded.open_stream().unwrap();
            // Some of them fall back.
            crowd.spawn(async move { send(&mut stream, &message(3000, seed)).await });
        }
        while crowded.stats().messages_sent < 10 {
            tokio::task::yield_now().await;
        }
        echo(server.clone());
        let mut stream = client.open_stream().unwrap();
        for seed in 0..50 {
            send(&mut stream, &message(100, seed)).await.unwrap();
            let received = whole(recv(&mut stream).await.unwrap());
            assert_eq!(received, message(100, seed), "{}", mode.name);
        }
        assert!(!crowded.is_closed(), "{}", mode.name);
    }
}

#[tokio::test]
async fn hazard_h52_h72_what_users_hold_of_a_session_outlives_it() {
    for mode in modes() {
        let pair = connect(&mode).await;
        let (mut ours, mut theirs) = stream(&pair).await;
        let sent = message(100_000, 3);
        send(&mut ours, &sent).await.unwrap();
        let received = recv(&mut theirs).await.unwrap();
        let mut writing = ours.buffer(8000);
        let mut place = writing.reserve(8000).unwrap();
        let Pair { client, server, .. } = pair;
        tokio::join!(
            async { client.close() },
            in_time("the end", server.closed()),
            in_time("the end", client.closed()),
        );
        drop((ours, theirs));
        // Read, written, and measured, though neither side has a session any more.
        place.fill(7);
        place.commit(8000);
        assert_eq!(writing.len(), 8000);
        for session in [&client, &server] {
            assert!(session.is_closed());
            let _ = (session.stats(), session.debug_dump().to_string());
        }
        drop((client, server));
        assert!(whole(received) == sent, "{}", mode.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hazard_h53_streams_are_opened_while_their_session_closes() {
    for mode in modes() {
        for _ in 0..5 {
            let pair = connect(&mode).await;
            let mut openers = JoinSet::new();
            for _ in 0..4 {
                let client = pair.client.clone();
                openers.spawn(async move {
                    while let Ok(mut stream) = client.open_stream() {
                        if send(&mut stream, &message(10, 1)).await.is_err() {
                            return;
                        }
                    }
                });
            }
            while pair.client.stats().messages_sent == 0 {
                tokio::task::yield_now().await;
            }
            pair.client.close();
            while let Some(done) = in_time(mode.name, openers.join_next()).await {
                done.unwrap();
            }
            assert!(pair.client.is_closed());
        }
    }
}

#[tokio::test]
async fn hazard_h55_c6_both_sides_fall_back_at_once_and_then_need_no_rest() {
    // More than a socket holds, and less than a stream may have under way.
    const COUNT: usize = 3;
    async fn all(stream: &mut Stream) {
        for seed in 0..COUNT {
            send(stream, &message(1 << 20, seed)).await.unwrap();
        }
    }
    for mode in modes() {
        let pair = connect_with(&mode, tight(), Wait::Block).await;
        let (mut ours, mut theirs) = stream(&pair).await;
        // Neither receives before it has sent everything.
        tokio::join!(all(&mut ours), all(&mut theirs));
        for seed in 0..COUNT {
            for stream in [&mut ours, &mut theirs] {
                let received = whole(recv(stream).await.unwrap());
                assert!(received == message(1 << 20, seed), "{}", mode.name);
            }
        }
        let fallen = [&pair.client, &pair.server].map(|side| side.stats().fallbacks_sent);
        assert!(fallen.iter().all(|&count| 3 <= count), "{}", mode.name);
        let (_next, _theirs) = stream(&pair).await;
        let still = [&pair.client, &pair.server].map(|side| side.stats().fallbacks_sent);
        assert_eq!(still, fallen, "{}: the next goes through memory", mode.name);
    }
}

#[tokio::test]
async fn hazard_h67_what_no_length_can_say_is_refused_and_not_cut() {
    const LEN: usize = (32 << 20) + 1;
    for mode in modes() {
        let pair = connect(&mode).await;
        let (mut ours, mut theirs) = stream(&pair).await;
        let mut long = ours.buffer(LEN);
        long.put_bytes(7, LEN);
        match ours.send(long, Flush::More).await {
            Err(SendError::TooLarge { len: LEN, max }) => assert!(max < LEN),
            other => panic!("{}: {other:?}", mode.name),
        }
        send(&mut ours, &message(10, 1)).await.unwrap();
        assert_eq!(whole(recv(&mut theirs).await.unwrap()), message(10, 1));
    }
}

#[tokio::test]
async fn hazard_l3_streams_that_are_over_leave_the_table() {
    for mode in modes() {
        let pair = connect(&mode).await;
        for round in 0..20 {
            let (mut ours, theirs) = stream(&pair).await;
            if round % 2 == 0 {
                drop(theirs);
                let ended = in_time("the end", ours.recv()).await;
                assert!(matches!(ended, Ok(None) | Err(_)), "{}", mode.name);
            }
        }
        let is_over = |session: &Session| session.stats().streams_open == 0;
        until(mode.name, || is_over(&pair.client) && is_over(&pair.server)).await;
    }
}
