//! The server's side of the front door.

mod acceptor;
mod bind;
pub(crate) mod blocking;
pub(crate) mod handover;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
};

use self::acceptor::{Acceptor, Door};
pub(crate) use self::bind::SocketFile;
pub use self::handover::HandOver;
use crate::{
    Address, Clients, Config, LinkKind, Restart, Session,
    core::sync::{AtomicBool, Ordering},
    error::{AcceptError, BindError, HandOverError, InheritError, InvalidAddress, RestartError},
    sys::endpoint::Listening,
};

/// Waits for sessions at an address.
///
/// Dropping it gives the address back and hangs up on clients in the middle of a handshake. Sessions that were accepted
/// live on.
#[derive(Debug)]
pub struct Listener {
    /// The first field, and so dropped first: nobody finds a file behind which nobody listens.
    file: Option<SocketFile>,
    acceptor: Acceptor<Session>,
    address: Address,
    config: Config,
    clients: Clients,
    /// Set once a successor has the socket.
    passed_on: Arc<AtomicBool>,
}

impl Listener {
    /// Listens at `address`, with the default [`Config`].
    ///
    /// A socket file that a server left behind is replaced; one behind which somebody listens is not, nor is any other
    /// kind of file. The new file is removed again when the listener is dropped. Only the user that this process runs as
    /// (and root) may connect through it: its mode is 0600. A server that [authorizes](crate::ConfigBuilder::authorize)
    /// others must also let them reach the file, with [`std::fs::set_permissions`], or listen at an abstract address. About TCP see
    /// [`Address::Tcp`].
    ///
    /// # Errors
    ///
    /// Returns [`BindError`], which names the address, if it cannot be used or somebody else uses it, and outside of a
    /// tokio runtime.
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O.
    pub fn bind(address: impl Into<Address>) -> Result<Self, BindError> {
        Self::bind_with(address, Config::default())
    }

    /// Listens at `address`, with settings for the listener and all its sessions. See [`bind`](Self::bind).
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O.
    pub fn bind_with(address: impl Into<Address>, config: Config) -> Result<Self, BindError> {
        Self::listen(address.into(), config, Way::Bind)
    }

    /// Listens at the path `address` in the place of a server that may still listen there.
    ///
    /// From one moment to the next, connections come here and no longer to the predecessor; at none of them is there
    /// nobody. The predecessor keeps its sessions and is not told, and leaves the file alone when it stops. The new file
    /// has the permissions of the old one. Whoever may write to the directory can do so: choose one that others cannot.
    ///
    /// Until it takes its place, the new file has the same name with `~` at its end. Addresses other than paths cannot be
    /// taken over; for them this is [`bind_with`](Self::bind_with).
    ///
    /// # Errors
    ///
    /// Returns [`BindError`], which names the address, if it cannot be used or a file is there that is no socket, and
    /// outside of a tokio runtime. The path may have at most 106 bytes.
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O.
    pub fn take_over_with(address: impl Into<Address>, config: Config) -> Result<Self, BindError> {
        Self::listen(address.into(), config, Way::TakeOver)
    }

    fn listen(address: Address, config: Config, way: Way) -> Result<Self, BindError> {
        check_links(&address, &config)?;
        let (place, door) = open(&address, way)?;
        Ok(Self::new(place, door, config))
    }

    fn new(place: Place, door: Door, config: Config) -> Self {
        let passed_on = Arc::default();
        Self {
            file: place.file.map(|file| file.unless(&passed_on)),
            acceptor: Acceptor::new(door, config.handshakes_max()),
            address: place.address,
            config,
            clients: Clients::default(),
            passed_on,
        }
    }

    /// Takes the listening socket of a predecessor that [offers](HandOver::offer) it at `address`, with the default [`Config`].
    ///
    /// # Errors
    ///
    /// As for [`inherit_with`](Self::inherit_with).
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O or timers.
    ///
    /// # Cancel safety
    ///
    /// As for [`inherit_with`](Self::inherit_with).
    pub async fn inherit(address: impl Into<Address>) -> Result<Self, InheritError> {
        Self::inherit_with(address, Config::default()).await
    }

