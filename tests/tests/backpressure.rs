//! Where something runs out, senders wait, are woken when there is some again, and hold up nobody else.

use std::sync::mpsc;

use bytes::{Buf, BufMut};
use shmipc_transport::{Config, ConfigBuilder, Flush, Listener, Session, Stream};
use tests::{
    alone,
    echo::{self, Pair, Place, pattern},
    in_time, until,
};
use tokio::task::JoinHandle;

/// The longest message that lies in the ring itself, which is 64 KiB long.
const SHORT: usize = 2000;
const RING: usize = 64 << 10;

/// Messages that are sent while nobody reads: far more than fit.
const MESSAGES: usize = 300;

fn config(set: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> Config {
    set(Config::builder()).build().unwrap()
}

/// Credit without end.
fn generous() -> Config {
    config(|config| config.stream_window(65_536, 1 << 30))
}

/// Sends [`MESSAGES`] of `len` bytes in a task of its own.
fn send_all(mut stream: Stream, len: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        for i in 0..MESSAGES {
            echo::send(&mut stream, &pattern(len, i), Flush::More).await;
        }
        stream.finish().await.unwrap();
    })
}

/// Receives what [`send_all`] sends.
async fn receive_all(mut stream: Stream, len: usize) {
    for i in 0..MESSAGES {
        let message = stream.recv().await.unwrap().expect("as many as were sent");
        assert!(echo::all(message) == pattern(len, i), "message {i}");
    }
    assert!(stream.recv().await.unwrap().is_none());
}

/// A process, as far as its sessions can tell, that stands still until it is told to go on: a thread with a runtime of
/// its own, on which nothing is polled.
struct Sleeper {
    wake: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    place: Place,
}

impl Sleeper {
    /// Accepts one session and stands still; then does `work`.
    fn new<F: Future<Output = ()>>(work: impl FnOnce(Session) -> F + Send + 'static) -> Self {
        let (place, (wake, woken)) = (Place::new(), mpsc::channel());
        let path = place.path();
        let (listens, listening) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = Listener::bind_with(path, generous()).unwrap();
                listens.send(()).unwrap();
                let session = listener.accept().await.unwrap();
                woken.recv().unwrap();
                work(session).await;
            });
        });
        listening.recv().unwrap();
        Self {
            wake,
            thread,
            place,
        }
    }

    fn wake(&self) {
        self.wake.send(()).unwrap();
    }

    async fn ends(self) {
        let joining = tokio::task::spawn_blocking(|| self.thread.join().unwrap());
        in_time("the sleeper's end", joining).await.unwrap();
    }
}

/// Waits until `session` has room for two short messages in its ring at most: the sleeper may have read a few before it
/// stood still, so that the end of the ring lies anywhere, and a record does not wrap.
async fn ring_is_full(session: &Session) {
    until("the ring is full", || {
        // A record has a head of 16 bytes.
        RING <= session.stats().ring_fill as usize + 2 * (16 + SHORT)
    })
    .await;
}

#[test]
fn a_full_ring_is_waited_for() {
    alone(async {
        let sleeper = Sleeper::new(|session| async move {
            let stream = session.accept_stream().await.unwrap();
            receive_all(stream, SHORT).await;
        });
        let bystander = Pair::echoing().await;
        let session = Session::connect(sleeper.place.path()).await.unwrap();
        let sender = send_all(session.open_stream().unwrap(), SHORT);
        ring_is_full(&session).await;
        // More than there can be room for.
        let mut other = session.open_stream().unwrap();
        let waiting = tokio::spawn(async move {
            for i in 0..5 {
                echo::send(&mut other, &pattern(SHORT, i), Flush::More).await;
            }
            other
        });
        for _ in 0..20 {
            echo::call(&bystander.client, 64).await;
            echo::call(&bystander.client, 100_000).await;
        }
        assert!(!sender.is_finished() && !waiting.is_finished());
        sleeper.wake();
        in_time("the rest", sender).await.unwrap();
        drop(in_time("the other stream", waiting).await.unwrap());
        sleeper.ends().await;
    });
}

