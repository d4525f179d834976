//! How a session of shmipc's protocol begins, by hand.

use std::{
    ffi::OsStr,
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    Buffers, Dialect, Memory, Message, Queue, Role, SEALS, ShmipcVillain, frame, kind, raw, region,
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
    /// What is said in turn. A client: version or negotiation, names or paths, one byte with descriptors. A server: version or
    /// negotiation, ready for descriptors, mapped. Some dialects have less of that.
    pub messages: Vec<Message>,
    /// Where files lie.
    files: PathBuf,
    /// What a villain that connects wakes its victim by.
    bell: Option<OwnedFd>,
}

/// How a handshake ended for the villain.
#[derive(Debug)]
pub enum ShmipcEnding {
    /// There is a session. In version 2, nobody says so: the victim may hang up all the same.
    Session(Box<ShmipcVillain>),
    /// The victim hung up, or the villain at the end of a script that was cut short.
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

/// A handshake that goes no further. Hangs up when it is dropped.
#[derive(Debug)]
pub struct Stalled {
    _script: ShmipcScript,
    _socket: UnixStream,
    _heard: Vec<Heard>,
}

/// What the victim said in its turn.
#[derive(Debug)]
struct Heard {
    fds: Vec<OwnedFd>,
    /// The files that it named, which it removes as soon as it hears that they are mapped: the queues, and the slices.
    files: Option<[Memory; 2]>,
}

/// What happens in turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    /// The villain says the next of its messages.
    Say,
    /// The victim says something.
    Hear,
    /// The victim passes one byte with descriptors.
    Take,
}

impl ShmipcScript {
    /// An honest script, of a villain whose files lie in `files`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses memory.
    #[must_use]
    pub fn new(role: Role, dialect: Dialect, files: &Path) -> Self {
        let has_files = dialect.has_files() && role == Role::Client;
        let [queue_path, buffer_path] = [(); 2].map(|()| files.join(a_name()));
        let make = |path: &Path, len| {
            if has_files {
                Memory::file(path, len)
            } else {
                Memory::create(len, SEALS)
            }
        };
        let queues = region::create_queues(|len| make(&queue_path, len));
        let buffers = Buffers::create(|len| make(&buffer_path, len));
        let first = match dialect.version() {
            2 => None,
            3 => Some(frame(dialect, kind::VERSION, &[])),
            _ => {
                let json = negotiation(role, dialect);
                Some(frame(dialect, kind::NEGOTIATION, json.as_bytes()))
            }
        };
        let (mut rest, mut bell) = (Vec::new(), None);
        match role {
            Role::Client => {
                let [queue, buffer] = [&queue_path, &buffer_path].map(|path| bytes(path));
                rest.push(names(dialect, queue, buffer));
                if !has_files {
                    let mut fds = vec![buffers.memory.fd(), queues.fd()];
                    if dialect.has_eventfds() {
                        let bells = [(); 2].map(|()| eventfd());
                        let [to_victim, _] = &bells;
                        bell = Some(to_victim.try_clone().expect("one more descriptor"));
                        fds.extend(bells);
                    }
                    rest.push(Message {
                        bytes: vec![0],
                        fds,
                    });
                }
            }
            Role::Server => {
                let ready = (!dialect.has_files()).then_some(kind::READY);
                let mapped = (dialect != Dialect::V2).then_some(kind::MAPPED);
                let kinds = ready.into_iter().chain(mapped);
                rest.extend(kinds.map(|kind| frame(dialect, kind, &[])));
            }
        }
        Self {
            role,
            dialect,
            queues,
            buffers,
            messages: first.into_iter().chain(rest).collect(),
            files: files.to_owned(),
            bell,
        }
    }

    /// Has a villain that connects bring the slices of another along, which both then have.
    pub fn share(&mut self, other: &Self) {
        let shared = || other.buffers.memory.fd();
        if self.dialect.has_files() {
            let ([queue, _], [_, buffer]) = (self.named(), other.named());
            self.name(&queue, &buffer);
        } else {
            self.messages[2].fds[0] = shared();
        }
        self.buffers = Buffers::read(Memory::shared(shared()));
    }

