//! shmipc's own link, in every version, between two sides of ours.

mod common;

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock, Weak},
};

use bytes::{Buf, BufMut};
use common::{
    modes::{message, modes, tight},
    shmipc::{LONG, Pair, connect, connect_with, echo, recv, send, whole},
};
use shmipc_transport::{
    Config, ConnectError, Flush, LinkKind, Listener, RecvBuf, RecvHalf, SendBuf, SendError,
    SendHalf, Session, SessionLost, Shmipc, Stream, Wait,
};
use tokio::time::timeout;

/// The lengths of the parts of a message that lie together.
fn parts(mut message: RecvBuf) -> Vec<usize> {
    let mut parts = Vec::new();
    while message.has_remaining() {
        parts.push(message.chunk().len());
        message.advance(message.chunk().len());
    }
    parts
}

#[tokio::test]
async fn what_is_reserved_lies_together_for_the_receiver() {
    for mode in modes() {
        let Pair { client, server, .. } = &connect(&mode).await;
        let mut ours = client.open_stream().unwrap();
        let head = message(3000, 1);
        let body = message(8000, 2);
        let mut sending = ours.buffer(head.len());
        sending.put_slice(&head);
        // As many as a slice of the smallest holds, and more than are left in the one that was begun.
        let mut place = sending.reserve(8100).unwrap();
        assert_eq!(place.len(), 8100, "{}", mode.name);
        place[..8000].copy_from_slice(&body);
        assert_eq!(place[..8000], body[..]);
        place.commit(8000);
        drop(sending.reserve(10).unwrap());
        let mut place = sending.reserve(5).unwrap();
        place.copy_from_slice(b"tail.");
        place.commit(4);
        assert_eq!(sending.len(), 11_004);
        ours.send(sending, Flush::More).await.unwrap();
        let mut theirs = timeout(LONG, server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        let mut received = recv(&mut theirs).await.unwrap();
        let together = received.split_to(11_000);
        assert_eq!(whole(received), b"tail"[..], "{}", mode.name);
        // Over TCP nobody knows the peer, so that nothing is lent to be written.
        if client.peer().uid().is_some() {
            assert_eq!(parts(together), [3000, 8000], "{}", mode.name);
        } else {
            let expected = [&head[..], &body].concat();
            assert_eq!(whole(together), expected, "{}", mode.name);
        }
    }
}

#[tokio::test]
async fn more_is_reserved_than_a_slice_holds() {
    for mode in modes() {
        let Pair { client, server, .. } = &connect(&mode).await;
        let mut ours = client.open_stream().unwrap();
        let body = message(300_000, 3);
        let mut sending = ours.buffer(body.len());
        let mut place = sending.reserve(body.len()).unwrap();
        place.copy_from_slice(&body);
        place.commit(body.len());
        ours.send(sending, Flush::More).await.unwrap();
        let mut theirs = timeout(LONG, server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        let received = recv(&mut theirs).await.unwrap();
        assert_eq!(whole(received), body, "{}", mode.name);
    }
}

#[tokio::test]
async fn messages_of_every_size_come_back_in_every_version() {
    for mode in modes() {
        let pair = connect(&mode).await;
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        let sizes = [
            1,
            2,
            63,
            64,
            2048,
            2049,
            8172,
            8173,
            32_748,
            131_052,
            131_053,
            1 << 20,
            8 << 20,
        ];
        for (seed, len) in sizes.into_iter().enumerate() {
            let sent = message(len, seed);
            send(&mut stream, &sent).await.unwrap();
            let received = whole(recv(&mut stream).await.unwrap());
            assert!(received == sent, "{}: {len} bytes", mode.name);
        }
    }
}

#[tokio::test]
async fn sleeping_sides_wake_each_other_in_every_version() {
    for mode in modes() {
        let pair = connect_with(&mode, Shmipc::default(), Wait::Block).await;
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        for round in 0..50 {
            let sent = message(100, round);
            send(&mut stream, &sent).await.unwrap();
            assert_eq!(
                whole(recv(&mut stream).await.unwrap()),
                sent,
                "{}",
                mode.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hazard_h50_c7_whoever_sends_at_once_wakes_who_sleeps() {
    for mode in modes() {
        let pair = connect_with(&mode, Shmipc::default(), Wait::Block).await;
        echo(pair.server.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..8 {
            let mut stream = pair.client.open_stream().unwrap();
            tasks.spawn(async move {
                for round in 0..50 {
                    let sent = message(20, seed + round);
                    send(&mut stream, &sent).await.unwrap();
                    assert_eq!(whole(recv(&mut stream).await.unwrap()), sent);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
}

#[tokio::test]
async fn hazard_h40_c9_a_mute_client_holds_nobody_up() {
    for mode in modes() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("socket");
        let config = mode.config(place.path(), Shmipc::default(), Wait::Adaptive);
        let listener = Listener::bind_with(path.as_path(), config.clone()).unwrap();
        let mute = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (client, server) = tokio::join!(
            timeout(LONG, Session::connect_with(path.as_path(), config)),
            timeout(LONG, listener.accept())
        );
        echo(server.unwrap().unwrap());
        let mut stream = client.unwrap().unwrap().open_stream().unwrap();
        send(&mut stream, &message(10, 1)).await.unwrap();
        assert_eq!(whole(recv(&mut stream).await.unwrap()), message(10, 1));
        drop(mute);
    }
}

#[tokio::test]
async fn hazard_h42_what_is_sent_before_regions_are_mapped_arrives() {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = files.path().join("socket");
    let mode = modes().remove(0);
    let config = mode.config(files.path(), Shmipc::default(), Wait::Adaptive);
    let listener = Listener::bind_with(path.as_path(), config.clone()).unwrap();
    // Version 2 has no answer to wait for, and nobody accepts yet.
    let connecting = timeout(LONG, Session::connect_with(path.as_path(), config));
    let client = connecting.await.unwrap().unwrap();
    let mut ours = client.open_stream().unwrap();
    for seed in 0..10 {
        send(&mut ours, &message(100, seed)).await.unwrap();
    }
    let server = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let mut theirs = timeout(LONG, server.accept_stream())
        .await
        .unwrap()
        .unwrap();
    for seed in 0..10 {
        assert_eq!(whole(recv(&mut theirs).await.unwrap()), message(100, seed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_session() {
    for mode in modes() {
        let pair = connect(&mode).await;
        echo(pair.server.clone());
        let mut tasks = tokio::task::JoinSet::new();
        // So many that several are opened at once, and are heard of in another order.
        for seed in 0..200 {
            let mut stream = pair.client.open_stream().unwrap();
            tasks.spawn(async move {
                for round in 0..5 {
                    let sent = message(1 + 100 * seed, seed + round);
                    send(&mut stream, &sent).await.unwrap();
                    assert_eq!(whole(recv(&mut stream).await.unwrap()), sent);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
}

#[tokio::test]
async fn hazard_h69_a_dropped_stream_ends_at_the_other_side_after_what_was_sent() {
    for mode in modes() {
        let pair = connect(&mode).await;
        let mut ours = pair.client.open_stream().unwrap();
        let sent = message(5000, 1);
        send(&mut ours, &sent).await.unwrap();
        let mut theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        if mode.link == LinkKind::ShmipcV4 {
            // Between two of our own there are ends of one direction.
            ours.finish().await.unwrap();
        } else {
            drop(ours);
        }
        assert_eq!(whole(recv(&mut theirs).await.unwrap()), sent);
        assert!(recv(&mut theirs).await.is_none(), "{}", mode.name);
    }
}

#[tokio::test]
async fn hazard_h48_a_server_closes_streams_too() {
    for mode in modes() {
        let pair = connect(&mode).await;
        let mut ours = pair.client.open_stream().unwrap();
        send(&mut ours, &message(10, 1)).await.unwrap();
        let theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        drop(theirs);
        let ended = timeout(LONG, ours.recv()).await.unwrap();
        assert!(matches!(ended, Ok(None) | Err(_)), "{}", mode.name);
        let refused = send(&mut ours, &message(10, 2)).await;
        assert!(matches!(refused, Err(SendError::Reset(_))), "{}", mode.name);
        // What crosses the close opens nothing (hazard H47).
        let mut next = pair.client.open_stream().unwrap();
        send(&mut next, &message(10, 3)).await.unwrap();
        let mut theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(whole(recv(&mut theirs).await.unwrap()), message(10, 3));
    }
}

#[tokio::test]
async fn messages_that_do_not_fit_fall_back_to_the_socket_in_order() {
    for mode in modes() {
        let pair = connect_with(&mode, tight(), Wait::Adaptive).await;
        let mut ours = pair.client.open_stream().unwrap();
        let sizes = [10, 300_000, 20, 3000, 100_000, 5, 1 << 20, 7];
        let (sending, receiving) = tokio::join!(
            async {
                for (seed, len) in sizes.into_iter().enumerate() {
                    send(&mut ours, &message(len, seed)).await.unwrap();
                }
            },
            async {
                let mut theirs = timeout(LONG, pair.server.accept_stream())
                    .await
                    .unwrap()
                    .unwrap();
                for (seed, len) in sizes.into_iter().enumerate() {
                    let received = whole(recv(&mut theirs).await.unwrap());
                    assert!(received == message(len, seed), "{}: {len}", mode.name);
                }
                theirs
            }
        );
        let () = sending;
        assert_ne!(pair.client.stats().fallbacks_sent, 0, "{}", mode.name);
        assert_ne!(pair.server.stats().fallbacks_received, 0);
        // And the other way.
        let mut theirs = receiving;
        let reply = message(400_000, 9);
        let (sent, received) = tokio::join!(send(&mut theirs, &reply), recv(&mut ours));
        sent.unwrap();
        assert!(whole(received.unwrap()) == reply);
        drop(theirs);
        let ended = timeout(LONG, ours.recv()).await.unwrap();
        assert!(matches!(ended, Ok(None) | Err(_)));
    }
}

#[tokio::test]
async fn hazard_h49_c1_an_end_does_not_overtake_what_went_over_the_socket() {
    for mode in modes() {
        for round in 0..20 {
            let pair = connect_with(&mode, tight(), Wait::Adaptive).await;
            let mut ours = pair.client.open_stream().unwrap();
            send(&mut ours, &message(10, round)).await.unwrap();
            let mut theirs = timeout(LONG, pair.server.accept_stream())
                .await
                .unwrap()
                .unwrap();
            let last = message(300_000, round);
            let (sent, received) = tokio::join!(
                async {
                    send(&mut theirs, &last).await.unwrap();
                    theirs.finish().await.unwrap();
                    drop(theirs);
                },
                recv(&mut ours)
            );
            let () = sent;
            assert!(whole(received.unwrap()) == last, "{}", mode.name);
            let ended = timeout(LONG, ours.recv()).await.unwrap();
            assert!(matches!(ended, Ok(None)), "{}: {ended:?}", mode.name);
        }
    }
}

#[tokio::test]
async fn hazard_h51_a_full_queue_is_waited_for_and_nothing_is_lost() {
    const COUNT: usize = 500;
    for mode in modes() {
        let pair = connect_with(&mode, tight(), Wait::Block).await;
        let mut ours = pair.client.open_stream().unwrap();
        let sending = tokio::spawn(async move {
            for seed in 0..COUNT {
                send(&mut ours, &message(8, seed)).await.unwrap();
            }
            ours
        });
        let mut theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        for seed in 0..COUNT {
            assert_eq!(
                whole(recv(&mut theirs).await.unwrap()),
                message(8, seed),
                "{}",
                mode.name
            );
        }
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_received_is_lent_and_goes_back() {
    for mode in modes() {
        let pair = connect(&mode).await;
        let mut ours = pair.client.open_stream().unwrap();
        let sent = message(100_000, 3);
        send(&mut ours, &sent).await.unwrap();
        let mut theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        let received = whole(recv(&mut theirs).await.unwrap());
        if mode.is_tcp {
            assert_eq!(pair.server.stats().bytes_lent, 0, "nobody is trusted");
            assert_eq!(received, sent);
            continue;
        }
        assert_eq!(pair.server.stats().bytes_lent, 100_000);
        assert_eq!(pair.server.stats().leases_held, 1, "one slice of 128 KiB");
        pair.server.close();
        assert_eq!(received, sent, "it outlives the session");
        drop(received);
        assert_eq!(pair.server.stats().leases_held, 0);
    }
}

#[tokio::test]
async fn hazard_h45_what_was_sent_before_a_close_arrives() {
    for mode in modes() {
        let pair = connect_with(&mode, tight(), Wait::Adaptive).await;
        let mut ours = pair.client.open_stream().unwrap();
        for seed in 0..10 {
            send(&mut ours, &message(100, seed)).await.unwrap();
        }
        // No goodbye overtakes what goes over the socket.
        send(&mut ours, &message(300_000, 10)).await.unwrap();
        pair.client.close();
        let mut theirs = timeout(LONG, pair.server.accept_stream())
            .await
            .unwrap()
            .unwrap();
        for seed in 0..10 {
            assert_eq!(whole(recv(&mut theirs).await.unwrap()), message(100, seed));
        }
        assert!(whole(recv(&mut theirs).await.unwrap()) == message(300_000, 10));
        let lost = timeout(LONG, pair.server.closed()).await.unwrap();
        assert!(
            matches!(lost, SessionLost::ClosedByPeer),
            "{}: {lost:?}",
            mode.name
        );
    }
}

#[tokio::test]
async fn files_are_gone_as_soon_as_they_are_mapped() {
    for mode in modes() {
        let pair = connect(&mode).await;
        let names = || {
            let entries = std::fs::read_dir(pair.files.path()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name())
                .collect::<HashSet<_>>()
        };
        if mode.link != LinkKind::ShmipcV2 {
            assert!(names().is_empty(), "{}", mode.name);
        }
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, &message(10, 1)).await.unwrap();
        recv(&mut stream).await.unwrap();
        assert!(
            names().is_empty(),
            "{}: an answer shows that they are mapped",
            mode.name
        );
    }
}

#[tokio::test]
async fn hazard_h42_files_are_gone_once_a_server_that_says_nothing_has_taken_a_message() {
    let mut modes = modes();
    modes.retain(|mode| mode.link == LinkKind::ShmipcV2);
    for mode in modes {
        let pair = connect(&mode).await;
        let names = || std::fs::read_dir(pair.files.path()).unwrap().count();
        assert_eq!(names(), 2, "{}: are they mapped?", mode.name);
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, &message(10, 1)).await.unwrap();
        let _taken = pair.server.accept_stream().await.unwrap();
        common::until("the files are gone", || names() == 0).await;
    }
}

#[tokio::test]
async fn a_ping_is_answered_once_the_peer_has_taken_everything() {
    for mode in modes() {
        let pair = connect(&mode).await;
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, &message(10, 1)).await.unwrap();
        timeout(LONG, pair.client.ping())
            .await
            .unwrap_or_else(|_| panic!("{}: no answer", mode.name))
            .unwrap();
    }
}

#[tokio::test]
async fn sessions_drain_in_every_version() {
    for mode in modes().into_iter().filter(|mode| !mode.is_tcp) {
        let pair = connect(&mode).await;
        echo(pair.server.clone());
        let mut stream = pair.client.open_stream().unwrap();
        send(&mut stream, &message(10, 1)).await.unwrap();
        recv(&mut stream).await.unwrap();
        let (drained, ()) =
            tokio::join!(timeout(LONG, pair.client.drain()), async { drop(stream) });
        drained.unwrap_or_else(|_| panic!("{}: it does not end", mode.name));
    }
}

#[tokio::test]
async fn the_best_common_link_is_found_with_one_attempt() {
    let all = || Config::builder().links(LinkKind::ALL);
    for accepted in LinkKind::ALL {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = files.path().join("socket");
        let shmipc = || Shmipc::default().directory(files.path());
        let server = Config::builder()
            .links([accepted])
            .shmipc(shmipc())
            .build()
            .unwrap();
        let listener = Listener::bind_with(path.as_path(), server).unwrap();
        let client = all().shmipc(shmipc()).build().unwrap();
        let (client, server) = tokio::join!(
            timeout(LONG, Session::connect_with(path.as_path(), client)),
            timeout(LONG, listener.accept())
        );
        let (client, server) = (client.unwrap(), server.unwrap().unwrap());
        let client = client.unwrap_or_else(|error| panic!("{accepted:?}: {error:?}"));
        echo(server);
        let mut stream = client.open_stream().unwrap();
        send(&mut stream, &message(77, 1)).await.unwrap();
        assert_eq!(whole(recv(&mut stream).await.unwrap()), message(77, 1));
    }
}

#[tokio::test]
async fn hazard_c13_a_server_accepts_nothing_that_it_is_not_configured_for() {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = files.path().join("socket");
    let own = Config::builder().links([LinkKind::Outbox]).build().unwrap();
    let listener = Listener::bind_with(path.as_path(), own).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    for link in [LinkKind::ShmipcV4, LinkKind::ShmipcV3] {
        let shmipc = Shmipc::default().directory(files.path());
        let config = Config::builder().links([link]).shmipc(shmipc);
        let refused = Session::connect_with(path.as_path(), config.build().unwrap()).await;
        assert!(
            matches!(
                refused,
                Err(ConnectError::Refused(_) | ConnectError::Closed { .. })
            ),
            "{link:?}: {refused:?}"
        );
    }
}

/// Has one implementation for types that cannot be cloned, and two for those that can, so that it is not known which is meant.
trait HasOneOwner<T> {
    fn verify() {}
}

impl<T: ?Sized> HasOneOwner<()> for T {}

impl<T: Clone> HasOneOwner<u8> for T {}

#[test]
fn hazard_h61_s2_nobody_else_can_send_or_receive_on_a_stream() {
    <Stream as HasOneOwner<_>>::verify();
    <SendHalf as HasOneOwner<_>>::verify();
    <RecvHalf as HasOneOwner<_>>::verify();
    <SendBuf as HasOneOwner<_>>::verify();
}

#[tokio::test]
async fn hazard_h76_who_is_asked_while_a_client_is_let_in_may_ask_the_listener() {
    let sockets = tempfile::tempdir().unwrap();
    let asked = Arc::new(OnceLock::<Weak<Listener>>::new());
    let known = Arc::clone(&asked);
    let config = Config::builder().authorize(move |_| {
        let listener = known.get().and_then(Weak::upgrade);
        listener.is_some_and(|listener| listener.clients().is_empty())
    });
    let path = sockets.path().join("socket");
    let listener = Listener::bind_with(path.as_path(), config.build().unwrap()).unwrap();
    let listener = Arc::new(listener);
    asked.set(Arc::downgrade(&listener)).unwrap();
    let both = async { tokio::join!(Session::connect(path), listener.accept()) };
    let (client, server) = timeout(LONG, both).await.expect("it waits for itself");
    assert_eq!(client.unwrap().peer(), server.unwrap().peer());
}
