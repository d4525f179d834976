//! The same for shmipc's own link: a peer that shares queues and free lists with its victim, and writes to them what it likes.

mod region;
mod script;

use std::{
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use nix::{
    fcntl::SealFlag,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

pub use region::{Buffers, Element, List, Queue, list, slice};
pub use script::{ShmipcEnding, ShmipcScript, Stalled, names};

use super::{Memory, Message, Role, raw};
use crate::LONG;

/// Types of the socket's messages.
pub mod kind {
    /// Where files are.
    pub const FILE_PATHS: u8 = 0;
    /// Wake up.
    pub const POLLING: u8 = 1;
    /// A stream is closed.
    pub const CLOSE: u8 = 2;
    /// A message that found no slices.
    pub const FALLBACK: u8 = 3;
    /// What the version byte says.
    pub const VERSION: u8 = 4;
    /// How memory files are called.
    pub const MEMFD_NAMES: u8 = 5;
    /// The regions were mapped.
    pub const MAPPED: u8 = 6;
    /// Descriptors may be passed.
    pub const READY: u8 = 7;
    /// Go elsewhere.
    pub const HOT_RESTART: u8 = 8;
    /// Gone elsewhere.
    pub const HOT_RESTART_ACK: u8 = 9;
    /// A JSON document.
    pub const NEGOTIATION: u8 = 10;
}

/// Kinds of records, in the second byte of a status, where both sides speak them.
pub mod record {
    /// A message, and the last one.
    pub const LAST_MESSAGE: u32 = 1 << 8;
    /// A stream is given up.
    pub const RESET: u32 = 5 << 8;
    /// A stream's receiver has room for more.
    pub const CREDIT: u32 = 6 << 8;
    /// Are you there?
    pub const PING: u32 = 9 << 8;
    /// The answer to a ping.
    pub const PONG: u32 = 10 << 8;
}

/// The seals of an honest peer's memory, which both sides write.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// What is spoken, over which memory, and who is woken how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// Version 2, which has files only.
    V2,
    /// Version 3, as everybody speaks it.
    V3,
    /// Version 3 with files.
    V3File,
    /// Version 3 over TCP, and so with files.
    V3Tcp,
    /// Version 4, as the crate speaks it.
    V4,
    /// Version 4 with files.
    V4File,
    /// Version 4 with eventfds.
    V4Eventfd,
    /// Version 4 without anybody being woken.
    V4Polling,
    /// Version 4 with the records that this crate has added.
    Records,
    /// The same with eventfds.
    RecordsEventfd,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::V2,
        Self::V3,
        Self::V3File,
        Self::V3Tcp,
        Self::V4,
        Self::V4File,
        Self::V4Eventfd,
        Self::V4Polling,
        Self::Records,
        Self::RecordsEventfd,
    ];

    /// Those of a choice.
    pub fn those(are: impl Fn(Self) -> bool) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |dialect| are(*dialect))
    }

    /// The protocol's version.
    #[must_use]
    pub fn version(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 | Self::V3File | Self::V3Tcp => 3,
            Self::V4
            | Self::V4File
            | Self::V4Eventfd
            | Self::V4Polling
            | Self::Records
            | Self::RecordsEventfd => 4,
        }
    }

    /// Whether it has nothing but what shmipc's protocol has.
    #[must_use]
    pub fn is_native(self) -> bool {
        !matches!(self, Self::Records | Self::RecordsEventfd)
    }

    /// Whether regions are files with names.
    #[must_use]
    pub fn has_files(self) -> bool {
        matches!(self, Self::V2 | Self::V3File | Self::V3Tcp | Self::V4File)
    }

    /// Whether sessions begin over TCP, where nobody is known and so nothing is lent.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        self == Self::V3Tcp
    }

    /// Whether the sides are woken by eventfds.
    #[must_use]
    pub fn has_eventfds(self) -> bool {
        matches!(self, Self::V4Eventfd | Self::RecordsEventfd)
    }

    fn version_byte(self) -> u8 {
        match self.version() {
            4 => 0,
            version => version,
        }
    }
}

/// A message with the header that belongs to it.
#[must_use]
pub fn frame(dialect: Dialect, kind: u8, body: &[u8]) -> Message {
    let mut message = Message::new(kind, body);
    message.bytes[6] = dialect.version_byte();
    message
}

/// The villain's end of a session.
#[derive(Debug)]
pub struct ShmipcVillain {
    /// The villain's side.
    pub role: Role,
    /// What is spoken.
    pub dialect: Dialect,
    socket: UnixStream,
    /// Both queues.
    pub queues: Memory,
    /// The slices.
    pub buffers: Buffers,
    /// The queue to the victim.
    pub to_victim: Queue,
    /// The queue from the victim.
    pub from_victim: Queue,
    tail: u32,
    head: u32,
    next_stream: u32,
    /// A stream that was set aside.
    spare: Option<u32>,
    /// What wakes the victim, if it is not the socket.
    bell: Option<OwnedFd>,
}

