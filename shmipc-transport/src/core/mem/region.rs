//! Bounds-checked views of a mapping.
#![expect(
    unsafe_code,
    reason = "the one place that dereferences pointers into mappings; see the essay in `mem`"
)]

use std::{
    fmt,
    ops::Range,
    os::fd::OwnedFd,
    ptr, slice,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use memmap2::MmapRaw;

use crate::core::{
    num::{index, u32_len},
    outbox::Header,
    sync::{AtomicU32, Ordering},
};

/// A type that may be laid over shared memory.
///
/// # Safety
///
/// Implementors are `repr(C)` and consist of `AtomicU32` and padding only, so that every bit pattern is a value and no
/// access can race.
pub(crate) unsafe trait SharedLayout {}

// SAFETY: `Header` is `repr(C)` and consists of `AtomicU32` and padding only.
unsafe impl SharedLayout for Header {}

/// A range that does not lie inside its region.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{len} bytes at {offset} do not lie inside a region of {region_len} bytes")]
pub struct OutOfRegion {
    /// Where the range was said to begin.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// The length of the region in bytes.
    pub region_len: usize,
}

/// A mapping, and what is kept for as long as it stands.
struct Mapping {
    // Unmapped first: what follows may say that it is.
    map: MmapRaw,
    origin: Origin,
}

/// Whose memory is mapped.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Our own.
    Ours,
    /// Whoever made it, both sides write it.
    Shared,
    /// The peer's. With its memory file, where that may be passed on to others.
    Peer(Option<OwnedFd>),
    /// Somebody else's, passed on by the peer, who learns by the closing of this anchor that it is mapped no longer (O23).
    Forwarded { _anchor: OwnedFd },
}

/// What both kinds of region share: a mapping and the arithmetic of its bounds.
#[derive(Clone)]
struct View {
    mapping: Arc<Mapping>,
}

impl View {
    fn new(map: MmapRaw, origin: Origin) -> Self {
        Self {
            mapping: Arc::new(Mapping { map, origin }),
        }
    }

    fn len(&self) -> usize {
        self.mapping.map.len()
    }

    fn start(&self) -> *mut u8 {
        self.mapping.map.as_mut_ptr()
    }

    /// Returns the address of a range, or says that it is not inside.
    fn range(&self, offset: u32, len: u32) -> Result<*mut u8, OutOfRegion> {
        let region_len = self.len();
        // Neither sum nor comparison can wrap: both are u32 and usize has 64 bits.
        if region_len < index(offset) + index(len) {
            return Err(OutOfRegion {
                offset,
                len,
                region_len,
            });
        }
        Ok(self.start().wrapping_add(index(offset)))
    }

    fn word(&self, offset: u32) -> Result<&AtomicU32, OutOfRegion> {
        let word = self.range(offset, 4)?.cast::<AtomicU32>();
        assert!(
            word.is_aligned(),
            "words of the layout lie at multiples of four"
        );
        // SAFETY: `range` says that four mapped bytes lie there, `self` keeps the mapping alive for the borrow, the
        // address is aligned, and shared words are only ever accessed as atomics.
        Ok(unsafe { &*word })
    }

    fn layout<T: SharedLayout>(&self, offset: u32) -> Result<&T, OutOfRegion> {
        let header = self.range(offset, u32_len(size_of::<T>()))?.cast::<T>();
        assert!(
            header.is_aligned(),
            "mappings begin at a page, and layouts at a multiple of their alignment"
        );
        // SAFETY: in bounds, aligned and alive as in `word`; `SharedLayout` promises that any bytes are a value and that
        // all of it is atomic.
        Ok(unsafe { &*header })
    }

    fn contains(&self, bytes: &[u8]) -> Option<u32> {
        let start = self.start().addr();
        let offset = bytes.as_ptr().addr().checked_sub(start)?;
        (offset + bytes.len() <= self.len())
            .then(|| u32::try_from(offset).ok())
            .flatten()
    }
}

/// A region of our own: writable here, read-only for the peer.
#[derive(Clone)]
pub(crate) struct OwnedRegion(View);

