//! A peer made by hand, from the description of the bytes alone: it shakes hands as it should, and then says whatever a
//! test has it say.
//!
//! It shares no code with the crate under test, so that it also notices when the bytes change by accident.

mod raw;
mod script;
pub mod shmipc;

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Instant,
};

use nix::unistd::write;

pub use raw::{Memory, SEALS};
pub use script::{Ending, MEMORY_MAX, Message, OUTBOX_LEN, Role, Script, at, kind};
use script::{RETURNS, RING, RING_LEN};

use crate::LONG;

/// Kinds of records.
pub mod record {
    /// Nothing.
    pub const PAD: u8 = 1;
    /// A message, or the end of a stream, or both.
    pub const DATA: u8 = 2;
    /// A stream is given up.
    pub const RESET: u8 = 3;
    /// A stream's receiver has room for more.
    pub const CREDIT: u8 = 4;
    /// No more streams, please.
    pub const GO_AWAY: u8 = 5;
    /// The session is over.
    pub const BYE: u8 = 6;
    /// A region is on its way over the socket.
    pub const REGION_ADDED: u8 = 7;
    /// A region is gone.
    pub const REGION_DROPPED: u8 = 8;
    /// A segment is given back.
    pub const RETURN: u8 = 9;
    /// Flag of data: there is a message.
    pub const MESSAGE: u16 = 1;
    /// Flag of data: it is the last.
    pub const END: u16 = 2;
}

/// A record, whether it makes sense or not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// See [`record`].
    pub kind: u8,
    /// Flags of data.
    pub flags: u16,
    /// Segments at the beginning of the body.
    pub segments: u16,
    /// The stream.
    pub stream: u64,
    /// The body.
    pub body: Vec<u8>,
    /// What to say of the body's length, if not the truth.
    pub claimed_len: Option<u32>,
}

/// A segment, whether it makes sense or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// The region; the highest bit says that it is one of the receiver's.
    pub region: u32,
    /// The name under which it is given back.
    pub token: u32,
    /// Where it begins in the region.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// The region of segments that lie in the record.
pub const INLINE: u32 = YOURS - 1;
/// The bit of a region that belongs to the receiver.
pub const YOURS: u32 = 1 << 31;

impl Segment {
    /// Its sixteen bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        words(&[self.region, self.token, self.offset, self.len])
    }
}

/// The bytes of some words.
#[must_use]
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl Record {
    /// A record that is about no message.
    #[must_use]
    pub fn control(kind: u8, stream: u64, body: &[u32]) -> Self {
        Self {
            kind,
            stream,
            body: words(body),
            ..Self::default()
        }
    }

    /// A message that lies in the record.
    #[must_use]
    pub fn data(stream: u64, flags: u16, body: &[u8]) -> Self {
        Self {
            kind: record::DATA,
            flags,
            stream,
            body: body.to_vec(),
            ..Self::default()
        }
    }

    /// A message of segments.
    ///
    /// # Panics
    ///
    /// If there are more than can be counted.
    #[must_use]
    pub fn segments(stream: u64, segments: &[Segment]) -> Self {
        Self {
            segments: u16::try_from(segments.len()).expect("a few segments"),
            body: segments
                .iter()
                .flat_map(|segment| segment.bytes())
                .collect(),
            ..Self::data(stream, record::MESSAGE, &[])
        }
    }

    /// The segments of a message.
    ///
    /// # Panics
    ///
    /// If the body is too short for them.
    #[must_use]
    pub fn named(&self) -> Vec<Segment> {
        let chunks = self.body.chunks_exact(16).take(usize::from(self.segments));
        let word = |chunk: &[u8], i: usize| {
            let bytes = chunk[4 * i..4 * i + 4].try_into();
            u32::from_ne_bytes(bytes.expect("four bytes"))
        };
        chunks
            .map(|chunk| Segment {
                region: word(chunk, 0),
                token: word(chunk, 1),
                offset: word(chunk, 2),
                len: word(chunk, 3),
            })
            .collect()
    }
}

