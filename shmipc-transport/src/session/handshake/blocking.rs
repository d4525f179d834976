//! Handshakes for threads that wait in the kernel.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    Attach, Attempt, Outcome, Shaking, Strangers, Wants, dial::dial_blocking, drive::Clock,
};
use crate::{
    Address, Config,
    error::{ConnectError, HandshakeError},
    sys::{endpoint::Connection, socket::ControlSocket, watch::millis},
};

/// Connects to a server and shakes hands, within the configured time since `clock` was started.
pub(crate) fn connect<A: Attach>(
    address: &Address,
    config: &Config,
    clock: Clock,
    attempt: Attempt,
    attach: A,
) -> Result<Outcome<A::Attached>, ConnectError> {
    let connection = dial_blocking(address, &clock, config.handshake_timeout())?;
    let socket = ControlSocket::bare(connection);
    let mut shaking = Shaking::client(socket, clock, config, attempt, attach)?;
    loop {
        shaking = match shaking.advance()? {
            Ok(outcome) => return Ok(outcome),
            Err(waiting) => waiting,
        };
        wait(&mut shaking)?;
    }
}

/// Waits for what a handshake wants, or until its time is over.
fn wait<A: Attach>(shaking: &mut Shaking<A>) -> Result<(), HandshakeError> {
    let (fd, left) = shaking.poll_fd();
    let timeout = PollTimeout::try_from(millis(left)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [fd], timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            return Err(HandshakeError::Io {
                action: "wait for the peer",
                source: errno.into(),
            });
        }
    }
    shaking.check_time();
    Ok(())
}

impl Wants {
    const fn flags(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::POLLIN,
            Self::Writable => PollFlags::POLLOUT,
        }
    }
}

/// What a thread needs that waits by itself, perhaps for several at once.
impl<A: Attach> Shaking<A> {
    /// Begins with a client that has connected.
    pub(crate) fn with_client(
        connection: Connection,
        config: &Config,
        attach: A,
        strangers: &Strangers,
    ) -> Result<Self, HandshakeError> {
        connection.prepare().map_err(|source| HandshakeError::Io {
            action: "prepare the socket",
            source,
        })?;
        Self::server(ControlSocket::bare(connection), config, attach, strangers)
    }

    /// What to wait for, and for how long, before it can go on.
    pub(crate) fn poll_fd(&self) -> (PollFd<'_>, Duration) {
        let left = self
            .deadline()
            .into_std()
            .saturating_duration_since(Instant::now());
        let fd = PollFd::new(self.socket().as_fd(), self.wants().flags());
        (fd, left)
    }

    /// Lets the deadline take effect if it has passed.
    pub(crate) fn check_time(&mut self) {
        if self.deadline().into_std() <= Instant::now() {
            self.elapsed();
        }
    }
}