impl ShmipcVillain {
    fn new(
        role: Role,
        dialect: Dialect,
        socket: UnixStream,
        queues: Memory,
        buffers: Buffers,
        bell: Option<OwnedFd>,
    ) -> Self {
        let [to_server, to_client] = region::queues(&queues, dialect);
        let (to_victim, from_victim) = match role {
            Role::Client => (to_server, to_client),
            Role::Server => (to_client, to_server),
        };
        Self {
            role,
            dialect,
            socket,
            queues,
            buffers,
            to_victim,
            from_victim,
            tail: 0,
            head: 0,
            next_stream: if dialect.is_native() || role == Role::Server {
                2
            } else {
                1
            },
            spare: None,
            bell,
        }
    }

    /// Elements that the villain has put in.
    #[must_use]
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// A stream on which the victim does as the first byte says: one of the villain's or, where only clients open any, the next of the
    /// victim's.
    ///
    /// # Panics
    ///
    /// If the victim has hung up.
    pub fn stream(&mut self) -> u32 {
        if let Some(stream) = self.spare.take() {
            return stream;
        }
        if self.dialect.is_native() && self.role == Role::Server {
            let (stream, _) = self.message().expect("the victim opens a stream");
            return stream;
        }
        let stream = self.next_stream;
        self.next_stream += if self.dialect.is_native() { 1 } else { 2 };
        stream
    }

    /// Sets a stream aside, because what comes next keeps the villain from hearing of the victim's.
    pub fn set_stream_aside(&mut self) {
        let stream = self.stream();
        self.spare = Some(stream);
    }

    /// Has the victim do something on a stream of its own. Returns the stream.
    pub fn prod(&mut self, what: &[u8]) -> u32 {
        let stream = self.stream();
        self.send(stream, what);
        stream
    }

    /// Sends a message as an honest peer would. Returns where its slice lies.
    pub fn send(&mut self, stream: u32, bytes: &[u8]) -> u32 {
        let offset = self.buffers.write(bytes);
        self.put(Element {
            stream,
            offset,
            status: 0,
        });
        offset
    }

    /// Puts an element in once there is room, and wakes the victim. Returns `false` if it has hung up instead.
    ///
    /// # Panics
    ///
    /// If the victim neither makes room nor hangs up.
    pub fn put(&mut self, element: Element) -> bool {
        let start = Instant::now();
        let Queue { cap, head, .. } = self.to_victim;
        while cap <= self.tail.wrapping_sub(self.queues.load(head)) {
            if self.has_been_left() {
                return false;
            }
            assert!(start.elapsed() < LONG, "the victim makes no room");
            std::thread::yield_now();
        }
        self.to_victim.write(&self.queues, self.tail, element);
        self.tail = self.tail.wrapping_add(1);
        self.say_tail(self.tail);
        true
    }

    /// Puts an element in while the victim sleeps, and does not wake it.
    ///
    /// # Panics
    ///
    /// If the victim does not go to sleep.
    pub fn put_unwoken(&mut self, element: Element) {
        let start = Instant::now();
        let Queue { tail, working, .. } = self.to_victim;
        while self.queues.load(working) != 0 {
            assert!(start.elapsed() < LONG, "the victim does not sleep");
            std::thread::yield_now();
        }
        self.to_victim.write(&self.queues, self.tail, element);
        self.tail = self.tail.wrapping_add(1);
        self.queues.store(tail, self.tail);
    }

    /// Says how many elements were put in, and wakes the victim.
    pub fn say_tail(&mut self, tail: u32) {
        self.queues.store(self.to_victim.tail, tail);
        if self.dialect == Dialect::V4Polling {
            return;
        }
        let working = self.queues.word(self.to_victim.working);
        // SeqCst pairs with the fence with which the victim goes to sleep.
        let slept = working.compare_exchange(0, 1, Ordering::SeqCst, Ordering::Relaxed);
        match &self.bell {
            // It fails if it is full, and then it is heard.
            Some(bell) if slept.is_ok() => {
                let _ = write(bell, &1u64.to_ne_bytes());
            }
            None if slept.is_ok() => self.say(kind::POLLING, &[]),
            _ => {}
        }
    }

    /// Says something on the socket.
    pub fn say(&mut self, kind: u8, body: &[u8]) {
        let message = frame(self.dialect, kind, body);
        self.say_message(&message);
    }