    /// Takes the listening socket of a predecessor that [offers](HandOver::offer) it at `address`, with settings for the listener and all
    /// its sessions.
    ///
    /// The address that clients know stays the predecessor's, down to the socket's file, which this listener removes in the end; whoever
    /// waits in the queue is served here. The predecessor must be of our own user, and has the
    /// [time for a handshake](crate::ConfigBuilder::handshake_timeout).
    ///
    /// # Errors
    ///
    /// Returns [`InheritError`] if nobody offers a listening socket there, and outside of a tokio runtime. The predecessor goes on then.
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O or timers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the predecessor goes on.
    pub async fn inherit_with(
        address: impl Into<Address>,
        config: Config,
    ) -> Result<Self, InheritError> {
        if Handle::try_current().is_err() {
            return Err(BindError::NoRuntime.into());
        }
        let at = address.into();
        let bound = handover::inherit(&at, &config).await?;
        let (place, door) = watch(bound)?;
        Ok(Self::new(place, door, config))
    }

    /// Returns what passes the listening socket on to a successor, while this listener accepts.
    ///
    /// # Errors
    ///
    /// Returns [`HandOverError`] if the process lacks descriptors.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use shmipc_transport::Listener;
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// // A successor begins with `Listener::inherit("/run/route.next")`.
    /// let listener = Listener::bind("/run/route.sock")?;
    /// let hand_over = listener.hand_over()?;
    /// let mut handed_over = std::pin::pin!(hand_over.offer("/run/route.next"));
    /// loop {
    ///     tokio::select! {
    ///         session = listener.accept() => drop(session?), // Serve it.
    ///         done = &mut handed_over => break done?,
    ///     }
    /// }
    /// let mut rest = listener.close();
    /// while let Some(session) = rest.next().await {
    ///     drop(session); // Serve it.
    /// }
    /// # Ok(()) }
    /// ```
    pub fn hand_over(&self) -> Result<HandOver, HandOverError> {
        HandOver::new(
            self.acceptor.socket(),
            &self.address,
            self.file.as_ref(),
            &self.passed_on,
            self.config.handshake_timeout(),
        )
        .map_err(HandOverError::Socket)
    }

    /// Returns the next session with a client that was admitted and has shaken hands.
    ///
    /// Handshakes run side by side, so a client that stalls delays nobody; up to
    /// [`handshakes_max`](crate::ConfigBuilder::handshakes_max) of them, counting those whose sessions wait to be accepted
    /// here. Connections are only taken while somebody calls this method, so call it again soon. What goes wrong with one
    /// client is logged at `debug` and otherwise ignored; while the process lacks file descriptors, the listener pauses.
    ///
    /// # Errors
    ///
    /// Returns [`AcceptError`] if the listening socket itself does not work any more.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime, or if that was built without timers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Handshakes that have begun go on, and their sessions are left for the next call.
    pub async fn accept(&self) -> Result<Session, AcceptError> {
        let accepted = self
            .acceptor
            .accept(|stream, strangers| Session::accept(stream, self.config.clone(), strangers));
        let session = accepted.await?;
        self.clients.register(&session);
        Ok(session)
    }

    /// The live sessions that were accepted here.
    #[must_use]
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Tells all clients to move to the successor at this address; see [`Clients::hot_restart`].
    ///
    /// # Errors
    ///
    /// See [`RestartError`]. Nobody was told.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime, or if that was built without timers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the clients move all the same, and nobody learns what came of it.
    pub async fn hot_restart(
        &self,
        epoch: u64,
        timeout: Duration,
    ) -> Result<Restart, RestartError> {
        self.clients.hot_restart(epoch, timeout).await
    }

