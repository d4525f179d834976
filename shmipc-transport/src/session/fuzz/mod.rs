//! A session whose peer's memory holds whatever a fuzzer says.
//!
//! The input is a script. Some of its steps are the villain's: it writes records that look honest, or anything at all,
//! moves its cursors, returns tokens, announces regions. The others are ours: open, accept, send, receive, forward, drop.
//! After each step the session looks at what there is, as its driver would. Whatever is said, it must come back, without
//! a panic, having allocated no more than the messages that it admitted are long; if the session is over then, the
//! villain, or its goodbye, is the reason.

pub(super) mod shmipc;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BufMut};
use tokio::{
    net::UnixStream,
    runtime::{Builder, Runtime},
};

use super::{Session, Shared};
use crate::{
    Config, Flush, Payloads, Peer, RecvBuf, Stream, Wait,
    core::{
        mem::OwnedRegion,
        num::{RegionId, StreamId, index},
        outbox::{
            Geometry, Header, INLINE_MAX, Kind, OUTBOX_LEN, Part, RECORD_BODY_MAX, RecordHead,
            Segment, Windows,
        },
        sync::{AtomicU32, Ordering},
        wire::{Region, negotiation::DoorbellKind},
    },
    error::SessionLost,
    link::{Link, Outbox, OutboxLink, PeerOutbox, Rx, Standing},
    sys::{
        doorbell::{Doorbell, PeerDoorbell},
        memfd,
        socket::ControlSocket,
    },
};

/// Never drives anything: tokio's sockets want to know one.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_io().build();
    runtime.expect("epoll is there")
});

/// The memory behind every region that a villain announces.
static REGION: LazyLock<(OwnedRegion, OwnedFd)> =
    LazyLock::new(|| memfd::create_sealed(REGION_LEN).expect("memory for a test"));

const REGION_LEN: u32 = 1 << 16;

/// What our own regions may come to, and the villain's as it mostly says.
const MEMORY_MAX: u32 = 1 << 20;

/// Longer scripts say nothing new.
const STEPS_MAX: usize = 256;

/// What each side may have under way.
const WINDOWS: Windows = Windows {
    streams_max: 4,
    messages: 8,
    bytes: 1 << 14,
};

/// Plays the script that `data` holds: the body of the fuzz target for sessions.
pub fn fuzz_session(data: &[u8]) {
    let _entered = RUNTIME.enter();
    let mut script = Script(data);
    let mut play = Play::begin(script.byte(), MEMORY_MAX);
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() || play.ours.is_lost() {
            break;
        }
        play.step(&mut script);
        play.ours.look();
    }
    play.ours.end();
}

/// The rest of the input; after its end come zeroes.
struct Script<'d>(&'d [u8]);