    /// The queue to the server, and the queue to the client, of a villain that connects.
    #[must_use]
    pub fn both_queues(&self) -> [Queue; 2] {
        region::queues(&self.queues, self.dialect)
    }

    /// Has a villain that connects bring other queues along: of zeros.
    pub fn bring_queues(&mut self, len: u32) {
        self.queues = self.brought(len, 1);
    }

    /// Has a villain that connects bring other slices along: of zeros.
    pub fn bring_buffers(&mut self, len: u32) {
        self.buffers.memory = self.brought(len, 0);
    }

    /// Has a villain that connects bring lists of such capacities and numbers of slices along.
    pub fn bring_lists(&mut self, lists_of: &[(u32, u32)]) {
        self.buffers = Buffers::with(lists_of, |len| self.brought(len, 0));
    }

    /// Makes another region: the first or second of those that are passed.
    fn brought(&mut self, len: u32, passed: usize) -> Memory {
        if !self.dialect.has_files() {
            let memory = Memory::create(len, SEALS);
            self.messages[2].fds[passed] = memory.fd();
            return memory;
        }
        let path = self.files.join(a_name());
        let memory = Memory::file(&path, len);
        let [queue, buffer] = self.named();
        match passed {
            0 => self.name(&queue, &path),
            _ => self.name(&path, &buffer),
        }
        memory
    }

    /// The names that a villain that connects gives its regions: of the queues, and of the slices.
    #[must_use]
    pub fn named(&self) -> [PathBuf; 2] {
        paths_of(&self.messages[self.naming()].bytes[8..])
    }

    /// Has a villain that connects give its regions other names.
    pub fn name(&mut self, queue: &Path, buffer: &Path) {
        let naming = self.naming();
        self.messages[naming] = names(self.dialect, bytes(queue), bytes(buffer));
    }

    /// Which of a client's messages that is.
    #[must_use]
    pub fn naming(&self) -> usize {
        usize::from(self.dialect != Dialect::V2)
    }

    /// Where files lie.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// All that happens, up to the session.
    fn turns(&self) -> Vec<Turn> {
        use Turn::{Hear, Say, Take};
        match (self.role, self.dialect.version(), self.dialect.has_files()) {
            (Role::Client, 2, _) => vec![Say],
            (Role::Server, 2, _) => vec![Hear],
            (Role::Client, _, true) => vec![Say, Hear, Say, Hear],
            (Role::Server, _, true) => vec![Hear, Say, Hear, Say],
            (Role::Client, _, false) => vec![Say, Hear, Say, Hear, Say, Hear],
            (Role::Server, _, false) => vec![Hear, Say, Hear, Say, Take, Say],
        }
    }

    /// Says the first `count` messages, and then nothing more.
    ///
    /// # Panics
    ///
    /// If the victim hangs up before that.
    #[must_use]
    pub fn stall(mut self, socket: UnixStream, count: usize) -> Stalled {
        let (mut said, mut heard) = (0, Vec::new());
        for turn in self.turns() {
            if said == count {
                break;
            }
            match turn {
                Turn::Say => {
                    let Message { bytes, fds } = self.messages.remove(0);
                    raw::send(&socket, &bytes, &fds).expect("the victim is there");
                    said += 1;
                }
                turn => heard.push(hear(&socket, turn).expect("the victim answers")),
            }
        }
        Stalled {
            _script: self,
            _socket: socket,
            _heard: heard,
        }
    }

    /// Plays the script over a socket that is connected to a victim. If it is cut short, it ends by hanging up.
    ///
    /// # Panics
    ///
    /// If the victim neither answers nor hangs up.
    #[must_use]
    pub fn play(mut self, socket: UnixStream) -> ShmipcEnding {
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        socket.set_write_timeout(Some(LONG)).expect("a timeout");
        let turns = self.turns();
        let is_whole =
            self.messages.len() == turns.iter().filter(|turn| **turn == Turn::Say).count();
        let (mut messages, mut heard) =
            (std::mem::take(&mut self.messages).into_iter(), Vec::new());
        for turn in turns {
            if !is_whole && messages.len() == 0 {
                drop(socket.shutdown(Shutdown::Write));
            }
            match turn {
                Turn::Say => {
                    if let Some(Message { bytes, fds }) = messages.next() {
                        // It fails once the victim has hung up, which is heard next.
                        drop(raw::send(&socket, &bytes, &fds));
                    }
                }
                turn => match hear(&socket, turn) {
                    Ok(said) => heard.push(said),
                    Err(error) if script::is_end(&error) => return ShmipcEnding::HungUp,
                    Err(error) => panic!("the victim neither answers nor hangs up: {error}"),
                },
            }
        }
        if is_whole {
            self.begin(socket, heard)
        } else {
            ShmipcEnding::HungUp
        }
    }

