//! How a session of shmipc's protocol begins, by hand.

use std::{
    io,
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use super::{
    Buffers, Dialect, Memory, Message, Queue, Role, ShmipcVillain, frame, kind, raw, region,
};
use crate::{LONG, villain::script};

/// An honest handshake, to be altered before it is played.
#[derive(Debug)]
pub struct ShmipcScript {
    /// The villain's side.
    pub role: Role,
    /// What is spoken.
    pub dialect: Dialect,
    /// The queues of a villain that connects.
    pub queues: Memory,
    /// The slices of a villain that connects.
    pub buffers: Buffers,
    /// What is said in turn. A client: version or negotiation, names, one byte with descriptors. A server: version or negotiation,
    /// ready for descriptors, mapped.
    pub messages: Vec<Message>,
}

/// How a handshake ended for the villain.
#[derive(Debug)]
pub enum ShmipcEnding {
    /// There is a session.
    Session(Box<ShmipcVillain>),
    /// The victim hung up.
    HungUp,
}

impl ShmipcEnding {
    /// The session of a handshake that nothing was wrong with.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn session(self) -> ShmipcVillain {
        match self {
            Self::Session(villain) => *villain,
            Self::HungUp => panic!("the victim hung up on an honest handshake"),
        }
    }
}

impl ShmipcScript {
    /// An honest script.
    ///
    /// # Panics
    ///
    /// If the kernel refuses memory.
    #[must_use]
    pub fn new(role: Role, dialect: Dialect) -> Self {
        let (queues, buffers) = (region::create_queues(), Buffers::create());
        let first = match dialect {
            Dialect::V3 => frame(dialect, kind::VERSION, &[]),
            Dialect::Records => frame(dialect, kind::NEGOTIATION, negotiation(role).as_bytes()),
        };
        let rest = match role {
            Role::Client => [
                names(dialect, b"villain_queue", b"villain_buffer"),
                Message {
                    bytes: vec![0],
                    fds: vec![buffers.memory.fd(), queues.fd()],
                },
            ],
            Role::Server => [kind::READY, kind::MAPPED].map(|kind| frame(dialect, kind, &[])),
        };
        Self {
            role,
            dialect,
            queues,
            buffers,
            messages: [first].into_iter().chain(rest).collect(),
        }
    }

    /// Has a villain that connects pass slices that another session of its may have as well.
    pub fn share(&mut self, buffers: &Buffers) {
        let passed = || buffers.memory.fd();
        self.messages[2].fds[0] = passed();
        self.buffers = Buffers::read(Memory::shared(passed()));
    }

    /// The queue to the server, and the queue to the client, of a villain that connects.
    #[must_use]
    pub fn both_queues(&self) -> [Queue; 2] {
        region::queues(&self.queues, self.dialect)
    }

    /// Plays the script over a socket that is connected to a victim.
    ///
    /// # Panics
    ///
    /// If the victim neither answers nor hangs up.
    #[must_use]
    pub fn play(self, socket: UnixStream) -> ShmipcEnding {
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        socket.set_write_timeout(Some(LONG)).expect("a timeout");
        let Self {
            role,
            dialect,
            queues,
            buffers,
            messages,
        } = self;
        let said_at_most = messages.len();
        let mut fds = Vec::new();
        let mut messages = messages.into_iter();
        for turn in 0..3 {
            let mut says = || match messages.next() {
                // It fails once the victim has hung up, which is heard next.
                Some(Message { bytes, fds }) => drop(raw::send(&socket, &bytes, &fds)),
                None => drop(socket.shutdown(Shutdown::Write)),
            };
            if role == Role::Client {
                says();
            }
            if said_at_most == turn + 1 && said_at_most < 3 {
                drop(socket.shutdown(Shutdown::Write));
            }
            let passes_descriptors = role == Role::Server && turn == 2;
            match heard(&socket, passes_descriptors) {
                Ok(passed) => fds = passed,
                Err(error) if script::is_end(&error) => return ShmipcEnding::HungUp,
                Err(error) => panic!("the victim neither answers nor hangs up: {error}"),
            }
            if role == Role::Server {
                says();
            }
        }
        let (queues, buffers) = match role {
            Role::Client => (queues, buffers),
            Role::Server => {
                let [buffers, queues] = fds.try_into().expect("the victim passes two regions");
                let buffers = Buffers::read(Memory::shared(buffers));
                (Memory::shared(queues), buffers)
            }
        };
        let villain = ShmipcVillain::new(role, dialect, socket, queues, buffers);
        ShmipcEnding::Session(Box::new(villain))
    }
}

/// The message that names both regions.
///
/// # Panics
///
/// If a name is longer than can be said.
#[must_use]
pub fn names(dialect: Dialect, queue: &[u8], buffer: &[u8]) -> Message {
    let mut body = Vec::new();
    for name in [queue, buffer] {
        let len = u16::try_from(name.len()).expect("a short name");
        body.extend(len.to_be_bytes());
        body.extend(name);
    }
    frame(dialect, kind::MEMFD_NAMES, &body)
}

fn negotiation(role: Role) -> String {
    let settings =
        r#""settings":{"stream_records_v1":{"streams_max":1024,"messages":32,"bytes":4194304}}"#;
    let sdk = r#""sdk_name":"villain","sdk_version":"1""#;
    let features = r#"["stream_records_v1"]"#;
    match role {
        Role::Client => {
            format!(
                r#"{{"supports_protocols":[4],{sdk},"supports_features":{features},{settings}}}"#
            )
        }
        Role::Server => {
            format!(r#"{{"selected_protocol":4,{sdk},"selected_features":{features},{settings}}}"#)
        }
    }
}

/// Waits for what the victim says in turn: a message, or one byte with descriptors.
fn heard(socket: &UnixStream, passes_descriptors: bool) -> io::Result<Vec<OwnedFd>> {
    if passes_descriptors {
        raw::receive(socket, &mut [0])
    } else {
        script::next_message(socket).map(|(_, fds)| fds)
    }
}
