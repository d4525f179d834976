//! Our own implementation for threads: `shmipc_transport::blocking`, over its shmipc link.
//!
//! What a stream is to do is done in a thread of its own, so that the program, which is made of tasks, goes on.

use std::{net::SocketAddr, thread};

use shmipc_transport::{
    Flush, PoolConfig, SendError,
    blocking::{self, Clients, Listener, PooledStream, Session, SessionPool, Stopper},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_blocking,
};

use super::{
    implementation::{Client, Ended, Implementation, Server, Stream},
    message::HEAD_LEN,
    our_peer::{chain, check, client_config, closed, port, server_config, text},
    our_streams::{Rest, fallbacks, finished, sent, write},
    setting::Setting,
};
use crate::LONG;

/// See the module.
#[derive(Debug)]
pub struct ThreadsPeer;

impl Implementation for ThreadsPeer {
    type Stream = ThreadStream;
    type Server = ThreadsServer;
    type Client = ThreadsClient;

    async fn listen(setting: &Setting) -> Result<ThreadsServer, String> {
        let listener = Listener::take_over_with(setting.address(), server_config(setting)?);
        let listener = listener.map_err(text)?;
        let (sender, streams) = unbounded_channel();
        let server = ThreadsServer {
            streams,
            clients: listener.clients().clone(),
            stopper: listener.stopper(),
            port: port(listener.local_address()),
        };
        let setting = setting.clone();
        thread::spawn(move || accept_all(&listener, &setting, &sender));
        Ok(server)
    }

    async fn connect(setting: &Setting) -> Result<ThreadsClient, String> {
        let config = PoolConfig::builder()
            .session(client_config(setting)?)
            .size(setting.sessions)
            .build()
            .map_err(text)?;
        let address = setting.address();
        let connect = move || SessionPool::connect_with(address, config);
        let pool = spawn_blocking(connect).await.map_err(text)?;
        let pool = pool.map_err(chain)?;
        for session in pool.sessions() {
            check(session.link(), setting)?;
        }
        Ok(ThreadsClient { pool })
    }
}

fn accept_all(
    listener: &Listener,
    setting: &Setting,
    streams: &UnboundedSender<Result<ThreadStream, String>>,
) {
    while let Ok(session) = listener.accept() {
        let streams = streams.clone();
        // If nobody takes it, here and below, the server is closed.
        if let Err(problem) = check(session.link(), setting) {
            let _ = streams.send(Err(problem));
        }
        thread::spawn(move || {
            while let Ok(stream) = session.accept_stream() {
                let _ = streams.send(Ok(ThreadStream::new(Source::Accepted(stream))));
            }
        });
    }
}

/// A server, which serves every client.
#[derive(Debug)]
pub struct ThreadsServer {
    streams: UnboundedReceiver<Result<ThreadStream, String>>,
    clients: Clients,
    stopper: Stopper,
    port: Option<SocketAddr>,
}

impl Server for ThreadsServer {
    type Stream = ThreadStream;

    fn port(&self) -> Option<SocketAddr> {
        self.port
    }

    async fn accept(&mut self) -> Result<ThreadStream, String> {
        let stream = self.streams.recv().await;
        stream.ok_or_else(|| "the listener is broken".to_owned())?
    }

    fn restart(&mut self, epoch: u64) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let clients = self.clients.clone();
        async move {
            let restart = spawn_blocking(move || clients.hot_restart(epoch, LONG)).await;
            let restart = restart.map_err(text)?.map_err(text)?;
            if restart.is_complete() && restart.moved != 0 {
                Ok(())
            } else {
                Err(format!("not all have moved: {restart:?}"))
            }
        }
    }

    async fn close(self) {
        self.stopper.stop();
        // It may wait for the peers, and does not panic.
        let _ = spawn_blocking(move || self.clients.close()).await;
    }
}

/// A client with its sessions.
#[derive(Debug)]
pub struct ThreadsClient {
    pool: SessionPool,
}

impl Client for ThreadsClient {
    type Stream = ThreadStream;

    async fn get(&self) -> Result<ThreadStream, String> {
        let stream = lent(self.pool.clone()).await?;
        let pool = self.pool.clone();
        Ok(ThreadStream::new(Source::Lent { stream, pool }))
    }

    async fn put_back(&self, mut stream: ThreadStream) {
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
        // It may wait for the peer, and does not panic.
        let _ = spawn_blocking(move || self.pool.close()).await;
    }
}

/// A stream of a pool, which may have to connect for it.
async fn lent(pool: SessionPool) -> Result<PooledStream, String> {
    let taken = spawn_blocking(move || pool.stream()).await;
    taken.map_err(text)?.map_err(chain)
}

/// A stream, read as a sequence of bytes.
#[derive(Debug)]
pub struct ThreadStream {
    /// `None` once it was closed.
    source: Option<Source>,
    rest: Rest,
}

/// Where a stream is from.
#[derive(Debug)]
enum Source {
    Accepted(blocking::Stream),
    Lent {
        stream: PooledStream,
        pool: SessionPool,
    },
}

impl Source {
    fn stream(&mut self) -> &mut blocking::Stream {
        match self {
            Self::Accepted(stream) => stream,
            Self::Lent { stream, .. } => stream,
        }
    }

    /// Another one, if this is one of which nobody has heard because its session takes no more.
    async fn replace(&mut self) -> Result<(), Ended> {
        match self {
            Self::Lent { stream, pool } => {
                *stream = lent(pool.clone()).await.map_err(Ended::Failed)?;
                Ok(())
            }
            Self::Accepted(_) => Err(Ended::Failed("the client goes away".to_owned())),
        }
    }
}

impl ThreadStream {
    fn new(source: Source) -> Self {
        Self {
            source: Some(source),
            rest: Rest::default(),
        }
    }

    /// Does something with the stream in a thread.
    async fn with<R: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut blocking::Stream) -> R + Send + 'static,
    ) -> Result<R, Ended> {
        let mut source = self.source.take().ok_or_else(closed)?;
        let acting = spawn_blocking(move || {
            let result = act(source.stream());
            (source, result)
        });
        let (source, result) = acting.await.map_err(|panic| Ended::Failed(text(panic)))?;
        self.source = Some(source);
        Ok(result)
    }
}

impl Stream for ThreadStream {
    async fn send(
        &mut self,
        head: &[u8; HEAD_LEN],
        payload: &[u8],
        piece: usize,
    ) -> Result<(), Ended> {
        loop {
            let source = self.source.as_mut().ok_or_else(closed)?;
            let mut message = source.stream().buffer(HEAD_LEN + payload.len());
            write(&mut message, head, payload, piece);
            let send = |stream: &mut blocking::Stream| stream.send(message, Flush::More);
            match self.with(send).await? {
                Err(SendError::GoingAway) => {
                    let source = self.source.as_mut().ok_or_else(closed)?;
                    source.replace().await?;
                }
                done => return sent(done),
            }
        }
    }

    async fn readable(&mut self) -> Result<(), Ended> {
        while self.rest.is_empty() {
            let received = self.with(blocking::Stream::recv).await?;
            self.rest.refill(received)?;
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
        if self.source.is_none() {
            return Ok(());
        }
        self.rest = Rest::default();
        let done = self.with(blocking::Stream::finish).await;
        self.source = None;
        finished(done.map_err(|ended| format!("{ended:?}"))?)
    }
}
