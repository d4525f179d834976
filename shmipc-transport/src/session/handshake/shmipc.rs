//! The rest of a handshake that goes on with shmipc's own protocol: regions are made or mapped, and passed.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use tokio::time::Instant;

use super::drive::{Line, Sending, Sent, Wants};
use crate::{
    Config, Peer, ShmipcMapping,
    config::is_own_user,
    core::{
        handshake::Shmipc,
        mem::SharedRegion,
        shmipc::{
            Pool, QueueLayout, Queues,
            frames::{Deframer, Paths},
            handshake::{Event, GoesOn, Handshake, Mapping, Regions, Wants as Awaits},
            terms::{Terms, Wakes},
        },
        wire::Transmit,
    },
    error::{HandshakeError, PeerMisbehaved},
    link::ShmipcParts,
    sys::{
        doorbell::{Doorbell, PeerDoorbell, eventfds},
        regions::{self, Mapped, NamedRegion},
        socket::ControlSocket,
    },
};

/// What a session of shmipc's own protocol begins with.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) parts: ShmipcParts,
    pub(crate) socket: ControlSocket,
    pub(crate) peer: Peer,
    /// Becomes readable when the peer's process ends.
    pub(crate) process: Option<OwnedFd>,
    /// What wakes us, if it is not the socket.
    pub(crate) doorbell: Option<Doorbell>,
}

/// Both regions, as a client makes them.
#[derive(Debug)]
struct Made {
    pool: Pool<SharedRegion>,
    owner: u32,
    queues: Queues<SharedRegion>,
    paths: Paths,
    files: Vec<NamedRegion>,
    /// What is passed along: the buffer region, the queue region, and the eventfds.
    fds: Vec<OwnedFd>,
    bell: Option<PeerDoorbell>,
    doorbell: Option<Doorbell>,
}

/// The second part of a handshake that goes on with shmipc's own protocol, with all that it moves.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) line: Line,
    handshake: Handshake<OwnedFd>,
    deframer: Deframer,
    /// The message of which a part may have been sent.
    sending: Option<Sending>,
    terms: Terms,
    side: Side,
}

/// What either side has.
#[derive(Debug)]
enum Side {
    Client(Made),
    /// What the client has made, once that was mapped.
    Server(Option<Theirs>),
}

/// Nothing was negotiated: what versions 2 and 3 come with.
const LEGACY: Terms = Terms {
    wakes: Wakes::Socket,
    windows: None,
};

impl Conversation {
    /// Goes on as the client, in protocol `version`.
    pub(super) fn client(
        line: Line,
        config: &Config,
        version: u8,
        terms: Option<Terms>,
    ) -> Result<Self, HandshakeError> {
        let terms = terms.unwrap_or(LEGACY);
        let has_eventfds = terms.wakes == Wakes::EventFd;
        let mapping = match config.shmipc().how_mapped() {
            ShmipcMapping::Memfd if version != 2 && line.socket.passes_descriptors() => {
                Mapping::Memfd
            }
            _ => Mapping::File,
        };
        let made = Made::new(config, version, mapping, has_eventfds).map_err(|source| {
            HandshakeError::Io {
                action: "make the regions of a session",
                source,
            }
        })?;
        let (timeout, paths) = (config.handshake_timeout(), made.paths.clone());
        let handshake = Handshake::client(timeout, timeout, version, mapping, paths, has_eventfds);
        Ok(Self::new(line, handshake, terms, Side::Client(made)))
    }

    /// Goes on as the client of a server that is asked for its version.
    pub(super) fn asking(
        line: Line,
        config: &Config,
        goes_on: GoesOn,
    ) -> Result<Self, HandshakeError> {
        let mut asking = Self::client(line, config, 3, None)?;
        asking.handshake = asking.handshake.that_goes_on(goes_on);
        Ok(asking)
    }

    /// Goes on as the server.
    pub(super) fn server(line: Line, config: &Config, shmipc: Shmipc) -> Self {
        let timeout = config.handshake_timeout();
        let (handshake, terms) = match shmipc {
            Shmipc::Negotiated(terms) => {
                let has_eventfds = terms.wakes == Wakes::EventFd;
                let handshake = Handshake::negotiated_server(timeout, timeout, has_eventfds);
                (handshake, terms)
            }
            Shmipc::Legacy(first, speaks) => {
                let handshake = Handshake::server(timeout, timeout, first, speaks);
                (handshake, LEGACY)
            }
        };
        Self::new(line, handshake, terms, Side::Server(None))
    }

    fn new(line: Line, handshake: Handshake<OwnedFd>, terms: Terms, side: Side) -> Self {
        Self {
            line,
            handshake,
            deframer: Deframer::default(),
            sending: None,
            terms,
            side,
        }
    }

