//! Messages as chains of slices: written by the sender, walked once by the receiver.

use smallvec::SmallVec;

use super::{
    InvalidShmipc, Memory, Pool, Slice, Slices,
    buffers::{HAS_NEXT, IN_USE, field},
};
use crate::core::{num::index, sync::Ordering};

/// A part of a message that has arrived: a slice, and the range of its data that counts.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) slice: Slice,
    /// Where the range begins in the slice's data.
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A slice that a message may take for so many bytes of the longest one.
const BYTES_PER_SLICE: u32 = 1 << 10;

/// The slices that any message may take.
const SLICES_MIN: u32 = 64;

/// How long a message may be, and in how many slices it may lie (H46).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ChainLimits {
    pub(super) bytes: u32,
    pub(super) slices: u32,
}

impl ChainLimits {
    /// Those of a session whose messages have at most so many bytes.
    pub(crate) const fn of(message_max: u32) -> Self {
        Self {
            bytes: message_max,
            slices: SLICES_MIN + message_max / BYTES_PER_SLICE,
        }
    }

    /// The longest message, in bytes.
    pub(crate) const fn bytes(self) -> u32 {
        self.bytes
    }

    /// Whether a message may lie in so many slices.
    pub(crate) fn allow(self, slices: usize) -> bool {
        slices <= index(self.slices)
    }
}

/// A message that has arrived. All of its slices are held by this side.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) pieces: SmallVec<[Piece; 1]>,
    /// In how many slices it came, with those without data.
    pub(crate) slices: u32,
}

impl Chain {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u32 {
        // No more than its limits say.
        self.pieces.iter().map(|piece| piece.len).sum()
    }
}

impl<M: Memory> Pool<M> {
    /// Links slices, each with the bytes that were written to it, and lets go of them. Returns what the element has to say: where
    /// the first one lies.
    ///
    /// Slices that were not written must have been [put](Pool::put) back before (H11).
    ///
    /// # Panics
    ///
    /// If there are none, or one is another pool's.
    pub(crate) fn link(&self, slices: Slices) -> u32 {
        let first = slices
            .first()
            .expect("a message has at least one slice")
            .0
            .at();
        let mut next = None;
        for (slice, size) in slices.into_iter().rev() {
            self.assert_own(&slice);
            let at = slice.at();
            let put = |field: u32, value: u32| {
                // Relaxed: the element is published with release, and read with acquire.
                self.memory()
                    .word(at + field)
                    .store(value, Ordering::Relaxed);
            };
            put(field::SLICE_SIZE, size);
            put(field::SLICE_START, 0);
            put(field::SLICE_NEXT, next.unwrap_or(0));
            put(
                field::SLICE_FLAGS,
                if next.is_some() {
                    HAS_NEXT | IN_USE
                } else {
                    IN_USE
                },
            );
            next = Some(self.release(slice));
        }
        first
    }

    /// Takes over the chain that begins at `first`. Slices without data are put back at its end.
    ///
    /// The walk is bounded: each slice is claimed until then, also one without data, and none can be claimed twice.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if anything in it is not what it should be, or it exceeds the limits. The session ends.
    pub(crate) fn follow(&self, first: u32, limits: ChainLimits) -> Result<Chain, InvalidShmipc> {
        let mut chain = Chain::default();
        let mut empty = Vec::new();
        let mut left = limits.bytes;
        let mut next = Some(first);
        while let Some(at) = next {
            if chain.slices == limits.slices {
                return Err(InvalidShmipc::MessageSlices { max: limits.slices });
            }
            chain.slices += 1;
            let slice = self.adopt(at)?;
            // Each word once. Relaxed: ordered by the acquire with which the element was found.
            let word = |field: u32| self.memory().word(at + field).load(Ordering::Relaxed);
            let (capacity, size, start) = (
                word(field::SLICE_CAPACITY),
                word(field::SLICE_SIZE),
                word(field::SLICE_START),
            );
            next = (word(field::SLICE_FLAGS) & HAS_NEXT != 0).then(|| word(field::SLICE_NEXT));
            let room = slice.capacity().checked_sub(start);
            if capacity != slice.capacity() || room.is_none_or(|room| room < size) {
                return Err(InvalidShmipc::SliceHeader {
                    offset: at,
                    capacity,
                    size,
                    start,
                });
            }
            left = left
                .checked_sub(size)
                .ok_or(InvalidShmipc::MessageLength { max: limits.bytes })?;
            if size == 0 {
                empty.push(slice);
                continue;
            }
            chain.pieces.push(Piece {
                slice,
                start,
                len: size,
            });
        }
        empty.into_iter().try_for_each(|slice| self.put(slice))?;
        Ok(chain)
    }

    /// Puts all slices of a chain back.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub(crate) fn put_chain(&self, chain: Chain) -> Result<(), InvalidShmipc> {
        let mut pieces = chain.pieces.into_iter();
        pieces.try_for_each(|piece| self.put(piece.slice))
    }
}
