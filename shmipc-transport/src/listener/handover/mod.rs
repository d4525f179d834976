//! Passing a listening socket on to a successor, so that not even its file is replaced, and whoever waits in its queue is served by the
//! successor.

pub(crate) mod blocking;
mod exchange;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::poll::PollFlags;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use self::exchange::{Description, Giving, Name, Step, Taking};
use super::{
    acceptor::{Chain, PAUSE, is_fatal},
    bind::{Bound, FileIdentity, SocketFile},
    check_links,
};
use crate::{
    Address, Config,
    config::is_own_user,
    core::sync::{AtomicBool, Ordering},
    error::{BindError, HandOverError, InheritError},
    plain::PlainListener,
    session,
    sys::{
        endpoint::{self, Listening},
        peer,
        socket::ControlSocket,
    },
};

/// A listening socket that can be passed on to another process. Made by [`Listener::hand_over`](crate::Listener::hand_over).
///
/// It holds the socket open: do not keep it when the listener is gone, or clients wait for nobody.
#[derive(Debug)]
pub struct HandOver {
    passing: Passing,
    timeout: Duration,
}

/// What is passed on, whoever waits for a successor.
#[derive(Debug)]
struct Passing {
    listening: OwnedFd,
    description: Description,
    /// Set once a successor has the socket. The listener looks at it when it stops.
    passed_on: Arc<AtomicBool>,
}

impl Passing {
    fn new(
        socket: &impl AsFd,
        address: &Address,
        file: Option<&SocketFile>,
        passed_on: &Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let file_path = file.map(|file| Address::Path(file.path().to_owned()));
        let address = file_path.as_ref().unwrap_or(address);
        Ok(Self {
            listening: socket.as_fd().try_clone_to_owned()?,
            description: Description::of(address, file.map(SocketFile::identity)),
            passed_on: Arc::clone(passed_on),
        })
    }

    /// Begins with a successor.
    fn give(&self, socket: ControlSocket) -> Gift<'_> {
        Gift {
            passing: self,
            giving: Giving::new(&self.listening, &self.description),
            socket,
        }
    }
}

/// A socket on its way to a successor.
///
/// If it is dropped before the successor is known to have it, the successor learns that, unless it has said before that it listens.
#[derive(Debug)]
struct Gift<'a> {
    passing: &'a Passing,
    giving: Giving<'a>,
    socket: ControlSocket,
}