/// The villain's end of a session.
#[derive(Debug)]
pub struct Villain {
    role: Role,
    socket: UnixStream,
    /// Its outbox.
    pub own: Memory,
    /// Its victim's.
    pub theirs: Memory,
    _own_bell: OwnedFd,
    their_bell: OwnedFd,
    tail: u32,
    head: u32,
    returned: u32,
    next_stream: u64,
    regions: Vec<Memory>,
}

impl Villain {
    fn new(
        role: Role,
        socket: UnixStream,
        own: Memory,
        own_bell: OwnedFd,
        theirs: Memory,
        their_bell: OwnedFd,
    ) -> Self {
        Self {
            role,
            socket,
            own,
            theirs,
            _own_bell: own_bell,
            their_bell,
            tail: 0,
            head: 0,
            returned: 0,
            next_stream: if role == Role::Client { 1 } else { 2 },
            regions: Vec::new(),
        }
    }

    /// The id that the villain's next stream would have.
    #[must_use]
    pub fn next_stream(&self) -> u64 {
        self.next_stream
    }

    /// An id that only the victim may give to a stream, and has not.
    #[must_use]
    pub fn foreign_stream(&self) -> u64 {
        if self.role == Role::Client {
            1000
        } else {
            1001
        }
    }

    /// Bytes that the villain has put into its ring.
    #[must_use]
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Bytes that the villain has taken from its victim's ring.
    #[must_use]
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Opens a stream with a message.
    pub fn open(&mut self, flags: u16, message: &[u8]) -> u64 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.push(Record::data(stream, flags, message));
        stream
    }

    /// Publishes a record once there is room for it, and rings. Returns `false` if the victim has hung up instead.
    ///
    /// # Panics
    ///
    /// If the victim neither makes room nor hangs up.
    pub fn push(&mut self, record: Record) -> bool {
        let Record {
            kind,
            flags,
            segments,
            stream,
            body,
            claimed_len,
        } = record;
        let len = u32::try_from(body.len()).expect("a short body");
        let mut rest = flags.to_ne_bytes().to_vec();
        rest.extend(segments.to_ne_bytes());
        rest.extend(stream.to_ne_bytes());
        rest.extend(body);
        let first = u32::from(kind) << 24 | claimed_len.unwrap_or(len);
        self.push_raw(first, &rest)
    }

    /// Publishes a first word and what follows it.
    ///
    /// # Panics
    ///
    /// If the victim neither makes room nor hangs up.
    pub fn push_raw(&mut self, first: u32, rest: &[u8]) -> bool {
        let stride = u32::try_from(4 + rest.len())
            .expect("a short body")
            .next_multiple_of(16);
        let to_end = RING_LEN - self.tail % RING_LEN;
        if to_end < stride {
            let pad = u32::from(record::PAD) << 24 | (to_end - 16);
            if !self.publish(to_end, pad, &[0; 12]) {
                return false;
            }
        }
        self.publish(stride, first, rest)
    }

    fn publish(&mut self, stride: u32, first: u32, rest: &[u8]) -> bool {
        let start = Instant::now();
        while RING_LEN < self.tail.wrapping_sub(self.theirs.load(at::HEAD)) + stride + 16 {
            if self.has_been_left() {
                return false;
            }
            assert!(start.elapsed() < LONG, "the victim makes no room");
            std::thread::yield_now();
        }
        let at = RING + self.tail % RING_LEN;
        self.tail = self.tail.wrapping_add(stride);
        self.own.store(RING + self.tail % RING_LEN, 0);
        self.own.write(at + 4, rest);
        self.own.store(at, first);
        self.ring();
        true
    }

    /// Wakes the victim.
    pub fn ring(&self) {
        // It fails if the victim has rigged its own doorbell; then it need not be woken.
        let _ = write(&self.their_bell, &1u64.to_ne_bytes());
    }

    /// Takes the next record out of the victim's ring, without saying so.
    pub fn peek(&mut self) -> Option<Record> {
        loop {
            let at = RING + self.head % RING_LEN;
            let first = self.theirs.load(at);
            if first == 0 {
                return None;
            }
            let [kind, ..] = first.to_be_bytes();
            let len = first & 0x00ff_ffff;
            self.head = self.head.wrapping_add((16 + len).next_multiple_of(16));
            let half = self.theirs.load(at + 4).to_ne_bytes();
            let (low, high) = (self.theirs.load(at + 8), self.theirs.load(at + 12));
            if kind != record::PAD {
                return Some(Record {
                    kind,
                    flags: u16::from_ne_bytes([half[0], half[1]]),
                    segments: u16::from_ne_bytes([half[2], half[3]]),
                    stream: u64::from(high) << 32 | u64::from(low),
                    body: self.theirs.read(at + 16, len),
                    claimed_len: None,
                });
            }
        }
    }

    /// Waits for the victim's next record, and says that it was taken. `None` if the victim has hung up.
    ///
    /// # Panics
    ///
    /// If nothing happens.
    pub fn take(&mut self) -> Option<Record> {
        let start = Instant::now();
        loop {
            if let Some(record) = self.peek() {
                self.announce();
                return Some(record);
            }
            if self.has_been_left() {
                return None;
            }
            assert!(start.elapsed() < LONG, "the victim says nothing");
            std::thread::yield_now();
        }
    }

    /// Waits for the victim's next message.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn message(&mut self) -> Record {
        loop {
            let record = self.take().expect("a message");
            if record.kind == record::DATA && record.flags & record::MESSAGE != 0 {
                return record;
            }
        }
    }

    /// Says how far the victim's ring was read.
    pub fn announce(&self) {
        self.own.store(at::HEAD, self.head);
        self.ring();
    }

    /// Gives a segment back, whether there is one or not.
    pub fn give_back(&mut self, token: u32) {
        self.own.store(RETURNS + 4 * (self.returned % 4096), token);
        self.returned += 1;
        self.own.store(at::RETURNED, self.returned);
        self.ring();
    }

    /// Says something on the socket.
    pub fn say(&mut self, message: &Message) {
        // It fails once the victim has hung up.
        drop(raw::send(&self.socket, &message.bytes, &message.fds));
    }

    /// Adds a region as an honest peer would.
    pub fn add_region(&mut self, id: u32, len: u32) {
        let memory = Memory::sealed(len);
        self.say(&Message::region(id, u64::from(len), vec![memory.fd()]));
        self.push(Record::control(record::REGION_ADDED, 0, &[id, len]));
        self.regions.push(memory);
    }

    /// Passes a region on as an honest peer would. Returns what is to be watched.
    ///
    /// # Panics
    ///
    /// If the kernel refuses an anchor.
    pub fn add_forwarded(&mut self, id: u32, memory: &Memory, len: u32) -> UnixStream {
        let (watch, anchor) = UnixStream::pair().expect("an anchor");
        let fds = vec![memory.fd(), anchor.into()];
        self.say(&Message::forwarded(id, u64::from(len), fds));
        self.push(Record::control(record::REGION_ADDED, 0, &[id, len]));
        watch
    }

    /// Whether the victim has hung up.
    #[must_use]
    pub fn has_been_left(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a mode");
        let mut byte = [0];
        // What the victim says on the socket is of no interest here.
        let left = match raw::receive(&self.socket, &mut byte) {
            Ok(_) => false,
            Err(error) => script::is_end(&error),
        };
        self.socket.set_nonblocking(false).expect("a mode");
        left
    }

    /// Waits until the victim hangs up.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn wait_to_be_left(&self) {
        let start = Instant::now();
        while !self.has_been_left() {
            assert!(start.elapsed() < LONG, "the victim does not hang up");
            std::thread::yield_now();
        }
    }
}
