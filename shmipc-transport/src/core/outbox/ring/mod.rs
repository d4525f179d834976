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
//!    once, instead of one by one while each record is written; if it can, when a record was just published and nobody waits.
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

#[cfg(test)]
mod tests;

use super::record::{InvalidRecord, Kind, RECORD_BODY_MAX, RecordHead};
use crate::core::{
    num::{Capacity, StreamId},
    sync::{AtomicU32, Ordering, fence},
};

/// The most bytes that are zeroed beyond the record that is reserved, if they are free. Loom sees each word, so there is but one there.
const ZEROED_AHEAD: u32 = if cfg!(shmipc_loom) { 4 } else { 1024 };

/// As many as are zeroed beyond a record that is longer than [`SMALL`].
const ZEROED_LINE: u32 = if cfg!(shmipc_loom) { 4 } else { 64 };

/// The longest record, with its head, of which many lie in what is zeroed at once.
const SMALL: u32 = 256;

/// How many bytes to zero beyond a record of `stride` bytes, if what follows is like it. One word is needed. Where records are small,
/// it pays to zero for many of them; what longer ones overwrite would be written twice.
const fn ahead_of(stride: u32) -> u32 {
    if stride <= SMALL {
        ZEROED_AHEAD
    } else {
        ZEROED_LINE
    }
}

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
#[non_exhaustive]
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
    /// How many there are to be, as far as the last record tells.
    ahead: u32,
    /// The most bytes that were in use, as far as somebody looked.
    fill_max: u32,
    /// Records reserved so far.
    records: u64,
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
            ahead: ZEROED_AHEAD,
            fill_max: 0,
            records: 0,
        }
    }

    /// Bytes that are neither consumed nor free, as far as we know.
    pub(crate) fn fill(&self) -> u32 {
        self.tail.wrapping_sub(self.head_seen)
    }

    /// Bytes that are neither consumed nor free, by a look at the consumer's cursor. Nothing is learnt by it: progress is for those
    /// to see who wait for it. An impossible cursor is for [`refresh`](Self::refresh) to report.
    pub(crate) fn look(&mut self, head: &AtomicU32) -> u32 {
        let consumed = head.load(Ordering::Relaxed).wrapping_sub(self.head_seen);
        let fill = self.fill().checked_sub(consumed).unwrap_or(self.fill());
        self.fill_max = self.fill_max.max(fill);
        fill
    }

    /// The most bytes that were in use. Looked at whenever the ring seems to be full, which is once around it or sooner, and by
    /// [`look`](Self::look); so a ring that was full shows as such.
    pub(crate) fn fill_max(&self) -> u32 {
        self.fill_max
    }

    /// Where the next record goes, counted without end.
    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    /// Records reserved so far.
    pub(crate) fn records(&self) -> u64 {
        self.records
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
        self.fill_max = self.fill_max.max(self.fill());
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
        self.records = self.records.wrapping_add(1);
        self.zeroed = self.zeroed.saturating_sub(pad + stride);
        self.ahead = ahead_of(stride);
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

    /// Whether little is left that is zero, so that one of the next records would have to wait until more is. See
    /// [`prepare`](Self::prepare).
    pub(crate) fn is_low(&self) -> bool {
        self.zeroed < self.ahead / 2
    }

    /// Zeroes ahead now, when nobody waits for a record, instead of while one is reserved.
    pub(crate) fn prepare(&mut self, ring: &impl WriteRing) {
        // The consumer may be looking at the word at `tail`, which is zero and left alone, and at nothing behind it before the next
        // record is there; the Release of that one's commit orders this before.
        if self.zeroed != 0 && self.is_low() {
            self.zero_ahead(ring);
        }
    }

    /// Zeroes what is free beyond what is zero already, as far as is worth it.
    fn zero_ahead(&mut self, ring: &impl WriteRing) {
        let free = self.capacity.get() - self.fill();
        let wanted = self.ahead.min(free);
        while self.zeroed < wanted {
            let at = self.capacity.slot(self.tail.wrapping_add(self.zeroed));
            let len = (wanted - self.zeroed).min(self.capacity.get() - at);
            ring.zero(at, len);
            self.zeroed += len;
        }
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
        self.capacity.get() / 4 <= self.unannounced()
    }

    /// Bytes consumed that the producer has not been told of.
    pub(crate) fn unannounced(&self) -> u32 {
        self.head.wrapping_sub(self.announced)
    }

    /// Whether we have begun with the ring anew since the producer was last told.
    pub(crate) fn has_lapped(&self) -> bool {
        self.capacity.slot(self.head) < self.capacity.slot(self.announced)
    }

    /// What waits to be consumed.
    pub(crate) fn backlog(&self, ring: &impl ReadRing) -> Backlog {
        Backlog::at(self.capacity, ring, self.head)
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

/// Records that are published.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Backlog {
    /// What they take up, with their heads and pads.
    pub(crate) bytes: u32,
    pub(crate) records: u32,
}

impl Backlog {
    /// Counts the records from `head` on, once around the ring at most. Believes nothing: what is no record, or is being
    /// overwritten meanwhile, ends it, or makes it wrong.
    ///
    /// Costs a look at each record.
    pub(crate) fn at(capacity: Capacity, ring: &impl ReadRing, head: u32) -> Self {
        let mut backlog = Self::default();
        while backlog.bytes < capacity.get() {
            let at = capacity.slot(head.wrapping_add(backlog.bytes));
            let first_word = ring.load(at);
            let body_len = match RecordHead::decode_first(first_word) {
                Ok((_, body_len)) if first_word != 0 => body_len,
                _ => break,
            };
            let stride = RecordHead::stride(body_len);
            if capacity.get() - at < stride {
                break;
            }
            backlog.bytes += stride;
            backlog.records += 1;
        }
        backlog.bytes = backlog.bytes.min(capacity.get());
        backlog
    }
}
