//! The slices of a buffer region: taking them out of the free lists, putting them back, and knowing which are ours.
//!
//! # The free lists
//!
//! A list is first in, first out. Taking moves `head` to the successor of the first slice by compare-and-swap; putting back swaps
//! `tail` for the slice and *then* links the former tail to it. So the last slice is never handed out, and between the two steps of
//! putting back the list is cut in two. That algorithm is the protocol's, and so are its hazards; here they are contained:
//!
//! - *ABA* (H1): between reading the head's successor and swapping the head, the whole list may have gone round. What is taken is
//!   checked afterwards against the claims; a slice that this side holds already ends the session, instead of being written twice. The
//!   window is kept short, and a successor that is no slice of the list is never installed.
//! - *A cut list* (H2), *a count that lies* (H3): attempts are bounded, and failing is only a lack of memory.
//! - *Forged words* (H24, V4): every offset is checked to be a slice of its list before it is followed.

use smallvec::{SmallVec, smallvec};

use super::{
    Geometry, InvalidShmipc, Memory,
    buffers::{HAS_NEXT, IN_USE, LIST_LEN, List, SLICE_LEN, field},
    spares::Spares,
};
use crate::core::{
    num::{index, u32_len},
    sync::{AtomicU32, Ordering},
};

/// How often taking a slice is tried while others interfere: as often as other implementations do.
const TAKES_MAX: u32 = if cfg!(shmipc_loom) { 2 } else { 200 };

/// How often putting a slice back is tried. Each failure is somebody else's success, so an honest peer never gets there.
const PUTS_MAX: u32 = if cfg!(shmipc_loom) { 8 } else { 100_000 };

/// Which of the two words of a list's balance is ours (H9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// We made the region.
    Creator,
    /// We mapped it.
    Mapper,
}

/// A slice that this side holds. Whoever has it may read and write its data, and must put it back or send it.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a slice that is neither put back nor sent is lost"]
pub(crate) struct Slice {
    /// Where its header lies.
    at: u32,
    list: u32,
    /// Its number among all.
    number: u32,
    capacity: u32,
    /// The name of its pool.
    pool: usize,
}

impl Slice {
    /// Where its header lies in the region.
    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// Where its data lies in the region.
    pub(crate) fn data(&self) -> u32 {
        self.at + SLICE_LEN
    }

    /// Bytes of data that it can hold.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The number of its list.
    pub(crate) fn list(&self) -> usize {
        index(self.list)
    }
}

/// Slices for a message, each with how many bytes were written to it. Most messages lie in one.
pub(crate) type Slices = SmallVec<[(Slice, u32); 1]>;

/// The slices of a region.
#[derive(Debug)]
pub(crate) struct Pool<M> {
    memory: M,
    geometry: Geometry,
    side: Side,
    /// One bit per slice: set while this side holds it.
    claims: Box<[AtomicU32]>,
    /// Slices that are held for the next messages.
    spares: Spares,
}

impl<M: Memory> Pool<M> {
    /// Lays out a region that is zero.
    pub(crate) fn create(memory: M, geometry: Geometry) -> Self {
        geometry.write(&memory);
        Self::new(memory, geometry, Side::Creator)
    }

    /// Takes over a region that the peer has laid out.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if the layout is impossible.
    pub(crate) fn open(memory: M) -> Result<Self, InvalidShmipc> {
        let geometry = Geometry::read(&memory)?;
        Ok(Self::new(memory, geometry, Side::Mapper))
    }

    fn new(memory: M, geometry: Geometry, side: Side) -> Self {
        let words = geometry.slices().div_ceil(32);
        Self {
            spares: Spares::new(geometry.lists()),
            claims: (0..words).map(|_| AtomicU32::new(0)).collect(),
            memory,
            geometry,
            side,
        }
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A name that no other pool has for as long as this one exists.
    fn name(&self) -> usize {
        self.claims.as_ptr().addr()
    }

    /// # Panics
    ///
    /// If this pool has neither handed out the slice nor taken it over.
    pub(super) fn assert_own(&self, slice: &Slice) {
        assert_eq!(slice.pool, self.name(), "a slice of another pool");
    }

    /// Slices of a list that seem to be free for taking. A hint: the word is the peer's as well (H3).
    pub(crate) fn available(&self, list: usize) -> u32 {
        let List { header, count, .. } = self.geometry.lists()[list];
        let size = self
            .memory
            .word(header + field::SIZE)
            .load(Ordering::Relaxed);
        // Signed: it is less than none for a moment where two take of a list that is used up. And never more than there are.
        let size = size.cast_signed().max(0).cast_unsigned().min(count);
        size.saturating_sub(1)
    }

    /// Whether this side holds a slice of a list.
    pub(super) fn holds(&self, list: usize, slice: u32) -> bool {
        let first = self.geometry.lists()[list].slice(0);
        first.is_some_and(|first| {
            let (word, bit) = self.claim_of(first + slice);
            word.load(Ordering::Relaxed) & bit != 0
        })
    }

    /// Slices that this side holds at the moment, but for those that it keeps to be used again.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let count = |word: &AtomicU32| index(word.load(Ordering::Relaxed).count_ones());
        let held: usize = self.claims.iter().map(count).sum();
        held.saturating_sub(self.spares.count())
    }