impl Script<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        bytes[..len].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_ne_bytes(self.bytes())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A number that is mostly small, and sometimes any at all.
    fn number(&mut self) -> u32 {
        match self.byte() {
            0xff => self.word(),
            small => u32::from(small),
        }
    }

    fn slice(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Both sides: a real session, and the memory and socket of its peer.
struct Play {
    ours: Ours,
    villain: Villain,
}

/// A session with everything that its user holds.
struct Ours {
    session: Session,
    shared: Arc<Shared>,
    streams: Vec<Stream>,
    messages: Vec<RecvBuf>,
}

struct Villain {
    memory: OwnedRegion,
    layout: Geometry,
    /// Where it writes its next record.
    tail: u32,
    socket: ControlSocket,
}

impl Play {
    /// Joins the two: payloads lent or guarded, connecting or accepting, sleeping or spinning. `memory_max` is what the villain says
    /// that its regions come to.
    fn begin(choice: u8, memory_max: u32) -> Self {
        let payloads = if choice & 1 == 0 {
            Payloads::Auto
        } else {
            Payloads::Guarded
        };
        let wait = if choice & 4 == 0 {
            Wait::Block
        } else {
            Wait::Busy
        };
        let config = Config::builder()
            .wait(wait)
            .payloads(payloads)
            .memory_max(MEMORY_MAX)
            .streams_max(WINDOWS.streams_max)
            .build()
            .expect("these settings make sense");
        let (memory, fd) = memfd::create_sealed(OUTBOX_LEN).expect("memory for a test");
        memory.layout::<Header>(0).constants.0.describe(WINDOWS);
        let theirs = PeerOutbox::open(fd, u64::from(OUTBOX_LEN), u64::from(memory_max))
            .expect("it is in order so far");
        let (_, doorbell) = Doorbell::create(DoorbellKind::EventFd).expect("a doorbell for a test");
        let doorbell = PeerDoorbell::accept(doorbell, DoorbellKind::EventFd).expect("an eventfd");
        let (ours, socket) = StdStream::pair().expect("sockets for a test");
        let [ours, socket] = [ours, socket].map(|socket| {
            socket.set_nonblocking(true).expect("sockets can do that");
            ControlSocket::new(UnixStream::from_std(socket).expect("a runtime was entered"))
        });
        let user = nix::unistd::geteuid().as_raw();
        let peer = Peer::new(1, user, user);
        let (link, rx) = OutboxLink::new(
            Outbox::create(config.windows()).expect("memory for a test"),
            theirs,
            doorbell,
            Arc::new(ours),
            config.memory_max(),
            Standing {
                payloads: config.payloads(),
                peer,
                forwards: true,
                doorbell: DoorbellKind::EventFd,
            },
        );
        let connecting = choice & 2 == 0;
        let shared = Arc::new(Shared::new(
            Link::Outbox(Arc::new(link)),
            Rx::Outbox(rx),
            config,
            peer,
            WINDOWS,
            connecting,
            None,
        ));
        Self {
            ours: Ours::new(shared),
            villain: Villain {
                memory,
                layout: Geometry::ours(),
                tail: 0,
                socket,
            },
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0..=3 => self.villain.say(script),
            4 => self.villain.blurt(script),
            5 => self.villain.claim(script),
            6 => self.villain.give_back(script),
            7 => self.villain.announce(script),
            8 => self.villain.repeat(script),
            ours => self.ours.step(ours, script),
        }
    }
}

impl Ours {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            session: Session::new(Arc::clone(&shared)),
            shared,
            streams: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn is_lost(&self) -> bool {
        self.shared.lost().is_some()
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step {
            9 => self.streams.extend(self.session.open_stream()),
            10 => self.accept(),
            11 => self.send(script),
            12 => self.receive(script),
            13 => self.forward(script),
            14 => drop(pick(&mut self.messages, script)),
            _ => drop(pick(&mut self.streams, script)),
        }
    }

    /// What the driver does when it is woken.
    fn look(&self) {
        let mut inbound = self.shared.inbound();
        let link = &self.shared.link;
        link.disarm(&mut inbound.rx);
        if link.delivers_from_socket() {
            // A villain hangs up by the end of the script.
            self.shared.take_regions(&mut inbound);
            link.send_unsent();
        }
        self.shared.drain(&mut inbound);
        self.shared.rest(&mut inbound);
        if let Err(misbehaved) = link.ticked() {
            self.shared.blame(misbehaved);
        }
    }

    /// The villain dies.
    fn end(self) {
        self.shared.bury(&mut self.shared.inbound());
        let lost = self.shared.reason();
        assert!(
            matches!(
                lost,
                SessionLost::PeerDied | SessionLost::ClosedByPeer | SessionLost::PeerMisbehaved(_)
            ),
            "{lost:?} is not the villain's doing"
        );
        // What was received outlives the session.
        for mut message in self.messages {
            let len = message.len();
            drop(message.copy_to_bytes(len));
        }
    }

    fn accept(&mut self) {
        if let Poll::Ready(Ok(stream)) = self.session.poll_accept_stream(&mut context()) {
            self.streams.push(stream);
        }
    }

    fn send(&mut self, script: &mut Script<'_>) {
        let (choice, len) = (script.byte(), index(u32::from(script.half())));
        let Some(stream) = some(&mut self.streams, script) else {
            return;
        };
        let mut message = stream.buffer(len);
        message.put_bytes(choice, len);
        send(stream, message, choice);
    }

    fn receive(&mut self, script: &mut Script<'_>) {
        let Some(stream) = some(&mut self.streams, script) else {
            return;
        };
        if let Poll::Ready(Ok(Some(message))) = stream.poll_recv(&mut context()) {
            self.messages.push(message);
        }
    }

    /// Sends a message on, by reference where it is long enough.
    fn forward(&mut self, script: &mut Script<'_>) {
        let choice = script.byte();
        let Some(mut message) = pick(&mut self.messages, script) else {
            return;
        };
        let Some(stream) = some(&mut self.streams, script) else {
            return;
        };
        let mut copy = stream.buffer(message.len());
        let len = message.len();
        copy.put(message.copy_to_bytes(len));
        send(stream, copy, choice);
    }
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Play").finish_non_exhaustive()
    }
}

