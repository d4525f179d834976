//! What the villain says in the handshake.

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    Villain,
    raw::{self, Memory},
};
use crate::LONG;

/// Where the words of an outbox lie.
pub mod at {
    /// The first word of the constants.
    pub const MAGIC: u32 = 0;
    /// The layout's version.
    pub const VERSION: u32 = 4;
    /// Where the ring of records begins.
    pub const RING_OFFSET: u32 = 8;
    /// The length of the ring of records in bytes.
    pub const RING_LEN: u32 = 12;
    /// Where the return ring begins.
    pub const RETURNS_OFFSET: u32 = 16;
    /// The length of the return ring in entries.
    pub const RETURNS_LEN: u32 = 20;
    /// Streams that may be open at once.
    pub const STREAMS_MAX: u32 = 24;
    /// Messages that may be under way on a stream.
    pub const WINDOW_MESSAGES: u32 = 28;
    /// Bytes that may be under way on a stream.
    pub const WINDOW_BYTES: u32 = 32;
    /// How much of the peer's ring has been consumed.
    pub const HEAD: u32 = 128;
    /// How many of the peer's segments have been returned.
    pub const RETURNED: u32 = 256;
    /// Odd while its owner sleeps.
    pub const SLEEP: u32 = 384;
    /// Odd while its owner waits for space.
    pub const STARVED: u32 = 512;
}

pub(super) const RING: u32 = 4096;
pub(super) const RING_LEN: u32 = 64 << 10;
pub(super) const RETURNS: u32 = RING + RING_LEN;
const RETURNS_LEN: u32 = 4096;

/// The length of an outbox in bytes.
pub const OUTBOX_LEN: u32 = RETURNS + 4 * RETURNS_LEN;
/// What the regions of a villain may come to, by its own account.
pub const MEMORY_MAX: u32 = 1 << 30;

/// Types of the socket's messages.
pub mod kind {
    /// A JSON document: what each side can do.
    pub const NEGOTIATION: u8 = 10;
    /// A side's memory.
    pub const OUTBOX: u8 = 32;
    /// The peer's memory has been mapped.
    pub const READY: u8 = 33;
    /// More memory.
    pub const REGION: u8 = 34;
    /// Memory of somebody else's.
    pub const FORWARDED: u8 = 35;
}

/// A message for the socket.
#[derive(Debug, Default)]
pub struct Message {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// The descriptors that come with the first byte.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A message with the header that belongs to it.
    ///
    /// # Panics
    ///
    /// If the body is longer than a length can say.
    #[must_use]
    pub fn new(kind: u8, body: &[u8]) -> Self {
        let len = u32::try_from(8 + body.len()).expect("a short body");
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend([0x77, 0x58, 0, kind]);
        bytes.extend(body);
        Self {
            bytes,
            fds: Vec::new(),
        }
    }

    /// The message that passes an outbox.
    #[must_use]
    pub fn outbox(len: u64, fds: Vec<OwnedFd>) -> Self {
        let mut body = len.to_be_bytes().to_vec();
        body.extend(u64::from(MEMORY_MAX).to_be_bytes());
        body.extend(1u32.to_be_bytes());
        Self {
            fds,
            ..Self::new(kind::OUTBOX, &body)
        }
    }

    /// The message that passes a region.
    #[must_use]
    pub fn region(id: u32, len: u64, fds: Vec<OwnedFd>) -> Self {
        let mut body = id.to_be_bytes().to_vec();
        body.extend(len.to_be_bytes());
        Self {
            fds,
            ..Self::new(kind::REGION, &body)
        }
    }

    /// The message that passes a region of somebody else's on.
    #[must_use]
    pub fn forwarded(id: u32, len: u64, fds: Vec<OwnedFd>) -> Self {
        let mut message = Self::region(id, len, fds);
        message.bytes[7] = kind::FORWARDED;
        message
    }
}

/// Which side the villain plays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// It connects.
    Client,
    /// It is connected to.
    Server,
}

/// An honest handshake, to be altered before it is played.
#[derive(Debug)]
pub struct Script {
    /// The villain's side.
    pub role: Role,
    /// Its outbox, as an honest peer would lay it out.
    pub outbox: Memory,
    /// The negotiation, the outbox, and ready: all it ever says before the session.
    pub messages: Vec<Message>,
    bell: OwnedFd,
}

/// How a handshake ended for the villain.
#[derive(Debug)]
pub enum Ending {
    /// There is a session.
    Session(Box<Villain>),
    /// The victim hung up.
    HungUp,
}