    /// Takes a slice out of a list; `None` if there is none to be had.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if the list is forged, or handed out what this side holds.
    pub(crate) fn take(&self, list: usize) -> Result<Option<Slice>, InvalidShmipc> {
        let header = self.geometry.lists()[list].header;
        let size = self.memory.word(header + field::SIZE);
        // What is left must be at least one.
        if size.fetch_sub(1, Ordering::AcqRel).cast_signed() <= 1 {
            size.fetch_add(1, Ordering::AcqRel);
            return Ok(None);
        }
        let taken = self.unlink_first(list);
        match taken {
            Ok(Some(_)) => self.balance(list).fetch_add(1, Ordering::Relaxed),
            _ => size.fetch_add(1, Ordering::AcqRel),
        };
        taken
    }

    fn unlink_first(&self, number: usize) -> Result<Option<Slice>, InvalidShmipc> {
        let list = &self.geometry.lists()[number];
        let head = self.memory.word(list.header + field::HEAD);
        for attempt in 0..TAKES_MAX {
            let first = head.load(Ordering::Acquire);
            let Some(slice) = list.slice(first) else {
                return Err(InvalidShmipc::ListCursor {
                    list: u32_len(number),
                    offset: first,
                });
            };
            let at = list.first + first;
            // Acquire: pairs with the release in `link_last`, so that the successor is there when the flag is (H4).
            let flags = self
                .memory
                .word(at + field::SLICE_FLAGS)
                .load(Ordering::Acquire);
            let next = self
                .memory
                .word(at + field::SLICE_NEXT)
                .load(Ordering::Acquire);
            // Without a successor, it is the last, or somebody is about to link one. If it is in use, or its successor no
            // slice of this list, somebody has taken it in the meantime and made it part of a chain.
            let is_free = flags & (HAS_NEXT | IN_USE) == HAS_NEXT;
            if !is_free || list.slice(next).is_none() || next == first {
                relax(attempt);
                continue;
            }
            if head
                .compare_exchange(first, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            let slice = self.claim(number, slice, at)?;
            self.memory
                .word(at + field::SLICE_FLAGS)
                .store(IN_USE, Ordering::Release);
            return Ok(Some(slice));
        }
        Ok(None)
    }

    /// Puts a slice back.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if the list is forged. The slice is lost then, and so is the session.
    ///
    /// # Panics
    ///
    /// If it is a slice of another pool.
    pub(crate) fn put(&self, slice: Slice) -> Result<(), InvalidShmipc> {
        self.assert_own(&slice);
        let list = slice.list();
        let header = self.geometry.lists()[list].header;
        let word = |at: u32| self.memory.word(slice.at + at);
        word(field::SLICE_SIZE).store(0, Ordering::Relaxed);
        word(field::SLICE_START).store(0, Ordering::Relaxed);
        word(field::SLICE_NEXT).store(0, Ordering::Relaxed);
        // Release: whoever takes the slice, some time, finds the words above reset.
        word(field::SLICE_FLAGS).store(0, Ordering::Release);
        // Before anybody can take it.
        let at = self.release(slice);
        self.link_last(list, at)?;
        self.memory
            .word(header + field::SIZE)
            .fetch_add(1, Ordering::AcqRel);
        self.balance(list).fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps a slice for a message of this side's, or puts it back.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub(crate) fn recycle(&self, slice: Slice) -> Result<(), InvalidShmipc> {
        let list = slice.list();
        let is_mostly_free = || self.geometry.lists()[list].count / 2 < self.available(list);
        match self.spares.keep(list, slice, is_mostly_free) {
            Ok(()) => Ok(()),
            Err(slice) => self.put(slice),
        }
    }

    /// Keeps many slices for the next messages from now on: the caller is awake, and will [`trim`](Self::trim) before it sleeps.
    pub(crate) fn wake(&self) {
        self.spares.wake();
    }

    /// Puts back what is kept for the next messages, but for a few: this side is going to sleep, and does not know for how long.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub(crate) fn trim(&self) -> Result<(), InvalidShmipc> {
        let mut surplus = self.spares.trim().into_iter();
        surplus.try_for_each(|slice| self.put(slice))
    }

    /// Puts back what is kept for the next messages: there are none. From now on nothing is kept (H17).
    pub(crate) fn retire(&self) {
        // Whether the lists are in order is for those to find out who go on using them.
        let _ = self
            .spares
            .close()
            .into_iter()
            .try_for_each(|slice| self.put(slice));
    }

