//! The queues of elements: one in each direction, each with one producing and one consuming process.
//!
//! # 64-bit counters
//!
//! `head` and `tail` are 64-bit counters, which the layout of versions 2 and 3 puts at multiples of four on amd64 (H6). No atomic type
//! of the language may lie there. So here a counter is what the layout guarantees on either: two aligned 32-bit words. It is *read* by
//! its low word alone: two counters are never further apart than the queue is long, so the wrapping difference of the low halves says
//! all. It is *written* by the one process that owns it, which keeps the whole number in private memory: first the low word, then, once
//! in 2³² elements, the high one. A peer that reads all 64 bits in between sees a counter that is 2³² too small, which for it means "empty"
//! or "full", as it was a moment before; it looks again when it is woken, which happens afterwards. Nothing is ever torn, no
//! instruction is split over cache lines by us, and no assembly is needed. Both layouts are served by the same code.
//!
//! # Who is woken
//!
//! Each queue has a *working flag*: 1 says that its consumer is looking, or has been woken and will. A producer publishes, and then
//! swaps 0 for 1; if that succeeds, it must wake the consumer. A consumer stores 0, and then looks once more before it sleeps.
//! It may hold the flag at 1 for as long as it likes to look, and then nobody makes a system call for its sake.

use std::mem::offset_of;

use super::{InvalidShmipc, Memory, field_at};
use crate::core::sync::{Ordering, fence};

/// The head of a queue in versions 2 and 3 on amd64.
#[repr(C)]
struct LegacyHeader {
    cap: u32,
    /// Elements consumed, counted without end: low word first, as both supported architectures have it.
    head: [u32; 2],
    /// Elements produced.
    tail: [u32; 2],
    working: u32,
}

/// The head of a queue in version 4, and in all versions on arm64.
#[repr(C)]
struct AlignedHeader {
    cap: u32,
    working: u32,
    head: [u32; 2],
    tail: [u32; 2],
}

/// An element of a queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Element {
    pub(crate) stream: u32,
    /// Where the first slice of the message lies.
    pub(crate) offset: u32,
    /// The [`state`] of the stream in the lowest byte.
    pub(crate) status: u32,
}

/// What the lowest byte of an element's status says.
pub(crate) mod state {
    /// The stream is open, and here is a message.
    pub(crate) const OPEN: u32 = 0;
    /// The sender has closed the stream.
    pub(crate) const CLOSED: u32 = 1;
}

const HEADER_LEN: u32 = 24;
pub(crate) const ELEMENT_LEN: u32 = 12;

const _: () = {
    assert!(cfg!(target_endian = "little"));
    assert!(size_of::<LegacyHeader>() == HEADER_LEN as usize);
    assert!(offset_of!(LegacyHeader, cap) == 0);
    assert!(offset_of!(LegacyHeader, head) == 4);
    assert!(offset_of!(LegacyHeader, tail) == 12);
    assert!(offset_of!(LegacyHeader, working) == 20);
    assert!(size_of::<AlignedHeader>() == HEADER_LEN as usize);
    assert!(offset_of!(AlignedHeader, cap) == 0);
    assert!(offset_of!(AlignedHeader, working) == 4);
    assert!(offset_of!(AlignedHeader, head) == 8);
    assert!(offset_of!(AlignedHeader, tail) == 16);
    assert!(size_of::<Element>() == ELEMENT_LEN as usize);
    assert!(offset_of!(Element, offset) == 4);
    assert!(offset_of!(Element, status) == 8);
};

/// Where the words of a queue's head lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum QueueLayout {
    /// Counters at 4 and 12: versions 2 and 3 on amd64.
    Legacy,
    /// Counters at 8 and 16: version 4, and all versions on arm64.
    Aligned,
}

impl QueueLayout {
    /// The layout of a protocol version on this architecture.
    pub(crate) const fn of(version: u8) -> Self {
        if version < 4 && cfg!(target_arch = "x86_64") {
            Self::Legacy
        } else {
            Self::Aligned
        }
    }

    const fn head(self) -> u32 {
        match self {
            Self::Legacy => field_at(offset_of!(LegacyHeader, head)),
            Self::Aligned => field_at(offset_of!(AlignedHeader, head)),
        }
    }

    const fn tail(self) -> u32 {
        match self {
            Self::Legacy => field_at(offset_of!(LegacyHeader, tail)),
            Self::Aligned => field_at(offset_of!(AlignedHeader, tail)),
        }
    }

