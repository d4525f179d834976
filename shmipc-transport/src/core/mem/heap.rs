//! The arena: every block of one side's outbox, over regions that are added on demand and retired when idle.
//!
//! The heap decides; the session acts. When no region has room, [`Heap::alloc`] says which region [it needs](Exhausted::NeedsRegion);
//! the session makes a sealed memfd, passes it to the peer, and [adds](Heap::add_region) it.
//!
//! Blocks of up to [`REGION_LEN`] share regions of that size. A larger block has a region to itself, so that
//! it wastes nothing by rounding and goes as soon as it is idle.

#![expect(
    unsafe_code,
    reason = "makes blocks of ranges that a region's allocator has just handed out"
)]

use std::{
    fmt, mem,
    sync::{Arc, Mutex},
    task::Waker,
};

use super::{Block, OwnedRegion, buddy};
use crate::{
    core::{
        mem::{bins::Bins, buddy::Buddy},
        num::{RegionId, index, u32_len},
        sync::lock,
        waiters::{Ticket, Waiters},
    },
    dump::RegionDump,
};

/// The length of a region that is shared by many blocks. Sparse: only touched pages cost memory.
const REGION_LEN: u32 = 16 << 20;

/// Why there is no block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exhausted {
    /// No region has room; one of `len` bytes, whose budget is now set aside, would.
    NeedsRegion { id: RegionId, len: u32 },
    /// The configured maximum is in use. Blocks will come back, or have by now, if the [supply](Heap::supply) is another.
    Full(Supply),
    /// Not even an empty heap could hold it.
    TooLarge,
}

/// How often there was more to be had of a heap than before. As long as it is the same, what could not be had cannot be had.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Supply(u64);

/// A region that is gone from the heap and must be announced as such to the peer.
#[derive(Debug)]
#[must_use = "the peer keeps its mapping until it is told"]
pub(crate) struct RetiredRegion {
    pub(crate) id: RegionId,
    pub(crate) len: u32,
}

/// What the heap holds at the moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeapFigures {
    pub(crate) mapped: u64,
    pub(crate) used: u64,
    pub(crate) used_max: u64,
}

/// All memory of one outbox.
pub(crate) struct Heap {
    inner: Mutex<Inner>,
}

struct Inner {
    regions: Vec<Entry>,
    /// Where the last block was found. The search goes on from there: from the first region on, it would pass by all that are full.
    found_last: usize,
    next_id: u32,
    max: u64,
    /// Set when the peer can no longer be asked what it still reads: then nothing that comes back may be used again.
    closed: bool,
    figures: HeapFigures,
    supply: Supply,
    waiters: Waiters,
}

struct Entry {
    id: RegionId,
    region: OwnedRegion,
    space: Space,
}

/// A place for a block.
struct Place {
    /// The region's, among all.
    entry: usize,
    start: u32,
    size: u32,
}

enum Space {
    Shared(Bins),
    Whole { used: bool },
}