impl OwnedRegion {
    /// Takes a writable, shared mapping that no other process can map writable.
    pub(crate) fn new(map: MmapRaw) -> Self {
        Self(View::new(map, Origin::Ours))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The header of type `T` at `offset`.
    pub(crate) fn layout<T: SharedLayout>(&self, offset: u32) -> &T {
        self.0
            .layout(offset)
            .expect("our own layout fits our own region")
    }

    /// The word at `offset`.
    ///
    /// # Panics
    ///
    /// If it lies outside: offsets into our own region come from our own cursors.
    pub(crate) fn word(&self, offset: u32) -> &AtomicU32 {
        self.0
            .word(offset)
            .expect("our own cursors stay inside our own region")
    }

    /// Copies `source` to `offset`.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    pub(crate) fn write(&self, offset: u32, source: &[u8]) {
        let len = u32_len(source.len());
        let target = self
            .0
            .range(offset, len)
            .expect("our own cursors stay inside our own region");
        // SAFETY:
        // - In bounds and mapped writable: `range`, and the mapping's kind.
        // - Disjoint: `source` is a live reference, and none exists into the parts of the region that are written this
        //   way: heads, and free space, of rings. Bodies of reserved records, and blocks, are lent by `exclusive`.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
    }

    /// Lends a range for writing.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives, nobody else in this process may access the range.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusiveness is the caller's duty, and stated as such"
    )]
    pub(crate) unsafe fn exclusive(&self, range: Range<u32>) -> &mut [u8] {
        let len = range.end - range.start;
        let start = self
            .0
            .range(range.start, len)
            .expect("our own cursors stay inside our own region");
        // SAFETY: mapped, writable and initialised (fresh pages are zero); exclusive within this process by the
        // caller's promise, and the peer has no writable mapping. The mapping lives as long as `self`.
        unsafe { slice::from_raw_parts_mut(start, index(len)) }
    }

    /// Lends a range for reading.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives, nobody in this process may write to the range.
    pub(crate) unsafe fn shared(&self, range: Range<u32>) -> &[u8] {
        let len = range.end - range.start;
        let start = self
            .0
            .range(range.start, len)
            .expect("our own cursors stay inside our own region");
        // SAFETY: as in `exclusive`, with "no writer" for "exclusive".
        unsafe { slice::from_raw_parts(start, index(len)) }
    }

    /// Where `bytes` begins, if all of it lies in this region.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<u32> {
        self.0.contains(bytes)
    }
}

impl fmt::Debug for OwnedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRegion")
            .field("len", &self.len())
            .finish()
    }
}

/// The decision to rely on a peer leaving its sent blocks alone. Made in one place, by [`Payloads`](crate::Payloads):
/// for our own user id, or under the contract of its `unsafe` constructor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trust(());

impl Trust {
    /// Makes the decision.
    ///
    /// # Safety
    ///
    /// The peer must not write to a block between sending it and getting it back, or must be able to change this
    /// process's memory anyhow.
    pub(crate) const unsafe fn in_the_peer() -> Self {
        Self(())
    }
}

/// A region of the peer's: read-only here, and never believed.
#[derive(Clone)]
pub(crate) struct PeerRegion(View);

impl PeerRegion {
    /// Takes a read-only, shared mapping of a file that is sealed against shrinking.
    pub(crate) fn new(map: MmapRaw, origin: Origin) -> Self {
        Self(View::new(map, origin))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The memory file, if it may be passed on.
    pub(crate) fn file(&self) -> Option<&OwnedFd> {
        match &self.0.mapping.origin {
            Origin::Peer(file) => file.as_ref(),
            Origin::Ours | Origin::Shared | Origin::Forwarded { .. } => None,
        }
    }

    /// Where `bytes` begins, if all of it lies in this mapping.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<u32> {
        self.0.contains(bytes)
    }

    /// Whether it was passed on by the peer, and made by somebody else.
    pub(crate) fn is_forwarded(&self) -> bool {
        matches!(self.0.mapping.origin, Origin::Forwarded { .. })
    }

    /// A name for this mapping, which no other one has for as long as the name exists.
    pub(crate) fn name(&self) -> RegionName {
        RegionName(Arc::downgrade(&self.0.mapping))
    }

    /// The header of type `T` at `offset`, for `Relaxed` loads.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`] if it does not fit.
    pub(crate) fn layout<T: SharedLayout>(&self, offset: u32) -> Result<&T, OutOfRegion> {
        self.0.layout(offset)
    }

    /// Reads the word at `offset` with a `Relaxed` load: all that `std` promises for pages that are read-only to us.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`] if it lies outside.
    pub(crate) fn load(&self, offset: u32) -> Result<u32, OutOfRegion> {
        Ok(self.0.word(offset)?.load(Ordering::Relaxed))
    }