    const fn working(self) -> u32 {
        match self {
            Self::Legacy => field_at(offset_of!(LegacyHeader, working)),
            Self::Aligned => field_at(offset_of!(AlignedHeader, working)),
        }
    }
}

/// How long queues are that we make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct QueuePlan {
    cap: u32,
}

impl QueuePlan {
    /// The most elements of a queue: 12 MiB each way.
    pub(crate) const CAP_MAX: u32 = 1 << 20;

    /// Queues of at least `cap` elements: a multiple of 16, so that no counter lies across two cache lines (H6).
    ///
    /// # Panics
    ///
    /// If that is none, or more than [`CAP_MAX`](Self::CAP_MAX).
    pub(crate) const fn new(cap: u32) -> Self {
        assert!(
            0 < cap && cap <= Self::CAP_MAX,
            "the configuration was checked"
        );
        Self {
            cap: cap.next_multiple_of(16),
        }
    }

    /// The length of the region.
    pub(crate) const fn len(self) -> u32 {
        2 * (HEADER_LEN + ELEMENT_LEN * self.cap)
    }
}

/// Both queues of a region.
#[derive(Debug)]
pub(crate) struct Queues<M> {
    pub(crate) to_server: Ends<M>,
    pub(crate) to_client: Ends<M>,
}

/// One queue, of which this side takes one end.
#[derive(Clone, Debug)]
pub(crate) struct Ends<M> {
    memory: M,
    base: u32,
    cap: u32,
    layout: QueueLayout,
    /// Elements consumed and produced before the region was made or taken over.
    begun: [u64; 2],
}

impl<M: Memory + Clone> Queues<M> {
    /// Lays out a region that is zero.
    pub(crate) fn create(memory: M, plan: QueuePlan, layout: QueueLayout) -> Self {
        assert_eq!(
            memory.len(),
            plan.len(),
            "the region was made for this plan"
        );
        let half = plan.len() / 2;
        for base in [0, half] {
            memory.word(base).store(plan.cap, Ordering::Release);
        }
        let ends = |base| Ends {
            memory: memory.clone(),
            base,
            cap: plan.cap,
            layout,
            begun: [0; 2],
        };
        Self {
            to_server: ends(0),
            to_client: ends(half),
        }
    }

    /// Takes over a region that the peer has laid out. The only look at the capacities, and at those counters that are ours from now on.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if the capacities do not fit (H20, V1), or nobody can have counted to the counters (V2).
    pub(crate) fn open(memory: M, layout: QueueLayout) -> Result<Self, InvalidShmipc> {
        let len = memory.len();
        if len < 2 * HEADER_LEN || !len.is_multiple_of(8) {
            return Err(InvalidShmipc::QueueRegion {
                len: u64::from(len),
            });
        }
        let room = len / 2;
        let ends = |base: u32| {
            let cap = memory.word(base).load(Ordering::Acquire);
            let needed = u64::from(HEADER_LEN) + u64::from(ELEMENT_LEN) * u64::from(cap);
            if cap == 0 || u64::from(room) < needed {
                return Err(InvalidShmipc::QueueCapacity { cap, room });
            }
            let mut ends = Ends {
                memory: memory.clone(),
                base,
                cap,
                layout,
                begun: [0; 2],
            };
            ends.begun = ends.counters()?;
            Ok(ends)
        };
        Ok(Self {
            to_server: ends(0)?,
            to_client: ends(room)?,
        })
    }
}

impl<M: Memory> Ends<M> {
    /// The number of elements.
    pub(crate) fn cap(&self) -> u32 {
        self.cap
    }

    /// The number of elements that are in it. All of them, if the peer claims what cannot be.
    pub(crate) fn waiting(&self) -> u32 {
        let (head, tail) = (self.load(self.layout.head()), self.load(self.layout.tail()));
        self.distance(head, tail).unwrap_or(self.cap)
    }

    /// How many elements were taken out and put in, by the low halves of the counters, and whether the consumer sleeps.
    pub(crate) fn cursors(&self) -> (u32, u32, bool) {
        let is_idle = self.load(self.layout.working()) == 0;
        let (head, tail) = (self.layout.head(), self.layout.tail());
        (self.load(head), self.load(tail), is_idle)
    }