    /// Sends a message over the socket, as a peer does that finds no slices.
    pub fn fall_back(&mut self, stream: u32, status: u32, payload: &[u8]) {
        let mut body = stream.to_be_bytes().to_vec();
        body.extend(status.to_be_bytes());
        body.extend(payload);
        self.say(kind::FALLBACK, &body);
    }

    /// Says something on the socket, whether it makes sense or not.
    pub fn say_message(&mut self, message: &Message) {
        // It fails once the victim has hung up.
        drop(raw::send(&self.socket, &message.bytes, &message.fds));
    }

    /// Says something on the socket for as long as the victim takes it. Returns the bytes that it took before it paused.
    ///
    /// # Panics
    ///
    /// If the socket has no modes.
    #[must_use]
    pub fn flood(&mut self, message: &Message, most: usize) -> usize {
        let mut taken = 0;
        self.socket
            .set_write_timeout(Some(Duration::from_millis(300)))
            .expect("a timeout");
        while taken < most {
            let bytes = &message.bytes[taken % message.bytes.len()..];
            match (&self.socket).write(bytes) {
                Ok(len) => taken += len,
                Err(_) => break,
            }
        }
        taken
    }

    /// Takes the next element out of the victim's queue, if there is one.
    pub fn peek(&mut self) -> Option<Element> {
        let waiting = self
            .queues
            .load(self.from_victim.tail)
            .wrapping_sub(self.head);
        // A villain that has overwritten the counter waits until its owner says it again.
        if waiting == 0 || self.from_victim.cap < waiting {
            return None;
        }
        let element = self.from_victim.read(&self.queues, self.head);
        self.head = self.head.wrapping_add(1);
        self.queues.store(self.from_victim.head, self.head);
        Some(element)
    }

    /// Waits for the next message in shared memory: its stream, and its bytes. `None` if the victim has hung up.
    ///
    /// # Panics
    ///
    /// If nothing happens.
    pub fn message(&mut self) -> Option<(u32, Vec<u8>)> {
        let start = Instant::now();
        loop {
            match self.peek() {
                Some(Element {
                    stream,
                    offset,
                    status: 0 | record::LAST_MESSAGE,
                }) => return Some((stream, self.buffers.receive(offset))),
                Some(_) => {}
                None if self.has_been_left() => return None,
                None => std::thread::yield_now(),
            }
            assert!(start.elapsed() < LONG, "the victim says nothing");
        }
    }

    /// Waits until the victim has put back all slices of the shortest, of which it holds none.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn wait_for_short_slices(&self) {
        let start = Instant::now();
        let list = self.buffers.lists[0];
        while self.buffers.memory.load(list.at + list::SIZE) != list.count {
            assert!(start.elapsed() < LONG, "the victim puts nothing back");
            std::thread::yield_now();
        }
    }

    /// Waits for the next message on the socket that found no slices: its stream, and its bytes. What comes in shared memory
    /// meanwhile is passed over.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn fallback(&mut self) -> (u32, Vec<u8>) {
        let start = Instant::now();
        loop {
            // Where eventfds wake, or nobody does, nothing is said on the socket until all that came before was taken by somebody who
            // has gone to sleep since.
            while self.peek().is_some() {}
            self.queues.store(self.from_victim.working, 0);
            if !self.is_addressed() {
                assert!(start.elapsed() < LONG, "the victim does not fall back");
                std::thread::yield_now();
                continue;
            }
            let mut header = [0; 8];
            raw::receive(&self.socket, &mut header).expect("the victim falls back");
            let [l0, l1, l2, l3, .., kind] = header;
            let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            let mut body = vec![0; len - header.len()];
            if !body.is_empty() {
                raw::receive(&self.socket, &mut body).expect("the victim falls back");
            }
            if kind == self::kind::FALLBACK {
                let stream = body[..4].try_into().expect("four bytes");
                return (u32::from_be_bytes(stream), body.split_off(8));
            }
        }
    }

    /// Whether something has come over the socket, or nothing will any more.
    fn is_addressed(&self) -> bool {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).expect("a socket can be asked");
        let [socket] = polled;
        socket.any() != Some(false)
    }

    /// Whether the victim has hung up.
    ///
    /// # Panics
    ///
    /// If the kernel does not say.
    #[must_use]
    pub fn has_been_left(&self) -> bool {
        // That of a Unix socket is always watched for. That of a TCP connection is half of one, until both sides have hung up.
        let events = if self.dialect.is_tcp() {
            PollFlags::from_bits_retain(libc::POLLRDHUP)
        } else {
            PollFlags::empty()
        };
        let mut polled = [PollFd::new(self.socket.as_fd(), events)];
        poll(&mut polled, PollTimeout::ZERO).expect("a socket can be asked");
        let [socket] = polled;
        // `None` is what nix has no name for.
        socket.any() != Some(false)
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
