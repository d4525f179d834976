//! One direction of a session: a single-producer, single-consumer ring of records between two processes.
//!
//! # How a record is published
//!
//! The producer's cursor `tail` is private. A record at cursor `t` is *published* when its first word, which is zero
//! until then, becomes something else:
//!
//! ```text
//!        consumed │ published │ reserved  │ reserved, published │ free
//!  ───────────────┼───────────┼───────────┼─────────────────────┼──────────
//!                 │ word ≠ 0  │ word = 0  │ word ≠ 0            │ word = 0
//!                 head        ▲ the consumer stops here         tail
//! ```
//!
//! 1. *Reserve*: see to it that the first word of the record **after** this one is zero, then advance `tail`. So whenever a
//!    record appears, the word behind it is already zero, and the consumer never takes stale bytes of an earlier lap for a
//!    record. The producer zeroes some way ahead, which fetches the cache lines of the next records from the consumer's CPU all at
//!    once, instead of one by one while each record is written.
//! 2. *Write* the body, without any lock: the range belongs to whoever reserved it.
//! 3. *Commit*: store the first word with `Release`.
//!
//! Reservations may be committed in any order; the consumer meets them in the order of the ring. A reservation that is
//! given up is committed as a pad, so nothing is ever stuck behind it.
//!
//! A record never wraps: where the rest of the ring is too short, a pad fills it.
//!
//! # Orderings
//!
//! Commit: `word.store(Release)` → `word.load(Relaxed)`, `fence(Acquire)`. Space: `head.store(Release)` →
//! `head.load(Relaxed)`, `fence(Acquire)`. Loads of the peer's words are `Relaxed` because its pages are read-only to us,
//! where `std` promises no more. The doorbell's fences are in `sleep`.

use super::record::{InvalidRecord, Kind, RECORD_BODY_MAX, RecordHead};
use crate::core::{
    num::{Capacity, StreamId},
    sync::{AtomicU32, Ordering, fence},
};

/// Bytes that are zeroed beyond the record that is reserved, if they are free. Loom sees each word, so there is but one there.
const ZEROED_AHEAD: u32 = if cfg!(shmipc_loom) { 4 } else { 1024 };

/// The bytes of our own ring.
pub(crate) trait WriteRing {
    /// The word at `at`, a multiple of four below the capacity.
    fn word(&self, at: u32) -> &AtomicU32;
    /// Writes `bytes` at `at`.
    fn write(&self, at: u32, bytes: &[u8]);
    /// Writes `len` zeroes at `at`, where nobody but the producer has any business.
    fn zero(&self, at: u32, len: u32);
}

/// The bytes of the peer's ring.
pub(crate) trait ReadRing {
    /// Loads the word at `at` with `Relaxed`.
    fn load(&self, at: u32) -> u32;
    /// Copies the bytes at `at` out.
    fn read(&self, at: u32, target: &mut [u8]);
}

/// The peer says that it consumed what was never produced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it claims to have consumed up to {head}, but nothing beyond {tail} was produced")]
pub struct HeadOverrun {
    /// The peer's claim.
    pub head: u32,
    /// Our own cursor.
    pub tail: u32,
}

/// A reserved record: its place in the ring, to be filled and committed.
///
/// Not `Clone`: whoever holds it is the only one who may write there.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a reservation that is never committed blocks the ring"]
pub(crate) struct Slot {
    /// Where the head lies.
    at: u32,
    /// Bytes of the body.
    body_len: u32,
}

impl Slot {
    /// Where the body lies.
    pub(crate) fn body(&self) -> u32 {
        self.at + super::record::HEAD_LEN
    }

    /// The length of the body in bytes.
    pub(crate) fn body_len(&self) -> u32 {
        self.body_len
    }

    /// Publishes the record (O5).
    pub(crate) fn commit(self, ring: &impl WriteRing, head: &RecordHead) {
        debug_assert_eq!(
            head.body_len, self.body_len,
            "a slot is committed with the length it was reserved for"
        );
        ring.write(self.at + 4, &head.rest());
        // Release: pairs with the Acquire fence in `Consumer::peek`, so that the body is there before the word is.
        ring.word(self.at)
            .store(head.first_word(), Ordering::Release);
    }

    /// Gives the record up. The consumer passes over it.
    pub(crate) fn abandon(self, ring: &impl WriteRing) {
        let head = RecordHead::control(Kind::Pad, StreamId(0), self.body_len);
        self.commit(ring, &head);
    }
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Producer {
    capacity: Capacity,
    /// Where the next record goes. Ours alone.
    tail: u32,
    /// The consumer's cursor when we last looked.
    head_seen: u32,
    /// Bytes at `tail` and beyond that are zero.
    zeroed: u32,
}

impl Producer {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self::starting_at(capacity, 0)
    }

    fn starting_at(capacity: Capacity, cursor: u32) -> Self {
        Self {
            capacity,
            tail: cursor,
            head_seen: cursor,
            zeroed: 0,
        }
    }

    /// Bytes that are neither consumed nor free.
    pub(crate) fn fill(&self) -> u32 {
        self.tail.wrapping_sub(self.head_seen)
    }

