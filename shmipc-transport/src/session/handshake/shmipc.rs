//! The rest of a handshake that goes on with shmipc's own protocol: regions are made or mapped, and passed.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use tokio::time::timeout_at;

use super::{Switched, drive::Clock};
use crate::{
    Config, Peer, ShmipcMapping,
    config::is_own_user,
    core::{
        handshake::Shmipc,
        mem::SharedRegion,
        shmipc::{
            Pool, QueueLayout, Queues,
            frames::{Deframer, Paths},
            handshake::{Event, Handshake, Mapping, Regions, Wants},
            terms::{Terms, Wakes},
        },
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

/// A handshake with the socket that it goes over.
struct Conversation<'a> {
    socket: &'a ControlSocket,
    clock: &'a Clock,
    handshake: Handshake<OwnedFd>,
    deframer: Deframer,
}

/// Nothing was negotiated: what versions 2 and 3 come with.
const LEGACY: Terms = Terms {
    wakes: Wakes::Socket,
    windows: None,
};

/// Goes on as the client, in protocol `version`.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn connect(
    switched: Switched,
    config: &Config,
    version: u8,
    terms: Option<Terms>,
) -> Result<Joined, HandshakeError> {
    let terms = terms.unwrap_or(LEGACY);
    let has_eventfds = terms.wakes == Wakes::EventFd;
    let mapping = match config.shmipc().how_mapped() {
        ShmipcMapping::Memfd if version != 2 => Mapping::Memfd,
        _ => Mapping::File,
    };
    let made =
        Made::new(config, version, mapping, has_eventfds).map_err(|source| HandshakeError::Io {
            action: "make the regions of a session",
            source,
        })?;
    let timeout = config.handshake_timeout();
    let mut conversation = Conversation {
        handshake: Handshake::client(
            timeout,
            timeout,
            version,
            mapping,
            made.paths.clone(),
            has_eventfds,
        ),
        socket: &switched.socket,
        clock: &switched.clock,
        deframer: Deframer::default(),
    };
    let nothing = |_| unreachable!("clients map nothing");
    conversation.run(&made.fds, nothing).await?;
    let version = conversation.handshake.version();
    // Version 2 does not say when the server has mapped them.
    let files = if version == 2 { made.files } else { Vec::new() };
    Ok(Joined {
        parts: ShmipcParts {
            version,
            is_client: true,
            terms,
            pool: made.pool,
            owner: made.owner,
            queues: made.queues,
            bell: made.bell,
            files,
        },
        socket: switched.socket,
        peer: switched.peer,
        process: switched.process,
        doorbell: made.doorbell,
    })
}

/// Goes on as the server.
///
/// # Cancel safety
///
/// Dropping the future hangs up; nothing else remains.
pub(crate) async fn accept(switched: Switched, config: &Config) -> Result<Joined, HandshakeError> {
    let timeout = config.handshake_timeout();
    let (handshake, terms) = match switched.shmipc {
        Shmipc::Negotiated(terms) => {
            let has_eventfds = terms.wakes == Wakes::EventFd;
            let handshake = Handshake::negotiated_server(timeout, timeout, has_eventfds);
            (handshake, terms)
        }
        Shmipc::Legacy(first) => (Handshake::server(timeout, timeout, first), LEGACY),
    };
    let mut conversation = Conversation {
        handshake,
        socket: &switched.socket,
        clock: &switched.clock,
        deframer: Deframer::default(),
    };
    let mut theirs = None;
    let layout = QueueLayout::of(conversation.handshake.version());
    let map = |regions| {
        theirs = Some(Theirs::map(regions, config, &switched.peer, layout)?);
        Ok(())
    };
    conversation.run(&[], map).await?;
    let version = conversation.handshake.version();
    let theirs = theirs.expect("nothing is established that was not mapped");
    Ok(Joined {
        parts: ShmipcParts {
            version,
            is_client: false,
            terms,
            pool: theirs.pool,
            owner: theirs.owner,
            queues: theirs.queues,
            bell: theirs.bell,
            files: Vec::new(),
        },
        socket: switched.socket,
        peer: switched.peer,
        process: switched.process,
        doorbell: theirs.doorbell,
    })
}

