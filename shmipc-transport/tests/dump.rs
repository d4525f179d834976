//! What a session looks like from outside while it does not go on.

mod common;

use std::{
    future::poll_fn,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use shmipc_transport::{
    Config, ConfigBuilder, Flush, LinkKind, ListEnd, SendHalf, SessionDump, Wait, blocking,
};

use crate::common::{Pair, pattern, send, send_back};

async fn pair(settings: impl Fn(ConfigBuilder) -> ConfigBuilder) -> Pair {
    let config = settings(Config::builder().wait(Wait::Block));
    let config = config.build().unwrap();
    Pair::with(config.clone(), config).await
}

/// Polls `future` once, which must have to wait, and shows `look` what it is like meanwhile.
async fn while_waiting<F: Future, T>(future: F, look: impl FnOnce() -> T) -> T {
    let mut future = Box::pin(future);
    poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    look()
}

#[tokio::test]
async fn a_stalled_stream_shows_with_its_credit() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.stream_window(2, 1000)).await;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, b"one", Flush::More).await;
    send(&mut stream, b"three", Flush::More).await;
    let mut message = stream.buffer(1);
    message.put_u8(7);
    let sending = stream.send(message, Flush::More);
    let dump = while_waiting(sending, || client.debug_dump()).await;
    let [stalled] = &dump.streams[..] else {
        panic!("{dump}");
    };
    assert_eq!((stalled.id, stalled.send_credit), (1, (0, 992)));
    assert!(stalled.sender_waits && !stalled.receiver_waits && !stalled.is_over);
    assert_eq!(stalled.ended, (false, false));
    let line = "stream 1: may send 0 messages, 992 bytes; may receive 2 messages, 1000 bytes; 0 queued (0 bytes); a sender waits for credit";
    assert!(dump.to_string().contains(line), "{dump}");

    // The other side has the messages, and nobody who takes them.
    let accepted = server.accept_stream().await.unwrap();
    let dump = server.debug_dump();
    let [unread] = &dump.streams[..] else {
        panic!("{dump}");
    };
    assert_eq!((unread.messages_queued, unread.bytes_queued), (2, 8));
    assert_eq!(unread.recv_credit, (0, 992));
    drop(accepted);
}

#[tokio::test]
async fn what_both_sides_hold_of_a_message_shows() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, &pattern(10_000, 1), Flush::End).await;
    let mut accepted = server.accept_stream().await.unwrap();
    let held = accepted.recv().await.unwrap().unwrap();

    let (ours, theirs) = (client.debug_dump(), server.debug_dump());
    let ([flight], [lease]) = (&ours.flights[..], &theirs.leases[..]) else {
        panic!("{ours}\n{theirs}");
    };
    assert_eq!((flight.region, flight.offset, flight.len), (0, 0, 10_000));
    assert_eq!((lease.region, lease.offset, lease.len), (0, 0, 10_000));
    assert!(!flight.is_forwarded && !lease.sent_back);
    let [region] = &ours.regions[..] else {
        panic!("{ours}");
    };
    assert_eq!((region.len, region.used), (16 << 20, 16 << 10));
    let free: u32 = region.free.iter().map(|(size, count)| size * count).sum();
    assert_eq!(free + region.used, region.len);
    assert!(
        theirs
            .to_string()
            .contains("10000 bytes at 0 of region 0, held for "),
        "{theirs}"
    );
    assert!(
        ours.to_string()
            .contains("region 0: 16384 of 16777216 bytes used; free: 1 × 16384,"),
        "{ours}"
    );
    assert!(ours.streams[0].ended.0, "{ours}");
    drop(held);
    assert!(server.debug_dump().leases.is_empty());
}

#[tokio::test]
async fn a_full_ring_shows_at_both_ends() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.stream_window(1 << 10, 4 << 20)).await;
    let mut stream = client.open_stream().unwrap();
    let short = SendHalf::SHORT_MAX;
    let fill = |space: &mut &mut [u8]| space.put_bytes(7, short);
    let (mut sent, mut tiny) = (0, 0);
    while stream.try_send_exact(short, Flush::More, fill).unwrap() {
        sent += 1;
    }
    while stream.try_send_exact(0, Flush::More, |_| {}).unwrap() {
        tiny += 1;
    }
    let mut message = stream.buffer(short);
    message.put_bytes(7, short);
    let sending = stream.send(message, Flush::More);
    let (ours, theirs) = while_waiting(sending, || {
        client.go_away();
        (client.debug_dump(), server.debug_dump())
    })
    .await;
    let ([ring, idle], [_, seen]) = (&ours.rings, &theirs.rings);
    let written = sent * u32::try_from(short + 16).unwrap() + tiny * 16;
    assert_eq!((ring.len, ring.fill), (64 << 10, written));
    assert_eq!((ring.written, ring.read), (Some(written), 0));
    assert_eq!(ring.writer_starves % 2, 1, "{ours}");
    assert_eq!((seen.fill, seen.records), (ring.fill, Some(sent + tiny)));
    assert_eq!(seen.writer_starves, ring.writer_starves);
    assert_eq!((idle.fill, idle.records), (0, Some(0)));
    assert_eq!(ours.senders_waiting, 1);
    assert_eq!(ours.going_away, (true, false));
    let text = ours.to_string();
    assert!(
        text.contains("waiting: 1 for space, 0 to open; so far 1 for the ring"),
        "{text}"
    );
    assert!(text.contains("we asked for no more streams"), "{text}");
    assert_eq!(
        (ours.control_waiting, &ours.control[..]),
        (1, &["GoAway".to_owned()][..])
    );
}

