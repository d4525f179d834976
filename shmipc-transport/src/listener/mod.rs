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
