//! Unix sockets at an [`Address`], for another protocol than this crate's.
//!
//! Addresses are taken and given back as a [`Listener`](crate::Listener) does it: a socket file that a dead server left
//! behind is replaced, one behind which somebody listens is not, and the own one is removed in the end.

use std::{io, time::Duration};

use tokio::net::{UnixListener, UnixStream};

use crate::{
    Address, Config, Peer,
    error::{BindError, ConnectError},
    listener::{self, SocketFile, Way},
    session, sys,
};

/// Waits for connections at an address. Dropping it gives the address back.
#[derive(Debug)]
pub struct PlainListener {
    /// The first field, and so dropped first: nobody finds a file behind which nobody listens.
    _file: Option<SocketFile>,
    listener: UnixListener,
    address: Address,
}

impl PlainListener {
    /// Listens at `address`, under the rules of [`Listener::bind`](crate::Listener::bind).
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
        Self::listen(address.into(), Way::Bind)
    }

    /// Listens at the path `address` in the place of a server that may still listen there, under the rules of
    /// [`Listener::take_over_with`](crate::Listener::take_over_with).
    ///
    /// # Errors
    ///
    /// Returns [`BindError`], which names the address, if it cannot be used or a file is there that is no socket, and
    /// outside of a tokio runtime.
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O.
    pub fn take_over(address: impl Into<Address>) -> Result<Self, BindError> {
        Self::listen(address.into(), Way::TakeOver)
    }

    fn listen(address: Address, way: Way) -> Result<Self, BindError> {
        let (file, listener) = listener::listen(&address, way)?;
        Ok(Self {
            _file: file,
            listener,
            address,
        })
    }

    /// Returns the next connection, and who made it: whether that is somebody to talk to is up to the caller, see
    /// [`Config::admits`].
    ///
    /// # Errors
    ///
    /// Returns what the operating system said. Most such errors concern a single client, or the moment: see `accept(2)`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that was not returned is left for the next call.
    pub async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = sys::peer::credentials(&stream)?;
        Ok((stream, peer))
    }

    /// Returns the address that was bound.
    #[must_use]
    pub const fn local_address(&self) -> &Address {
        &self.address
    }
}

/// Connects to whoever listens at `address`, if `config` [admits](Config::admits) them; nothing else in it counts. Waits while the
/// server's queue is full, for at most `timeout`.
///
/// # Errors
///
/// Returns [`ConnectError`] if the address cannot be used, nobody listens there or somebody who is not admitted, or the time has
/// passed.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
///
/// Dropping the future gives the attempt up; nothing remains.
pub async fn connect(
    address: &Address,
    config: &Config,
    timeout: Duration,
) -> Result<UnixStream, ConnectError> {
    let stream = session::dial_plain(address, timeout).await?;
    let peer = sys::peer::credentials(&stream).map_err(|source| ConnectError::Io {
        action: "learn who the server is",
        source,
    })?;
    if config.admits(&peer) {
        Ok(stream)
    } else {
        Err(ConnectError::ServerNotAuthorized(peer))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn bytes_pass_and_the_client_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain.sock");
        let listener = PlainListener::bind(path.as_path()).unwrap();
        let config = Config::default();
        let (client, accepted) = tokio::join!(
            connect(listener.local_address(), &config, LONG),
            listener.accept()
        );
        let (mut client, (mut server, peer)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(peer.pid(), i32::try_from(std::process::id()).ok());
        client.write_all(b"plain").await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"plain");
        let nobody = Config::builder().authorize(|_| false).build().unwrap();
        let refused = connect(listener.local_address(), &nobody, LONG).await;
        assert!(matches!(refused, Err(ConnectError::ServerNotAuthorized(_))));
        drop(listener);
        assert!(!path.exists());
        let refused = connect(&path.into(), &config, LONG).await;
        assert!(matches!(refused, Err(ConnectError::NoServer { .. })));
    }
}
