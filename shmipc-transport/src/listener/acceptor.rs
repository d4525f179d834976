//! Many handshakes at once, so that no client waits for another.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Mutex,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, warn};

use crate::{
    error::{AcceptError, HandshakeError},
    session::Strangers,
    sys::{
        endpoint::{Connection, Listening},
        socket::Watched,
    },
};

/// Turns connections into sessions `S`.
///
/// There is no task for the listening socket: whoever calls [`accept`](Self::accept) drives it. Each handshake is a task
/// of its own and goes on in between. A handshake that is complete occupies its place until its session is taken, so a
/// server that accepts slowly leaves further clients in the kernel's queue. Clients that are not admitted have no place.
#[derive(Debug)]
pub(super) struct Acceptor<S> {
    door: Door,
    handshakes_max: usize,
    strangers: Strangers,
    state: Mutex<State<S>>,
}

/// A socket that listens, and that a runtime watches.
#[derive(Debug)]
pub(super) enum Door {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Door {
    /// Takes the next connection.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: none is lost.
    async fn accept(&self) -> io::Result<Watched> {
        match self {
            Self::Unix(listener) => Ok(listener.accept().await?.0.into()),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // If that fails, it is the connection that does not work, and not the listener.
                stream
                    .set_nodelay(true)
                    .map_err(|_| io::ErrorKind::ConnectionAborted)?;
                Ok(stream.into())
            }
        }
    }

    fn into_std(self) -> io::Result<Listening> {
        match self {
            Self::Unix(listener) => listener.into_std().map(Listening::Unix),
            Self::Tcp(listener) => listener.into_std().map(Listening::Tcp),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

#[derive(Debug)]
struct State<S> {
    /// All handshakes under way or complete. Dropping the set ends them.
    handshakes: JoinSet<Result<S, HandshakeError>>,
    /// No connection is taken before this time, because the system lacked something.
    paused_until: Option<Instant>,
}

/// How long to leave a system alone that lacks descriptors or memory. Sessions end in the meantime, or do not.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

impl<S: Send + 'static> Acceptor<S> {
    pub(super) fn new(door: Door, handshakes_max: usize) -> Self {
        let state = State {
            handshakes: JoinSet::new(),
            paused_until: None,
        };
        Self {
            door,
            handshakes_max,
            strangers: Strangers::default(),
            state: Mutex::new(state),
        }
    }

    /// Returns the next session. `shake` makes one of a connection, and counts clients that it turns away.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: handshakes that have begun go on, and what they yield is left for the next call.
    pub(super) async fn accept<F>(
        &self,
        shake: impl Fn(Watched, Strangers) -> F,
    ) -> Result<S, AcceptError>
    where
        F: Future<Output = Result<S, HandshakeError>> + Send + 'static,
    {
        let mut state = self.state.lock().await;
        loop {
            let State {
                handshakes,
                paused_until,
            } = &mut *state;
            let has_room = handshakes.len() < self.handshakes_max + self.strangers.count();
            tokio::select! {
                biased;
                Some(finished) = handshakes.join_next() => {
                    if let Some(session) = report(finished) {
                        return Ok(session);
                    }
                }
                () = self.strangers.met(), if !has_room => {}
                () = sleep_until(paused_until.unwrap_or_else(Instant::now)), if paused_until.is_some() => {
                    *paused_until = None;
                }
                accepted = self.door.accept(), if has_room && paused_until.is_none() => match accepted {
                    Ok(stream) => {
                        handshakes.spawn(shake(stream, self.strangers.clone()));
                    }
                    Err(error) if is_fatal(&error) => return Err(AcceptError::Socket(Arc::new(error))),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        warn!(%error, "cannot accept connections for the moment");
                        *paused_until = Some(Instant::now() + PAUSE);
                    }
                },
            }
        }
    }

    /// The listening socket.
    pub(super) fn socket(&self) -> &impl AsFd {
        &self.door
    }

    /// Stops listening. Connections that have come already are left to be shaken hands with; those in the queue are, if `takes_queue` is
    /// set. Else somebody else takes them.
    ///
    /// The caller has seen to it that no more of them come.
    pub(super) fn close(self, takes_queue: bool) -> Leftover<S> {
        let Self {
            door,
            handshakes_max,
            strangers,
            state,
        } = self;
        let queue = if takes_queue {
            door.into_std().ok()
        } else {
            None
        };
        Leftover {
            waiting: queue.map_or_else(VecDeque::new, empty_queue),
            handshakes: state.into_inner().handshakes,
            handshakes_max,
            strangers,
        }
    }
}

/// What has come to an acceptor and was not accepted yet when it closed.
#[derive(Debug)]
pub(super) struct Leftover<S> {
    waiting: VecDeque<Connection>,
    handshakes: JoinSet<Result<S, HandshakeError>>,
    handshakes_max: usize,
    strangers: Strangers,
}

/// The most connections that are taken from a queue that is closed: as many as Linux lets wait by default.
const BACKLOG_MAX: usize = 4096;

/// Takes all connections that wait at a socket, which does not block, and closes it.
pub(super) fn empty_queue(listener: Listening) -> VecDeque<Connection> {
    // What cannot be accepted is hung up on, and comes again.
    let waiting = std::iter::from_fn(|| listener.accept().ok());
    waiting.take(BACKLOG_MAX).collect()
}

impl<S: Send + 'static> Leftover<S> {
    /// Returns the next session, or `None` if there are no more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, as with [`Acceptor::accept`].
    pub(super) async fn next<F>(&mut self, shake: impl Fn(Watched, Strangers) -> F) -> Option<S>
    where
        F: Future<Output = Result<S, HandshakeError>> + Send + 'static,
    {
        loop {
            while self.handshakes.len() < self.handshakes_max + self.strangers.count()
                && let Some(connection) = self.waiting.pop_front()
            {
                let stream = connection.prepare().and_then(|()| Watched::new(connection));
                match stream {
                    Ok(stream) => {
                        drop(self.handshakes.spawn(shake(stream, self.strangers.clone())))
                    }
                    Err(error) => warn!(%error, "cannot watch a connection"),
                }
            }
            let finished = tokio::select! {
                finished = self.handshakes.join_next() => finished?,
                () = self.strangers.met() => continue,
            };
            if let Some(session) = report(finished) {
                return Some(session);
            }
        }
    }
}

