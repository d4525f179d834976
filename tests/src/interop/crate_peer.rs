//! The `shmipc` crate.

use std::{io, net::SocketAddr, os::unix, path::Path};

use shmipc::{
    Error, Listener,
    buffer::BufferReader as _,
    config::{Config, ProtocolMode, SizePercentPair, WakeupMode},
    consts::MemMapType,
    session::{SessionManager, SessionManagerConfig},
    transport::{DefaultTcpConnect, DefaultUnixConnect, DefaultUnixListen, TransportListen},
};

use super::{
    implementation::{Client, Ended, Implementation, Server, Stream},
    message::HEAD_LEN,
    setting::{INTERVAL, Mode, Setting, TCP},
};
use crate::LONG;

/// See the module.
#[derive(Debug)]
pub struct CratePeer;

impl Implementation for CratePeer {
    type Stream = shmipc::stream::Stream;
    type Server = CrateServer;
    type Client = Sessions;

    async fn listen(setting: &Setting) -> Result<CrateServer, String> {
        let config = config(setting);
        let (listener, port) = match setting.port()? {
            Some(port) => {
                let socket = tokio::net::TcpListener::bind(port).await.map_err(text)?;
                let port = socket.local_addr().map_err(text)?;
                let listener = Listener::new(Bound, socket, config).await;
                (listener, Some(port))
            }
            None => {
                let address = address(&setting.socket).map_err(text)?;
                let listener = Listener::new(DefaultUnixListen, address, config).await;
                (listener, None)
            }
        };
        let listener = listener.map_err(text)?;
        Ok(CrateServer { listener, port })
    }