    fn load(&self, at: u32) -> u32 {
        // Acquire: of a counter, pairs with the release in `announce`.
        self.memory.word(self.base + at).load(Ordering::Acquire)
    }

    /// Announces one of our own counters, which has just moved from `before` to `now`.
    fn announce(&self, at: u32, before: u64, now: u64) {
        let [low, high] = halves(now);
        // Release, pairs with the acquire in `load`: what was written to elements, or read from them, comes before.
        self.memory
            .word(self.base + at)
            .store(low, Ordering::Release);
        if halves(before)[1] != high {
            self.memory
                .word(self.base + at + 4)
                .store(high, Ordering::Release);
        }
    }

    fn element(&self, counter: u64) -> u32 {
        let cap = u64::from(self.cap);
        // Most are powers of two, and a division takes as long as all the rest.
        let slot = if cap.is_power_of_two() {
            counter & (cap - 1)
        } else {
            counter % cap
        };
        self.base + HEADER_LEN + ELEMENT_LEN * halves(slot)[0]
    }

    /// How far `tail` is ahead of `head`, by their low halves (H20, V2).
    fn distance(&self, head: u32, tail: u32) -> Result<u32, InvalidShmipc> {
        let distance = tail.wrapping_sub(head);
        if self.cap < distance {
            return Err(InvalidShmipc::QueueCursors {
                head,
                tail,
                cap: self.cap,
            });
        }
        Ok(distance)
    }

    /// The counters of consumer and producer, all 64 bits of them. A peer may be producing already (H42).
    ///
    /// Others take them for signed. So nobody has counted to more than half of all numbers, nor ever counts to the end.
    fn counters(&self) -> Result<[u64; 2], InvalidShmipc> {
        let whole = |at| u64::from(self.load(at)) | u64::from(self.load(at + 4)) << 32;
        let (head, tail) = (whole(self.layout.head()), whole(self.layout.tail()));
        let waiting = tail.checked_sub(head);
        if i64::try_from(tail).is_err()
            || waiting.is_none_or(|waiting| u64::from(self.cap) < waiting)
        {
            return Err(InvalidShmipc::QueueCounters { head, tail });
        }
        Ok([head, tail])
    }

    /// Becomes the side that produces.
    pub(crate) fn into_producer(self) -> Producer<M> {
        Producer {
            tail: self.begun[1],
            head: halves(self.begun[0])[0],
            ends: self,
        }
    }

    /// Becomes the side that consumes.
    pub(crate) fn into_consumer(self) -> Consumer<M> {
        let head = self.begun[0];
        Consumer {
            head,
            announced: head,
            tail: halves(head)[0],
            crowd_max: 0,
            ends: self,
        }
    }
}

/// The end of a queue at which elements are put in.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    ends: Ends<M>,
    /// Elements that we have published.
    tail: u64,
    /// The low half of what the peer had consumed when we last looked.
    head: u32,
}

impl<M: Memory> Producer<M> {
    /// For how many more elements there is room, at least. Looks at the consumer only if there seems to be little.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if the peer has consumed what was never there.
    pub(crate) fn room(&mut self) -> Result<u32, InvalidShmipc> {
        let used = halves(self.tail)[0].wrapping_sub(self.head);
        if used < self.ends.cap / 2 {
            return Ok(self.ends.cap - used);
        }
        Ok(self.ends.cap - self.refresh()?)
    }

    /// How many elements were not consumed when that was looked at last, if that is at least half of what fits.
    pub(crate) fn crowd(&self) -> Option<u32> {
        let used = halves(self.tail)[0].wrapping_sub(self.head);
        (self.ends.cap / 2 <= used).then_some(used)
    }

    /// Looks at how far the consumer is. Returns how many elements it has not consumed.
    ///
    /// # Errors
    ///
    /// As for [`room`](Self::room).
    pub(crate) fn refresh(&mut self) -> Result<u32, InvalidShmipc> {
        let head = self.ends.load(self.ends.layout.head());
        let waiting = self.ends.distance(head, halves(self.tail)[0])?;
        self.head = head;
        Ok(waiting)
    }

    /// Publishes an element, for which there is [room](Self::room).
    pub(crate) fn put(&mut self, element: Element) {
        let at = self.ends.element(self.tail);
        let words = [element.stream, element.offset, element.status];
        for (word, at) in words.into_iter().zip((at..).step_by(4)) {
            self.ends.memory.word(at).store(word, Ordering::Relaxed);
        }
        let before = self.tail;
        self.tail += 1;
        self.ends
            .announce(self.ends.layout.tail(), before, self.tail);
    }