    /// Looks at the consumer's cursor again. Returns whether it moved.
    ///
    /// # Errors
    ///
    /// Returns [`HeadOverrun`] if the cursor is one that the consumer cannot have (O14).
    pub(crate) fn refresh(&mut self, head: &AtomicU32) -> Result<bool, HeadOverrun> {
        let claimed = head.load(Ordering::Relaxed);
        // Acquire: pairs with the Release in `Consumer::announce`. The consumer has read what we are about to overwrite.
        fence(Ordering::Acquire);
        let consumed = claimed.wrapping_sub(self.head_seen);
        if self.fill() < consumed {
            return Err(HeadOverrun {
                head: claimed,
                tail: self.tail,
            });
        }
        self.head_seen = claimed;
        Ok(consumed != 0)
    }

    /// Reserves a record, if there is room for it as far as we know.
    // Inlined, so that the slot does not go through memory: it would have to wait there for the zeroes before it.
    #[inline]
    pub(crate) fn reserve(&mut self, ring: &impl WriteRing, body_len: u32) -> Option<Slot> {
        debug_assert!(
            body_len <= RECORD_BODY_MAX,
            "bodies are bounded when they are composed"
        );
        let stride = RecordHead::stride(body_len);
        let to_end = self.capacity.get() - self.capacity.slot(self.tail);
        let pad = if to_end < stride { to_end } else { 0 };
        // One head more: the word that must be zero behind this record.
        let needed = pad + stride + super::record::HEAD_LEN;
        if self.capacity.get() - self.fill() < needed {
            return None;
        }
        let at = self.capacity.slot(self.tail.wrapping_add(pad));
        let tail = self.tail;
        self.tail = tail.wrapping_add(pad + stride);
        self.zeroed = self.zeroed.saturating_sub(pad + stride);
        // The Release of this record's commit (or of the pad's, below) orders these before what it publishes.
        if self.zeroed == 0 {
            self.zero_ahead(ring);
        }
        if pad != 0 {
            ring.word(at).store(0, Ordering::Relaxed);
            let slot = Slot {
                at: self.capacity.slot(tail),
                body_len: pad - super::record::HEAD_LEN,
            };
            slot.abandon(ring);
        }
        Some(Slot { at, body_len })
    }

    /// Zeroes what lies at `tail`, and what is free beyond, as far as is worth it.
    fn zero_ahead(&mut self, ring: &impl WriteRing) {
        let at = self.capacity.slot(self.tail);
        let free = self.capacity.get() - self.fill();
        let to_end = self.capacity.get() - at;
        self.zeroed = ZEROED_AHEAD.min(free).min(to_end);
        ring.zero(at, self.zeroed);
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Consumer {
    capacity: Capacity,
    /// The next record to take. Ours alone; what we announce is never read back.
    head: u32,
    announced: u32,
}

impl Consumer {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self::starting_at(capacity, 0)
    }

    fn starting_at(capacity: Capacity, cursor: u32) -> Self {
        Self {
            capacity,
            head: cursor,
            announced: cursor,
        }
    }

    /// Whether a record is waiting. The cheapest look there is: one load.
    pub(crate) fn is_ready(&self, ring: &impl ReadRing) -> bool {
        ring.load(self.capacity.slot(self.head)) != 0
    }

    /// Reads the head of the next record and where its body lies; the record stays until [`consume`](Self::consume).
    ///
    /// # Errors
    ///
    /// Returns [`InvalidRecord`] if it is none (O6).
    pub(crate) fn peek(
        &self,
        ring: &impl ReadRing,
    ) -> Result<Option<(RecordHead, u32)>, InvalidRecord> {
        let at = self.capacity.slot(self.head);
        let first_word = ring.load(at);
        if first_word == 0 {
            return Ok(None);
        }
        // Acquire: pairs with the Release in `Slot::commit`.
        fence(Ordering::Acquire);
        let (_, body_len) = RecordHead::decode_first(first_word)?;
        // Bounded by 2²⁴ + 16, so nothing wraps. A record never runs over the end of the ring.
        if self.capacity.get() - at < RecordHead::stride(body_len) {
            return Err(InvalidRecord::Length(body_len));
        }
        let mut rest = [0; 12];
        ring.read(at + 4, &mut rest);
        let head = RecordHead::decode(first_word, rest)?;
        Ok(Some((head, at + super::record::HEAD_LEN)))
    }

    /// Passes over the record that `peek` returned.
    pub(crate) fn consume(&mut self, head: &RecordHead) {
        self.head = self.head.wrapping_add(RecordHead::stride(head.body_len));
    }

    /// Whether enough has been consumed that the producer should hear of it before the ring is drained.
    pub(crate) fn is_announcement_due(&self) -> bool {
        self.capacity.get() / 4 <= self.head.wrapping_sub(self.announced)
    }

    /// Tells the producer how far we are. Returns whether that is news.
    pub(crate) fn announce(&mut self, head: &AtomicU32) -> bool {
        if self.announced == self.head {
            return false;
        }
        self.announced = self.head;
        // Release: pairs with the Acquire fence in `Producer::refresh`. We have read what the producer may overwrite.
        head.store(self.head, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
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
            }
            while let Some(expected) = oracle.pop_front() {
                prop_assert_eq!(pop(&mut consumer, &ring), Some(expected));
            }
            prop_assert_eq!(pop(&mut consumer, &ring), None);
        }
    }
}
