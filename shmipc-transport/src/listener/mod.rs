//! The server's side of the front door.

mod acceptor;
mod bind;

use tokio::{net::UnixListener, runtime::Handle};

use self::{acceptor::Acceptor, bind::SocketFile};
use crate::{
    Address, Config, Session,
    error::{AcceptError, BindError},
};

/// Waits for sessions at an address.
///
/// Dropping it gives the address back and hangs up on clients in the middle of a handshake. Sessions that were accepted
/// live on.
#[derive(Debug)]
pub struct Listener {
    /// The first field, and so dropped first: nobody finds a file behind which nobody listens.
    _file: Option<SocketFile>,
    acceptor: Acceptor<Session>,
    address: Address,
    config: Config,
}

impl Listener {
    /// Listens at `address`, with the default [`Config`].
    ///
    /// A socket file that a server left behind is replaced; one behind which somebody listens is not, nor is any other
    /// kind of file. The new file is removed again when the listener is dropped. Only the user that this process runs as
    /// (and root) may connect through it: its mode is 0600. A server that [authorizes](crate::ConfigBuilder::authorize)
    /// others must also let them reach the file, with [`std::fs::set_permissions`], or listen at an abstract address.
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
        let address = address.into();
        if Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let bind::Bound { file, socket } = bind::bind(&address)?;
        let listener = UnixListener::from_std(socket).map_err(|source| BindError::Io {
            action: "watch the socket",
            address: address.clone(),
            source,
        })?;
        let acceptor = Acceptor::new(listener, config.handshakes_max());
        Ok(Self {
            _file: file,
            acceptor,
            address,
            config,
        })
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
        self.acceptor
            .accept(|stream| Session::accept(stream, self.config.clone()))
            .await
    }

    /// Returns the address that was bound.
    #[must_use]
    pub const fn local_address(&self) -> &Address {
        &self.address
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
