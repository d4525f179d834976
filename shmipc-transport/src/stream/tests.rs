//! What happens between two steps of a sender: while it writes, which is when the record has its place and was not published.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Wake, Waker},
};

use bytes::{Buf, BufMut};

use super::*;
use crate::{
    Config, Session,
    core::sync::lock,
    error::RecvError,
    link::Control,
    session::{pair, pair_with},
};

/// A stream of the client's on which each side has sent a message.
async fn greeted(client: &Session, server: &Session) -> (Stream, Stream) {
    let mut ours = client.open_stream().unwrap();
    assert!(ours.try_send_exact(0, Flush::More, |_| {}).unwrap());
    let mut theirs = server.accept_stream().await.unwrap();
    theirs.recv().await.unwrap().unwrap();
    assert!(theirs.try_send_exact(0, Flush::More, |_| {}).unwrap());
    ours.recv().await.unwrap().unwrap();
    (ours, theirs)
}

fn open(session: &Session) -> usize {
    lock(&session.shared().streams).len()
}

fn drain(session: &Session) {
    let shared = session.shared();
    shared.drain(&mut shared.inbound());
}

#[tokio::test]
async fn an_end_closes_a_stream_only_once_it_cannot_be_taken_back() {
    let (client, server) = pair().await;
    let (mut ours, mut theirs) = greeted(&client, &server).await;
    assert!(theirs.try_send_exact(0, Flush::End, |_| {}).unwrap());
    let written = ours.try_send_exact(1, Flush::End, |_| {
        drain(&client);
        assert_eq!(open(&client), 1, "the peer counts it until it has our end");
    });
    assert!(!written.unwrap(), "nothing was written");
    assert_eq!(open(&client), 1);
    let again = ours.try_send_exact(1, Flush::End, |space| space.put_u8(7));
    assert!(again.unwrap());
    assert_eq!(open(&client), 0);
    assert_eq!(theirs.recv().await.unwrap().unwrap().chunk(), [7]);
    assert!(theirs.recv().await.unwrap().is_none());
    assert_eq!(open(&server), 0);
}

#[tokio::test]
async fn a_stream_that_is_given_up_while_it_is_opened_is_reset_once_the_peer_has_heard_of_it() {
    let (client, server) = pair().await;
    let (mut send, mut recv) = client.open_stream().unwrap().split();
    let sent = send.try_send_exact(1, Flush::More, |space| {
        recv.reset(7);
        space.put_u8(1);
    });
    assert!(sent.unwrap());
    assert_eq!(open(&client), 0);
    let mut theirs = server.accept_stream().await.unwrap();
    theirs.recv().await.unwrap().unwrap();
    let ended = theirs.recv().await;
    assert!(matches!(ended, Err(RecvError::Reset(7))), "{ended:?}");
    let ended = send.try_send_exact(0, Flush::More, |_| {});
    assert!(matches!(ended, Err(SendError::Finished)), "{ended:?}");
}

#[tokio::test]
async fn of_a_stream_that_is_given_up_and_was_never_opened_the_peer_hears_nothing() {
    let (client, server) = pair().await;
    let (mut send, mut recv) = client.open_stream().unwrap().split();
    let sent = send.try_send_exact(1, Flush::More, |_| recv.reset(7));
    assert!(!sent.unwrap());
    assert_eq!(open(&client), 0);
    drop((send, recv));
    let (_ours, _theirs) = greeted(&client, &server).await;
    assert_eq!((open(&client), open(&server)), (1, 1));
    assert!(server.shared().lost().is_none());
}

#[tokio::test]
async fn senders_that_give_up_leave_nothing_behind() {
    let config = Config::builder()
        .streams_max(1)
        .memory_max(1 << 20)
        .build()
        .unwrap();
    let (client, server) = pair_with(config).await;
    let (_ours, _theirs) = greeted(&client, &server).await;
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    for _ in 0..10 {
        let mut stream = client.open_stream().unwrap();
        assert!(stream.send.poll_finish(cx).is_pending());
        assert_eq!(client.debug_dump().openers_waiting, 1);
    }
    assert_eq!(client.debug_dump().openers_waiting, 0);
    let _all = client.alloc(1 << 20).await.unwrap();
    for _ in 0..10 {
        let mut more = std::pin::pin!(client.alloc(1));
        assert!(more.as_mut().poll(cx).is_pending());
        assert_eq!(client.debug_dump().senders_waiting, 1);
    }
    assert_eq!(client.debug_dump().senders_waiting, 0);
    let stats = client.stats();
    assert_eq!((stats.waits_streams, stats.waits_memory), (10, 10));
}

/// Memory that a user has put into a message, and that does something with the session when it is dropped.
struct Lingering {
    lent: bytes::Bytes,
    stream: Stream,
}

impl AsRef<[u8]> for Lingering {
    fn as_ref(&self) -> &[u8] {
        &self.lent
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.stream.try_send_exact(0, Flush::End, |_| {}).unwrap();
    }
}