    /// Stops listening: gives the address back, unless a successor has taken it over, and returns those who have
    /// connected before. If the socket was [handed over](HandOver), those who wait in its queue are left to the successor.
    ///
    /// Dropping the listener would hang up on clients that wait to be accepted, or are in the middle of a handshake.
    #[must_use = "dropping it hangs up on the clients"]
    pub fn close(self) -> Leftover {
        let Self {
            file,
            acceptor,
            address: _,
            config,
            clients,
            passed_on,
        } = self;
        // Before the queue is emptied, so that nobody else queues up.
        drop(file);
        Leftover {
            acceptor: acceptor.close(!passed_on.load(Ordering::Acquire)),
            config,
            clients,
        }
    }

    /// Returns the address that was bound, with the port that was given if none was asked for.
    #[must_use]
    pub const fn local_address(&self) -> &Address {
        &self.address
    }
}

/// The clients that had connected to a [`Listener`] when it was [closed](Listener::close).
///
/// Dropping it hangs up on those that are left.
#[derive(Debug)]
pub struct Leftover {
    acceptor: acceptor::Leftover<Session>,
    config: Config,
    clients: Clients,
}

impl Leftover {
    /// Returns the next session with a client that was admitted and has shaken hands, or `None` if there are no more.
    /// That takes no longer than the [time for a handshake](crate::ConfigBuilder::handshake_timeout), unless there are
    /// more clients than may shake hands at once.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime, or if that was built without timers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Handshakes that have begun go on, and their sessions are left for the next call.
    pub async fn next(&mut self) -> Option<Session> {
        let Self {
            acceptor,
            config,
            clients,
        } = self;
        let next =
            acceptor.next(|stream, strangers| Session::accept(stream, config.clone(), strangers));
        next.await.inspect(|session| clients.register(session))
    }
}

/// What is done about an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// It must be free.
    Bind,
    /// Somebody may listen there, and is succeeded.
    TakeOver,
}

/// Whether any link can be had by clients that connect to `address`.
fn check_links(address: &Address, config: &Config) -> Result<(), BindError> {
    let has_link = |link: &LinkKind| config.has_link(*link, address.passes_descriptors());
    if config.links().iter().any(has_link) {
        return Ok(());
    }
    Err(BindError::NoLink {
        address: address.clone(),
    })
}

/// What is found out of a [`Bound`](bind::Bound) socket when it was given to tokio.
struct Place {
    file: Option<SocketFile>,
    address: Address,
}

/// Listens at an address, for tokio. The file, if there is one, is removed when it is dropped.
fn open(address: &Address, way: Way) -> Result<(Place, Door), BindError> {
    if Handle::try_current().is_err() {
        return Err(BindError::NoRuntime);
    }
    watch(match way {
        Way::Bind => bind::bind(address)?,
        Way::TakeOver => bind::take_over(address)?,
    })
}

/// Has the runtime watch a listening socket.
fn watch(bound: bind::Bound) -> Result<(Place, Door), BindError> {
    let bind::Bound {
        file,
        socket,
        address,
    } = bound;
    let door = socket.set_nonblocking().and_then(|()| match socket {
        Listening::Unix(listener) => UnixListener::from_std(listener).map(Door::Unix),
        Listening::Tcp(listener) => TcpListener::from_std(listener).map(Door::Tcp),
    });
    match door {
        Ok(door) => Ok((Place { file, address }, door)),
        Err(source) => Err(BindError::Io {
            action: "watch the socket",
            address,
            source,
        }),
    }
}