impl Heap {
    /// An empty heap that may grow to `max` bytes.
    pub(crate) fn new(max: u32) -> Self {
        let inner = Inner {
            regions: Vec::new(),
            found_last: 0,
            next_id: 0,
            max: u64::from(max),
            closed: false,
            figures: HeapFigures::default(),
            supply: Supply::default(),
            waiters: Waiters::default(),
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Takes out a block of exactly `len` bytes (at least one).
    ///
    /// # Errors
    ///
    /// See [`Exhausted`]. After `NeedsRegion` the caller adds that region or [gives it up](Self::cancel_region).
    pub(crate) fn alloc(self: &Arc<Self>, len: u32) -> Result<Block, Exhausted> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Exhausted::Full(inner.supply));
        }
        match self.take_of(&mut inner, len) {
            Some(block) => Ok(block),
            None => inner.wanted_region(len),
        }
    }

    /// Takes a block out of the regions that there are, if one has room.
    pub(crate) fn take(self: &Arc<Self>, len: u32) -> Option<Block> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return None;
        }
        self.take_of(&mut inner, len)
    }

    /// Takes out a block for each of `lens`, or none at all: nobody sees that some were taken and came back.
    ///
    /// # Errors
    ///
    /// As for [`alloc`](Self::alloc), of the first that cannot be had.
    pub(crate) fn alloc_all(self: &Arc<Self>, lens: &[u32]) -> Result<Vec<Block>, Exhausted> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Exhausted::Full(inner.supply));
        }
        let mut places = Vec::with_capacity(lens.len());
        for &len in lens {
            let Some(place) = inner.find(len) else {
                places.iter().for_each(|place| inner.put_back(place));
                return inner.wanted_region(len);
            };
            places.push(place);
        }
        let blocks = places.into_iter().zip(lens);
        Ok(blocks
            .map(|(place, &len)| self.block_at(&mut inner, place, len))
            .collect())
    }

    fn take_of(self: &Arc<Self>, inner: &mut Inner, len: u32) -> Option<Block> {
        let place = inner.find(len)?;
        Some(self.block_at(inner, place, len))
    }

    /// Makes the block at a place that was found.
    fn block_at(self: &Arc<Self>, inner: &mut Inner, place: Place, len: u32) -> Block {
        let Place { entry, start, size } = place;
        let Entry { region, id, .. } = &inner.regions[entry];
        let (region, id) = (region.clone(), *id);
        inner.figures.used += u64::from(size);
        inner.figures.used_max = inner.figures.used_max.max(inner.figures.used);
        // SAFETY: the region's allocator has handed out `start..start + size`, which only `find` makes places of, and takes it back
        // only when the block's drop calls `free`.
        let mut block = unsafe { Block::new(Arc::clone(self), region, id, start..start + size) };
        block.truncate(index(len));
        block
    }

    /// Adds a region that [`alloc`](Self::alloc) asked for.
    pub(crate) fn add_region(&self, id: RegionId, region: OwnedRegion) {
        let len = u32_len(region.len());
        let space = if REGION_LEN < len {
            Space::Whole { used: false }
        } else {
            Space::Shared(Bins::new(len))
        };
        let waiters = {
            let mut inner = lock(&self.inner);
            inner.regions.push(Entry { id, region, space });
            inner.supplied()
        };
        waiters.wake();
    }

    /// Gives back the budget of a region that could not be made.
    pub(crate) fn cancel_region(&self, len: u32) {
        let waiters = {
            let mut inner = lock(&self.inner);
            inner.figures.mapped -= u64::from(len);
            inner.supplied()
        };
        waiters.wake();
    }

    /// Removes every region in which no block is in use (O13).
    pub(crate) fn retire_idle(&self) -> Vec<RetiredRegion> {
        let mut gone = Vec::new();
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        inner.regions.retain(|entry| {
            let idle = entry.space.is_idle();
            if idle {
                gone.push(RetiredRegion {
                    id: entry.id,
                    len: u32_len(entry.region.len()),
                });
            }
            !idle
        });
        if !gone.is_empty() {
            inner.figures.mapped -= gone.iter().map(|region| u64::from(region.len)).sum::<u64>();
            let waiters = inner.supplied();
            drop(guard);
            waiters.wake();
        }
        gone
    }

    /// Whether [`retire_idle`](Self::retire_idle) would find something.
    pub(crate) fn has_idle_region(&self) -> bool {
        lock(&self.inner)
            .regions
            .iter()
            .any(|entry| entry.space.is_idle())
    }

    /// Whether any region exists.
    pub(crate) fn has_regions(&self) -> bool {
        !lock(&self.inner).regions.is_empty()
    }

    /// Where `bytes` lies, if it lies in this heap.
    pub(crate) fn locate(&self, bytes: &[u8]) -> Option<(RegionId, u32)> {
        let inner = lock(&self.inner);
        inner
            .regions
            .iter()
            .find_map(|entry| Some((entry.id, entry.region.offset_of(bytes)?)))
    }

    /// Has `waker` called when there is more to be had than now: a block has come back, a region was added or has gone.
    pub(crate) fn wait(&self, ticket: Ticket, waker: &Waker) {
        let replaced = lock(&self.inner).waiters.add(ticket, waker);
        drop(replaced);
    }

    /// This one waits no more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        let forgotten = lock(&self.inner).waiters.forget(ticket);
        drop(forgotten);
    }

    /// How often there was more to be had than before.
    pub(crate) fn supply(&self) -> Supply {
        lock(&self.inner).supply
    }

    /// Hands out nothing any more, because the session is over: the peer, or whom it has passed a block on to, may still
    /// read what comes back now. Wakes all who wait.
    pub(crate) fn close(&self) {
        let waiters = {
            let mut inner = lock(&self.inner);
            inner.closed = true;
            inner.supplied()
        };
        waiters.wake();
    }

    /// An id for a region that is not of this heap, but announced beside its own.
    pub(crate) fn foreign_id(&self) -> RegionId {
        lock(&self.inner).next_id()
    }

    /// The regions, with what is used and free of each.
    pub(crate) fn dump(&self) -> Vec<RegionDump> {
        let inner = lock(&self.inner);
        let dump = inner.regions.iter().map(|entry| {
            let len = u32_len(entry.region.len());
            let (used, free) = match &entry.space {
                Space::Shared(bins) => (bins.used(), bins.free_blocks().collect()),
                Space::Whole { used } => (if *used { len } else { 0 }, Vec::new()),
            };
            RegionDump {
                id: entry.id.0,
                len,
                used,
                free,
            }
        });
        dump.collect()
    }

    pub(crate) fn figures(&self) -> HeapFigures {
        lock(&self.inner).figures
    }

    /// The bytes that the heap may grow to.
    pub(crate) fn max(&self) -> u64 {
        lock(&self.inner).max
    }

    /// Takes back a block; called by its drop.
    pub(super) fn free(&self, id: RegionId, offset: u32, size: u32) {
        let waiters = {
            let mut inner = lock(&self.inner);
            inner.figures.used -= u64::from(size);
            if let Some(entry) = inner.regions.iter_mut().find(|entry| entry.id == id) {
                entry.space.free(offset, size);
            }
            inner.supplied()
        };
        waiters.wake();
    }
}

