//! Sockets at which systemd listens on behalf of a server, which it starts when somebody connects, or keeps while the server is restarted
//! (socket activation).
//!
//! ```ini
//! # route.socket
//! [Socket]
//! ListenStream=/run/route.sock
//! SocketMode=0600
//! FileDescriptorName=route
//! ```
//!
//! The server binds what it was passed as it would an address of its own. The socket's file is systemd's, and stays.
//!
//! ```no_run
//! use shmipc_transport::{Address, Listener};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind(Address::from_systemd("route")?)?;
//! # Ok(()) }
//! ```
//!
//! Descriptors are passed by number, in the environment variables `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`; see `sd_listen_fds(3)`.
//! The environment is read and never changed, so this may be asked any number of times, in any thread. Each answer is a descriptor of its own: the
//! ones that were passed stay open until the process ends, and clients that connect between two listeners wait. They are
//! closed on exec from the first question on, so ask before other programs are started.

use std::io;

use crate::{
    Address,
    error::InvalidAddress,
    sys::{endpoint, passed},
};

/// A socket, or whatever else systemd has passed to this process.
#[derive(Debug)]
pub struct Socket {
    name: String,
    address: Address,
}

/// Why there is no such socket of systemd's.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The environment says that descriptors were passed, and contradicts itself or what is open. Whoever started this process is at fault.
    #[error(
        "the environment does not describe descriptors that were passed (LISTEN_FDS, LISTEN_FDNAMES)"
    )]
    Malformed(#[source] io::Error),
    /// Nothing of this name was passed. Was the process started by its socket unit? Its `FileDescriptorName` is the name.
    #[error("systemd passed no socket {name:?} to this process (but {passed:?})")]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// The names of what was passed.
        passed: Vec<String>,
    },
    /// What was passed under this name is no Unix stream socket that listens. The socket unit must have `ListenStream` with a path, and
    /// no `Accept`.
    #[error("what systemd passed as {name:?} cannot be listened at")]
    NotListening {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        source: InvalidAddress,
    },
}

/// Returns what systemd has passed to this process, in its order. Nothing, if it was not started by a socket unit.
///
/// Sockets of other kinds are among them, if there are any; [`Listener::bind`](crate::Listener::bind) refuses those.
///
/// # Errors
///
/// Returns [`ActivationError::Malformed`] if the environment makes no sense.
pub fn sockets() -> Result<Vec<Socket>, ActivationError> {
    let sockets = sd_notify::listen_fds_with_names().map_err(ActivationError::Malformed)?;
    let socket = |(fd, name)| {
        let fd = passed::duplicate(fd).map_err(ActivationError::Malformed)?;
        let address = Address::from(fd);
        Ok(Socket { name, address })
    };
    sockets.map(socket).collect()
}

impl Socket {
    /// Returns the `FileDescriptorName` of the socket unit, which is that of the unit unless it says otherwise. Several sockets of a
    /// unit have the same.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address to bind.
    #[must_use]
    pub fn into_address(self) -> Address {
        self.address
    }
}

impl Address {
    /// Returns the listening socket that systemd has passed to this process under `name`; the first, if there are several. See
    /// [`systemd`](crate::systemd).
    ///
    /// # Errors
    ///
    /// Returns [`ActivationError`] if there is none, or it is no listening Unix stream socket.
    pub fn from_systemd(name: &str) -> Result<Self, ActivationError> {
        let sockets = sockets()?;
        let names = || sockets.iter().map(|socket| socket.name.clone()).collect();
        let Some(found) = sockets.iter().position(|socket| socket.name == name) else {
            return Err(ActivationError::NoSuchName {
                name: name.to_owned(),
                passed: names(),
            });
        };
        let address = sockets[found].address.clone();
        if let Self::Fd(fd) = &address {
            let listens = endpoint::inherited_listener(fd);
            listens.map_err(|source| ActivationError::NotListening {
                name: name.to_owned(),
                source,
            })?;
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/tests/handover` has processes to which something is passed.
    #[test]
    fn nothing_was_passed_to_this_process() {
        assert!(sockets().unwrap().is_empty());
        let none = Address::from_systemd("route").unwrap_err();
        assert!(matches!(none, ActivationError::NoSuchName { .. }));
    }
}