/// Listens at an address of a Unix socket, as [`open`] does.
pub(crate) fn listen(
    address: &Address,
    way: Way,
) -> Result<(Option<SocketFile>, UnixListener), BindError> {
    if !address.passes_descriptors() {
        let address = address.to_string();
        return Err(InvalidAddress::NotUnix { address }.into());
    }
    match open(address, way)? {
        (place, Door::Unix(listener)) => Ok((place.file, listener)),
        (_, Door::Tcp(_)) => unreachable!("it is no TCP address"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::fd::OwnedFd,
        path::{Path, PathBuf},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::{RefusalCode, error::ConnectError};

    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        (directory, path)
    }

    /// How many connections to `path` nobody has accepted yet.
    fn queued(path: &Path) -> usize {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        // Those have the path, as the listener has, and are connecting.
        let connecting = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(5) == Some(&"02") && line.ends_with(&*path.to_string_lossy())
        };
        sockets.lines().filter(connecting).count()
    }

    async fn connected(listener: &Listener, address: impl Into<Address>) -> (Session, Session) {
        let (client, server) = tokio::join!(Session::connect(address), listener.accept());
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn sessions_begin_at_every_kind_of_address() {
        let (directory, path) = place();
        let listener = Listener::bind(path.as_path()).unwrap();
        assert_eq!(
            listener.local_address().to_string(),
            path.display().to_string()
        );
        let (client, server) = connected(&listener, path.as_path()).await;
        assert_eq!(client.peer(), server.peer(), "we talk to ourselves");
        let name = format!("@shmipc{}", directory.path().display());
        let listener = Listener::bind(name.as_str()).unwrap();
        let _ = connected(&listener, name).await;
        let socket =
            std::os::unix::net::UnixListener::bind(directory.path().join("other")).unwrap();
        let listener = Listener::bind(OwnedFd::from(socket)).unwrap();
        let stream =
            std::os::unix::net::UnixStream::connect(directory.path().join("other")).unwrap();
        let _ = connected(&listener, OwnedFd::from(stream)).await;
    }

    #[tokio::test]
    async fn sessions_outlive_the_listener_and_its_address_does_not() {
        let (directory, path) = place();
        let listener = Listener::bind(path.as_path()).unwrap();
        let (client, server) = connected(&listener, path.as_path()).await;
        drop(listener);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(!client.is_closed() && !server.is_closed());
        assert!(matches!(
            Session::connect(path.as_path()).await,
            Err(ConnectError::NoServer { .. })
        ));
        let listener = Listener::bind(path.as_path()).unwrap();
        let _ = connected(&listener, path.as_path()).await;
    }

    #[tokio::test]
    async fn clients_that_wait_when_the_listener_closes_are_not_let_down() {
        let (directory, path) = place();
        let first = Listener::bind(path.as_path()).unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|_| tokio::spawn(Session::connect(path.clone())))
            .collect();
        while waiting.len() != queued(&path) {
            tokio::task::yield_now().await;
        }
        let second = Listener::take_over_with(path.as_path(), Config::default()).unwrap();
        let mut leftover = first.close();
        let mut sessions = Vec::new();
        while let Some(session) = leftover.next().await {
            sessions.push(session);
        }
        assert_eq!(sessions.len(), waiting.len());
        for client in waiting {
            client.await.unwrap().unwrap();
        }
        let _ = connected(&second, path.as_path()).await;
        drop(second);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_unauthorised_are_turned_away() {
        let (_directory, path) = place();
        let config = Config::builder().authorize(|_| false).build().unwrap();
        let listener = Listener::bind_with(path.as_path(), config.clone()).unwrap();
        let refused = tokio::select! {
            refused = Session::connect(path.as_path()) => refused.unwrap_err(),
            accepted = listener.accept() => panic!("{accepted:?}"),
        };
        assert!(
            matches!(refused, ConnectError::Refused(refusal) if refusal.code() == RefusalCode::Unauthorized)
        );
        let refused = Session::connect_with(path.as_path(), config)
            .await
            .unwrap_err();
        assert!(matches!(refused, ConnectError::ServerNotAuthorized(_)));
    }

    #[tokio::test]
    async fn fifty_clients_at_once() {
        let (_directory, path) = place();
        let config = Config::builder().handshakes_max(3).build().unwrap();
        let listener = Listener::bind_with(path.as_path(), config).unwrap();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let path = path.clone();
            clients.spawn(async move { Session::connect(path).await.unwrap() });
        }
        let mut sessions = Vec::new();
        while sessions.len() < 50 {
            sessions.push(listener.accept().await.unwrap());
        }
        assert_eq!(clients.join_all().await.len(), 50);
    }

    #[test]
    fn a_listener_needs_a_runtime() {
        assert!(matches!(
            Listener::bind(Path::new("socket")),
            Err(BindError::NoRuntime)
        ));
    }
}