impl Inner {
    /// Finds a place for a block of `len` bytes, which is taken then.
    fn find(&mut self, len: u32) -> Option<Place> {
        let count = self.regions.len();
        let last = self.found_last.min(count);
        for number in (last..count).chain(0..last) {
            let entry = &mut self.regions[number];
            if let Some((start, size)) = entry.space.alloc(len, u32_len(entry.region.len())) {
                self.found_last = number;
                let entry = number;
                return Some(Place { entry, start, size });
            }
        }
        None
    }

    /// Gives back a place of which no block was made.
    fn put_back(&mut self, place: &Place) {
        self.regions[place.entry]
            .space
            .free(place.start, place.size);
    }

    /// Sets aside the budget for a region in which a block of `len` bytes fits.
    fn wanted_region<T>(&mut self, len: u32) -> Result<T, Exhausted> {
        let fits = |room| region_for(len, room);
        fits(self.max).ok_or(Exhausted::TooLarge)?;
        let room = self.max - self.figures.mapped;
        let region_len = fits(room).ok_or(Exhausted::Full(self.supply))?;
        self.figures.mapped += u64::from(region_len);
        Err(Exhausted::NeedsRegion {
            id: self.next_id(),
            len: region_len,
        })
    }

    /// There is more to be had. Returns those who have waited for that, to be woken without the lock.
    #[must_use]
    fn supplied(&mut self) -> Waiters {
        self.supply.0 = self.supply.0.wrapping_add(1);
        mem::take(&mut self.waiters)
    }

    fn next_id(&mut self) -> RegionId {
        let id = RegionId(self.next_id);
        self.next_id += 1;
        id
    }
}

/// The length of a new region for a block of `len` bytes, of at most `room` bytes.
fn region_for(len: u32, room: u64) -> Option<u32> {
    let room = u32::try_from(room).unwrap_or(u32::MAX) / buddy::UNIT * buddy::UNIT;
    if REGION_LEN < len {
        let exact = len.div_ceil(buddy::UNIT).checked_mul(buddy::UNIT)?;
        return (exact <= room).then_some(exact);
    }
    let region_len = REGION_LEN.min(room);
    (0 < region_len && Buddy::new(region_len).has_room(len)).then_some(region_len)
}

impl Space {
    /// Returns offset and size of a block.
    fn alloc(&mut self, len: u32, region_len: u32) -> Option<(u32, u32)> {
        match self {
            Self::Shared(bins) => Some((bins.alloc(len)?, Buddy::size_class(len))),
            Self::Whole { used } if !*used && takes_whole(len, region_len) => {
                *used = true;
                Some((0, region_len))
            }
            Self::Whole { .. } => None,
        }
    }

    fn free(&mut self, offset: u32, size: u32) {
        match self {
            Self::Shared(bins) => bins.free(offset, size),
            Self::Whole { used } => *used = false,
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Shared(bins) => bins.is_idle(),
            Self::Whole { used } => !used,
        }
    }
}

