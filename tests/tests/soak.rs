//! Nothing is lost, changed or overtaken.

use std::{collections::VecDeque, sync::LazyLock};

use bytes::{Buf, BufMut};
use shmipc_transport::{Config, Flush, RecvHalf, SendHalf, Session};
use tests::{
    alone,
    echo::{self, Pair},
    in_time,
};

const STREAMS: u64 = 8;
/// For each stream and direction.
const MESSAGES: u64 = 1250;
const LEN_MAX: usize = 2 << 20;
/// What a receiver keeps while it waits. All of them together must leave room for the longest message.
const LEASES_MAX: usize = 2;

/// Numbers that look random, and are the same each time.
#[derive(Clone, Copy)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    /// A length for which each order of magnitude is as likely as any other.
    fn len(&mut self) -> usize {
        let magnitude = self.next(LEN_MAX.ilog2() as usize + 1);
        self.next(2 << magnitude).min(LEN_MAX)
    }

    async fn pause(&mut self) {
        for _ in 0..self.next(4) {
            tokio::task::yield_now().await;
        }
    }
}

/// What messages are cut from; no two places look alike.
static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut numbers = Numbers(0);
    let words = (0..2 * LEN_MAX / 4).flat_map(|_| {
        let word = u32::try_from(numbers.next(1 << 31)).unwrap();
        word.to_ne_bytes()
    });
    words.collect()
});

/// The content of the next message.
fn content(numbers: &mut Numbers) -> &'static [u8] {
    let (len, at) = (numbers.len(), numbers.next(LEN_MAX));
    &TEXT[at..at + len]
}

async fn send_all(mut stream: SendHalf, mut numbers: Numbers) {
    let mut pauses = Numbers(numbers.0 + 1);
    for i in 1..=MESSAGES {
        let content = content(&mut numbers);
        let mut message = stream.buffer(content.len());
        message.put_slice(content);
        let flush = if i == MESSAGES {
            Flush::End
        } else {
            Flush::More
        };
        stream.send(message, flush).await.unwrap();
        pauses.pause().await;
    }
}

/// Compares what comes with what was sent. Some of it is kept for a while, as leases.
async fn receive_all(mut stream: RecvHalf, mut numbers: Numbers) {
    let (mut pauses, mut kept) = (Numbers(numbers.0 + 2), VecDeque::new());
    for i in 0..MESSAGES {
        let mut message = stream.recv().await.unwrap().expect("as many as were sent");
        let mut expected = content(&mut numbers);
        assert_eq!(message.len(), expected.len(), "message {i}");
        while message.has_remaining() {
            let len = message.chunk().len();
            let chunk = message.copy_to_bytes(len);
            let (head, rest) = expected.split_at(len);
            assert!(chunk == head, "message {i} was changed");
            expected = rest;
            kept.push_back((chunk, head));
        }
        while LEASES_MAX < kept.len() {
            let (chunk, sent) = kept.pop_front().unwrap();
            assert!(chunk == sent, "changed while it was held");
        }
        pauses.pause().await;
    }
    assert!(stream.recv().await.unwrap().is_none(), "no more than that");
}

/// Plays one side: opens half of the streams, and sends and receives on all of them.
async fn play(session: Session, side: u64) {
    let mut tasks = Vec::new();
    for i in 0..STREAMS {
        // The first message says which stream it is.
        let (stream, name) = if i % 2 == side {
            let mut stream = session.open_stream().unwrap();
            echo::send(&mut stream, &i.to_ne_bytes(), Flush::More).await;
            (stream, i)
        } else {
            let mut stream = session.accept_stream().await.unwrap();
            let mut name = stream.recv().await.unwrap().unwrap();
            (stream, name.get_u64_ne())
        };
        let numbers = |sender: u64| Numbers(1000 * (1 + sender) + 10 * name);
        let (send, receive) = stream.split();
        tasks.push(tokio::spawn(send_all(send, numbers(side))));
        tasks.push(tokio::spawn(receive_all(receive, numbers(1 - side))));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn messages_of_all_sizes_cross_each_other_on_many_streams() {
    alone(async {
        // Memory that runs out now and then.
        let config = Config::builder()
            .memory_max(48 << 20)
            .stream_window(64, 16 << 20)
            .build()
            .unwrap();
        let pair = Pair::new(config.clone(), config).await;
        let sides = [
            tokio::spawn(play(pair.client.clone(), 0)),
            tokio::spawn(play(pair.server.clone(), 1)),
        ];
        for side in sides {
            in_time("one side", side).await.unwrap();
        }
        for session in [&pair.client, &pair.server] {
            let stats = session.stats();
            let all = STREAMS * MESSAGES + STREAMS / 2;
            assert_eq!((stats.messages_sent, stats.messages_received), (all, all));
            assert_eq!(stats.streams_open, 0);
        }
    });
}
