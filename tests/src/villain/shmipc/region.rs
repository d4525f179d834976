//! shmipc's shared memory by hand: two queues, and lists of slices.

use std::{sync::atomic::Ordering, time::Instant};

use super::{Dialect, Memory};
use crate::LONG;

/// Where the words of a list's head lie.
pub mod list {
    /// Free slices, signed.
    pub const SIZE: u32 = 0;
    /// Slices.
    pub const COUNT: u32 = 4;
    /// The first free slice, relative to the first slice.
    pub const HEAD: u32 = 8;
    /// The last one.
    pub const TAIL: u32 = 12;
    /// Bytes of each slice.
    pub const CAPACITY: u32 = 16;
}

/// Where the words of a slice's head lie, and what its flags say.
pub mod slice {
    /// Bytes that it can hold.
    pub const CAPACITY: u32 = 0;
    /// Bytes that it holds.
    pub const SIZE: u32 = 4;
    /// Where they begin.
    pub const START: u32 = 8;
    /// The next slice.
    pub const NEXT: u32 = 12;
    /// See below.
    pub const FLAGS: u32 = 16;
    /// There is a next slice.
    pub const HAS_NEXT: u32 = 1;
    /// It is in no list.
    pub const IN_USE: u32 = 2;
}

const REGION_HEAD_LEN: u32 = 8;
const LIST_HEAD_LEN: u32 = 36;
const SLICE_HEAD_LEN: u32 = 20;

/// The lists that a villain makes: the capacity of their slices, and how many there are. So few that victims keep none to themselves.
const LISTS: [(u32, u32); 2] = [(1024, 15), (4096, 15)];

/// A list of slices, as its head said at the beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct List {
    /// Where its head lies.
    pub at: u32,
    /// Bytes of each slice.
    pub capacity: u32,
    /// How many there are.
    pub count: u32,
}

impl List {
    /// Where its first slice lies.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.at + LIST_HEAD_LEN
    }

    /// Where a slice lies, relative to the first.
    #[must_use]
    pub fn relative(&self, number: u32) -> u32 {
        number * (self.capacity + SLICE_HEAD_LEN)
    }

    fn end(&self) -> u32 {
        self.first() + self.relative(self.count)
    }
}

/// A buffer region.
#[derive(Debug)]
pub struct Buffers {
    /// All of it.
    pub memory: Memory,
    /// The shortest slices first.
    pub lists: Vec<List>,
}

impl Buffers {
    /// Lays one out as an honest peer would, in memory that is made for it.
    #[must_use]
    pub fn create(make: impl FnOnce(u32) -> Memory) -> Self {
        Self::with(&LISTS, make)
    }

    /// The same with lists of such capacities and numbers of slices.
    #[must_use]
    pub fn with(lists_of: &[(u32, u32)], make: impl FnOnce(u32) -> Memory) -> Self {
        let mut lists: Vec<List> = Vec::new();
        for &(capacity, count) in lists_of {
            let at = lists.last().map_or(REGION_HEAD_LEN, List::end);
            lists.push(List {
                at,
                capacity,
                count,
            });
        }
        let end = lists.last().map_or(0, List::end);
        let memory = make(end);
        memory.store(0, lists.len().try_into().unwrap_or(0));
        memory.store(4, end - REGION_HEAD_LEN);
        let buffers = Self { memory, lists };
        buffers.lists.iter().for_each(|list| buffers.lay_out(list));
        buffers
    }

    fn lay_out(&self, list: &List) {
        let put = |at, value| self.memory.store(at, value);
        put(list.at + list::SIZE, list.count);
        put(list.at + list::COUNT, list.count);
        put(list.at + list::TAIL, list.relative(list.count - 1));
        put(list.at + list::CAPACITY, list.capacity);
        for number in 0..list.count {
            let slice = list.first() + list.relative(number);
            put(slice + slice::CAPACITY, list.capacity);
            if number + 1 < list.count {
                put(slice + slice::NEXT, list.relative(number + 1));
                put(slice + slice::FLAGS, slice::HAS_NEXT);
            }
        }
    }

    /// Reads what an honest victim has laid out.
    #[must_use]
    pub fn read(memory: Memory) -> Self {
        let mut lists: Vec<List> = Vec::new();
        for _ in 0..memory.load(0) & 0xffff {
            let at = lists.last().map_or(REGION_HEAD_LEN, List::end);
            lists.push(List {
                at,
                capacity: memory.load(at + list::CAPACITY),
                count: memory.load(at + list::COUNT),
            });
        }
        Self { memory, lists }
    }

    /// Takes the first free slice of a list, as an honest peer would. Returns where it lies.
    ///
    /// # Panics
    ///
    /// If the list is empty, and stays so.
    #[must_use]
    pub fn take(&self, list: &List) -> u32 {
        let (size, head) = [list::SIZE, list::HEAD]
            .map(|at| self.memory.word(list.at + at))
            .into();
        let start = Instant::now();
        loop {
            let first = head.load(Ordering::Acquire);
            let at = list.first() + first;
            let flags = self.memory.load(at + slice::FLAGS);
            let next = self.memory.load(at + slice::NEXT);
            if flags & slice::HAS_NEXT == 0 {
                // The victim has taken it since, or puts one back now; or there is none.
                assert!(start.elapsed() < LONG, "the list is empty");
                std::thread::yield_now();
                continue;
            }
            let swapped = head.compare_exchange(first, next, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                size.fetch_sub(1, Ordering::AcqRel);
                self.memory.store(at + slice::FLAGS, slice::IN_USE);
                return at;
            }
        }
    }

