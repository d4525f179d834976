//! Where villains perform: victims, and a bystander who must not notice anything.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use bytes::BufMut;
use shmipc_transport::{Address, Config, ConnectError, Flush, LinkKind, Listener, Session, Stream};
use tempfile::TempDir;
use tests::{
    echo::{self, Pair, Place},
    in_time,
    villain::{Ending, Role, Script, Villain},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// A victim that listens, a place where victims can be made to connect to, and a bystander.
pub(crate) struct Stage {
    config: Config,
    bystander: Pair,
    listening: Address,
    accepted: mpsc::Receiver<Session>,
    _acceptor: JoinHandle<()>,
    trap: Trap,
    /// Where files of regions lie.
    files: TempDir,
    _place: Place,
}

/// What victims can be made to connect to.
enum Trap {
    Unix(UnixListener, Place),
    Tcp(TcpListener),
}

impl Trap {
    fn new(is_tcp: bool) -> Self {
        if is_tcp {
            return Self::Tcp(TcpListener::bind("127.0.0.1:0").unwrap());
        }
        let place = Place::new();
        Self::Unix(UnixListener::bind(place.path()).unwrap(), place)
    }

    fn address(&self) -> Address {
        match self {
            Self::Unix(_, place) => place.path().into(),
            Self::Tcp(listener) => Address::Tcp(listener.local_addr().unwrap()),
        }
    }

    fn accept(&self) -> UnixStream {
        match self {
            Self::Unix(listener, _) => listener.accept().unwrap().0,
            Self::Tcp(listener) => of_tcp(listener.accept().unwrap().0),
        }
    }
}

/// Nothing that a villain does to its socket depends on the kind.
fn of_tcp(stream: TcpStream) -> UnixStream {
    UnixStream::from(OwnedFd::from(stream))
}

/// What became of the victim: `None` if it is a server and was not heard of.
pub(crate) type Outcome = Option<Result<Session, ConnectError>>;

impl Stage {
    /// The streams that victims accept.
    pub(crate) const STREAMS_MAX: u32 = 80;
    /// The memory that victims have for what they send.
    pub(crate) const MEMORY_MAX: u32 = 256 << 10;

    fn config() -> Config {
        let config = Config::builder()
            .links([LinkKind::Outbox])
            .streams_max(Self::STREAMS_MAX)
            .memory_max(Self::MEMORY_MAX);
        config.build().unwrap()
    }

    /// Victims that speak our own link.
    pub(crate) async fn new() -> Self {
        Self::with(Self::config()).await
    }

    /// Victims of this configuration.
    pub(crate) async fn with(config: Config) -> Self {
        let files = tempfile::tempdir().unwrap();
        Self::over(config, files, false).await
    }

    /// The same over either kind of socket, with a place for files of regions.
    pub(crate) async fn over(config: Config, files: TempDir, is_tcp: bool) -> Self {
        let place = Place::new();
        let address = if is_tcp {
            "tcp://127.0.0.1:0".into()
        } else {
            Address::from(place.path())
        };
        let listener = Listener::bind_with(address, config.clone()).unwrap();
        let listening = listener.local_address().clone();
        let (send, accepted) = mpsc::channel(1);
        let acceptor = tokio::spawn(async move {
            while let Ok(session) = listener.accept().await {
                if send.send(session).await.is_err() {
                    return;
                }
            }
        });
        let stage = Self {
            config,
            bystander: Pair::echoing().await,
            listening,
            accepted,
            _acceptor: acceptor,
            trap: Trap::new(is_tcp),
            files,
            _place: place,
        };
        stage.bystander_is_well("before anything").await;
        stage
    }

    /// What victims are configured for.
    pub(crate) fn victims(&self) -> Config {
        self.config.clone()
    }

    /// Where the victim listens, if that is a path.
    pub(crate) fn path(&self) -> &Path {
        match &self.listening {
            Address::Path(path) => path,
            other => panic!("{other} is no path"),
        }
    }

    /// Where files of regions lie.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// Which files of regions there are.
    pub(crate) fn names(&self) -> BTreeSet<OsString> {
        let entries = std::fs::read_dir(self.files()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    /// Plays a script against a victim.
    pub(crate) async fn open(&mut self, script: Script) -> (Ending, Outcome) {
        self.play(script.role, |socket| script.play(socket)).await
    }

    /// Plays something over a socket with a victim at its other end.
    pub(crate) async fn play<E>(
        &mut self,
        role: Role,
        play: impl FnOnce(UnixStream) -> E,
    ) -> (E, Outcome) {
        match role {
            Role::Client => {
                let socket = match &self.listening {
                    Address::Tcp(port) => of_tcp(TcpStream::connect(port).unwrap()),
                    _ => UnixStream::connect(self.path()).unwrap(),
                };
                (play(socket), None)
            }
            Role::Server => {
                let connecting = Session::connect_with(self.trap.address(), self.victims());
                let connecting = tokio::spawn(connecting);
                let ending = play(self.trap.accept());
                let connected = in_time("the victim's handshake", connecting).await;
                (ending, Some(connected.unwrap()))
            }
        }
    }

    /// The victim's session, after an honest handshake.
    pub(crate) async fn taken(&mut self, outcome: Outcome) -> Session {
        match outcome {
            Some(connected) => connected.unwrap(),
            None => in_time("the victim accepts", self.accepted.recv())
                .await
                .unwrap(),
        }
    }

    /// The victim's session, with the victim at work on it.
    pub(crate) async fn cast(&mut self, outcome: Outcome) -> Session {
        self.cast_with(outcome, 1).await
    }

    /// The same with a victim that opens so many streams.
    pub(crate) async fn cast_with(&mut self, outcome: Outcome, streams: usize) -> Session {
        let session = self.taken(outcome).await;
        tokio::spawn(victim(session.clone(), streams));
        session
    }

    /// Both ends of a session after an honest handshake.
    pub(crate) async fn session(&mut self, role: Role) -> (Villain, Session) {
        self.session_of(Script::new(role)).await
    }

    /// Both ends of a session after such a handshake.
    pub(crate) async fn session_of(&mut self, script: Script) -> (Villain, Session) {
        let (ending, outcome) = self.open(script).await;
        (ending.session(), self.cast(outcome).await)
    }

    /// Asserts that another session of this process works as before.
    pub(crate) async fn bystander_is_well(&self, after: &str) {
        assert!(!self.bystander.client.is_closed(), "lost after: {after}");
        echo::call(&self.bystander.client, 64).await;
        echo::call(&self.bystander.client, 100_000).await;
    }
}

/// Uses a session in all ways: sends first, and treats streams as the first byte of the peer's says.
async fn victim(session: Session, streams: usize) {
    for _ in 0..streams {
        let hello = session.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = hello.open_stream() else {
                return;
            };
            if lend(&mut stream, Flush::More).await {
                handle(hello, stream).await;
            }
        });
    }
    while let Ok(stream) = session.accept_stream().await {
        tokio::spawn(handle(session.clone(), stream));
    }
}

async fn handle(session: Session, mut stream: Stream) {
    let Ok(Some(first)) = stream.recv().await else {
        return;
    };
    let first = echo::all(first);
    match first.first() {
        // Answers from memory of its own.
        Some(b'a') => drop(lend(&mut stream, Flush::More).await),
        Some(b'A') => drop(lend(&mut stream, Flush::End).await),
        // Drops it.
        Some(b'd') => {}
        // Keeps what comes.
        Some(b'h') => {
            let mut kept = Vec::new();
            while let Ok(Some(message)) = stream.recv().await {
                kept.push(message);
            }
            session.closed().await;
        }
        // Reads no more.
        Some(b'n') => drop(session.closed().await),
        _ => {
            let mut reply = stream.buffer(first.len());
            reply.put_slice(&first);
            if stream.send(reply, Flush::More).await.is_ok() {
                echo::echo(stream).await;
            }
        }
    }
}

async fn lend(stream: &mut Stream, flush: Flush) -> bool {
    let mut message = stream.buffer(8192);
    message.put_slice(&[7; 8192]);
    stream.send(message, flush).await.is_ok()
}
