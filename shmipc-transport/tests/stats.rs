//! What a session counts, and what it finds out when it is asked.

mod common;

use std::{future::poll_fn, task::Poll, time::Duration};

use bytes::{BufMut, Bytes};
use shmipc_transport::{
    Config, ConfigBuilder, Flush, LinkKind, RecvBuf, SendHalf, Shmipc, Stats, Wait,
};
use tokio::time::timeout;

use crate::common::{PATIENCE, Pair, echo, pattern, send};

/// Two ends of a session, neither of which is awake for long.
async fn pair(settings: impl Fn(ConfigBuilder) -> ConfigBuilder) -> Pair {
    let config = settings(Config::builder().wait(Wait::Block));
    let config = config.build().unwrap();
    Pair::with(config.clone(), config).await
}

/// Polls `future` once, which must have to wait.
async fn begins_to_wait<F: Future>(future: F) {
    let mut future = Box::pin(future);
    poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Lets everything else run until `stats` is as wanted.
async fn until(mut stats: impl FnMut() -> Stats, wanted: impl Fn(&Stats) -> bool) -> Stats {
    let waiting = async {
        loop {
            let stats = stats();
            if wanted(&stats) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never came")
}

#[tokio::test]
async fn a_ring_tells_how_full_it_is_at_both_ends() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    let mut stream = client.open_stream().unwrap();
    // Nobody else runs meanwhile, so it all stays in the ring.
    for _ in 0..10 {
        let sent = stream.try_send_exact(100, Flush::More, |space| space.put_bytes(7, 100));
        assert!(sent.unwrap());
    }
    let stats = client.stats();
    let fill = 10 * (16 + 112);
    assert_eq!((stats.ring_fill, stats.ring_fill_max), (fill, fill));
    assert_eq!(stats.ring_len, 64 << 10);
    assert_eq!(stats.peer_ring_fill, 0);
    let stats = server.stats();
    assert_eq!(
        (stats.peer_ring_fill, stats.peer_ring_fill_max),
        (fill, fill)
    );
    assert_eq!((stats.peer_ring_len, stats.ring_fill), (64 << 10, 0));

    let mut stream = server.accept_stream().await.unwrap();
    for _ in 0..10 {
        stream.recv().await.unwrap().unwrap();
    }
    let stats = until(|| client.stats(), |stats| stats.ring_fill == 0).await;
    assert_eq!(stats.ring_fill_max, fill);
    assert_eq!(server.stats().peer_ring_fill, 0);
    assert_eq!(server.stats().peer_ring_fill_max, fill);
}

#[tokio::test]
async fn what_was_consumed_at_once_shows_although_nobody_looked() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    let mut stream = client.open_stream().unwrap();
    for _ in 0..10 {
        let sent = stream.try_send_exact(100, Flush::More, |space| space.put_bytes(7, 100));
        assert!(sent.unwrap());
    }
    server.accept_stream().await.unwrap();
    assert_eq!(server.stats().peer_ring_fill_max, 10 * (16 + 112));
}

#[tokio::test]
async fn each_kind_of_waiting_has_a_counter_of_its_own() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| {
        let config = config.memory_max(64 << 10).streams_max(64);
        config.stream_window(1 << 10, 4 << 20)
    })
    .await;
    let waits = || {
        let stats = client.stats();
        [
            stats.waits_ring,
            stats.waits_credit,
            stats.waits_memory,
            stats.waits_streams,
        ]
    };
    assert_eq!(waits(), [0; 4]);

    let held = client.alloc(64 << 10).await.unwrap();
    begins_to_wait(client.alloc(1)).await;
    assert_eq!(waits(), [0, 0, 1, 0]);
    let mut stream = client.open_stream().unwrap();
    let mut message = stream.buffer(5000);
    message.put_bytes(7, 5000);
    begins_to_wait(stream.send(message, Flush::More)).await;
    assert_eq!(waits(), [0, 0, 2, 0]);
    drop(held);

    let short = SendHalf::SHORT_MAX;
    let fill = |space: &mut &mut [u8]| space.put_bytes(7, short);
    while stream.try_send_exact(short, Flush::More, fill).unwrap() {}
    let mut message = stream.buffer(short);
    message.put_bytes(7, short);
    begins_to_wait(stream.send(message, Flush::More)).await;
    assert_eq!(waits(), [1, 0, 2, 0]);
    let stats = client.stats();
    assert!(
        stats.ring_len <= stats.ring_fill_max + 2 * 2064,
        "{stats:?}"
    );

    let mut streams = Vec::new();
    until(|| server.stats(), |stats| stats.peer_ring_fill == 0).await;
    for _ in 1..64 {
        let mut stream = client.open_stream().unwrap();
        send(&mut stream, b"opens it", Flush::More).await;
        streams.push(stream);
    }
    let mut one_more = client.open_stream().unwrap();
    let mut message = one_more.buffer(1);
    message.put_u8(7);
    begins_to_wait(one_more.send(message, Flush::More)).await;
    assert_eq!(waits(), [1, 0, 2, 1]);
    let stats = client.stats();
    assert_eq!((stats.streams_open, stats.streams_opened), (64, 64));
    let stats = until(|| server.stats(), |stats| stats.streams_open == 64).await;
    assert_eq!((stats.streams_accepted, stats.streams_opened), (64, 0));
}

