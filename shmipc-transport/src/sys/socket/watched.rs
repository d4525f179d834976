use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    task::{Context, Poll},
};

use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

use crate::sys::endpoint::Connection;

/// A connection that a runtime watches.
#[derive(Debug)]
pub(crate) enum Watched {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Calls a method that both kinds have.
macro_rules! either {
    ($watched:expr, $bound:ident => $call:expr) => {
        match $watched {
            Watched::Unix($bound) => $call,
            Watched::Tcp($bound) => $call,
        }
    };
}

impl Watched {
    /// Has the runtime watch a connection, which must not block.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(crate) fn new(connection: Connection) -> io::Result<Self> {
        Ok(match connection {
            Connection::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
            Connection::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
        })
    }

    pub(super) const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        either!(self, stream => stream.readable().await)
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        either!(self, stream => stream.writable().await)
    }

    pub(super) fn try_io<T>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        either!(self, stream => stream.try_io(interest, operation))
    }
}

impl From<UnixStream> for Watched {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl From<TcpStream> for Watched {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}