/// Whether a block of `len` bytes takes a region that is one block. One that fits into a shared region must not pin down a
/// region of a gigabyte.
fn takes_whole(len: u32, region_len: u32) -> bool {
    REGION_LEN < len && len <= region_len
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use memmap2::{MmapMut, MmapRaw};

    use super::{buddy::UNIT, *};
    use crate::core::sync::{AtomicU32, Ordering};

    /// Takes a block, and makes a region for it if need be.
    fn grow(heap: &Arc<Heap>, len: u32) -> Block {
        let (id, region_len) = match heap.alloc(len) {
            Ok(block) => return block,
            Err(Exhausted::NeedsRegion { id, len }) => (id, len),
            Err(exhausted) => panic!("{exhausted:?}"),
        };
        let map = MmapMut::map_anon(index(region_len)).unwrap();
        heap.add_region(id, OwnedRegion::new(MmapRaw::from(map)));
        heap.take(len).unwrap()
    }

    #[test]
    fn what_comes_back_is_found_in_whichever_region_it_lies() {
        const LEN: u32 = REGION_LEN / 4;
        let heap = Arc::new(Heap::new(4 * REGION_LEN));
        let mut blocks: Vec<_> = (0..12).map(|_| Some(grow(&heap, LEN))).collect();
        assert_eq!(heap.figures().mapped, 3 * u64::from(REGION_LEN));
        let place = |block: &Block| (block.region(), block.offset());
        for number in (0..12).chain((0..12).rev()) {
            let before = blocks[number].take().unwrap();
            let freed = place(&before);
            drop(before);
            let found = heap.take(LEN).unwrap();
            assert_eq!(place(&found), freed);
            blocks[number] = Some(found);
        }
        // Regions may go, the one before which the search goes on too.
        blocks.truncate(1);
        assert_eq!(heap.retire_idle().len(), 2);
        assert!(heap.take(LEN).is_some());
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_blocks_are_had_or_none_and_nobody_hears_of_those_that_were_not() {
        const QUARTER: u32 = REGION_LEN / 4;
        let heap = Arc::new(Heap::new(REGION_LEN));
        let held = grow(&heap, QUARTER);
        let woken = Arc::new(Woken::default());
        heap.wait(Ticket(1), &Waker::from(Arc::clone(&woken)));
        let (used, supply) = (heap.figures().used, heap.supply());
        let refused = heap.alloc_all(&[QUARTER, 2 * QUARTER, QUARTER]);
        assert_eq!(refused.unwrap_err(), Exhausted::Full(supply));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        let figures = heap.figures();
        assert_eq!((figures.used, figures.used_max), (used, used));
        let blocks = heap.alloc_all(&[QUARTER - 1, 2 * QUARTER]).unwrap();
        let lens: Vec<_> = blocks.iter().map(|block| block.as_ref().len()).collect();
        assert_eq!(lens, [QUARTER - 1, 2 * QUARTER].map(index));
        assert_eq!(heap.figures().used, u64::from(REGION_LEN));
        drop((held, blocks));
        assert_eq!(heap.figures().used, 0);
        assert!(heap.alloc_all(&[]).unwrap().is_empty());
        heap.close();
        assert!(heap.alloc_all(&[1]).is_err());
    }

    #[test]
    fn whoever_waits_hears_of_all_by_which_there_may_be_more() {
        let heap = Arc::new(Heap::new(REGION_LEN));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let refused = |len| match heap.alloc(len) {
            Err(Exhausted::Full(supply)) => supply,
            other => panic!("{other:?}"),
        };
        let mut times = 0;
        let mut hears = |supply, to_do: &mut dyn FnMut()| {
            heap.wait(Ticket(1), &waker);
            assert_eq!(heap.supply(), supply);
            to_do();
            times += 1;
            assert_eq!(woken.0.load(Ordering::Relaxed), times);
            assert_ne!(heap.supply(), supply);
        };

        let Err(Exhausted::NeedsRegion { id: _, len }) = heap.alloc(UNIT) else {
            panic!("there is none yet");
        };
        let supply = refused(UNIT);
        hears(supply, &mut || heap.cancel_region(len));

        let mut block = Some(grow(&heap, REGION_LEN));
        let supply = refused(UNIT);
        hears(supply, &mut || drop(block.take()));
        let supply = heap.supply();
        hears(supply, &mut || assert_eq!(heap.retire_idle().len(), 1));
        heap.wait(Ticket(1), &waker);
        assert_eq!(heap.retire_idle().len(), 0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 3, "nothing is new");
        heap.forget(Ticket(1));
        drop(grow(&heap, UNIT));
        assert_eq!(woken.0.load(Ordering::Relaxed), 3, "nobody waits");
    }
}