    /// Copies the bytes at `offset` into private memory.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`] if the range is not inside the region.
    pub(crate) fn copy_out(&self, offset: u32, target: &mut [u8]) -> Result<(), OutOfRegion> {
        let source = self.0.range(offset, u32_len(target.len()))?;
        // SAFETY:
        // - In bounds: `range` returned the address of `target.len()` mapped bytes, and `self` keeps the mapping
        //   (sealed against shrinking) alive for this call.
        // - Disjoint: `target` is private memory, so it cannot overlap a shared mapping.
        // - Racing peer: see "Torn payloads" in `mem`. No reference is formed.
        unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
        Ok(())
    }

    /// Copies the bytes at `offset` into a new vector.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`], before anything is allocated, if the range is not inside the region.
    pub(crate) fn copy_to_vec(&self, offset: u32, len: u32) -> Result<Vec<u8>, OutOfRegion> {
        let source = self.0.range(offset, len)?;
        let target = Vec::with_capacity(index(len));
        // SAFETY: `range` returned the address of `len` mapped bytes, and the vector has room for them.
        Ok(unsafe { Self::fill(target, source, index(len)) })
    }

    /// As [`copy_to_vec`](Self::copy_to_vec); `None` if there is no memory for the vector.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn try_copy_to_vec(
        &self,
        offset: u32,
        len: u32,
    ) -> Result<Option<Vec<u8>>, OutOfRegion> {
        let source = self.0.range(offset, len)?;
        let mut target = Vec::new();
        if target.try_reserve_exact(index(len)).is_err() {
            return Ok(None);
        }
        // SAFETY: as in `copy_to_vec`.
        Ok(Some(unsafe { Self::fill(target, source, index(len)) }))
    }

    /// Copies `len` bytes from `source` to the beginning of `target`, which is empty.
    ///
    /// # Safety
    ///
    /// They must be mapped, in a region that lives for this call, and `target` must have room for them.
    unsafe fn fill(mut target: Vec<u8>, source: *const u8, len: usize) -> Vec<u8> {
        // SAFETY: the caller's promise; for all else as in `copy_out`.
        unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), len) };
        // SAFETY: the line above has initialised the first `len` bytes.
        unsafe { target.set_len(len) };
        target
    }

    /// The address of a range, by which a lease on it is known.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`] if the range is not inside the region.
    pub(crate) fn address(&self, offset: u32, len: u32) -> Result<usize, OutOfRegion> {
        Ok(self.0.range(offset, len)?.addr())
    }

    /// Lends the bytes at `offset` in place, with this share in the region; `release` is dropped with the last of the returned `Bytes`.
    ///
    /// Sound while the peer does not write to the range until `release` is dropped, which nothing on this side can check:
    /// `_trust` shows that somebody has decided to rely on it.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRegion`] if the range is not inside the region.
    pub(crate) fn lend<R: Send + 'static>(
        self,
        offset: u32,
        len: u32,
        release: R,
        _trust: Trust,
    ) -> Result<Bytes, OutOfRegion> {
        let start = SendPtr(self.0.range(offset, len)?);
        Ok(Bytes::from_owner(Lent {
            start,
            len: index(len),
            _release: release,
            _region: self.0,
        }))
    }
}

impl fmt::Debug for PeerRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerRegion")
            .field("len", &self.len())
            .finish()
    }
}

/// A region that both processes write. Nothing that is read from it is believed, and nothing of it is ever borrowed but its words
/// and what is lent.
///
/// Only the link that speaks shmipc's own protocol has such regions. Who on this side may use which bytes of one, its
/// [pool](crate::core::shmipc::Pool) knows.
#[derive(Clone)]
pub(crate) struct SharedRegion(View);

impl SharedRegion {
    /// Takes a writable, shared mapping of a file that cannot shrink, or whose owner could end this process anyway.
    pub(crate) fn new(map: MmapRaw) -> Self {
        Self(View::new(map, Origin::Shared))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The word at `offset`.
    ///
    /// # Panics
    ///
    /// If it is not inside or not aligned: offsets are those of a geometry that was verified against this region.
    pub(crate) fn word(&self, offset: u32) -> &AtomicU32 {
        self.0.word(offset).expect(VERIFIED)
    }

    /// Copies `source` to `offset`.
    ///
    /// # Safety
    ///
    /// Meanwhile, nobody else on this side may access the range, and nothing of it may be lent.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    pub(crate) unsafe fn copy_in(&self, offset: u32, source: &[u8]) {
        let target = self.0.range(offset, u32_len(source.len())).expect(VERIFIED);
        // SAFETY: in bounds and mapped writable (`range`, and the mapping's kind); disjoint, because nothing of the range is
        // lent, by the caller's promise.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
    }

