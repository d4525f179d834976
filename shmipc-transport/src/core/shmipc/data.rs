//! The data of slices: copied in and out, or lent in place.
//!
//! # Why a slice is enough
//!
//! While a [`Slice`] exists, its pool has no other for the same data: [`Pool`] makes one where it sets a claim that was not set, and
//! consumes one where it takes the claim back. Slices cannot be cloned, the data of two does not overlap ([`Geometry`]), and no
//! word that is accessed as one lies in data. So on this side, who borrows a slice has its data for that long, alone or together
//! with others who only read. Whoever else opens the region counts as the peer, also if it were within this process.
//!
//! A slice names its pool, and others refuse it. They could mistake only one that has outlived its pool; whoever holds slices has
//! nothing but their own link, or its pool, to use them with.
//!
//! [`Geometry`]: super::Geometry
#![expect(
    unsafe_code,
    reason = "shows for each range that it is the data of a slice, which whoever has the slice has to themselves"
)]

use bytes::Bytes;

use super::{Piece, Pool, Slice};
use crate::core::{
    mem::{SharedRegion, Trust},
    num::u32_len,
};

/// A slice that was lent, and what becomes of it afterwards.
struct Lease<F: FnOnce(Slice)>(Option<(Slice, F)>);

impl<F: FnOnce(Slice)> Drop for Lease<F> {
    fn drop(&mut self) {
        if let Some((slice, release)) = self.0.take() {
            release(slice);
        }
    }
}

/// # Panics
///
/// All of these do if the slice is another pool's, or the range not inside of its data.
impl Pool<SharedRegion> {
    /// Copies `source` to a slice's data, from `at` on.
    pub(crate) fn write(&self, slice: &mut Slice, at: u32, source: &[u8]) {
        let offset = self.offset(slice, at, u32_len(source.len()));
        // SAFETY: the range is data of a slice that is borrowed exclusively.
        unsafe { self.memory().copy_in(offset, source) };
    }

    /// Copies `len` bytes of a slice's data, from `at` on, to the end of `target`.
    pub(crate) fn append_to(&self, slice: &Slice, at: u32, len: u32, target: &mut Vec<u8>) {
        let offset = self.offset(slice, at, len);
        // SAFETY: the range is data of a slice that is borrowed, so nobody writes.
        unsafe { self.memory().append_to(offset, len, target) };
    }

    /// Lends `len` bytes of a slice's data, from `at` on, for being written in place.
    pub(crate) fn place_mut<'s>(
        &'s self,
        slice: &'s mut Slice,
        at: u32,
        len: u32,
        trust: Trust,
    ) -> &'s mut [u8] {
        let offset = self.offset(slice, at, len);
        // SAFETY: the range is data of a slice that is borrowed exclusively, for as long as what is returned.
        unsafe { self.memory().lend_mut(offset, len, trust) }
    }

    /// As [`place_mut`](Self::place_mut), for reading.
    pub(crate) fn place<'s>(
        &'s self,
        slice: &'s Slice,
        at: u32,
        len: u32,
        trust: Trust,
    ) -> &'s [u8] {
        let offset = self.offset(slice, at, len);
        // SAFETY: the range is data of a slice that is borrowed for as long as what is returned, so nobody writes.
        unsafe { self.memory().lend_ref(offset, len, trust) }
    }

    /// Lends a part of a message for reading; `release` gets its slice when the last of the returned `Bytes` is dropped.
    pub(crate) fn lend<F>(&self, piece: Piece, release: F, trust: Trust) -> Bytes
    where
        F: FnOnce(Slice) + Send + 'static,
    {
        let Piece { slice, start, len } = piece;
        let offset = self.offset(&slice, start, len);
        let lease = Lease(Some((slice, release)));
        // SAFETY: the range is data of a slice that the lease keeps to itself until it is dropped, so nobody writes.
        unsafe { self.memory().lend(offset, len, lease, trust) }
    }

    /// Where a range of a slice's data lies in the region.
    fn offset(&self, slice: &Slice, at: u32, len: u32) -> u32 {
        self.assert_own(slice);
        let room = slice.capacity().checked_sub(at);
        assert!(
            room.is_some_and(|room| len <= room),
            "{len} bytes at {at} do not lie in a slice of {}",
            slice.capacity()
        );
        slice.data() + at
    }
}

