//! Our own implementation: `shmipc-transport`, over its shmipc link.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Buf, BufMut};
use shmipc_transport::{
    Config, Flush, LinkKind, Listener, RecvBuf, RecvError, SendError, Session, Shmipc,
    ShmipcMapping, ShmipcWakes,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    implementation::{Client, Ended, Implementation, Server, Stream},
    message::HEAD_LEN,
    setting::{INTERVAL, Mode, Setting},
};
use crate::LONG;

/// See the module.
#[derive(Debug)]
pub struct OurPeer;

impl Implementation for OurPeer {
    type Stream = OurStream;
    type Server = OurServer;
    type Client = OurClient;

    async fn listen(setting: &Setting) -> Result<OurServer, String> {
        let config = Config::builder()
            .links(LinkKind::ALL)
            .shmipc(Shmipc::default().directory(folder(setting)));
        let config = config.handshake_timeout(LONG).build().map_err(text)?;
        let listener = Listener::bind_with(setting.socket.as_path(), config).map_err(text)?;
        let (sender, streams) = unbounded_channel();
        let sessions = Arc::default();
        let accepting = tokio::spawn(accept_all(listener, sender, Arc::clone(&sessions)));
        Ok(OurServer {
            streams,
            sessions,
            accepting,
        })
    }

