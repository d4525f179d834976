//! Our own implementation: `shmipc-transport`, over its shmipc link.

use std::{net::SocketAddr, path::Path};

use shmipc_transport::{
    Address, Clients, Config, Flush, LinkInfo, LinkKind, Listener, PoolConfig, PooledStream,
    SendError, Session, SessionPool, Shmipc, ShmipcMapping, ShmipcWakes,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    implementation::{Client, Ended, Implementation, Server, Stream},
    message::HEAD_LEN,
    our_streams::{Rest, fallbacks, finished, sent, write},
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
        let listener = Listener::take_over_with(setting.address(), server_config(setting)?);
        let listener = listener.map_err(text)?;
        let (clients, port) = (listener.clients().clone(), port(listener.local_address()));
        let (sender, streams) = unbounded_channel();
        let accepting = tokio::spawn(accept_all(listener, setting.clone(), sender));
        Ok(OurServer {
            streams,
            clients,
            accepting,
            port,
        })
    }

    async fn connect(setting: &Setting) -> Result<OurClient, String> {
        let config = PoolConfig::builder()
            .session(client_config(setting)?)
            .size(setting.sessions)
            .build()
            .map_err(text)?;
        let pool = SessionPool::connect_with(setting.address(), config).await;
        let pool = pool.map_err(chain)?;
        for session in pool.sessions() {
            check(session.link(), setting)?;
        }
        Ok(OurClient { pool })
    }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// An error with its causes.
pub(super) fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(super) fn closed() -> Ended {
    Ended::Lost("it was closed on this side".to_owned())
}

/// Where files of memory are made, and where those of clients must lie.
fn folder(setting: &Setting) -> &Path {
    setting.prefix.parent().unwrap_or(Path::new("/dev/shm"))
}

/// Where a listener is to be found over TCP.
pub(super) fn port(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Tcp(port) => Some(*port),
        _ => None,
    }
}

/// Every client is served.
pub(super) fn server_config(setting: &Setting) -> Result<Config, String> {
    let config = Config::builder()
        .links(LinkKind::ALL)
        .shmipc(Shmipc::default().directory(folder(setting)));
    config.handshake_timeout(LONG).build().map_err(text)
}

/// The link that the mode stands for, how regions are passed, and what wakes both sides.
fn link(setting: &Setting) -> (LinkKind, ShmipcMapping, ShmipcWakes) {
    let link = match setting.mode {
        Mode::V2 => LinkKind::ShmipcV2,
        Mode::V3 | Mode::V3File => LinkKind::ShmipcV3,
        Mode::V4 | Mode::V4File | Mode::V4Eventfd | Mode::V4Polling => LinkKind::ShmipcV4,
    };
    let mapping = match setting.mode {
        Mode::V2 | Mode::V3File | Mode::V4File => ShmipcMapping::File,
        Mode::V3 | Mode::V4 | Mode::V4Eventfd | Mode::V4Polling => ShmipcMapping::Memfd,
    };
    let wakes = match setting.mode {
        Mode::V4Eventfd => ShmipcWakes::EventFd,
        Mode::V4Polling => ShmipcWakes::Polling(INTERVAL),
        Mode::V2 | Mode::V3 | Mode::V3File | Mode::V4 | Mode::V4File => ShmipcWakes::Socket,
    };
    match setting.address() {
        Address::Tcp(_) => (link, ShmipcMapping::File, wakes),
        _ => (link, mapping, wakes),
    }
}

/// Whether the sides have agreed on what the mode stands for.
pub(super) fn check(agreed: LinkInfo, setting: &Setting) -> Result<(), String> {
    let (kind, mapping, wakes) = link(setting);
    if (agreed.kind, agreed.mapping, agreed.wakes) == (kind, Some(mapping), wakes) {
        Ok(())
    } else {
        Err(format!("{} is not {agreed}", setting.mode))
    }
}