#[tokio::test]
async fn waiting_for_credit_is_counted_once_per_wait() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.stream_window(1, 4 << 20)).await;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, b"first", Flush::More).await;
    let mut message = stream.buffer(1);
    message.put_u8(7);
    let mut sending = Box::pin(stream.send(message, Flush::More));
    for _ in 0..3 {
        begins_to_wait(sending.as_mut()).await;
    }
    assert_eq!(client.stats().waits_credit, 1);
    let mut accepted = server.accept_stream().await.unwrap();
    accepted.recv().await.unwrap().unwrap();
    sending.await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.waits_credit, stats.waits_ring), (1, 0));
}

/// Fills up whatever a message of this length needs, and waits for it. Returns how often that was for the queue, and for memory.
async fn waits_of(shmipc: Shmipc, len: usize) -> (u64, u64) {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let shmipc = shmipc.directory(files.path());
    let Pair {
        client,
        server: _server,
        _dir,
    } = pair(|config| {
        let config = config.links([LinkKind::ShmipcV3]);
        config.shmipc(shmipc.clone())
    })
    .await;
    let mut stream = client.open_stream().unwrap();
    // Nobody else runs meanwhile, so the peer takes nothing.
    let fill = |space: &mut &mut [u8]| space.put_bytes(7, len);
    while stream.try_send_exact(len, Flush::More, fill).unwrap() {}
    let mut message = stream.buffer(len);
    message.put_bytes(7, len);
    let mut sending = Box::pin(stream.send(message, Flush::More));
    for _ in 0..3 {
        begins_to_wait(sending.as_mut()).await;
    }
    let stats = client.stats();
    assert!(
        0 < stats.ring_fill_max && 0 < stats.arena_used_max,
        "{stats:?}"
    );
    timeout(PATIENCE, sending).await.unwrap().unwrap();
    (stats.waits_ring, stats.waits_memory)
}

#[tokio::test]
async fn over_shmipcs_link_a_wait_is_counted_once_and_for_what_is_lacking() {
    let queue_is_short = Shmipc::default().queue_len(16);
    assert_eq!(waits_of(queue_is_short, 100).await, (1, 0));
    let memory_is_short = Shmipc::default().buffer_len(64 << 10).slices([(4096, 100)]);
    assert_eq!(waits_of(memory_is_short, 2000).await, (0, 1));
}

#[tokio::test]
async fn one_wake_serves_for_what_is_sent_until_the_peer_has_run() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    // So that both are asleep.
    timeout(PATIENCE, client.ping()).await.unwrap().unwrap();
    timeout(PATIENCE, server.ping()).await.unwrap().unwrap();
    let before = client.stats();
    let mut stream = client.open_stream().unwrap();
    for _ in 0..10 {
        let sent = stream.try_send_exact(1, Flush::More, |space| space.put_u8(7));
        assert!(sent.unwrap());
    }
    let after = client.stats();
    assert_eq!(after.doorbells_rung - before.doorbells_rung, 1);
    assert_eq!(after.wakes_avoided - before.wakes_avoided, 9);
}