    /// Goes on as far as that takes no waiting. Returns what it waits for, or `None` once the session is established.
    pub(super) fn advance(&mut self, config: &Config) -> Result<Option<Wants>, HandshakeError> {
        loop {
            if !self.transmit()? {
                return Ok(Some(Wants::Writable));
            }
            match self.handshake.poll_event() {
                Some(Event::PassDescriptors) => self.pass_descriptors(),
                Some(Event::Map(regions)) => match self.map(regions, config) {
                    Ok(()) => self.handshake.mapped(),
                    Err(misbehaved) => self.handshake.peer_misbehaved(misbehaved),
                },
                Some(Event::Established) => return Ok(None),
                Some(Event::Failed(failure)) => return Err(failure.into()),
                None => {
                    if !self.receive()? {
                        return Ok(Some(Wants::Readable));
                    }
                }
            }
        }
    }

    /// What the session begins with. Only once it is established.
    pub(super) fn into_joined(self) -> Joined {
        let version = self.handshake.version();
        let terms = self.terms;
        let (parts, doorbell) = match self.side {
            Side::Client(made) => made.into_parts(version, terms),
            Side::Server(theirs) => theirs
                .expect("nothing is established that was not mapped")
                .into_parts(version, terms),
        };
        Joined {
            parts,
            socket: self.line.socket,
            peer: self.line.peer,
            process: self.line.process,
            doorbell,
        }
    }

    /// The moment at which all is over.
    pub(super) fn deadline(&self) -> Instant {
        let deadline = self.handshake.poll_timeout().unwrap_or_default();
        self.line.clock.at(deadline)
    }

    /// Takes note that the deadline has passed.
    pub(super) fn elapsed(&mut self) {
        self.sending = None;
        self.handshake.handle_timeout(self.line.clock.now());
    }

    fn pass_descriptors(&mut self) {
        let fds = match &mut self.side {
            Side::Client(made) => std::mem::take(&mut made.fds),
            Side::Server(_) => Vec::new(),
        };
        let bytes = vec![0];
        self.sending = Some(Sending::new(Transmit { bytes, fds }));
    }

    fn map(&mut self, regions: Regions<OwnedFd>, config: &Config) -> Result<(), PeerMisbehaved> {
        let layout = QueueLayout::of(self.handshake.version());
        let theirs = Theirs::map(regions, config, &self.line.peer, layout)?;
        self.side = Side::Server(Some(theirs));
        Ok(())
    }

    /// Sends what is to be sent. Returns whether that was all.
    fn transmit(&mut self) -> Result<bool, HandshakeError> {
        loop {
            let sending = match &mut self.sending {
                Some(sending) => sending,
                none => {
                    let Some(bytes) = self.handshake.poll_transmit() else {
                        return Ok(true);
                    };
                    let fds = Vec::new();
                    none.insert(Sending::new(Transmit { bytes, fds }))
                }
            };
            match sending.go_on(&self.line.socket)? {
                Sent::All | Sent::HungUp => self.sending = None,
                Sent::Part => return Ok(false),
            }
        }
    }

    /// Takes the next message, or the descriptors. Returns whether there was anything.
    fn receive(&mut self) -> Result<bool, HandshakeError> {
        let (socket, now) = (&self.line.socket, self.line.clock.now());
        let received = match self.handshake.wants() {
            Awaits::Descriptors(_) => socket.try_read_descriptors().map(|fds| match fds {
                Some(fds) => self.handshake.handle_descriptors(now, fds),
                None => self.handshake.handle_closed(),
            }),
            Awaits::Frame => {
                let mut buffer = [0; 4096];
                let wanted = self.deframer.wanted().min(buffer.len());
                socket.try_read(&mut buffer[..wanted]).map(|len| {
                    match (len, self.deframer.push(&buffer[..len])) {
                        (0, _) => self.handshake.handle_closed(),
                        (_, Ok(Some(frame))) => self.handshake.handle_frame(now, frame),
                        (_, Ok(None)) => {}
                        (_, Err(invalid)) => self.handshake.peer_misbehaved(invalid.into()),
                    }
                })
            }
        };
        match received {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(source) => Err(HandshakeError::Io {
                action: "receive from the peer",
                source,
            }),
        }
    }
}