    async fn connect(setting: &Setting) -> Result<OurClient, String> {
        let config = client_config(setting)?;
        let mut sessions = Vec::new();
        for _ in 0..setting.sessions {
            let session = Session::connect_with(setting.socket.as_path(), config.clone()).await;
            sessions.push(session.map_err(chain)?);
        }
        Ok(OurClient {
            sessions,
            next: AtomicUsize::new(0),
            idle: Mutex::default(),
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// An error with its causes.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn closed() -> Ended {
    Ended::Lost("it was closed on this side".to_owned())
}

/// Where files of memory are made, and where those of clients must lie.
fn folder(setting: &Setting) -> &Path {
    setting.prefix.parent().unwrap_or(Path::new("/dev/shm"))
}

/// The mode is demanded: there is no other link that a client would fall back to.
fn client_config(setting: &Setting) -> Result<Config, String> {
    let link = match setting.mode {
        Mode::V2 => LinkKind::ShmipcV2,
        Mode::V3 => LinkKind::ShmipcV3,
        Mode::V4 | Mode::V4File | Mode::V4Eventfd | Mode::V4Polling => LinkKind::ShmipcV4,
    };
    let mapping = match setting.mode {
        Mode::V2 | Mode::V4File => ShmipcMapping::File,
        Mode::V3 | Mode::V4 | Mode::V4Eventfd | Mode::V4Polling => ShmipcMapping::Memfd,
    };
    let wakes = match setting.mode {
        Mode::V4Eventfd => ShmipcWakes::EventFd,
        Mode::V4Polling => ShmipcWakes::Polling(INTERVAL),
        Mode::V2 | Mode::V3 | Mode::V4 | Mode::V4File => ShmipcWakes::Socket,
    };
    let shmipc = Shmipc::default()
        .buffer_len(setting.cap)
        .queue_len(setting.queue)
        .slices(setting.slices.iter().copied())
        .mapping(mapping)
        .wakes(wakes)
        .directory(folder(setting));
    let config = Config::builder().links([link]).shmipc(shmipc);
    config.handshake_timeout(LONG).build().map_err(text)
}

type Sessions = Arc<Mutex<Vec<Session>>>;

async fn accept_all(listener: Listener, streams: UnboundedSender<OurStream>, sessions: Sessions) {
    while let Ok(session) = listener.accept().await {
        let mut all = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(session.clone());
        drop(all);
        let streams = streams.clone();
        tokio::spawn(async move {
            while let Ok(stream) = session.accept_stream().await {
                // If nobody takes it, the server is closed.
                let _ = streams.send(OurStream::new(stream));
            }
        });
    }
}

/// A server, which serves every client.
#[derive(Debug)]
pub struct OurServer {
    streams: UnboundedReceiver<OurStream>,
    sessions: Sessions,
    accepting: JoinHandle<()>,
}

impl Server for OurServer {
    type Stream = OurStream;

    async fn accept(&mut self) -> Result<OurStream, String> {
        let stream = self.streams.recv().await;
        stream.ok_or_else(|| "the listener is broken".to_owned())
    }

    async fn restart(&mut self, _: u64) -> Result<(), String> {
        Err("there is no hot restart yet".to_owned())
    }

    async fn close(self) {
        self.accepting.abort();
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().for_each(Session::close);
    }
}

/// A client with its sessions.
#[derive(Debug)]
pub struct OurClient {
    sessions: Vec<Session>,
    next: AtomicUsize,
    idle: Mutex<Vec<OurStream>>,
}

impl Client for OurClient {
    type Stream = OurStream;

    async fn get(&self) -> Result<OurStream, String> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = idle.pop() {
            return Ok(stream);
        }
        let next = self.next.fetch_add(1, Relaxed) % self.sessions.len();
        let stream = self.sessions[next].open_stream().map_err(chain)?;
        Ok(OurStream::new(stream))
    }

    async fn put_back(&self, stream: OurStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(stream);
    }

    fn fallbacks(&self) -> u64 {
        let stats = self.sessions.iter().map(Session::stats);
        stats
            .map(|stats| stats.fallbacks_sent + stats.fallbacks_received)
            .sum()
    }

    async fn close(self) {
        self.sessions.iter().for_each(Session::close);
    }
}

/// A stream, read as a sequence of bytes.
#[derive(Debug)]
pub struct OurStream {
    /// `None` once it was closed.
    stream: Option<shmipc_transport::Stream>,
    rest: Option<RecvBuf>,
}

impl OurStream {
    fn new(stream: shmipc_transport::Stream) -> Self {
        Self {
            stream: Some(stream),
            rest: None,
        }
    }

    /// What has arrived and was not read: at least one byte.
    async fn front(&mut self) -> Result<&mut RecvBuf, Ended> {
        while self.rest.as_ref().is_none_or(|rest| !rest.has_remaining()) {
            let stream = self.stream.as_mut().ok_or_else(closed)?;
            self.rest = match stream.recv().await {
                Ok(Some(message)) => Some(message),
                Ok(None) => return Err(Ended::Finished),
                Err(lost @ RecvError::SessionLost(_)) => return Err(Ended::Lost(chain(lost))),
                Err(other) => return Err(Ended::Failed(chain(other))),
            };
        }
        self.rest.as_mut().ok_or_else(closed)
    }
}

impl Stream for OurStream {
    async fn send(
        &mut self,
        head: &[u8; HEAD_LEN],
        payload: &[u8],
        piece: usize,
    ) -> Result<(), Ended> {
        let stream = self.stream.as_mut().ok_or_else(closed)?;
        let mut message = stream.buffer(HEAD_LEN + payload.len());
        message.put_slice(head);
        let piece = if piece == 0 { usize::MAX } else { piece };
        for piece in payload.chunks(piece) {
            message.put_slice(piece);
        }
        match stream.send(message, Flush::More).await {
            Ok(()) => Ok(()),
            Err(lost @ SendError::SessionLost(_)) => Err(Ended::Lost(chain(lost))),
            Err(SendError::Reset(_)) => Err(Ended::Finished),
            Err(other) => Err(Ended::Failed(chain(other))),
        }
    }

    async fn readable(&mut self) -> Result<(), Ended> {
        self.front().await.map(drop)
    }

    async fn read(&mut self, len: usize) -> Result<Vec<u8>, Ended> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let front = self.front().await?;
            let next = front.remaining().min(len - bytes.len());
            bytes.put(front.take(next));
        }
        Ok(bytes)
    }

    fn release(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| !rest.has_remaining()) {
            self.rest = None;
        }
    }

    async fn close(&mut self) -> Result<(), String> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        self.rest = None;
        match stream.finish().await {
            // Whoever closes second has nobody to tell.
            Ok(()) | Err(SendError::Reset(_) | SendError::SessionLost(_)) => Ok(()),
            Err(other) => Err(chain(other)),
        }
    }
}