#[tokio::test]
async fn every_byte_is_copied_linked_lent_or_sent_back() {
    let pair = pair(|config| config).await;
    let serving = echo(pair.server.clone());
    let mut stream = pair.client.open_stream().unwrap();
    let round = async |stream: &mut shmipc_transport::Stream, bytes: Bytes| -> RecvBuf {
        let mut message = stream.buffer(bytes.len());
        message.put(bytes);
        stream.send(message, Flush::More).await.unwrap();
        stream.recv().await.unwrap().unwrap()
    };
    // Short: copied both ways.
    round(&mut stream, pattern(100, 1).into()).await;
    // Written into a block, lent to the server, which sends it back where it is.
    round(&mut stream, pattern(50_000, 2).into()).await;
    // Linked.
    let mut lent = pair.client.alloc(30_000).await.unwrap();
    lent.fill(7);
    round(&mut stream, lent.freeze()).await;

    let (ours, theirs) = (pair.client.stats(), pair.server.stats());
    assert_eq!((ours.bytes_sent, ours.bytes_received), (80_100, 80_100));
    assert_eq!((ours.bytes_copied_out, ours.bytes_linked), (50_100, 30_000));
    assert_eq!(
        (ours.bytes_copied_in, ours.bytes_lent, ours.bytes_sent_back),
        (100, 0, 80_000)
    );
    assert_eq!(
        (theirs.bytes_copied_out, theirs.bytes_linked),
        (100, 80_000)
    );
    assert_eq!(
        (
            theirs.bytes_copied_in,
            theirs.bytes_lent,
            theirs.bytes_sent_back
        ),
        (100, 80_000, 0)
    );
    assert_eq!((ours.fallbacks_sent, ours.fallbacks_received), (0, 0));
    assert_eq!(ours.arena_len_max, 1 << 30);
    serving.abort();
}

#[tokio::test]
async fn the_oldest_lease_ages_and_goes() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, &pattern(10_000, 1), Flush::More).await;
    let mut accepted = server.accept_stream().await.unwrap();
    assert_eq!(client.stats().oldest_lease, None);
    let first = accepted.recv().await.unwrap().unwrap();
    let old = Duration::from_millis(50);
    until(
        || server.stats(),
        |stats| stats.oldest_lease.is_some_and(|age| old <= age),
    )
    .await;
    send(&mut stream, &pattern(10_000, 2), Flush::More).await;
    let second = accepted.recv().await.unwrap().unwrap();
    let stats = server.stats();
    assert_eq!(stats.leases_held, 2);
    assert!(old <= stats.oldest_lease.unwrap(), "{stats:?}");
    drop(second);
    assert!(old <= server.stats().oldest_lease.unwrap());
    drop(first);
    assert_eq!(
        (server.stats().leases_held, server.stats().oldest_lease),
        (0, None)
    );
}

#[tokio::test]
async fn going_away_is_counted_on_both_sides() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    server.go_away();
    timeout(PATIENCE, client.going_away()).await.unwrap();
    assert_eq!(
        (
            server.stats().go_aways_sent,
            server.stats().go_aways_received
        ),
        (1, 0)
    );
    assert_eq!(
        (
            client.stats().go_aways_sent,
            client.stats().go_aways_received
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn over_shmipcs_link_the_queue_and_the_region_show() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.links([LinkKind::ShmipcV4])).await;
    assert_ne!(client.stats().arena_mapped, 0);
    assert_eq!(client.stats().arena_mapped, client.stats().arena_len_max);
    let used = client.stats().arena_used;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, &pattern(10_000, 1), Flush::More).await;
    let stats = client.stats();
    assert_eq!((stats.messages_sent, stats.ring_fill), (1, 12), "{stats:?}");
    assert!(used + 10_000 <= stats.arena_used && stats.arena_used <= stats.arena_used_max);
    let mut accepted = server.accept_stream().await.unwrap();
    let received = accepted.recv().await.unwrap().unwrap();
    let stats = server.stats();
    assert_eq!(stats.leases_held, 1);
    let age = stats.oldest_lease.expect("there is one");
    let older = |stats: &Stats| stats.oldest_lease.is_some_and(|now| age < now);
    until(|| server.stats(), older).await;
    drop(received);
    let stats = server.stats();
    assert_eq!((stats.leases_held, stats.oldest_lease), (0, None));
    assert_eq!(client.stats().ring_fill, 0);
    // Nobody has looked at that queue while it was in use but who consumed it.
    assert_eq!(stats.peer_ring_fill_max, 12);
    // The slice is kept by the server, for a message of its own.
    assert_eq!(client.stats().arena_used, used + 32_748);
    send(&mut accepted, &pattern(10_000, 2), Flush::More).await;
    assert_eq!(client.stats().arena_used, used + 32_748);
    // What is being written is nothing of the peer's.
    let mut writing = accepted.buffer(10_000);
    drop(writing.reserve(5000).unwrap());
    let stats = server.stats();
    assert_eq!((stats.leases_held, stats.oldest_lease), (0, None));
}