    /// Puts the slice at `at` back, as an honest peer would.
    ///
    /// # Panics
    ///
    /// If no slice lies there.
    pub fn put(&self, at: u32) {
        let list = self.list_of(at);
        for field in [slice::SIZE, slice::START, slice::NEXT, slice::FLAGS] {
            self.memory.store(at + field, 0);
        }
        let relative = at - list.first();
        let tail = self.memory.word(list.at + list::TAIL);
        let former = list.first() + tail.swap(relative, Ordering::AcqRel);
        self.memory.store(former + slice::NEXT, relative);
        self.memory.store(former + slice::FLAGS, slice::HAS_NEXT);
        let size = self.memory.word(list.at + list::SIZE);
        size.fetch_add(1, Ordering::AcqRel);
    }

    /// How many slices are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        let free = |list: &List| self.memory.load(list.at + list::SIZE);
        self.lists.iter().map(free).sum()
    }

    fn list_of(&self, at: u32) -> &List {
        let mut lists = self.lists.iter().rev();
        lists
            .find(|list| list.first() <= at)
            .expect("a slice lies in a list")
    }

    /// Takes a slice that holds `bytes`, writes them to it, and returns where it lies.
    ///
    /// # Panics
    ///
    /// If none is long enough, or free.
    #[must_use]
    pub fn write(&self, bytes: &[u8]) -> u32 {
        let len = u32::try_from(bytes.len()).expect("a short message");
        let mut lists = self.lists.iter();
        let list = lists.find(|list| len <= list.capacity);
        let at = self.take(list.expect("a slice that is long enough"));
        self.memory.store(at + slice::SIZE, len);
        self.memory.store(at + slice::START, 0);
        self.memory.store(at + slice::NEXT, 0);
        self.memory.write(at + SLICE_HEAD_LEN, bytes);
        at
    }

    /// Copies out the message that begins at `at`, and puts its slices back.
    #[must_use]
    pub fn receive(&self, at: u32) -> Vec<u8> {
        let (mut bytes, mut next) = (Vec::new(), Some(at));
        while let Some(at) = next {
            let word = |field| self.memory.load(at + field);
            let (size, start) = (word(slice::SIZE), word(slice::START));
            bytes.extend(self.memory.read(at + SLICE_HEAD_LEN + start, size));
            next = (word(slice::FLAGS) & slice::HAS_NEXT != 0).then(|| word(slice::NEXT));
            self.put(at);
        }
        bytes
    }
}

/// The elements of a queue that a villain makes.
const CAP: u32 = 16;
const QUEUE_HEAD_LEN: u32 = 24;
const ELEMENT_LEN: u32 = 12;

/// An element of a queue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Element {
    /// The stream.
    pub stream: u32,
    /// Where its message lies.
    pub offset: u32,
    /// What is said of the stream.
    pub status: u32,
}

/// One of the two queues of a region, as its head said at the beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queue {
    base: u32,
    /// Its elements.
    pub cap: u32,
    /// Where the word lies that says how many elements were taken out.
    pub head: u32,
    /// Where the word lies that says how many elements were put in.
    pub tail: u32,
    /// Where the word lies that says whether the consumer is awake.
    pub working: u32,
}

/// Lays out a region of two queues as an honest peer would, in memory that is made for it.
pub(super) fn create_queues(make: impl FnOnce(u32) -> Memory) -> Memory {
    let half = QUEUE_HEAD_LEN + ELEMENT_LEN * CAP;
    let memory = make(2 * half);
    memory.store(0, CAP);
    memory.store(half, CAP);
    memory
}

/// The queue to the server, and the queue to the client.
pub(super) fn queues(memory: &Memory, dialect: Dialect) -> [Queue; 2] {
    let is_legacy = dialect.version() < 4 && cfg!(target_arch = "x86_64");
    let [head, tail, working] = if is_legacy { [4, 12, 20] } else { [8, 16, 4] };
    // A villain may have brought less than that.
    let has_head = |base: u32| base.is_multiple_of(4) && base + 4 <= memory.len();
    [0, memory.len() / 2].map(|base| Queue {
        base,
        cap: if has_head(base) { memory.load(base) } else { 0 },
        head: base + head,
        tail: base + tail,
        working: base + working,
    })
}

impl Queue {
    /// Where the word lies that says how many elements there are.
    #[must_use]
    pub fn cap_at(&self) -> u32 {
        self.base
    }

    fn element(&self, counter: u32) -> u32 {
        self.base + QUEUE_HEAD_LEN + ELEMENT_LEN * (counter % self.cap)
    }

    pub(super) fn write(&self, memory: &Memory, counter: u32, element: Element) {
        let words = [element.stream, element.offset, element.status];
        memory.write(self.element(counter), &super::super::words(&words));
    }

    pub(super) fn read(&self, memory: &Memory, counter: u32) -> Element {
        let [stream, offset, status] =
            [0, 4, 8].map(|field| memory.load(self.element(counter) + field));
        Element {
            stream,
            offset,
            status,
        }
    }
}