#[test]
fn a_server_is_not_held_up_by_a_client_that_does_not_read() {
    alone(async {
        let place = Place::new();
        let listener = Listener::bind(place.path()).unwrap();
        let acceptor = echo::listen(listener);
        let (go_on, pause) = mpsc::channel::<()>();
        let (filled, full) = mpsc::channel();
        let path = place.path();
        // Has the server answer until it is stuck, and then does nothing.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let session = Session::connect_with(path, generous()).await.unwrap();
                let mut streams = Vec::new();
                for i in 0..100 {
                    let mut stream = session.open_stream().unwrap();
                    for _ in 0..3 {
                        echo::send(&mut stream, &pattern(SHORT, i), Flush::More).await;
                    }
                    stream.finish().await.unwrap();
                    streams.push(stream);
                }
                filled.send(()).unwrap();
                pause.recv().unwrap();
                for (i, mut stream) in streams.into_iter().enumerate() {
                    for _ in 0..3 {
                        let message = stream.recv().await.unwrap().unwrap();
                        assert!(echo::all(message) == pattern(SHORT, i), "stream {i}");
                    }
                    assert!(stream.recv().await.unwrap().is_none());
                }
            });
        });
        tokio::task::spawn_blocking(move || full.recv().unwrap())
            .await
            .unwrap();
        for _ in 0..3 {
            let session = Session::connect(place.path()).await.unwrap();
            for len in [64, 3000, 100_000, 1 << 20] {
                echo::call(&session, len).await;
            }
        }
        go_on.send(()).unwrap();
        let joining = tokio::task::spawn_blocking(|| thread.join().unwrap());
        in_time("the rest", joining).await.unwrap();
        acceptor.abort();
    });
}

#[test]
fn credit_is_waited_for() {
    alone(async {
        // One message at a time, or one byte, which a message may overdraw.
        for (messages, bytes) in [(1, 4 << 20), (100, 1)] {
            let window = config(|config| config.stream_window(messages, bytes));
            let pair = Pair::new(Config::default(), window).await;
            for len in [10, 5000] {
                let sender = send_all(pair.client.open_stream().unwrap(), len);
                let accepting = pair.server.accept_stream();
                let mut stream = in_time("a stream", accepting).await.unwrap();
                let sent = pair.client.stats().messages_sent;
                // The others on this session have credit of their own.
                let serving = echo::serve(pair.server.clone());
                for _ in 0..10 {
                    echo::call(&pair.client, 64).await;
                }
                serving.abort();
                let stats = pair.client.stats();
                assert_eq!(stats.messages_sent - sent, 10, "none without credit");
                assert!(!sender.is_finished());
                for i in 0..MESSAGES {
                    let message = in_time("a message", stream.recv()).await.unwrap();
                    assert!(echo::all(message.unwrap()) == pattern(len, i), "{i}");
                }
                in_time("the end", sender).await.unwrap();
                assert!(stream.recv().await.unwrap().is_none());
            }
        }
    });
}

#[test]
fn memory_is_waited_for() {
    const LEN: usize = 16 << 10;
    const BLOCKS: usize = 16;
    alone(async {
        let small = config(|config| config.memory_max((LEN * BLOCKS).try_into().unwrap()));
        let pair = Pair::new(small, generous()).await;
        let bystander = Pair::echoing().await;
        let sender = send_all(pair.client.open_stream().unwrap(), LEN);
        let mut stream = in_time("a stream", pair.server.accept_stream())
            .await
            .unwrap();
        let mut leases = std::collections::VecDeque::new();
        for i in 0..MESSAGES {
            if leases.len() == BLOCKS {
                let stats = pair.client.stats();
                assert_eq!(stats.segments_under_way as usize, BLOCKS, "message {i}");
                assert!(stream.try_recv().is_none(), "message {i}");
                echo::call(&bystander.client, LEN).await;
                // Each that comes back wakes the sender.
                leases.pop_front();
            }
            let mut message = in_time("a message", stream.recv()).await.unwrap().unwrap();
            let lease = message.copy_to_bytes(LEN);
            assert!(lease == pattern(LEN, i), "message {i}");
            leases.push_back(lease);
        }
        in_time("the end", sender).await.unwrap();
        assert!(pair.client.stats().arena_used_max <= (LEN * BLOCKS) as u64);
    });
}

/// Waiting ends with the session, too.
#[test]
fn a_sender_that_waits_hears_of_the_end() {
    alone(async {
        let sleeper = Sleeper::new(|session| async move { session.close() });
        let session = Session::connect(sleeper.place.path()).await.unwrap();
        let mut stream = session.open_stream().unwrap();
        let sender = tokio::spawn(async move {
            loop {
                let mut message = stream.buffer(SHORT);
                message.put_bytes(1, SHORT);
                if let Err(error) = stream.send(message, Flush::More).await {
                    return error;
                }
            }
        });
        ring_is_full(&session).await;
        assert!(!sender.is_finished());
        sleeper.wake();
        let error = in_time("the end", sender).await.unwrap();
        assert!(
            matches!(error, shmipc_transport::SendError::SessionLost(_)),
            "{error:?}"
        );
        sleeper.ends().await;
    });
}
