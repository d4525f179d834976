//! The same for threads that wait in the kernel.

use std::{
    io,
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tracing::debug;

use super::{Passing, Step, Taking, authorize, failed, take};
use crate::{
    Address, Config,
    config::is_own_user,
    core::sync::AtomicBool,
    error::{BindError, HandOverError, InheritError, InvalidAddress},
    listener::{
        acceptor::{Chain, PAUSE, is_fatal},
        bind::{self, Bound, SocketFile},
        blocking::Stopper,
    },
    session,
    sys::{endpoint::Connection, peer, socket::ControlSocket, watch::millis},
};

/// A listening socket that can be passed on to another process. Made by
/// [`Listener::hand_over`](crate::blocking::Listener::hand_over).
///
/// It holds the socket open: do not keep it when the listener is gone, or clients wait for nobody.
#[derive(Debug)]
pub struct HandOver {
    passing: Passing,
    /// Wakes who accepts.
    stopper: Stopper,
    timeout: Duration,
}

impl HandOver {
    pub(in super::super) fn new(
        socket: &impl AsFd,
        address: &Address,
        file: Option<&SocketFile>,
        passed_on: &Arc<AtomicBool>,
        stopper: &Stopper,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            passing: Passing::new(socket, address, file, passed_on)?,
            stopper: stopper.clone(),
            timeout,
        })
    }

    /// Waits at `address` until a successor comes and has the socket, or until `deadline`. Returns whether one has.
    ///
    /// Who may come, and for how long it has time, is as with [`HandOver::offer`](crate::HandOver::offer). From then on, the listener
    /// [accepts](crate::blocking::Listener::accept) those who were shaking hands with it, and no others.
    ///
    /// # Errors
    ///
    /// Returns [`HandOverError`] if it cannot be waited for a successor at `address`. The listener is as it was.
    pub fn offer(
        &self,
        address: impl Into<Address>,
        deadline: Option<Instant>,
    ) -> Result<bool, HandOverError> {
        let address = address.into();
        if !address.passes_descriptors() {
            let address = address.to_string();
            return Err(BindError::from(InvalidAddress::NotUnix { address }).into());
        }
        let door = bind::take_over(&address)?;
        let prepared = door.socket.set_nonblocking();
        prepared.map_err(HandOverError::Socket)?;
        loop {
            if !wait(&door.socket, PollFlags::POLLIN, deadline).map_err(HandOverError::Socket)? {
                return Ok(false);
            }
            match door.socket.accept() {
                Ok(connection) => match self.give(connection) {
                    Ok(()) => return Ok(true),
                    Err(error) => debug!(error = %Chain(&error), "a successor failed"),
                },
                Err(error) if is_fatal(&error) => return Err(HandOverError::Socket(error)),
                // Somebody has left before it was its turn, or the system lacks something.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn give(&self, connection: Connection) -> io::Result<()> {
        let peer = peer::credentials(&connection)?;
        if !is_own_user(&peer) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let deadline = Some(Instant::now() + self.timeout);
        let mut gift = self.passing.give(ControlSocket::bare(connection));
        loop {
            match gift.advance()? {
                Step::Done(()) => break,
                Step::Wants(flags) => {
                    if !wait(&gift.socket, flags, deadline)? {
                        gift.give_up()?;
                        break;
                    }
                }
            }
        }
        self.stopper.stop();
        Ok(())
    }
}

/// Takes the socket that a predecessor offers at `address`.
pub(in super::super) fn inherit(address: &Address, config: &Config) -> Result<Bound, InheritError> {
    let timeout = config.handshake_timeout();
    let deadline = Instant::now() + timeout;
    let stream = session::dial_plain_blocking(address, timeout)?;
    authorize(&stream)?;
    let socket = ControlSocket::bare(Connection::Unix(stream));
    let mut taking = Taking::default();
    loop {
        match taking.advance(&socket).map_err(failed)? {
            Step::Done((listening, description)) => {
                return take(&socket, &listening, description, config);
            }
            Step::Wants(flags) => {
                if !wait(&socket, flags, Some(deadline)).map_err(failed)? {
                    return Err(InheritError::TimedOut { timeout });
                }
            }
        }
    }
}

/// Waits until a socket is ready, and returns whether it was in time.
fn wait(socket: &impl AsFd, flags: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(millis(left)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(socket.as_fd(), flags)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
