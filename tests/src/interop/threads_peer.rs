//! Our own implementation for threads: `shmipc_transport::blocking`, over its shmipc link.
//!
//! What a stream is to do is done in a thread of its own, so that the program, which is made of tasks, goes on.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use shmipc_transport::{
    Flush,
    blocking::{self, Listener, Session, Stopper},
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

/// See the module.
#[derive(Debug)]
pub struct ThreadsPeer;

impl Implementation for ThreadsPeer {
    type Stream = ThreadStream;
    type Server = ThreadsServer;
    type Client = ThreadsClient;

    async fn listen(setting: &Setting) -> Result<ThreadsServer, String> {
        let listener = Listener::bind_with(setting.address(), server_config(setting)?);
        let listener = listener.map_err(text)?;
        let (sender, streams) = unbounded_channel();
        let server = ThreadsServer {
            streams,
            sessions: Arc::default(),
            stopper: listener.stopper(),
            port: port(listener.local_address()),
        };
        let sessions = Arc::clone(&server.sessions);
        let setting = setting.clone();
        thread::spawn(move || accept_all(&listener, &setting, &sender, &sessions));
        Ok(server)
    }

    async fn connect(setting: &Setting) -> Result<ThreadsClient, String> {
        let config = client_config(setting)?;
        let (address, count) = (setting.address(), setting.sessions);
        let connect = move || {
            let connect = || Session::connect_with(address.clone(), config.clone());
            (0..count).map(|_| connect().map_err(chain)).collect()
        };
        let sessions: Result<Vec<Session>, String> = spawn_blocking(connect).await.map_err(text)?;
        let sessions = sessions?;
        for session in &sessions {
            check(session.link(), setting)?;
        }
        Ok(ThreadsClient {
            sessions,
            next: AtomicUsize::new(0),
            idle: Mutex::default(),
        })
    }
}

type Sessions = Arc<Mutex<Vec<Session>>>;

fn accept_all(
    listener: &Listener,
    setting: &Setting,
    streams: &UnboundedSender<Result<ThreadStream, String>>,
    sessions: &Sessions,
) {
    while let Ok(session) = listener.accept() {
        let mut all = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(session.clone());
        drop(all);
        let streams = streams.clone();
        // If nobody takes it, the server is closed.
        if let Err(problem) = check(session.link(), setting) {
            let _ = streams.send(Err(problem));
        }
        thread::spawn(move || {
            while let Ok(stream) = session.accept_stream() {
                let _ = streams.send(Ok(ThreadStream::new(stream)));
            }
        });
    }
}

/// Closes sessions, which may wait for their peers.
async fn close_all(sessions: Vec<Session>) {
    let close = move || sessions.iter().for_each(Session::close);
    // It does not panic.
    let _ = spawn_blocking(close).await;
}

/// A server, which serves every client.
#[derive(Debug)]
pub struct ThreadsServer {
    streams: UnboundedReceiver<Result<ThreadStream, String>>,
    sessions: Sessions,
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

    fn restart(&mut self, _: u64) -> impl Future<Output = Result<(), String>> + Send + use<> {
        std::future::ready(Err(
            "a listener for threads tells nobody of restarts".to_owned()
        ))
    }

    async fn close(self) {
        self.stopper.stop();
        let all = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sessions)
        };
        close_all(all).await;
    }
}

/// A client with its sessions.
#[derive(Debug)]
pub struct ThreadsClient {
    sessions: Vec<Session>,
    next: AtomicUsize,
    idle: Mutex<Vec<ThreadStream>>,
}

impl Client for ThreadsClient {
    type Stream = ThreadStream;

    async fn get(&self) -> Result<ThreadStream, String> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = idle.pop() {
            return Ok(stream);
        }
        let next = self.next.fetch_add(1, Relaxed) % self.sessions.len();
        let stream = self.sessions[next].open_stream().map_err(chain)?;
        Ok(ThreadStream::new(stream))
    }

    async fn put_back(&self, stream: ThreadStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(stream);
    }

    fn fallbacks(&self) -> u64 {
        fallbacks(self.sessions.iter().map(Session::stats))
    }

    async fn close(self) {
        close_all(self.sessions).await;
    }
}

/// A stream, read as a sequence of bytes.
#[derive(Debug)]
pub struct ThreadStream {
    /// `None` once it was closed.
    stream: Option<blocking::Stream>,
    rest: Rest,
}

impl ThreadStream {
    fn new(stream: blocking::Stream) -> Self {
        Self {
            stream: Some(stream),
            rest: Rest::default(),
        }
    }

    /// Does something with the stream in a thread.
    async fn with<R: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut blocking::Stream) -> R + Send + 'static,
    ) -> Result<R, Ended> {
        let mut stream = self.stream.take().ok_or_else(closed)?;
        let acting = spawn_blocking(move || {
            let result = act(&mut stream);
            (stream, result)
        });
        let (stream, result) = acting.await.map_err(|panic| Ended::Failed(text(panic)))?;
        self.stream = Some(stream);
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
        let stream = self.stream.as_ref().ok_or_else(closed)?;
        let mut message = stream.buffer(HEAD_LEN + payload.len());
        write(&mut message, head, payload, piece);
        sent(
            self.with(|stream| stream.send(message, Flush::More))
                .await?,
        )
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
        if self.stream.is_none() {
            return Ok(());
        }
        self.rest = Rest::default();
        let done = self.with(blocking::Stream::finish).await;
        self.stream = None;
        finished(done.map_err(|ended| format!("{ended:?}"))?)
    }
}