impl Villain {
    fn header(&self) -> &Header {
        self.memory.layout(0)
    }

    /// A record with a well-formed frame, whatever it says.
    fn say(&mut self, script: &mut Script<'_>) {
        let kind = match script.byte() % 12 {
            0 => Kind::Pad,
            1 => Kind::Reset,
            2 => Kind::Credit,
            3 => Kind::GoAway,
            4 => Kind::Bye,
            5 => Kind::RegionAdded,
            6 => Kind::RegionDropped,
            7 => Kind::Return,
            8 => Kind::Ping,
            9 => Kind::Pong,
            _ => Kind::Data,
        };
        let stream = StreamId(u64::from(script.number()));
        let mut head = RecordHead::control(kind, stream, 0);
        let mut body = Vec::new();
        match kind {
            Kind::Data => {
                head.flags = 1 + u16::from(script.byte() % 3);
                self.compose(script, &mut head, &mut body);
            }
            Kind::Pad => body.resize(index(script.number() % RECORD_BODY_MAX), 0),
            Kind::Reset | Kind::RegionDropped | Kind::Return => {
                body.extend(script.number().to_ne_bytes());
            }
            Kind::Credit | Kind::Ping | Kind::Pong => {
                body.extend(script.number().to_ne_bytes());
                body.extend(script.number().to_ne_bytes());
            }
            Kind::RegionAdded => {
                body.extend(script.number().to_ne_bytes());
                body.extend(REGION_LEN.to_ne_bytes());
            }
            Kind::GoAway | Kind::Bye => {}
        }
        head.body_len = u32::try_from(body.len()).expect("bodies are short");
        self.publish(&head, &body);
    }

    /// The segments and inline bytes of a message.
    fn compose(&self, script: &mut Script<'_>, head: &mut RecordHead, body: &mut Vec<u8>) {
        if head.flags & 1 == 0 {
            return;
        }
        head.segments = u16::from(script.byte() % 6);
        let mut inline = 0;
        for _ in 0..head.segments {
            let choice = script.byte();
            let segment = if choice.is_multiple_of(3) {
                let len = script.number();
                inline += len % INLINE_MAX;
                Segment::Inline { len }
            } else {
                let part = Part {
                    region: RegionId(script.number()),
                    token: script.number(),
                    offset: u32::from(script.half()),
                    len: u32::from(script.half()),
                };
                if choice % 3 == 1 {
                    Segment::Theirs(part)
                } else {
                    Segment::Yours(part)
                }
            };
            body.extend(segment.encode());
        }
        let inline = if head.segments == 0 {
            script.number()
        } else {
            inline
        };
        body.extend(std::iter::repeat_n(7, index(inline.min(INLINE_MAX))));
    }

    /// Puts a record into the ring as an honest peer would, except that it does not ask for room.
    fn publish(&mut self, head: &RecordHead, body: &[u8]) {
        let ring = self.layout.ring;
        let stride = RecordHead::stride(head.body_len);
        let to_end = ring.get() - ring.slot(self.tail);
        if to_end < stride {
            let pad = RecordHead::control(Kind::Pad, StreamId(0), to_end - 16);
            self.put(self.tail, &pad, &[]);
            self.tail = self.tail.wrapping_add(to_end);
        }
        let next = self.tail.wrapping_add(stride);
        self.ring_word(next).store(0, Ordering::Relaxed);
        self.put(self.tail, head, body);
        self.tail = next;
    }