impl Made {
    fn new(config: &Config, version: u8, mapping: Mapping, has_eventfds: bool) -> io::Result<Self> {
        let settings = config.shmipc();
        let (directory, plan) = (settings.where_files_lie(), settings.queue_plan());
        let random = regions::random_name()?;
        let pid = std::process::id();
        let name = |what| format!("shmipc_{pid}_{random}_{what}");
        let names = [name("queue_0"), name("buffer")];
        let [queue_path, buffer_path] =
            [0, 1].map(|i| directory.join(&names[i]).as_os_str().as_bytes().to_vec());
        let paths = Paths {
            queue: queue_path,
            buffer: buffer_path,
        };
        let lens = [plan.len(), settings.region_len()];
        let (mut files, mut fds) = (Vec::new(), Vec::new());
        let mut make = |i: usize| -> io::Result<Mapped> {
            match mapping {
                Mapping::Memfd => {
                    let (mapped, fd) = regions::create_memfd(&names[i], lens[i])?;
                    fds.push(fd);
                    Ok(mapped)
                }
                Mapping::File => {
                    let (mapped, file) = regions::create_file(directory, &names[i], lens[i])?;
                    files.push(file);
                    Ok(mapped)
                }
            }
        };
        // The order in which descriptors are passed, which is not that of the paths.
        let (buffer, queue) = (make(1)?, make(0)?);
        let (mut bell, mut doorbell) = (None, None);
        if has_eventfds {
            let [to_server, to_client] = eventfds()?;
            let misbehaved = |_| io::Error::other("an eventfd that we have made is none");
            bell = Some(PeerDoorbell::of_eventfd(to_server.try_clone()?).map_err(misbehaved)?);
            doorbell = Some(Doorbell::of_eventfd(to_client.try_clone()?).map_err(misbehaved)?);
            fds.extend([to_server, to_client]);
        }
        Ok(Self {
            pool: Pool::create(buffer.region, settings.geometry()),
            owner: buffer.owner,
            queues: Queues::create(queue.region, plan, QueueLayout::of(version)),
            paths,
            files,
            fds,
            bell,
            doorbell,
        })
    }
}

impl Made {
    fn into_parts(self, version: u8, terms: Terms) -> (ShmipcParts, Option<Doorbell>) {
        let parts = ShmipcParts {
            version,
            is_client: true,
            terms,
            mapping: if self.files.is_empty() {
                ShmipcMapping::Memfd
            } else {
                ShmipcMapping::File
            },
            pool: self.pool,
            owner: self.owner,
            queues: self.queues,
            bell: self.bell,
            // Version 2 does not say when the server has mapped them.
            files: if version == 2 { self.files } else { Vec::new() },
        };
        (parts, self.doorbell)
    }
}

/// Both regions, as a server has mapped them.
#[derive(Debug)]
struct Theirs {
    pool: Pool<SharedRegion>,
    owner: u32,
    queues: Queues<SharedRegion>,
    mapping: ShmipcMapping,
    bell: Option<PeerDoorbell>,
    doorbell: Option<Doorbell>,
}

impl Theirs {
    fn map(
        regions: Regions<OwnedFd>,
        config: &Config,
        peer: &Peer,
        layout: QueueLayout,
    ) -> Result<Self, PeerMisbehaved> {
        let len_max = config.shmipc().longest_region();
        let (mut bell, mut doorbell) = (None, None);
        let (mapping, queue, buffer) = match regions {
            Regions::Files(paths) => {
                let directory = config.shmipc().where_files_lie();
                let open = |path: &[u8]| regions::open_file(directory, path, peer, len_max);
                let (queue, buffer) = (open(&paths.queue)?, open(&paths.buffer)?);
                (ShmipcMapping::File, queue, buffer)
            }
            Regions::Memfds {
                buffer,
                queue,
                eventfds,
            } => {
                if let Some((to_server, to_client)) = eventfds {
                    if !is_own_user(peer) {
                        return Err(PeerMisbehaved::Doorbell);
                    }
                    doorbell = Some(Doorbell::of_eventfd(to_server)?);
                    bell = Some(PeerDoorbell::of_eventfd(to_client)?);
                }
                let open = |fd| regions::open_memfd(fd, peer, len_max);
                (ShmipcMapping::Memfd, open(&queue)?, open(&buffer)?)
            }
        };
        Ok(Self {
            queues: Queues::open(queue.region, layout)?,
            owner: buffer.owner,
            pool: Pool::open(buffer.region)?,
            mapping,
            bell,
            doorbell,
        })
    }
}

impl Theirs {
    fn into_parts(self, version: u8, terms: Terms) -> (ShmipcParts, Option<Doorbell>) {
        let parts = ShmipcParts {
            version,
            is_client: false,
            terms,
            mapping: self.mapping,
            pool: self.pool,
            owner: self.owner,
            queues: self.queues,
            bell: self.bell,
            files: Vec::new(),
        };
        (parts, self.doorbell)
    }
}