/// Returns the session of a handshake, or says what became of it.
fn report<S>(finished: Result<Result<S, HandshakeError>, JoinError>) -> Option<S> {
    match finished {
        Ok(Ok(session)) => return Some(session),
        Ok(Err(error)) => debug!(error = %Chain(&error), "a client failed to shake hands"),
        Err(error) => error!(%error, "a handshake panicked"),
    }
    None
}

/// Whether `accept` will never succeed again. Anything else is a matter of the moment or of a single client.
pub(super) fn is_fatal(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EFAULT)
    )
}

/// Shows an error with all its sources.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;
    use crate::core::handshake::Failure;

    struct Server {
        directory: TempDir,
        acceptor: Acceptor<u8>,
    }

    impl Server {
        fn new(handshakes_max: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
            Self {
                directory,
                acceptor: Acceptor::new(Door::Unix(listener), handshakes_max),
            }
        }

        async fn client(&self) -> UnixStream {
            UnixStream::connect(self.directory.path().join("socket"))
                .await
                .unwrap()
        }

        async fn accept(&self) -> Result<u8, AcceptError> {
            self.acceptor.accept(shake).await
        }

        /// Accepts for as long as there is something to do without waiting for a client.
        async fn accept_nothing(&self) {
            let mut accept = pin!(self.accept());
            for _ in 0..50 {
                poll_fn(|cx| {
                    assert!(
                        accept.as_mut().poll(cx).is_pending(),
                        "nobody has shaken hands"
                    );
                    Poll::Ready(())
                })
                .await;
                tokio::task::yield_now().await;
            }
        }
    }

    /// A handshake of one byte, which becomes the session. 0 is a failure, 254 a stranger, 255 a panic.
    async fn shake(stream: Watched, strangers: Strangers) -> Result<u8, HandshakeError> {
        let Watched::Unix(mut stream) = stream else {
            unreachable!("the door is a Unix socket")
        };
        match stream.read_u8().await {
            Ok(255) => panic!("a bug"),
            Ok(254) => {
                let _place = strangers.meet();
                std::future::pending().await
            }
            Ok(0) | Err(_) => Err(Failure::NotSupported { protocol: 0 }.into()),
            Ok(byte) => Ok(byte),
        }
    }

    #[tokio::test]
    async fn stalled_clients_delay_nobody() {
        let server = Server::new(4);
        let mut stalled = [
            server.client().await,
            server.client().await,
            server.client().await,
        ];
        for byte in 1..10 {
            let mut client = server.client().await;
            client.write_u8(byte).await.unwrap();
            assert_eq!(server.accept().await.unwrap(), byte);
        }
        stalled[1].write_u8(77).await.unwrap();
        assert_eq!(server.accept().await.unwrap(), 77);
    }

    #[tokio::test]
    async fn failures_and_panics_stay_with_their_client() {
        let server = Server::new(2);
        for byte in [0, 255, 0, 255] {
            server.client().await.write_u8(byte).await.unwrap();
        }
        drop(server.client().await);
        server.client().await.write_u8(9).await.unwrap();
        assert_eq!(server.accept().await.unwrap(), 9);
    }

    #[tokio::test]
    async fn beyond_the_limit_clients_wait_in_the_kernel() {
        let server = Server::new(2);
        let mut first = server.client().await;
        let second = server.client().await;
        server.accept_nothing().await;
        let mut third = server.client().await;
        third.write_u8(3).await.unwrap();
        server.accept_nothing().await;
        assert_eq!(server.acceptor.state.lock().await.handshakes.len(), 2);
        drop(second);
        assert_eq!(server.accept().await.unwrap(), 3);
        first.write_u8(1).await.unwrap();
        assert_eq!(server.accept().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn strangers_take_no_place() {
        let server = Server::new(1);
        let mut strangers = Vec::new();
        for byte in 1..10 {
            strangers.push(server.client().await);
            strangers.last_mut().unwrap().write_u8(254).await.unwrap();
            server.client().await.write_u8(byte).await.unwrap();
            assert_eq!(server.accept().await.unwrap(), byte);
        }
        for byte in [254, 11, 12] {
            server.client().await.write_u8(byte).await.unwrap();
        }
        let mut leftover = server.acceptor.close(true);
        for byte in [11, 12] {
            assert_eq!(leftover.next(shake).await, Some(byte));
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_when_accept_is_dropped() {
        let server = Server::new(8);
        for byte in 1..=5 {
            server.client().await.write_u8(byte).await.unwrap();
        }
        let mut sessions = Vec::new();
        while sessions.len() < 5 {
            let mut accept = pin!(server.accept());
            let polled = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await;
            if let Poll::Ready(session) = polled {
                sessions.push(session.unwrap());
            }
            tokio::task::yield_now().await;
        }
        sessions.sort_unstable();
        assert_eq!(sessions, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn several_tasks_may_accept() {
        let server = Server::new(8);
        for byte in 1..=2 {
            server.client().await.write_u8(byte).await.unwrap();
        }
        let (one, other) = tokio::join!(server.accept(), server.accept());
        assert_eq!(one.unwrap() + other.unwrap(), 3);
    }

    #[tokio::test]
    async fn whoever_has_connected_before_the_end_is_shaken_hands_with() {
        let server = Server::new(2);
        let mut clients = Vec::new();
        for byte in 1..=5 {
            clients.push(server.client().await);
            clients.last_mut().unwrap().write_u8(byte).await.unwrap();
        }
        let first = server.accept().await.unwrap();
        let Server {
            directory,
            acceptor,
        } = server;
        let mut leftover = acceptor.close(true);
        UnixStream::connect(directory.path().join("socket"))
            .await
            .unwrap_err();
        let mut sessions = vec![first];
        while let Some(session) = leftover.next(shake).await {
            sessions.push(session);
        }
        sessions.sort_unstable();
        assert_eq!(sessions, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn dropping_the_acceptor_hangs_up() {
        let server = Server::new(8);
        let mut client = server.client().await;
        server.accept_nothing().await;
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[test]
    fn only_a_broken_socket_is_fatal() {
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::ENOBUFS,
            Errno::EPERM,
            Errno::EINTR,
        ] {
            assert!(!is_fatal(&errno.into()));
        }
        for errno in [Errno::EBADF, Errno::ENOTSOCK, Errno::EINVAL] {
            assert!(is_fatal(&errno.into()));
        }
    }
}