impl Conversation<'_> {
    /// Talks until the session is established.
    async fn run(
        &mut self,
        fds: &[OwnedFd],
        mut map: impl FnMut(Regions<OwnedFd>) -> Result<(), PeerMisbehaved>,
    ) -> Result<(), HandshakeError> {
        loop {
            while let Some(bytes) = self.handshake.poll_transmit() {
                self.send(&bytes, &[]).await?;
            }
            match self.handshake.poll_event() {
                Some(Event::PassDescriptors) => self.send(&[0], fds).await?,
                Some(Event::Map(regions)) => match map(regions) {
                    Ok(()) => self.handshake.mapped(),
                    Err(misbehaved) => self.handshake.peer_misbehaved(misbehaved),
                },
                Some(Event::Established) => return Ok(()),
                Some(Event::Failed(failure)) => return Err(failure.into()),
                None => {
                    if !self.receive()? {
                        self.wait(false).await?;
                    }
                }
            }
        }
    }

    async fn send(&mut self, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), HandshakeError> {
        let mut sent = 0;
        while sent < bytes.len() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let fds = if sent == 0 { &fds[..] } else { &[] };
            match self.socket.try_send(&bytes[sent..], fds) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(true).await?;
                    if self.handshake.poll_timeout().is_none() {
                        return Ok(()); // Time is over, as the next event says.
                    }
                }
                // It has hung up, which is read next.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(());
                }
                Err(source) => {
                    return Err(HandshakeError::Io {
                        action: "send to the peer",
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes the next message, or the descriptors. Returns whether there was anything.
    fn receive(&mut self) -> Result<bool, HandshakeError> {
        let failed = |source| HandshakeError::Io {
            action: "receive from the peer",
            source,
        };
        let now = self.clock.now();
        match self.handshake.wants() {
            Wants::Descriptors(_) => match self.socket.try_read_descriptors() {
                Ok(Some(fds)) => self.handshake.handle_descriptors(now, fds),
                Ok(None) => self.handshake.handle_closed(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(failed(error)),
            },
            Wants::Frame => {
                let mut buffer = [0; 4096];
                let wanted = self.deframer.wanted().min(buffer.len());
                match self.socket.try_read(&mut buffer[..wanted]) {
                    Ok(0) => self.handshake.handle_closed(),
                    Ok(len) => match self.deframer.push(&buffer[..len]) {
                        Ok(Some(frame)) => self.handshake.handle_frame(now, frame),
                        Ok(None) => {}
                        Err(invalid) => self.handshake.peer_misbehaved(invalid.into()),
                    },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(true)
    }

    /// Waits for the socket, or until the time is over.
    async fn wait(&mut self, to_write: bool) -> Result<(), HandshakeError> {
        let deadline = self.handshake.poll_timeout().unwrap_or_default();
        let ready = async {
            if to_write {
                self.socket.writable().await
            } else {
                self.socket.readable().await
            }
        };
        match timeout_at(self.clock.at(deadline), ready).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                return Err(HandshakeError::Io {
                    action: "wait for the peer",
                    source,
                });
            }
            Err(_elapsed) => self.handshake.handle_timeout(deadline),
        }
        Ok(())
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

/// Both regions, as a server has mapped them.
struct Theirs {
    pool: Pool<SharedRegion>,
    owner: u32,
    queues: Queues<SharedRegion>,
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
        let (mut bell, mut doorbell) = (None, None);
        let (queue, buffer) = match regions {
            Regions::Files(paths) => {
                let directory = config.shmipc().where_files_lie();
                let open = |path: &[u8]| regions::open_file(directory, path, peer);
                (open(&paths.queue)?, open(&paths.buffer)?)
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
                let open = |fd| regions::open_memfd(fd, peer);
                (open(&queue)?, open(&buffer)?)
            }
        };
        Ok(Self {
            queues: Queues::open(queue.region, layout)?,
            owner: buffer.owner,
            pool: Pool::open(buffer.region)?,
            bell,
            doorbell,
        })
    }
}