    /// Elements published so far.
    pub(crate) fn published(&self) -> u64 {
        self.tail
    }

    /// Whether the consumer must be woken for what was published.
    pub(crate) fn must_wake(&self) -> bool {
        let working = self
            .ends
            .memory
            .word(self.ends.base + self.ends.layout.working());
        // SeqCst pairs with the fence in `Consumer::arm`: either it sees our element, or we see its 0 (C7).
        fence(Ordering::SeqCst);
        // Looked at first: the exchange would take the cache line from a consumer that is awake.
        working.load(Ordering::Relaxed) == 0
            && working
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Whether the consumer sleeps, or is about to.
    pub(crate) fn is_consumer_idle(&self) -> bool {
        self.ends.load(self.ends.layout.working()) == 0
    }
}

/// The end of a queue at which elements are taken out.
///
/// Both counters lie in one cache line, which travels between the two CPUs whenever one side writes its own while the other reads it. So
/// elements that are there together are taken with one look, and announced as consumed once.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    ends: Ends<M>,
    /// Elements that we have consumed.
    head: u64,
    /// As far as the peer has been told.
    announced: u64,
    /// The low half of what the peer had published when we last looked.
    tail: u32,
    /// The most elements that were found waiting by a look.
    crowd_max: u32,
}

impl<M: Memory> Consumer<M> {
    /// Whether an element is waiting. One load.
    pub(crate) fn is_ready(&self) -> bool {
        self.ends.load(self.ends.layout.tail()) != halves(self.head)[0]
    }

    /// How many elements are waiting.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc`] if they are more than fit.
    pub(crate) fn waiting(&self) -> Result<u32, InvalidShmipc> {
        let tail = self.ends.load(self.ends.layout.tail());
        self.ends.distance(halves(self.head)[0], tail)
    }

    /// Takes the next element.
    ///
    /// # Errors
    ///
    /// As for [`waiting`](Self::waiting).
    pub(crate) fn take(&mut self) -> Result<Option<Element>, InvalidShmipc> {
        if self.tail == halves(self.head)[0] {
            let waiting = self.waiting()?;
            if waiting == 0 {
                return Ok(None);
            }
            self.tail = self.tail.wrapping_add(waiting);
            self.crowd_max = self.crowd_max.max(waiting);
        }
        let at = self.ends.element(self.head);
        let [stream, offset, status] =
            [0, 4, 8].map(|field| self.ends.memory.word(at + field).load(Ordering::Relaxed));
        self.head += 1;
        let is_last = self.tail == halves(self.head)[0];
        if is_last || u64::from(self.ends.cap / 4) <= self.head - self.announced {
            self.ends
                .announce(self.ends.layout.head(), self.announced, self.head);
            self.announced = self.head;
        }
        Ok(Some(Element {
            stream,
            offset,
            status,
        }))
    }

    /// The most elements that were found waiting when [`take`](Self::take) has looked.
    pub(crate) fn crowd_max(&self) -> u32 {
        self.crowd_max
    }

    /// Elements consumed so far.
    pub(crate) fn consumed(&self) -> u64 {
        self.head
    }

    /// Says that we are about to sleep. Returns whether nothing has arrived; otherwise [`disarm`](Self::disarm), and go on.
    pub(crate) fn arm(&self) -> bool {
        self.set_working(0);
        // SeqCst pairs with the fence in `Producer::must_wake`.
        fence(Ordering::SeqCst);
        !self.is_ready()
    }

    /// Says that we are looking, so that nobody needs to wake us.
    pub(crate) fn disarm(&self) {
        // Looked at first, as in `Producer::must_wake`. Nobody but us says that we sleep.
        if self.ends.load(self.ends.layout.working()) != 1 {
            self.set_working(1);
        }
    }

    fn set_working(&self, working: u32) {
        let at = self.ends.base + self.ends.layout.working();
        // A swap, not a store: where a producer's swap comes in between, one of the two sees the other's.
        self.ends.memory.word(at).swap(working, Ordering::AcqRel);
    }
}

/// The low and the high half of a counter.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is what is wanted"
)]
const fn halves(counter: u64) -> [u32; 2] {
    [counter as u32, (counter >> 32) as u32]
}
