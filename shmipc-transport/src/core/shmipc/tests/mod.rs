//! What both sides see of each other's memory and messages, byte by byte, and what becomes of those that lie.
#![expect(clippy::cast_possible_truncation, reason = "lengths of a few bytes")]

mod conversations;
// Loom's atomics work inside of its models only.
#[cfg(not(shmipc_loom))]
mod hazards;
mod lists;
mod queues;
#[cfg(not(shmipc_loom))]
mod transcript;
#[cfg(not(shmipc_loom))]
mod vectors;

use std::sync::Arc;

use super::{ChainLimits, Geometry, Memory, Pool, QueueLayout, QueuePlan, Queues};
use crate::core::{
    num::index,
    sync::{AtomicU32, Ordering},
};

/// A region in private memory, which both sides of a test share.
#[derive(Clone, Debug)]
pub(super) struct TestMemory(Arc<Vec<AtomicU32>>);

impl TestMemory {
    pub(super) fn new(len: u32) -> Self {
        assert!(len.is_multiple_of(4));
        Self(Arc::new((0..len / 4).map(|_| AtomicU32::new(0)).collect()))
    }

    pub(super) fn set(&self, at: u32, value: u32) {
        self.word(at).store(value, Ordering::Release);
    }

    pub(super) fn get(&self, at: u32) -> u32 {
        self.word(at).load(Ordering::Acquire)
    }

    pub(super) fn copy_in(&self, at: u32, source: &[u8]) {
        for (at, byte) in (at..).zip(source) {
            let mut bytes = self.get(at / 4 * 4).to_le_bytes();
            bytes[index(at % 4)] = *byte;
            self.set(at / 4 * 4, u32::from_le_bytes(bytes));
        }
    }

    pub(super) fn append_to(&self, at: u32, len: u32, target: &mut Vec<u8>) {
        target.extend((at..at + len).map(|at| self.get(at / 4 * 4).to_le_bytes()[index(at % 4)]));
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let words = self.0.iter().map(|word| word.load(Ordering::Acquire));
        words.flat_map(u32::to_le_bytes).collect()
    }
}

impl Memory for TestMemory {
    fn len(&self) -> u32 {
        4 * self.0.len() as u32
    }

    fn word(&self, at: u32) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "{at} is not aligned");
        &self.0[index(at / 4)]
    }
}

/// More than any message here has.
pub(super) const LIMITS: ChainLimits = ChainLimits::of(1 << 20);

/// Two lists, of 3 slices of 16 bytes and 2 of 32: the reference's example.
#[cfg(not(shmipc_loom))]
pub(super) const SMALL: &[(u32, u32)] = &[(16, 50), (32, 50)];

/// Both sides of a fresh buffer region.
pub(super) fn pools(
    len: u32,
    slices: &[(u32, u32)],
) -> (TestMemory, Pool<TestMemory>, Pool<TestMemory>) {
    let memory = TestMemory::new(len);
    let creator = Pool::create(memory.clone(), Geometry::plan(len, slices).unwrap());
    let mapper = Pool::open(memory.clone()).unwrap();
    assert_eq!(creator.geometry(), mapper.geometry());
    (memory, creator, mapper)
}

/// Both sides of fresh queues.
pub(super) fn queues(
    cap: u32,
    layout: QueueLayout,
) -> (TestMemory, Queues<TestMemory>, Queues<TestMemory>) {
    let plan = QueuePlan::new(cap);
    let memory = TestMemory::new(plan.len());
    let creators = Queues::create(memory.clone(), plan, layout);
    let mappers = Queues::open(memory.clone(), layout).unwrap();
    (memory, creators, mappers)
}

/// Sends `message` through slices, as a sender does: what the element has to say.
pub(super) fn send(pool: &Pool<TestMemory>, message: &[u8]) -> Option<u32> {
    let mut slices = pool.take_for(message.len() as u32).unwrap()?;
    let mut rest = message;
    for (slice, written) in &mut slices {
        let (part, tail) = rest.split_at(rest.len().min(index(slice.capacity())));
        pool.memory().copy_in(slice.data(), part);
        *written = part.len() as u32;
        rest = tail;
    }
    assert!(rest.is_empty());
    Some(pool.link(slices))
}

/// Receives the message at `offset`, and gives its slices back.
pub(super) fn receive(pool: &Pool<TestMemory>, offset: u32) -> Vec<u8> {
    let chain = pool.follow(offset, LIMITS).unwrap();
    let mut message = Vec::new();
    for piece in &chain.pieces {
        let offset = piece.slice.data() + piece.start;
        pool.memory().append_to(offset, piece.len, &mut message);
    }
    pool.put_chain(chain).unwrap();
    message
}
