//! Handshakes for threads that wait in the kernel.

use std::{
    io,
    os::fd::AsFd,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{Advance, Attach, Dial, Drive, Established, Links, Wants, drive::Clock};
use crate::{
    Address, Config,
    core::handshake::Failure,
    error::{ConnectError, HandshakeError},
    sys::{socket::ControlSocket, watch::millis},
};

/// Connects to a server and shakes hands, within the configured time.
pub(crate) fn connect<A: Attach>(
    address: &Address,
    config: &Config,
    attach: &mut A,
) -> Result<Established<A::Attached>, ConnectError> {
    let clock = Clock::start();
    let stream = dial(address, &clock, config.handshake_timeout())?;
    let mut drive = Drive::client(
        ControlSocket::bare(stream),
        clock,
        config,
        attach,
        Links::OutboxOnly,
    )?;
    loop {
        match drive.advance(attach).map_err(ConnectError::from)? {
            Advance::Done(attached) => return Ok(Established::new(drive, attached)),
            Advance::Shmipc(_) => return Err(not_asked_for().into()),
            Advance::Wants(wants) => wait(&mut drive, wants)?,
        }
    }
}

/// Opens a connection over which nothing is said; waits while the server's queue is full.
pub(crate) fn dial_plain(address: &Address, timeout: Duration) -> Result<UnixStream, ConnectError> {
    dial(address, &Clock::start(), timeout)
}

fn dial(address: &Address, clock: &Clock, timeout: Duration) -> Result<UnixStream, ConnectError> {
    let mut dial = Dial::new(timeout);
    loop {
        match dial.attempt(address, clock)? {
            Ok(stream) => return Ok(stream),
            Err(pause) => thread::sleep(pause),
        }
    }
}

/// Threads offer and accept nothing but our own link, so nothing else is agreed on.
fn not_asked_for() -> HandshakeError {
    Failure::NotSupported { protocol: 4 }.into()
}

/// Waits for what a handshake wants, or until its time is over.
fn wait<T>(drive: &mut Drive<T>, wants: Wants) -> Result<(), HandshakeError> {
    let left = left(drive);
    let mut fds = [PollFd::new(drive.socket.as_fd(), wants.flags())];
    let timeout = PollTimeout::try_from(millis(left)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            return Err(HandshakeError::Io {
                action: "wait for the peer",
                source: errno.into(),
            });
        }
    }
    if drive.deadline().into_std() <= Instant::now() {
        drive.elapsed();
    }
    Ok(())
}

fn left<T>(drive: &Drive<T>) -> Duration {
    drive
        .deadline()
        .into_std()
        .saturating_duration_since(Instant::now())
}

impl Wants {
    fn flags(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::POLLIN,
            Self::Writable => PollFlags::POLLOUT,
        }
    }
}

/// A handshake with a client, one of several that a thread looks after.
#[derive(Debug)]
pub(crate) struct Shaking<A: Attach> {
    drive: Drive<A::Attached>,
    attach: A,
    wants: Wants,
}

impl<A: Attach> Shaking<A> {
    /// Begins with a client that has connected.
    pub(crate) fn begin(
        stream: UnixStream,
        config: &Config,
        attach: A,
    ) -> Result<Self, HandshakeError> {
        let set = stream.set_nonblocking(true);
        set.map_err(|source: io::Error| HandshakeError::Io {
            action: "prepare the socket",
            source,
        })?;
        Ok(Self {
            drive: Drive::server(
                ControlSocket::bare(stream),
                config,
                &attach,
                Links::OutboxOnly,
            )?,
            attach,
            wants: Wants::Writable,
        })
    }

    /// Goes on as far as that takes no waiting. Returns itself if it is not done.
    pub(crate) fn advance(
        mut self,
    ) -> Result<Result<Established<A::Attached>, Self>, HandshakeError> {
        if left(&self.drive).is_zero() {
            self.drive.elapsed();
        }
        match self.drive.advance(&mut self.attach)? {
            Advance::Done(attached) => Ok(Ok(Established::new(self.drive, attached))),
            Advance::Shmipc(_) => Err(not_asked_for()),
            Advance::Wants(wants) => {
                self.wants = wants;
                Ok(Err(self))
            }
        }
    }

    /// What to wait for, and for how long, before it can go on.
    pub(crate) fn wants(&self) -> (PollFd<'_>, Duration) {
        (
            PollFd::new(self.drive.socket.as_fd(), self.wants.flags()),
            left(&self.drive),
        )
    }
}
