//! Both ends of a session in one process.
#![allow(dead_code, reason = "each test file uses its share")]

pub(crate) mod modes;
pub(crate) mod place;
pub(crate) mod shmipc;
pub(crate) mod threads;

use std::time::Duration;

use bytes::{Buf, BufMut};
use shmipc_transport::{Config, Flush, Listener, RecvBuf, Session, Shmipc, Stream, Wait, blocking};
use tokio::time::timeout;

use self::modes::{Mode, modes};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must not hang.
pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let done = timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
}

/// Waits until `is_so`, which nobody tells.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(what, wait).await;
}

/// Two ends of a session, over a socket in a directory of its own.
pub(crate) struct Pair {
    pub(crate) client: Session,
    pub(crate) server: Session,
    pub(crate) _dir: tempfile::TempDir,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default(), Config::default()).await
    }

    pub(crate) async fn with(client: Config, server: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind_with(dir.path().join("socket"), server).unwrap();
        let connecting = Session::connect_with(dir.path().join("socket"), client);
        let (client, server) = tokio::join!(connecting, listener.accept());
        Self {
            client: client.unwrap(),
            server: server.unwrap(),
            _dir: dir,
        }
    }

    /// The same over shmipc's own link.
    pub(crate) async fn in_mode(mode: &Mode) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = mode.config(dir.path(), Shmipc::default(), Wait::Adaptive);
        let listener = Listener::bind_with(mode.address(dir.path()), config.clone()).unwrap();
        let connecting = Session::connect_with(listener.local_address().clone(), config);
        let (client, server) = tokio::join!(connecting, listener.accept());
        Self {
            client: client.unwrap(),
            server: server.unwrap(),
            _dir: dir,
        }
    }

    /// A pair over each link, with its name, and whether ends of one direction are told.
    pub(crate) async fn over_each_link() -> Vec<(&'static str, bool, Self)> {
        let mut pairs = vec![("outbox", true, Self::new().await)];
        for mode in modes() {
            let pair = Self::in_mode(&mode).await;
            let tells_end = mode.name.starts_with("v4");
            pairs.push((mode.name, tells_end, pair));
        }
        pairs
    }
}

pub(crate) fn all(mut message: RecvBuf) -> Vec<u8> {
    let mut bytes = vec![0; message.len()];
    message.copy_to_slice(&mut bytes);
    bytes
}

pub(crate) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i * 31 + seed) % 251).unwrap())
        .collect()
}

pub(crate) async fn send(stream: &mut Stream, bytes: &[u8], flush: Flush) {
    let mut message = stream.buffer(bytes.len());
    message.put_slice(bytes);
    stream.send(message, flush).await.unwrap();
}

/// Sends every message of every stream back, until the session ends.
pub(crate) fn echo(session: Session) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(mut stream) = session.accept_stream().await {
            tokio::spawn(async move {
                while let Ok(Some(message)) = stream.recv().await {
                    let mut reply = stream.buffer(message.len());
                    reply.put(message);
                    if stream.send(reply, Flush::More).await.is_err() {
                        return;
                    }
                }
                drop(stream.finish().await);
            });
        }
    })
}

/// Sends every message of a stream back, until there are no more or nobody wants them.
pub(crate) fn send_back(stream: &mut blocking::Stream) {
    while let Ok(Some(message)) = stream.recv() {
        let mut reply = stream.buffer(message.len());
        reply.put(message);
        if stream.send(reply, Flush::More).is_err() {
            return;
        }
    }
}

pub(crate) async fn assert_echo(client: &Session, len: usize) {
    let mut stream = client.open_stream().unwrap();
    let sent = pattern(len, len);
    send(&mut stream, &sent, Flush::End).await;
    let received = stream.recv().await.unwrap().expect("an echo");
    assert!(all(received) == sent, "{len} bytes came back changed");
    assert!(stream.recv().await.unwrap().is_none());
}