    /// Copies `len` bytes at `offset` to the end of `target`.
    ///
    /// # Safety
    ///
    /// Meanwhile, nobody on this side may write to the range, and nothing of it may be lent for writing.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    pub(crate) unsafe fn append_to(&self, offset: u32, len: u32, target: &mut Vec<u8>) {
        let source = self.0.range(offset, len).expect(VERIFIED);
        target.reserve(index(len));
        let end = target.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: in bounds (`range`), and `reserve` made room for `len` bytes, which are private and so disjoint. A peer
        // that writes meanwhile makes the copy arbitrary: see "Torn payloads" in `mem`.
        unsafe { ptr::copy_nonoverlapping(source, end, index(len)) };
        // SAFETY: the line above has initialised the next `len` bytes.
        unsafe { target.set_len(target.len() + index(len)) };
    }

    /// Lends the bytes at `offset` for being written in place. That the peer leaves them alone, nothing can see to, and `_trust`
    /// shows that somebody has decided to rely on it.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives, nobody else on this side may access the range.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusiveness is the caller's duty, and stated as such"
    )]
    pub(crate) unsafe fn lend_mut(&self, offset: u32, len: u32, _trust: Trust) -> &mut [u8] {
        let start = self.0.range(offset, len).expect(VERIFIED);
        // SAFETY: in bounds, mapped writable and initialised (fresh pages are zero); the mapping lives as long as `self`.
        // Exclusive on this side by the caller's promise; `_trust` stands for the other side.
        unsafe { slice::from_raw_parts_mut(start, index(len)) }
    }

    /// Lends the bytes at `offset` for reading. The peer is trusted as for [`lend_mut`](Self::lend_mut).
    ///
    /// # Safety
    ///
    /// For as long as the slice lives, nobody on this side may write to the range.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    pub(crate) unsafe fn lend_ref(&self, offset: u32, len: u32, _trust: Trust) -> &[u8] {
        let start = self.0.range(offset, len).expect(VERIFIED);
        // SAFETY: as in `lend_mut`, with "no writer" for "exclusive".
        unsafe { slice::from_raw_parts(start, index(len)) }
    }

    /// Lends the bytes at `offset` for reading, with a share in the region; `release` is dropped with the last of the returned
    /// `Bytes`. The peer is trusted as for [`lend_mut`](Self::lend_mut).
    ///
    /// # Safety
    ///
    /// Until `release` is dropped, nobody on this side may write to the range.
    ///
    /// # Panics
    ///
    /// If the range lies outside, as for [`word`](Self::word).
    pub(crate) unsafe fn lend<R: Send + 'static>(
        &self,
        offset: u32,
        len: u32,
        release: R,
        _trust: Trust,
    ) -> Bytes {
        let start = SendPtr(self.0.range(offset, len).expect(VERIFIED));
        Bytes::from_owner(Lent {
            start,
            len: index(len),
            _release: release,
            _region: self.0.clone(),
        })
    }
}

const VERIFIED: &str = "offsets come from a geometry that was verified against this region";

impl fmt::Debug for SharedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRegion")
            .field("len", &self.len())
            .finish()
    }
}

/// Says which mapping a region is, without keeping it.
pub(crate) struct RegionName(Weak<Mapping>);

impl RegionName {
    /// Whether it is the name of `region`.
    pub(crate) fn is_of(&self, region: &PeerRegion) -> bool {
        ptr::eq(self.0.as_ptr(), Arc::as_ptr(&region.0.mapping))
    }

    /// Whether the mapping is gone.
    pub(crate) fn is_void(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegionName").field(&self.0.as_ptr()).finish()
    }
}

/// An address inside a mapping that the holder keeps alive.
struct SendPtr(*const u8);

// SAFETY: the address is only read through, by a holder that owns a share of the mapping; mappings belong to no thread.
unsafe impl Send for SendPtr {}

/// The owner behind a lent `Bytes`. The release comes first, so that it runs while the mapping still stands.
struct Lent<R> {
    start: SendPtr,
    len: usize,
    _release: R,
    _region: View,
}

impl<R> AsRef<[u8]> for Lent<R> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `lend` checked the bounds, `_region` keeps the mapping alive, and `Trust` carries the decision that
        // nobody writes here until `_release` is dropped.
        unsafe { slice::from_raw_parts(self.start.0, self.len) }
    }
}