// Loom's atomics work inside of its models only.
#[cfg(all(test, not(shmipc_loom)))]
mod tests {
    use std::sync::mpsc;

    use memmap2::{MmapOptions, MmapRaw};

    use super::*;
    use crate::core::shmipc::Geometry;

    fn pool() -> Pool<SharedRegion> {
        let map = MmapOptions::new().len(4096).map_anon().unwrap();
        let region = SharedRegion::new(MmapRaw::from(map));
        Pool::create(region, Geometry::plan(4096, &[(64, 100)]).unwrap())
    }

    fn trust() -> Trust {
        // SAFETY: there is no peer.
        unsafe { Trust::in_the_peer() }
    }

    fn take(pool: &Pool<SharedRegion>) -> Slice {
        pool.take(0).unwrap().unwrap()
    }

    #[test]
    fn what_is_written_in_place_is_read_in_place() {
        let pool = pool();
        let (mut slice, mut next) = (take(&pool), take(&pool));
        pool.write(&mut next, 0, &[9; 64]);
        pool.write(&mut slice, 0, &[1; 60]);
        pool.place_mut(&mut slice, 60, 4, trust()).fill(2);
        assert_eq!(pool.place(&slice, 58, 6, trust()), [1, 1, 2, 2, 2, 2]);
        let mut copy = vec![0];
        pool.append_to(&slice, 59, 2, &mut copy);
        assert_eq!(copy, [0, 1, 2]);
        assert_eq!(pool.place(&next, 0, 64, trust()), [9; 64]);
    }

    #[test]
    fn a_slice_that_is_lent_comes_back_with_the_last_of_it() {
        let pool = pool();
        let mut slice = take(&pool);
        let at = slice.at();
        pool.write(&mut slice, 0, b"to be lent");
        let (sender, released) = mpsc::channel();
        let piece = Piece {
            slice,
            start: 6,
            len: 4,
        };
        let lent = pool.lend(piece, move |slice| sender.send(slice).unwrap(), trust());
        let part = lent.slice(1..);
        assert_eq!(lent, "lent");
        drop(lent);
        assert!(released.try_recv().is_err());
        drop(part);
        assert_eq!(released.try_recv().unwrap().at(), at);
    }

    #[test]
    fn a_slice_of_nothing_is_lent() {
        let pool = pool();
        let mut slice = take(&pool);
        assert!(pool.place_mut(&mut slice, 64, 0, trust()).is_empty());
    }

    #[test]
    #[should_panic(expected = "5 bytes at 60 do not lie in a slice of 64")]
    fn what_lies_beyond_a_slice_is_not_lent() {
        let pool = pool();
        let mut slice = take(&pool);
        pool.place_mut(&mut slice, 60, 5, trust());
    }

    #[test]
    #[should_panic(expected = "1 bytes at 65 do not lie in a slice of 64")]
    fn what_begins_beyond_a_slice_is_not_read() {
        let pool = pool();
        let slice = take(&pool);
        pool.append_to(&slice, 65, 1, &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "a slice of another pool")]
    fn a_slice_of_another_pool_is_not_lent() {
        let (one, other) = (pool(), pool());
        one.place(&take(&other), 0, 1, trust());
    }

    #[test]
    #[should_panic(expected = "a slice of another pool")]
    fn a_slice_of_another_pool_is_not_put_back() {
        let (one, other) = (pool(), pool());
        let _ = one.put(take(&other));
    }
}