/// The mode is demanded: there is no other link that a client would fall back to.
pub(super) fn client_config(setting: &Setting) -> Result<Config, String> {
    let (link, mapping, wakes) = link(setting);
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

/// A stream, or what is wrong with the session of its client.
type Accepted<S> = Result<S, String>;

async fn accept_all(
    listener: Listener,
    setting: Setting,
    streams: UnboundedSender<Accepted<OurStream>>,
) {
    while let Ok(session) = listener.accept().await {
        let streams = streams.clone();
        // If nobody takes it, the server is closed.
        if let Err(problem) = check(session.link(), &setting) {
            let _ = streams.send(Err(problem));
        }
        tokio::spawn(async move {
            while let Ok(stream) = session.accept_stream().await {
                let _ = streams.send(Ok(OurStream::new(Source::Accepted(stream))));
            }
        });
    }
}

/// A server, which serves every client.
#[derive(Debug)]
pub struct OurServer {
    streams: UnboundedReceiver<Accepted<OurStream>>,
    clients: Clients,
    accepting: JoinHandle<()>,
    port: Option<SocketAddr>,
}

impl Server for OurServer {
    type Stream = OurStream;

    async fn accept(&mut self) -> Result<OurStream, String> {
        let stream = self.streams.recv().await;
        stream.ok_or_else(|| "the listener is broken".to_owned())?
    }

    fn port(&self) -> Option<SocketAddr> {
        self.port
    }

    fn restart(&mut self, epoch: u64) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let clients = self.clients.clone();
        async move {
            let restart = clients.hot_restart(epoch, LONG).await.map_err(text)?;
            if restart.is_complete() && restart.moved != 0 {
                Ok(())
            } else {
                Err(format!("not all have moved: {restart:?}"))
            }
        }
    }

    async fn close(self) {
        self.accepting.abort();
        self.clients.close();
    }
}

/// A client with its sessions.
#[derive(Debug)]
pub struct OurClient {
    pool: SessionPool,
}

impl Client for OurClient {
    type Stream = OurStream;

    async fn get(&self) -> Result<OurStream, String> {
        let stream = self.pool.stream().await.map_err(chain)?;
        let pool = self.pool.clone();
        Ok(OurStream::new(Source::Lent { stream, pool }))
    }

    async fn put_back(&self, mut stream: OurStream) {
        stream.release();
        if stream.rest.is_empty()
            && let Some(Source::Lent { stream, .. }) = stream.source
        {
            stream.give_back();
        }
    }

    fn fallbacks(&self) -> u64 {
        let sessions = self.pool.sessions();
        fallbacks(sessions.iter().map(Session::stats))
    }

    async fn close(self) {
        self.pool.close();
    }
}

/// A stream, read as a sequence of bytes.
#[derive(Debug)]
pub struct OurStream {
    /// `None` once it was closed.
    source: Option<Source>,
    rest: Rest,
}

/// Where a stream is from.
#[derive(Debug)]
enum Source {
    Accepted(shmipc_transport::Stream),
    Lent {
        stream: PooledStream,
        pool: SessionPool,
    },
}

impl Source {
    fn stream(&mut self) -> &mut shmipc_transport::Stream {
        match self {
            Self::Accepted(stream) => stream,
            Self::Lent { stream, .. } => stream,
        }
    }

    /// Another one, if this is one of which nobody has heard because its session takes no more.
    async fn replace(&mut self) -> Result<(), Ended> {
        match self {
            Self::Lent { stream, pool } => {
                let another = pool.stream().await;
                *stream = another.map_err(|error| Ended::Failed(chain(error)))?;
                Ok(())
            }
            Self::Accepted(_) => Err(Ended::Failed("the client goes away".to_owned())),
        }
    }
}

impl OurStream {
    fn new(source: Source) -> Self {
        Self {
            source: Some(source),
            rest: Rest::default(),
        }
    }
}

impl Stream for OurStream {
    async fn send(
        &mut self,
        head: &[u8; HEAD_LEN],
        payload: &[u8],
        piece: usize,
    ) -> Result<(), Ended> {
        let source = self.source.as_mut().ok_or_else(closed)?;
        loop {
            let stream = source.stream();
            let mut message = stream.buffer(HEAD_LEN + payload.len());
            write(&mut message, head, payload, piece);
            match stream.send(message, Flush::More).await {
                Err(SendError::GoingAway) => source.replace().await?,
                done => return sent(done),
            }
        }
    }

    async fn readable(&mut self) -> Result<(), Ended> {
        while self.rest.is_empty() {
            let stream = self.source.as_mut().ok_or_else(closed)?.stream();
            self.rest.refill(stream.recv().await)?;
        }
        Ok(())
    }

    async fn read(&mut self, len: usize) -> Result<Vec<u8>, Ended> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            self.readable().await?;
            self.rest.read(&mut bytes, len);
        }
        Ok(bytes)
    }

    fn release(&mut self) {
        self.rest.release();
    }

    async fn close(&mut self) -> Result<(), String> {
        let Some(mut source) = self.source.take() else {
            return Ok(());
        };
        self.rest = Rest::default();
        finished(source.stream().finish().await)
    }
}