    /// Links the slice at `at` behind the last of its list.
    fn link_last(&self, number: usize, at: u32) -> Result<(), InvalidShmipc> {
        let list = &self.geometry.lists()[number];
        let relative = at - list.first;
        let tail = self.memory.word(list.header + field::TAIL);
        let mut last = tail.load(Ordering::Acquire);
        for _ in 0..PUTS_MAX {
            if list.slice(last).is_none() || last == relative {
                return Err(InvalidShmipc::ListCursor {
                    list: u32_len(number),
                    offset: last,
                });
            }
            match tail.compare_exchange(last, relative, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let former = list.first + last;
                    self.memory
                        .word(former + field::SLICE_NEXT)
                        .store(relative, Ordering::Release);
                    // Release: pairs with the acquire in `unlink_first`.
                    self.memory
                        .word(former + field::SLICE_FLAGS)
                        .store(HAS_NEXT, Ordering::Release);
                    return Ok(());
                }
                Err(moved) => last = moved,
            }
        }
        Err(InvalidShmipc::ListRestless {
            list: u32_len(number),
        })
    }

    /// Takes over the slice at `at`, which has arrived in a chain.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if no slice lies there, or this side holds it already: then the chain is cyclic, crosses another, or
    /// claims what is ours (H21, H22, V5, V6).
    pub(super) fn adopt(&self, at: u32) -> Result<Slice, InvalidShmipc> {
        let located = self.geometry.locate(at);
        let (list, number) = located.ok_or(InvalidShmipc::SliceOffset { offset: at })?;
        self.claim(list, number, at)
    }

    /// Lets go of a slice of this pool's that is about to be sent: from then on it is the peer's. Returns where its header lies.
    pub(super) fn release(&self, slice: Slice) -> u32 {
        let (word, bit) = self.claim_of(slice.number);
        // Relaxed: the bit depends on nothing but itself; who may come next learns of the slice through a free list or a queue.
        word.fetch_and(!bit, Ordering::Relaxed);
        slice.at
    }

    /// Makes this side the holder of a slice. The one place that makes a `Slice`, so that there is one at a time.
    fn claim(&self, list: usize, number: u32, at: u32) -> Result<Slice, InvalidShmipc> {
        let (word, bit) = self.claim_of(number);
        // Relaxed: as in `release`.
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(InvalidShmipc::SliceHeld { offset: at });
        }
        Ok(Slice {
            at,
            list: u32_len(list),
            number,
            capacity: self.geometry.lists()[list].capacity,
            pool: self.name(),
        })
    }

    fn claim_of(&self, number: u32) -> (&AtomicU32, u32) {
        (&self.claims[index(number / 32)], 1 << (number % 32))
    }

    fn balance(&self, list: usize) -> &AtomicU32 {
        let field = match self.side {
            Side::Creator => field::CREATORS,
            Side::Mapper => field::MAPPERS,
        };
        self.memory.word(self.geometry.lists()[list].header + field)
    }

    /// Takes slices that together hold `len` bytes, if they are to be had: one that is large enough, or several large ones.
    ///
    /// Nothing is written to them yet, and nothing is taken for a message that does not fit (H77).
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub(crate) fn take_for(&self, len: u32) -> Result<Option<Slices>, InvalidShmipc> {
        let lists = self.geometry.lists();
        for &list in self.geometry.by_capacity() {
            if len <= lists[list].capacity
                && let Some(slice) = self.take_spare_or(list)?
            {
                return Ok(Some(smallvec![(slice, 0)]));
            }
        }
        let free = |(number, list): (usize, &List)| {
            let slices = u64::from(self.available(number)) + self.spares.kept(number) as u64;
            slices * u64::from(list.capacity)
        };
        if lists.iter().enumerate().map(free).sum::<u64>() < u64::from(len) {
            return Ok(None);
        }
        let mut slices = Slices::new();
        let mut left = len;
        while left != 0 {
            match self.take_most(left)? {
                Some(slice) => {
                    left = left.saturating_sub(slice.capacity);
                    slices.push((slice, 0));
                }
                None => {
                    slices
                        .into_iter()
                        .try_for_each(|(slice, _)| self.put(slice))?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(slices))
    }

    /// Takes the smallest slice that holds all of `len` bytes, or else the largest there is.
    fn take_most(&self, len: u32) -> Result<Option<Slice>, InvalidShmipc> {
        let lists = self.geometry.lists();
        let by_capacity = self.geometry.by_capacity();
        let fitting = by_capacity
            .iter()
            .filter(|&&list| len <= lists[list].capacity);
        let others = by_capacity
            .iter()
            .rev()
            .filter(|&&list| lists[list].capacity < len);
        for &list in fitting.chain(others) {
            if let Some(slice) = self.take_spare_or(list)? {
                return Ok(Some(slice));
            }
        }
        Ok(None)
    }

    /// Takes a slice of a list: one that is kept, or else one out of the list.
    fn take_spare_or(&self, list: usize) -> Result<Option<Slice>, InvalidShmipc> {
        match self.spares.take(list) {
            Some(slice) => Ok(Some(slice)),
            None => self.take(list),
        }
    }
}

const _: () = assert!(LIST_LEN.is_multiple_of(4) && SLICE_LEN.is_multiple_of(4));

fn relax(attempt: u32) {
    #[cfg(shmipc_loom)]
    loom::thread::yield_now();
    // Whoever cut the list may need this processor to go on.
    #[cfg(not(shmipc_loom))]
    if attempt % 16 == 15 {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
    let _ = attempt;
}
