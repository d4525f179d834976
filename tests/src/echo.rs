//! Honest ends of sessions.

use std::path::PathBuf;

use bytes::{Buf, BufMut};
use shmipc_transport::{Config, Flush, Listener, RecvBuf, Session, Stream};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A socket's path in a directory of its own.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// Makes the directory.
    ///
    /// # Panics
    ///
    /// If that cannot be done.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "makes a directory")]
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// Where the socket goes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// How many files there are.
    ///
    /// # Panics
    ///
    /// If the directory is gone.
    #[must_use]
    pub fn files(&self) -> usize {
        std::fs::read_dir(self.directory.path())
            .expect("the directory exists")
            .count()
    }
}

/// Both ends of a session.
#[derive(Debug)]
pub struct Pair {
    /// The end that connected.
    pub client: Session,
    /// The end that accepted.
    pub server: Session,
    _place: Place,
}

impl Pair {
    /// Opens a session between two ends in this process.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn new(client: Config, server: Config) -> Self {
        let place = Place::new();
        let listener = Listener::bind_with(place.path(), server).expect("nobody listens there");
        let (client, server) = tokio::join!(
            Session::connect_with(place.path(), client),
            listener.accept()
        );
        Self {
            client: client.expect("the server listens"),
            server: server.expect("the client connects"),
            _place: place,
        }
    }

    /// The same with a server that [echoes](serve).
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn echoing() -> Self {
        let pair = Self::new(Config::default(), Config::default()).await;
        serve(pair.server.clone());
        pair
    }
}

/// Accepts sessions that [echo](serve), for as long as the task is not aborted.
pub fn listen(listener: Listener) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(session) = listener.accept().await {
            serve(session);
        }
    })
}

/// Sends every message of every stream back, until the session ends.
pub fn serve(session: Session) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(stream) = session.accept_stream().await {
            tokio::spawn(echo(stream));
        }
    })
}

/// Sends every message of a stream back.
pub async fn echo(mut stream: Stream) {
    while let Ok(Some(message)) = stream.recv().await {
        let mut reply = stream.buffer(message.len());
        reply.put(message);
        if stream.send(reply, Flush::More).await.is_err() {
            return;
        }
    }
    drop(stream.finish().await);
}

/// Copies a message out.
#[must_use]
pub fn all(mut message: RecvBuf) -> Vec<u8> {
    let mut bytes = vec![0; message.len()];
    message.copy_to_slice(&mut bytes);
    bytes
}

/// Bytes that differ from place to place and from seed to seed.
#[must_use]
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let bytes = (0..=250u8).cycle().skip(seed % 251);
    bytes.take(len).collect()
}

/// Sends a message.
///
/// # Panics
///
/// If that fails.
pub async fn send(stream: &mut Stream, bytes: &[u8], flush: Flush) {
    let mut message = stream.buffer(bytes.len());
    message.put_slice(bytes);
    stream
        .send(message, flush)
        .await
        .expect("the session lives");
}

/// Sends a message of `len` bytes on a stream of its own, and compares what comes back.
///
/// # Panics
///
/// If it does not come back, unchanged and in time.
pub async fn call(session: &Session, len: usize) {
    let calling = async {
        let mut stream = session.open_stream().expect("the session lives");
        let sent = pattern(len, len);
        send(&mut stream, &sent, Flush::End).await;
        let reply = stream.recv().await.expect("the session lives");
        assert!(
            all(reply.expect("an echo")) == sent,
            "{len} bytes came back changed"
        );
        assert!(
            stream.recv().await.expect("the session lives").is_none(),
            "one echo"
        );
    };
    crate::in_time("an echo", calling).await;
}