#[tokio::test]
async fn what_a_message_was_made_of_may_use_the_session_when_it_comes_back() {
    let (client, server) = pair().await;
    let (mut ours, mut theirs) = greeted(&client, &server).await;
    let (other, mut their_other) = greeted(&client, &server).await;
    let lent = client.alloc(64 << 10).await.unwrap().freeze();
    let bytes = bytes::Bytes::from_owner(Lingering {
        lent,
        stream: other,
    });
    let mut message = ours.buffer(0);
    message.put(bytes);
    ours.send(message, Flush::More).await.unwrap();
    assert_eq!(client.stats().bytes_linked, 64 << 10);
    drop(theirs.recv().await.unwrap());
    // Looks for what has come back.
    client.shared().link.retire_idle().unwrap();
    assert!(their_other.recv().await.unwrap().is_some());
    assert!(their_other.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn a_peer_that_has_seen_an_end_may_open_another_stream_before_that_is_noted_here() {
    let (client, server, mut ours, theirs) = with_one_stream().await;
    assert!(ours.try_send_exact(0, Flush::End, |_| {}).unwrap());
    let (send, mut recv) = theirs.split();
    recv.recv().await.unwrap().unwrap();
    assert!(recv.recv().await.unwrap().is_none());
    let sent = send.handle.encode_exact(
        0,
        Flush::End,
        |_| {},
        |reservation, id, flags| {
            reservation.commit(id, flags);
            // Whoever drains the client's side delivers it, and the next call is made at once; here, another thread drains.
            drain(&client);
            assert_eq!(open(&client), 0);
            let mut next = client.open_stream().unwrap();
            assert!(next.try_send_exact(0, Flush::End, |_| {}).unwrap());
            drain(&server);
            drop(next);
        },
    );
    assert_eq!(sent.unwrap(), Ok(true));
    assert!(server.shared().lost().is_none());
    let mut next = server.accept_stream().await.unwrap();
    assert!(next.recv().await.unwrap().is_some());
}

/// Opens a stream when it is woken, and sends on it.
struct Opener {
    session: Session,
    opened: Mutex<Option<Stream>>,
}

impl Wake for Opener {
    fn wake(self: Arc<Self>) {
        let mut stream = self.session.open_stream().unwrap();
        assert!(stream.try_send_exact(0, Flush::More, |_| {}).unwrap());
        *lock(&self.opened) = Some(stream);
    }
}

/// A session and its peer with a stream of the client's, which is the only one that there may be.
async fn with_one_stream() -> (Session, Session, Stream, Stream) {
    let config = Config::builder().streams_max(1).build().unwrap();
    let (client, server) = pair_with(config).await;
    let (ours, theirs) = greeted(&client, &server).await;
    (client, server, ours, theirs)
}

#[tokio::test]
async fn the_place_of_a_stream_that_was_reset_is_free_once_the_peer_can_hear_of_that() {
    let (client, server, mut ours, mut theirs) = with_one_stream().await;
    let opener = Arc::new(Opener {
        session: client.clone(),
        opened: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&opener));
    let mut waits = client.open_stream().unwrap();
    let finish = std::pin::pin!(waits.finish());
    assert!(finish.poll(&mut Context::from_waker(&waker)).is_pending());
    ours.reset(7);
    assert!(lock(&opener.opened).is_some());
    drain(&server);
    assert!(server.shared().lost().is_none());
    let ended = theirs.recv().await;
    assert!(matches!(ended, Err(RecvError::Reset(7))), "{ended:?}");
    let mut next = server.accept_stream().await.unwrap();
    assert!(next.recv().await.unwrap().is_some());
}

#[tokio::test]
async fn a_peer_that_has_seen_a_reset_may_open_another_stream_before_that_is_noted_here() {
    let (client, server, ours, mut theirs) = with_one_stream().await;
    let (shared, stream) = (server.shared(), &theirs.recv.handle.stream);
    let id = stream.id().unwrap();
    assert!(stream.give_up(shared, 7).is_some());
    shared.control(Control::Reset {
        stream: id,
        code: 7,
    });
    drain(&client);
    drop(ours);
    let mut next = client.open_stream().unwrap();
    assert!(next.try_send_exact(0, Flush::More, |_| {}).unwrap());
    drain(&server);
    assert!(shared.lost().is_none());
    shared.close_stream(id);
    assert_eq!(open(&server), 1, "the next one has a place of its own");
    assert!(theirs.recv().await.is_err());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn who_waits_for_the_ring_is_told_of_progress_that_another_has_seen() {
    let (client, server) = pair().await;
    let (mut other, _theirs) = greeted(&client, &server).await;
    let write = |len: usize| {
        let mut stream = client.open_stream().unwrap();
        let written = stream.try_send_exact(len, Flush::More, |space| space.put_bytes(0, len));
        written.unwrap().then_some(stream)
    };
    // First as long ones as there are, then what still fits behind them.
    let lens = [SendHalf::SHORT_MAX, 0].into_iter();
    let _sent: Vec<_> = lens
        .flat_map(|len| std::iter::from_fn(move || write(len)))
        .collect();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut finish = std::pin::pin!(other.finish());
    let context = &mut Context::from_waker(&waker);
    assert!(finish.as_mut().poll(context).is_pending());
    drain(&server);
    // Its place in the ring is had by looking how far the peer is.
    assert!(write(0).is_some());
    client.shared().link.relieve().unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(finish.poll(context).is_ready());
}

/// A session and its peer whose memory is 1 MiB, with a stream of the client's.
async fn with_little_memory() -> (Session, Session, Stream, Stream) {
    let config = Config::builder().memory_max(1 << 20).build().unwrap();
    let (client, server) = pair_with(config).await;
    let (ours, theirs) = greeted(&client, &server).await;
    (client, server, ours, theirs)
}

#[tokio::test]
async fn what_a_message_gives_back_may_be_what_it_needs() {
    let (client, _server, mut ours, mut theirs) = with_little_memory().await;
    let held = client.alloc(512 << 10).await.unwrap();
    let mut message = ours.buffer(0);
    // The first part lies in the half that all of it needs.
    message.put_slice(&[1; 3_000]);
    message.put_slice(&[2; 300_000]);
    let waker = Waker::from(Arc::new(Woken::default()));
    let send = std::pin::pin!(ours.send(message, Flush::More));
    let sent = send.poll(&mut Context::from_waker(&waker));
    assert!(matches!(sent, Poll::Ready(Ok(()))), "{sent:?}");
    let received = theirs.recv().await.unwrap().unwrap();
    assert_eq!(received.remaining(), 303_000);
    drop(held);
}

#[tokio::test]
async fn who_waits_for_several_blocks_wakes_nobody_else_who_does() {
    let (client, server, one, _theirs) = with_little_memory().await;
    let (other, _their_other) = greeted(&client, &server).await;
    let linked = client.alloc(64 << 10).await.unwrap().freeze();
    let _held = client.alloc(512 << 10).await.unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let content = vec![0; 300 << 10];
    let mut sending: Vec<_> = [one, other]
        .map(|stream| {
            let (mut send, recv) = stream.split();
            // There would be room for the first part of either, and not for the second one.
            let mut message = send.buffer(0);
            message.put_slice(&content[..100 << 10]);
            message.put(linked.clone());
            message.put_slice(&content);
            Box::pin(async move {
                let sent = send.send(message, Flush::More).await;
                (sent, recv)
            })
        })
        .into();
    let context = &mut Context::from_waker(&waker);
    let mut poll_all = || {
        sending
            .iter_mut()
            .all(|sending| sending.as_mut().poll(context).is_pending())
    };
    assert!(poll_all());
    assert!(poll_all());
    let before = woken.0.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert!(poll_all());
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_message_does_not_wait_for_what_it_has_linked() {
    let (client, _server, mut ours, mut theirs) = with_little_memory().await;
    let linked = client.alloc(200 << 10).await.unwrap().freeze();
    let content: Vec<u8> = (0..700u32 << 10).map(|at| (at % 251) as u8).collect();
    let mut message = ours.buffer(0);
    // There is a block for each of the parts, but not for both beside what is linked. For all of it in one piece, there is.
    message.put_slice(&content[..100]);
    message.put_slice(&content[100..300 << 10]);
    message.put(linked);
    message.put_slice(&content[300 << 10..][..100]);
    message.put_slice(&content[(300 << 10) + 100..]);
    ours.send(message, Flush::More).await.unwrap();
    let mut received = theirs.recv().await.unwrap().unwrap();
    assert_eq!(received.copy_to_bytes(300 << 10), content[..300 << 10]);
    assert_eq!(received.copy_to_bytes(200 << 10), vec![0; 200 << 10]);
    assert_eq!(received.copy_to_bytes(400 << 10), content[300 << 10..]);
    assert_eq!(received.remaining(), 0);
}

#[tokio::test]
async fn messages_that_have_linked_memory_do_not_wait_for_each_other() {
    let (client, server, one, mut theirs) = with_little_memory().await;
    let (other, mut their_other) = greeted(&client, &server).await;
    let linked = [client.alloc(400 << 10).await, client.alloc(400 << 10).await];
    let streams = [one, other].into_iter().zip(linked);
    let mut sending: Vec<_> = streams
        .map(|(stream, linked)| {
            let (mut send, recv) = stream.split();
            let mut message = send.buffer(0);
            message.put(linked.unwrap().freeze());
            message.put_bytes(1, 300 << 10);
            Box::pin(async move { (send.send(message, Flush::End).await, recv) })
        })
        .collect();
    let context = &mut Context::from_waker(Waker::noop());
    let mut poll = |number: usize| sending[number].as_mut().poll(context);
    assert!(poll(0).is_pending());
    assert!(matches!(poll(1), Poll::Ready((Ok(()), _))));
    drop(their_other.recv().await.unwrap().unwrap());
    assert!(matches!(poll(0), Poll::Ready((Ok(()), _))));
    assert_eq!(theirs.recv().await.unwrap().unwrap().remaining(), 700 << 10);
}