    fn put(&self, at: u32, head: &RecordHead, body: &[u8]) {
        let start = self.layout.ring_offset + self.layout.ring.slot(at);
        self.memory.write(start + 4, &head.rest());
        self.memory.write(start + 16, body);
        let first_word = head.first_word();
        self.ring_word(at).store(first_word, Ordering::Release);
    }

    fn ring_word(&self, at: u32) -> &AtomicU32 {
        self.memory
            .word(self.layout.ring_offset + self.layout.ring.slot(at))
    }

    /// Anything at all, where the next record is expected.
    fn blurt(&mut self, script: &mut Script<'_>) {
        let len = usize::from(script.byte());
        let bytes = script.slice(len);
        let at = self.layout.ring.slot(self.tail);
        let room = index(self.layout.ring.get() - at);
        let bytes = &bytes[..bytes.len().min(room)];
        self.memory.write(self.layout.ring_offset + at, bytes);
    }

    /// Moves a cursor, by a little or to anywhere.
    fn claim(&mut self, script: &mut Script<'_>) {
        let header = self.header();
        let word = match script.byte() % 4 {
            0 => &header.head.0,
            1 => &header.returned.0,
            2 => &header.sleep.0,
            _ => &header.starved.0,
        };
        let by = script.number();
        word.store(
            word.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Release,
        );
    }

    /// Returns a token.
    fn give_back(&mut self, script: &mut Script<'_>) {
        let returned = &self.header().returned.0;
        let count = returned.load(Ordering::Relaxed);
        let slot = self.layout.returns_offset + 4 * self.layout.returns.slot(count);
        let token = script.number();
        self.memory.word(slot).store(token, Ordering::Relaxed);
        returned.store(count.wrapping_add(1), Ordering::Release);
    }

    /// Passes a region over the socket.
    fn announce(&mut self, script: &mut Script<'_>) {
        let id = RegionId(script.number());
        let choice = script.byte();
        let len = match choice {
            0xff => u64::from(script.word()),
            _ => u64::from(REGION_LEN),
        };
        // A socket that is there is as good an anchor as any; memory is none.
        let anchor = match choice {
            0xfd => Some(REGION.1.as_fd()),
            0xfe => Some(self.socket.as_fd()),
            _ => None,
        };
        // It fails once the session is over.
        drop(self.socket.send_region(Region {
            id,
            len,
            memory: REGION.1.as_fd(),
            anchor,
        }));
    }

    /// Fills the whole ring with one control record, so that it never comes to an end.
    fn repeat(&mut self, script: &mut Script<'_>) {
        let kind = match script.byte() % 4 {
            0 => Kind::Pad,
            1 => Kind::GoAway,
            2 => Kind::Data,
            _ => return,
        };
        let mut head = RecordHead::control(kind, StreamId(u64::from(script.byte())), 0);
        if kind == Kind::Data {
            head.flags = 1;
        }
        for at in (0..self.layout.ring.get()).step_by(16) {
            self.put(at, &head, &[]);
        }
    }
}

fn send(stream: &mut Stream, message: crate::SendBuf, choice: u8) {
    let flush = if choice & 1 == 0 {
        Flush::More
    } else {
        Flush::End
    };
    // A message that has to wait is given up.
    let mut sending = std::pin::pin!(stream.send(message, flush));
    let _ = sending.as_mut().poll(&mut context());
}

fn some<'s>(streams: &'s mut [Stream], script: &mut Script<'_>) -> Option<&'s mut Stream> {
    let which = usize::from(script.byte()).checked_rem(streams.len())?;
    streams.get_mut(which)
}

fn pick<T>(from: &mut Vec<T>, script: &mut Script<'_>) -> Option<T> {
    let which = usize::from(script.byte()).checked_rem(from.len())?;
    Some(from.swap_remove(which))
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