impl Gift<'_> {
    fn advance(&mut self) -> io::Result<Step<()>> {
        let step = self.giving.advance(&self.socket)?;
        if let Step::Done(()) = step {
            self.passing.passed_on.store(true, Ordering::Release);
        }
        Ok(step)
    }

    /// The time for the successor is over.
    fn give_up(&mut self) -> io::Result<()> {
        // From now on it cannot say that it listens; what it has said can still be read.
        self.socket.hang_up();
        match self.advance()? {
            Step::Done(()) => Ok(()),
            Step::Wants(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for Gift<'_> {
    fn drop(&mut self) {
        // It fails if the successor has said nothing, or was heard before.
        let _ = self.give_up();
    }
}

impl HandOver {
    pub(super) fn new(
        socket: &impl AsFd,
        address: &Address,
        file: Option<&SocketFile>,
        passed_on: &Arc<AtomicBool>,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            passing: Passing::new(socket, address, file, passed_on)?,
            timeout,
        })
    }

    /// Waits at `address` until a successor comes ([`Listener::inherit`](crate::Listener::inherit)) and has the socket.
    ///
    /// The listener should be accepting meanwhile. When this returns, both processes listen at one queue:
    /// [close](crate::Listener::close) the listener now, which leaves the queue and the socket's file to the successor.
    ///
    /// `address` is one for this purpose alone, best a path: a socket is made there, in the place of any that is there, and removed in the end.
    /// Only processes of our own user get the socket, whoever else may be able to connect. A successor has the
    /// [time for a handshake](crate::ConfigBuilder::handshake_timeout), and if it fails, the next one is waited for.
    ///
    /// # Errors
    ///
    /// Returns [`HandOverError`] if no successor can be waited for at `address`. The listener is as it was.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nobody is waited for any more, and nothing was passed on, unless a successor has just said that it
    /// listens: then the listener knows.
    pub async fn offer(&self, address: impl Into<Address>) -> Result<(), HandOverError> {
        let door = PlainListener::take_over(address)?;
        loop {
            match door.accept().await {
                Ok((_, peer)) if !is_own_user(&peer) => {
                    debug!(%peer, "refused a listening socket to another user's process");
                }
                Ok((stream, _)) => {
                    match self.give(ControlSocket::new(stream)).await {
                        Ok(()) => return Ok(()),
                        Err(error) => debug!(error = %Chain(&error), "a successor failed"),
                    };
                }
                Err(error) if is_fatal(&error) => return Err(HandOverError::Socket(error)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn give(&self, socket: ControlSocket) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let mut gift = self.passing.give(socket);
        loop {
            match gift.advance()? {
                Step::Done(()) => return Ok(()),
                Step::Wants(flags) => {
                    if !ready(&gift.socket, flags, deadline).await? {
                        return gift.give_up();
                    }
                }
            }
        }
    }
}

/// Waits until the socket is ready, and returns whether it was in time.
async fn ready(socket: &ControlSocket, flags: PollFlags, deadline: Instant) -> io::Result<bool> {
    let ready = async {
        if flags.contains(PollFlags::POLLOUT) {
            socket.writable().await
        } else {
            socket.readable().await
        }
    };
    match timeout_at(deadline, ready).await {
        Ok(ready) => ready.map(|()| true),
        Err(_elapsed) => Ok(false),
    }
}

/// Takes the socket that a predecessor offers at `address`.
pub(super) async fn inherit(address: &Address, config: &Config) -> Result<Bound, InheritError> {
    let timeout = config.handshake_timeout();
    let deadline = Instant::now() + timeout;
    let stream = session::dial_plain(address, timeout).await?;
    authorize(&stream)?;
    let socket = ControlSocket::new(stream);
    let mut taking = Taking::default();
    loop {
        match taking.advance(&socket).map_err(failed)? {
            Step::Done((listening, description)) => {
                return take(&socket, &listening, description, config);
            }
            Step::Wants(flags) => {
                if !ready(&socket, flags, deadline).await.map_err(failed)? {
                    return Err(InheritError::TimedOut { timeout });
                }
            }
        }
    }
}

/// Whoever hands out listening sockets must be ourselves: clients trust them.
fn authorize(stream: &impl AsFd) -> Result<(), InheritError> {
    let peer = peer::credentials(stream).map_err(failed)?;
    if is_own_user(&peer) {
        Ok(())
    } else {
        Err(InheritError::NotOwnUser(peer))
    }
}

/// Checks what was passed on, and says that we listen.
fn take(
    socket: &ControlSocket,
    listening: &OwnedFd,
    description: Description,
    config: &Config,
) -> Result<Bound, InheritError> {
    let listener = match description.name {
        Name::Tcp(_) => Listening::Tcp(endpoint::inherited_tcp_listener(listening)?),
        _ => Listening::Unix(endpoint::inherited_listener(listening)?),
    };
    let address = match description.name {
        Name::Path(path) => Address::Path(path),
        Name::Abstract(name) => Address::Abstract(name),
        Name::Tcp(address) => Address::Tcp(address),
        Name::None => {
            let fd = listener.as_fd().try_clone_to_owned().map_err(failed)?;
            Address::from(fd)
        }
    };
    check_links(&address, config)?;
    // From here on the predecessor relies on us, and the file is ours.
    exchange::acknowledge(socket).map_err(failed)?;
    let file = match (&address, description.file) {
        (Address::Path(path), Some(identity)) => {
            Some(SocketFile::inherited(path.clone(), identity))
        }
        _ => None,
    };
    Ok(Bound {
        file,
        socket: listener,
        address,
    })
}

fn failed(error: io::Error) -> InheritError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => InheritError::Closed,
        io::ErrorKind::InvalidData => InheritError::NotAPredecessor,
        _ => InheritError::Io(error),
    }
}

impl From<BindError> for InheritError {
    fn from(error: BindError) -> Self {
        Self::Listen(error)
    }
}

impl FileIdentity {
    /// What no file has.
    const NONE: Self = Self {
        device: 0,
        inode: 0,
    };
}

impl Default for FileIdentity {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests;