#[tokio::test]
async fn a_session_that_is_over_says_why() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config).await;
    server.close();
    client.closed().await;
    let dump = client.debug_dump();
    assert!(dump.lost.is_some() && dump.streams.is_empty());
    assert!(dump.to_string().contains(", over: "), "{dump}");
}

#[tokio::test]
async fn shmipcs_link_shows_its_queues_and_lists() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.links([LinkKind::ShmipcV4])).await;
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, &pattern(10_000, 1), Flush::More).await;
    let (ours, theirs) = (client.debug_dump(), server.debug_dump());
    assert_eq!((ours.link, theirs.link), (client.link(), server.link()));
    assert!(
        ours.to_string().contains("link: shmipc version 4"),
        "{ours}"
    );
    assert_eq!(
        (ours.rings[0].records, theirs.rings[1].records),
        (Some(1), Some(1))
    );
    assert!(ours.regions.iter().any(|list| list.used != 0), "{ours}");
}

#[tokio::test]
async fn shmipcs_link_shows_what_is_held_and_where_its_free_lists_lead() {
    let Pair {
        client,
        server,
        _dir,
    } = pair(|config| config.links([LinkKind::ShmipcV4])).await;
    let dump = client.debug_dump();
    assert!(!dump.lists.is_empty());
    for list in &dump.lists {
        assert_eq!((list.found, list.held), (list.slices, 0), "{dump}");
        assert_eq!((list.end, list.elsewhere()), (ListEnd::Last, Some(0)));
        assert_eq!(u32::try_from(list.says), Ok(list.slices), "{dump}");
    }
    let mut stream = client.open_stream().unwrap();
    send(&mut stream, &pattern(10_000, 1), Flush::More).await;
    let mut accepted = server.accept_stream().await.unwrap();
    let received = accepted.recv().await.unwrap().unwrap();
    let (ours, theirs) = (client.debug_dump(), server.debug_dump());
    assert!(ours.leases.is_empty(), "{ours}");
    let [lease] = &theirs.leases[..] else {
        panic!("{theirs}");
    };
    assert_eq!((lease.len, lease.sent_back), (10_000, false), "{theirs}");
    let list = |dump: &SessionDump| {
        let list = dump.lists.iter().find(|list| list.id == lease.region);
        *list.unwrap()
    };
    assert_eq!(
        (list(&theirs).held, list(&theirs).elsewhere()),
        (1, Some(0))
    );
    assert_eq!((list(&ours).held, list(&ours).elsewhere()), (0, Some(1)));
    let line = "; 1 elsewhere: with the peer, or lost";
    assert!(ours.to_string().contains(line), "{ours}");
    drop(received);
    assert!(server.debug_dump().leases.is_empty());
}

/// Who takes a picture must not be taken for one who leads, by a thread that then waits for ever.
#[test]
fn threads_go_on_while_somebody_takes_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = blocking::Listener::bind(&*path).unwrap();
    let serving = thread::spawn(move || {
        let session = listener.accept().unwrap();
        while let Ok(mut stream) = session.accept_stream() {
            send_back(&mut stream);
        }
    });
    let session = blocking::Session::connect(&*path).unwrap();
    let looking = {
        let session = session.clone();
        thread::spawn(move || {
            let mut pictures = 0;
            while !session.is_closed() {
                assert!(session.debug_dump().to_string().contains("driver: threads"));
                pictures += 1;
            }
            pictures
        })
    };
    let mut stream = session.open_stream().unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let mut message = stream.buffer(3);
        message.put_slice(b"hey");
        stream.send(message, Flush::More).unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(60));
        assert!(
            stream
                .recv_until(deadline)
                .is_ok_and(|reply| reply.is_some())
        );
    }
    session.close();
    assert!(0 < looking.join().unwrap());
    serving.join().unwrap();
}