    fn begin(self, socket: UnixStream, mut heard: Vec<Heard>) -> ShmipcEnding {
        let Self { role, dialect, .. } = self;
        let (queues, buffers, bell) = match (role, heard.pop()) {
            (
                Role::Server,
                Some(Heard {
                    files: Some([queues, buffers]),
                    ..
                }),
            ) => (queues, Buffers::read(buffers), None),
            (Role::Server, Some(Heard { fds, .. })) => {
                let mut fds = fds.into_iter();
                let mut next = || fds.next().expect("the victim passes its regions");
                let (buffers, queues) = (Memory::shared(next()), Memory::shared(next()));
                let bell = dialect.has_eventfds().then(|| {
                    let _wakes_villain = next();
                    next()
                });
                (queues, Buffers::read(buffers), bell)
            }
            _ => (self.queues, self.buffers, self.bell),
        };
        let villain = ShmipcVillain::new(role, dialect, socket, queues, buffers, bell);
        ShmipcEnding::Session(Box::new(villain))
    }
}

/// A name for a file that nobody else has.
fn a_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("villain_{}_{count}", std::process::id())
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn eventfd() -> OwnedFd {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let made = EventFd::from_value_and_flags(0, flags);
    made.expect("an eventfd").into()
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
    let kind = if dialect.has_files() {
        kind::FILE_PATHS
    } else {
        kind::MEMFD_NAMES
    };
    frame(dialect, kind, &body)
}

/// The paths in the body of such a message: of the queues, and of the slices.
fn paths_of(mut body: &[u8]) -> [PathBuf; 2] {
    [(); 2].map(|()| {
        let (len, rest) = body.split_first_chunk().expect("a length");
        let (path, rest) = rest.split_at(u16::from_be_bytes(*len).into());
        body = rest;
        PathBuf::from(OsStr::from_bytes(path))
    })
}

fn negotiation(role: Role, dialect: Dialect) -> String {
    let polling = r#""event_queue_polling":{"polling_interval_us":1000}"#;
    let records = r#""stream_records_v1":{"streams_max":1024,"messages":32,"bytes":4194304}"#;
    let (features, settings) = match dialect {
        Dialect::V4Polling => (r#""event_queue_polling""#, polling),
        Dialect::V4Eventfd => (r#""eventfd_wakeup""#, ""),
        Dialect::Records => (r#""stream_records_v1""#, records),
        Dialect::RecordsEventfd => (r#""eventfd_wakeup","stream_records_v1""#, records),
        _ => ("", ""),
    };
    let sdk = r#""sdk_name":"villain","sdk_version":"1""#;
    let (protocols, verb) = match role {
        Role::Client => (r#""supports_protocols":[4]"#, "supports"),
        Role::Server => (r#""selected_protocol":4"#, "selected"),
    };
    format!(r#"{{{protocols},{sdk},"{verb}_features":[{features}],"settings":{{{settings}}}}}"#)
}

/// Waits for what the victim says in turn.
fn hear(socket: &UnixStream, turn: Turn) -> io::Result<Heard> {
    if turn == Turn::Take {
        let fds = raw::receive(socket, &mut [0])?;
        return Ok(Heard { fds, files: None });
    }
    let (said, body, fds) = script::next_whole_message(socket)?;
    let is_named = said == kind::FILE_PATHS;
    let opened = is_named.then(|| paths_of(&body).map(|path| Memory::named(&path)));
    let files = match opened {
        Some([Ok(queues), Ok(buffers)]) => Some([queues, buffers]),
        _ => None,
    };
    Ok(Heard { fds, files })
}