    async fn connect(setting: &Setting) -> Result<Sessions, String> {
        let config = SessionManagerConfig::new()
            .with_config(config(setting))
            .with_session_num(setting.sessions);
        Ok(match setting.port()? {
            Some(port) => {
                let manager = SessionManager::new(config, DefaultTcpConnect, port).await;
                Sessions::Tcp(manager.map_err(text)?)
            }
            None => {
                let address = address(&setting.socket).map_err(text)?;
                let manager = SessionManager::new(config, DefaultUnixConnect, address).await;
                Sessions::Unix(manager.map_err(text)?)
            }
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn address(socket: &Path) -> io::Result<unix::net::SocketAddr> {
    unix::net::SocketAddr::from_pathname(socket)
}

/// The mode is demanded: there is no other version that a client would fall back to.
fn config(setting: &Setting) -> Config {
    let classes = setting.slices.iter();
    let mut config = Config {
        initialize_timeout: LONG,
        queue_cap: setting.queue,
        share_memory_buffer_cap: setting.cap,
        share_memory_path_prefix: setting.prefix.display().to_string(),
        buffer_slice_sizes: classes
            .map(|(size, percent)| SizePercentPair {
                size: *size,
                percent: *percent,
            })
            .collect(),
        ..Config::default()
    };
    let is_tcp = setting.socket.starts_with(TCP);
    config.mem_map_type = match setting.mode {
        Mode::V2 | Mode::V3File | Mode::V4File => MemMapType::MemMapTypeDevShmFile,
        Mode::V4Polling if is_tcp => MemMapType::MemMapTypeDevShmFile,
        Mode::V3 | Mode::V4 | Mode::V4Eventfd | Mode::V4Polling => MemMapType::MemMapTypeMemFd,
    };
    config.protocol.mode = match setting.mode {
        Mode::V2 | Mode::V3 | Mode::V3File => ProtocolMode::Legacy,
        Mode::V4 | Mode::V4File | Mode::V4Eventfd | Mode::V4Polling => {
            ProtocolMode::V4 { fallback: false }
        }
    };
    config.protocol.wakeup = match setting.mode {
        Mode::V2 | Mode::V3 | Mode::V3File | Mode::V4 | Mode::V4File => WakeupMode::Default,
        Mode::V4Eventfd => WakeupMode::EventFd,
        Mode::V4Polling => WakeupMode::EventQueuePolling { interval: INTERVAL },
    };
    config
}

/// A server, which serves every client.
pub struct CrateServer {
    listener: Listener,
    port: Option<SocketAddr>,
}

impl std::fmt::Debug for CrateServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrateServer").finish_non_exhaustive()
    }
}

/// Takes a socket that listens already: what the crate would make itself blocks its runtime.
struct Bound;

impl TransportListen for Bound {
    type Listener = tokio::net::TcpListener;
    type Address = tokio::net::TcpListener;

    async fn listen(&self, socket: Self::Address) -> io::Result<Self::Listener> {
        Ok(socket)
    }
}

impl Server for CrateServer {
    type Stream = shmipc::stream::Stream;

    async fn accept(&mut self) -> Result<Self::Stream, String> {
        self.listener.accept().await.map_err(text)
    }

    fn port(&self) -> Option<SocketAddr> {
        self.port
    }

    fn restart(&mut self, _: u64) -> impl Future<Output = Result<(), String>> + Send + use<> {
        std::future::ready(Err("the crate knows no hot restart".to_owned()))
    }

    async fn close(self) {
        self.listener.close().await;
    }
}

/// The sessions of a client.
pub enum Sessions {
    /// Over TCP.
    Tcp(SessionManager<DefaultTcpConnect>),
    /// Over Unix sockets.
    Unix(SessionManager<DefaultUnixConnect>),
}

/// Calls a method that both kinds have.
macro_rules! either {
    ($sessions:expr, $manager:ident => $call:expr) => {
        match $sessions {
            Sessions::Tcp($manager) => $call,
            Sessions::Unix($manager) => $call,
        }
    };
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Client for Sessions {
    type Stream = shmipc::stream::Stream;

    async fn get(&self) -> Result<Self::Stream, String> {
        either!(self, manager => manager.get_stream().map_err(text))
    }

    async fn put_back(&self, stream: Self::Stream) {
        either!(self, manager => manager.put_back(stream).await);
    }

    fn fallbacks(&self) -> u64 {
        let stats = either!(self, manager => manager.stats_snapshot());
        stats.fallback_write_count + stats.fallback_read_count
    }

    async fn close(self) {
        either!(self, manager => manager.close().await);
    }
}

impl Stream for shmipc::stream::Stream {
    async fn send(
        &mut self,
        head: &[u8; HEAD_LEN],
        payload: &[u8],
        piece: usize,
    ) -> Result<(), Ended> {
        self.reserve(HEAD_LEN).map_err(ended)?.copy_from_slice(head);
        let piece = if piece == 0 { usize::MAX } else { piece };
        for piece in payload.chunks(piece) {
            let written = self.write_bytes(piece).map_err(ended)?;
            if written != piece.len() {
                let asked = piece.len();
                return Err(Ended::Failed(format!(
                    "{written} of {asked} bytes were written"
                )));
            }
        }
        loop {
            match self.flush(false).await {
                // What was written is still there.
                Err(Error::QueueFull) => {}
                done => return done.map_err(ended),
            }
        }
    }

    async fn readable(&mut self) -> Result<(), Ended> {
        self.peek(1).await.map(drop).map_err(ended)
    }

    async fn read(&mut self, len: usize) -> Result<Vec<u8>, Ended> {
        let bytes = self.read_exact_bytes(len).await;
        bytes.map(|bytes| bytes.to_vec()).map_err(ended)
    }

    fn release(&mut self) {
        self.recv_buf().release_previous_read();
    }

    async fn close(&mut self) -> Result<(), String> {
        Self::close(self).await.map_err(text)
    }
}

fn ended(error: Error) -> Ended {
    match error {
        Error::EndOfStream => Ended::Finished,
        Error::StreamClosed | Error::SessionShutdown => Ended::Lost(error.to_string()),
        other => Ended::Failed(other.to_string()),
    }
}
