use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::core::{
    num::index,
    outbox::{Bell, SleepWord, record::flags},
    sync::{model, thread},
};

/// A ring in ordinary (or loom's) memory, seen from both ends.
struct TestRing {
    words: Vec<AtomicU32>,
    head: AtomicU32,
}

impl TestRing {
    fn new(len: u32, cursor: u32) -> Self {
        Self {
            words: (0..len / 4).map(|_| AtomicU32::new(0)).collect(),
            head: AtomicU32::new(cursor),
        }
    }
}

impl WriteRing for TestRing {
    fn word(&self, at: u32) -> &AtomicU32 {
        &self.words[index(at / 4)]
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.words[index(at / 4) + i].store(u32::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    fn zero(&self, at: u32, len: u32) {
        for word in &self.words[index(at / 4)..index((at + len) / 4)] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl ReadRing for TestRing {
    fn load(&self, at: u32) -> u32 {
        self.words[index(at / 4)].load(Ordering::Relaxed)
    }

    fn read(&self, at: u32, target: &mut [u8]) {
        for (i, chunk) in target.chunks_mut(4).enumerate() {
            let word = self.words[index(at / 4) + i]
                .load(Ordering::Relaxed)
                .to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn head_of(value: u32, body_len: u32) -> RecordHead {
    RecordHead {
        kind: Kind::Data,
        body_len,
        flags: flags::MESSAGE,
        segments: 0,
        stream: StreamId(u64::from(value)),
    }
}

fn push(producer: &mut Producer, ring: &TestRing, value: u32, body_len: u32) -> bool {
    if producer
        .reserve(ring, body_len)
        .is_none_or(|slot| fill(ring, slot, value))
    {
        return producer.refresh(&ring.head).unwrap()
            && producer
                .reserve(ring, body_len)
                .map(|slot| fill(ring, slot, value))
                .is_some();
    }
    true
}

/// Writes and commits; `false` so that it can stand where "is full" is asked.
fn fill(ring: &TestRing, slot: Slot, value: u32) -> bool {
    for i in 0..slot.body_len / 4 {
        ring.write(slot.body() + 4 * i, &value.to_ne_bytes());
    }
    let head = head_of(value, slot.body_len);
    slot.commit(ring, &head);
    false
}

fn pop(consumer: &mut Consumer, ring: &TestRing) -> Option<(u32, u32)> {
    loop {
        let (head, body) = consumer.peek(ring).unwrap()?;
        let value = u32::try_from(head.stream.0).unwrap();
        if head.kind == Kind::Data {
            for i in 0..head.body_len / 4 {
                assert_eq!(
                    ring.load(body + 4 * i),
                    value,
                    "the body is there before the head is"
                );
            }
        }
        consumer.consume(&head);
        consumer.announce(&ring.head);
        if head.kind == Kind::Data {
            return Some((value, head.body_len));
        }
    }
}

#[test]
fn two_threads_see_every_record_in_order() {
    // Three records of 32 bytes in a ring of 80: the third has to wait for space, and one of them meets the end.
    const COUNT: u32 = 3;
    model(|| {
        let start = u32::MAX - 63;
        let ring = Arc::new(TestRing::new(128, start));
        let mut producer = Producer::starting_at(Capacity::new(128).unwrap(), start);
        let mut consumer = Consumer::starting_at(Capacity::new(128).unwrap(), start);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                for value in 1..=COUNT {
                    while !push(&mut producer, &ring, value, 16) {
                        thread::yield_now();
                    }
                }
            })
        };
        for value in 1..=COUNT {
            let popped = loop {
                if let Some(popped) = pop(&mut consumer, &ring) {
                    break popped;
                }
                thread::yield_now();
            };
            assert_eq!(popped, (value, 16));
        }
        writer.join().unwrap();
    });
}

/// What a side sleeps on. If nobody rings, the scenario never ends, which loom reports.
#[derive(Default)]
struct Doorbell {
    rung: thread::Mutex<bool>,
    wake: thread::Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.wake.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[test]
fn no_record_is_slept_through() {
    const COUNT: u32 = 2;
    model(|| {
        let ring = Arc::new(TestRing::new(128, 0));
        let word = Arc::new(AtomicU32::new(0));
        let doorbell = Arc::new(Doorbell::default());
        let writer = {
            let (ring, word) = (Arc::clone(&ring), Arc::clone(&word));
            let doorbell = Arc::clone(&doorbell);
            thread::spawn(move || {
                let mut producer = Producer::new(Capacity::new(128).unwrap());
                let bell = Bell::default();
                for value in 1..=COUNT {
                    assert!(push(&mut producer, &ring, value, 0));
                    Bell::fence();
                    if bell.must_ring(word.load(Ordering::Relaxed)) {
                        doorbell.ring();
                    }
                }
            })
        };
        let mut consumer = Consumer::new(Capacity::new(128).unwrap());
        let mut sleep = SleepWord::default();
        for value in 1..=COUNT {
            let popped = loop {
                if let Some(popped) = pop(&mut consumer, &ring) {
                    break popped;
                }
                sleep.arm(&word);
                if !consumer.is_ready(&*ring) {
                    doorbell.sleep();
                }
                sleep.disarm(&word);
            };
            assert_eq!(popped, (value, 0));
        }
        writer.join().unwrap();
    });
}

#[test]
fn no_space_is_starved_for() {
    model(|| {
        // Room for two records and a head.
        let ring = Arc::new(TestRing::new(64, 0));
        let word = Arc::new(AtomicU32::new(0));
        let doorbell = Arc::new(Doorbell::default());
        let mut producer = Producer::new(Capacity::new(64).unwrap());
        assert!(push(&mut producer, &ring, 1, 16));
        let reader = {
            let (ring, word) = (Arc::clone(&ring), Arc::clone(&word));
            let doorbell = Arc::clone(&doorbell);
            thread::spawn(move || {
                let mut consumer = Consumer::new(Capacity::new(64).unwrap());
                assert_eq!(pop(&mut consumer, &ring), Some((1, 16)));
                Bell::fence();
                if Bell::default().must_ring(word.load(Ordering::Relaxed)) {
                    doorbell.ring();
                }
            })
        };
        let mut starved = SleepWord::default();
        while !push(&mut producer, &ring, 2, 16) {
            starved.arm(&word);
            if !producer.refresh(&ring.head).unwrap() {
                doorbell.sleep();
            }
            starved.disarm(&word);
        }
        reader.join().unwrap();
    });
}

#[test]
fn reservations_are_met_in_the_order_of_the_ring() {
    model(|| {
        let ring = TestRing::new(256, 0);
        let mut producer = Producer::new(Capacity::new(256).unwrap());
        let mut consumer = Consumer::new(Capacity::new(256).unwrap());
        let first = producer.reserve(&ring, 4).unwrap();
        let second = producer.reserve(&ring, 4).unwrap();
        let third = producer.reserve(&ring, 4).unwrap();
        fill(&ring, third, 3);
        assert_eq!(
            pop(&mut consumer, &ring),
            None,
            "the first is not there yet"
        );
        second.abandon(&ring);
        fill(&ring, first, 1);
        assert_eq!(pop(&mut consumer, &ring), Some((1, 4)));
        assert_eq!(
            pop(&mut consumer, &ring),
            Some((3, 4)),
            "the second was given up"
        );
    });
}

#[test]
fn a_consumer_that_claims_too_much_is_caught() {
    model(|| {
        let ring = TestRing::new(256, 0);
        let mut producer = Producer::new(Capacity::new(256).unwrap());
        let slot = producer.reserve(&ring, 4).unwrap();
        slot.abandon(&ring);
        ring.head.store(48, Ordering::Relaxed);
        assert_eq!(
            producer.refresh(&ring.head),
            Err(HeadOverrun { head: 48, tail: 32 })
        );
    });
}

#[test]
fn a_record_over_the_end_is_caught() {
    model(|| {
        let ring = TestRing::new(256, 0);
        let consumer = Consumer::new(Capacity::new(256).unwrap());
        ring.word(0)
            .store((Kind::Data as u32) << 24 | 250, Ordering::Relaxed);
        assert_eq!(consumer.peek(&ring), Err(InvalidRecord::Length(250)));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(shmipc_loom) { 0 } else { 256 }, ..Default::default() })]

    /// The oracle is a queue with the ring's arithmetic of space.
    #[test]
    fn ring_behaves_like_a_bounded_queue(start in u32::MAX / 16 - 32.., ops: Vec<Option<u8>>) {
        let start = start.wrapping_mul(16);
        let ring = TestRing::new(512, start);
        let mut producer = Producer::starting_at(Capacity::new(512).unwrap(), start);
        let mut consumer = Consumer::starting_at(Capacity::new(512).unwrap(), start);
        let mut oracle = VecDeque::new();
        for (value, op) in (0u32..).zip(ops) {
            match op {
                Some(len) => {
                    let len = u32::from(len) % 200 / 4 * 4;
                    let accepted = push(&mut producer, &ring, value, len);
                    prop_assert!(accepted || !oracle.is_empty(), "an empty ring takes any record of which two and a head fit");
                    if accepted {
                        oracle.push_back((value, len));
                    }
                }
                None => prop_assert_eq!(pop(&mut consumer, &ring), oracle.pop_front()),
            }
            if value % 3 == 0 {
                producer.prepare(&ring);
            }
        }
        while let Some(expected) = oracle.pop_front() {
            prop_assert_eq!(pop(&mut consumer, &ring), Some(expected));
        }
        prop_assert_eq!(pop(&mut consumer, &ring), None);
    }
}

/// A ring of which it is known what was zeroed.
#[cfg(not(shmipc_loom))]
struct Watched {
    ring: TestRing,
    zeroed: std::cell::RefCell<Vec<std::ops::Range<u32>>>,
}

#[cfg(not(shmipc_loom))]
impl WriteRing for Watched {
    fn word(&self, at: u32) -> &AtomicU32 {
        self.ring.word(at)
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        self.ring.write(at, bytes);
    }

    fn zero(&self, at: u32, len: u32) {
        self.zeroed.borrow_mut().push(at..at + len);
        self.ring.zero(at, len);
    }
}

#[cfg(not(shmipc_loom))] // Which sees each word, and zeroes but one.
#[test]
fn what_is_prepared_lies_behind_the_word_that_the_consumer_looks_at() {
    let ring = Watched {
        ring: TestRing::new(4096, 0),
        zeroed: Vec::new().into(),
    };
    let mut producer = Producer::new(Capacity::new(4096).unwrap());
    let mut consumer = Consumer::new(Capacity::new(4096).unwrap());
    let mut prepared = 0;
    for value in 0..1000 {
        let slot = producer.reserve(&ring, 48).unwrap();
        ring.zeroed.take();
        fill(&ring.ring, slot, value);
        producer.prepare(&ring);
        let looks_at = producer.tail() % 4096;
        for range in ring.zeroed.take() {
            assert!(!range.contains(&looks_at), "{range:?} at {looks_at}");
            prepared += 1;
        }
        assert!(!producer.is_low());
        assert_eq!(pop(&mut consumer, &ring.ring), Some((value, 48)));
        producer.refresh(&ring.ring.head).unwrap();
    }
    assert_ne!(prepared, 0);
}

#[cfg(not(shmipc_loom))] // As above.
#[test]
fn little_is_zeroed_of_what_long_records_overwrite() {
    let ring = Watched {
        ring: TestRing::new(4096, 0),
        zeroed: Vec::new().into(),
    };
    let mut producer = Producer::new(Capacity::new(4096).unwrap());
    let mut consumer = Consumer::new(Capacity::new(4096).unwrap());
    let mut push = |body_len, value| {
        let slot = producer.reserve(&ring, body_len).unwrap();
        fill(&ring.ring, slot, value);
        producer.prepare(&ring);
        assert_eq!(pop(&mut consumer, &ring.ring), Some((value, body_len)));
        producer.refresh(&ring.ring.head).unwrap();
        ring.zeroed.take().iter().map(ExactSizeIterator::len).sum()
    };
    let zeroed: Vec<usize> = (0..100).map(|value| push(1024, value)).collect();
    assert!(zeroed.iter().all(|bytes| (4..=64).contains(bytes)));
    // Short ones in between have enough.
    for value in 0..100 {
        let zeroed: usize = push(if value % 3 == 0 { 700 } else { 32 }, value);
        assert!(zeroed <= 1024);
    }
}

#[test]
fn a_look_finds_how_full_the_ring_is_and_learns_nothing() {
    model(|| {
        let ring = TestRing::new(256, 0);
        let mut producer = Producer::new(Capacity::new(256).unwrap());
        let mut consumer = Consumer::new(Capacity::new(256).unwrap());
        for value in 1..=3 {
            assert!(push(&mut producer, &ring, value, 16));
        }
        assert_eq!(producer.look(&ring.head), 96);
        assert_eq!(
            Backlog::at(Capacity::new(256).unwrap(), &ring, 0),
            Backlog {
                bytes: 96,
                records: 3
            }
        );
        pop(&mut consumer, &ring).unwrap();
        assert_eq!(consumer.backlog(&ring).records, 2);
        assert_eq!(producer.look(&ring.head), 64);
        assert_eq!(
            (producer.fill(), producer.fill_max(), producer.records()),
            (96, 96, 3)
        );
        assert!(
            producer.refresh(&ring.head).unwrap(),
            "the progress is there to be seen"
        );
        // A cursor that cannot be is somebody else's to report.
        ring.head.store(1000, Ordering::Relaxed);
        assert_eq!(producer.look(&ring.head), 64);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(shmipc_loom) { 0 } else { 256 }, ..Default::default() })]

    /// Whatever lies in a peer's ring, looking at it ends, and finds no more than there can be.
    #[test]
    fn a_backlog_of_anything_is_bounded(
        words in proptest::collection::vec(prop_oneof![Just(0), any::<u32>(), 0x0100_0000_u32..0x0a00_0100], 64),
        head: u32,
    ) {
        let ring = TestRing {
            words: words.into_iter().map(AtomicU32::new).collect(),
            head: AtomicU32::new(0),
        };
        let head = head / 16 * 16;
        let backlog = Backlog::at(Capacity::new(256).unwrap(), &ring, head);
        prop_assert!(backlog.bytes <= 256 && backlog.records <= 16);
    }
}