impl Script {
    /// An honest script.
    ///
    /// # Panics
    ///
    /// If the kernel refuses memory.
    #[must_use]
    pub fn new(role: Role) -> Self {
        let outbox = Memory::sealed(OUTBOX_LEN);
        for (at, value) in [
            (at::MAGIC, u32::from_be_bytes(*b"SHMO")),
            (at::VERSION, 1),
            (at::RING_OFFSET, RING),
            (at::RING_LEN, RING_LEN),
            (at::RETURNS_OFFSET, RETURNS),
            (at::RETURNS_LEN, RETURNS_LEN),
            (at::STREAMS_MAX, 1024),
            (at::WINDOW_MESSAGES, 32),
            (at::WINDOW_BYTES, 4 << 20),
        ] {
            outbox.store(at, value);
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell: OwnedFd = EventFd::from_value_and_flags(1, flags)
            .expect("an eventfd")
            .into();
        let json: &[u8] = match role {
            Role::Client => {
                br#"{"supports_protocols":[4],"sdk_name":"villain","sdk_version":"1","supports_features":["outbox_v1"],"settings":{}}"#
            }
            Role::Server => {
                br#"{"selected_protocol":4,"sdk_name":"villain","sdk_version":"1","selected_features":["outbox_v1"],"settings":{}}"#
            }
        };
        let fds = vec![outbox.fd(), bell.try_clone().expect("one more descriptor")];
        let messages = vec![
            Message::new(kind::NEGOTIATION, json),
            Message::outbox(u64::from(OUTBOX_LEN), fds),
            Message::new(kind::READY, &[]),
        ];
        Self {
            role,
            outbox,
            messages,
            bell,
        }
    }

    /// The same of a villain that knows how to pass memory on.
    ///
    /// # Panics
    ///
    /// If the kernel refuses memory.
    #[must_use]
    pub fn forwarding(role: Role) -> Self {
        let mut script = Self::new(role);
        let plain = String::from_utf8(script.messages[0].bytes.split_off(8)).expect("JSON");
        let json = plain.replace(r#""outbox_v1""#, r#""outbox_v1","forwarded_regions_v1""#);
        script.messages[0] = Message::new(kind::NEGOTIATION, json.as_bytes());
        script
    }

    /// Says the first `count` messages, and then nothing more. Hangs up when the result is dropped.
    ///
    /// # Panics
    ///
    /// If the victim has hung up.
    #[must_use]
    pub fn stall(mut self, socket: UnixStream, count: usize) -> (Self, UnixStream) {
        for Message { bytes, fds } in self.messages.drain(..count) {
            raw::send(&socket, &bytes, &fds).expect("the victim is there");
        }
        (self, socket)
    }

    /// Plays the script over a socket that is connected to a victim.
    ///
    /// # Panics
    ///
    /// If the victim neither answers nor hangs up.
    #[must_use]
    pub fn play(self, socket: UnixStream) -> Ending {
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        socket.set_write_timeout(Some(LONG)).expect("a timeout");
        let hears_all = self.messages.len() == 3;
        for Message { bytes, fds } in self.messages {
            // It fails once the victim has hung up.
            if raw::send(&socket, &bytes, &fds).is_err() {
                break;
            }
        }
        if !hears_all {
            (&socket).flush().expect("nothing is buffered");
            drop(socket.shutdown(std::net::Shutdown::Write));
        }
        let mut theirs = Vec::new();
        loop {
            match next_message(&socket) {
                Ok((kind::OUTBOX, fds)) => theirs = fds,
                Ok((kind::READY, _)) if hears_all => break,
                Ok(_) => {}
                Err(error) if is_end(&error) => return Ending::HungUp,
                Err(error) => panic!("the victim neither answers nor hangs up: {error}"),
            }
        }
        let [memory, doorbell] = theirs
            .try_into()
            .expect("the victim passes its outbox and its doorbell");
        let theirs = Memory::of_victim(memory);
        Ending::Session(Box::new(Villain::new(
            self.role,
            socket,
            self.outbox,
            self.bell,
            theirs,
            doorbell,
        )))
    }
}

impl Ending {
    /// The session of a handshake that nothing was wrong with.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn session(self) -> Villain {
        match self {
            Self::Session(villain) => *villain,
            Self::HungUp => panic!("the victim hung up on an honest handshake"),
        }
    }
}

/// The type of the next message that an honest peer says, and what comes with it.
pub(super) fn next_message(socket: &UnixStream) -> io::Result<(u8, Vec<OwnedFd>)> {
    next_whole_message(socket).map(|(kind, _, fds)| (kind, fds))
}

/// The same with its body.
pub(super) fn next_whole_message(socket: &UnixStream) -> io::Result<(u8, Vec<u8>, Vec<OwnedFd>)> {
    let mut header = [0; 8];
    let mut fds = raw::receive(socket, &mut header)?;
    let [l0, l1, l2, l3, .., kind] = header;
    let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let mut body = vec![0; len - header.len()];
    fds.extend(raw::receive(socket, &mut body)?);
    Ok((kind, body, fds))
}

pub(super) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
