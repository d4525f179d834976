//! The control socket: bytes and file descriptors, without ever blocking.
//!
//! Every call passes `MSG_DONTWAIT`, because an inherited socket's `O_NONBLOCK` can be changed by whoever shares it.
#![expect(
    unsafe_code,
    reason = "descriptors in a control message become `OwnedFd`s here, and an ioctl has no wrapper in nix"
)]

mod watched;

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Mutex,
    task::{Context, Poll},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessage, MsgFlags, Shutdown, UnixAddr, recvmsg, sendmsg, shutdown},
};
use tokio::io::Interest;

pub(crate) use self::watched::Watched;

use crate::{
    core::{
        sync::lock,
        wire::{Deframer, FDS_MAX, InvalidMessage, Message, Region, Transmit},
    },
    error::PeerMisbehaved,
    sys::endpoint::Connection,
};

/// The socket that two sides of a session share: messages with descriptors, and by its closing the news of the peer's end.
///
/// All methods may be called from any thread, and none but the `async` ones waits for the peer.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    stream: Stream,
    /// The message of which a part has arrived.
    inbound: Mutex<Deframer<OwnedFd>>,
}

/// The socket itself, and who watches it.
#[derive(Debug)]
enum Stream {
    /// A runtime, for a task.
    Watched(Watched),
    /// Nobody but whoever asks the kernel.
    Bare(Connection),
}

/// What [`ControlSocket::recv_pending`] left behind.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SocketState {
    /// Everything that had arrived was taken.
    Drained,
    /// There may be more; the socket still counts as readable.
    More,
    /// The peer has closed the socket, so it is gone.
    Closed,
}

/// What one attempt to receive brought.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Message<OwnedFd>),
    /// No whole message is there yet.
    Nothing,
    Closed,
}

/// Why nothing more can be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the peer misbehaved")]
    Misbehaved(#[from] PeerMisbehaved),
    #[error("could not receive from the control socket")]
    Io(#[source] io::Error),
}

impl From<InvalidMessage> for ReceiveError {
    fn from(invalid: InvalidMessage) -> Self {
        Self::Misbehaved(invalid.into())
    }
}

impl ControlSocket {
    /// A socket that a runtime watches.
    pub(crate) fn new(stream: impl Into<Watched>) -> Self {
        Self::over(Stream::Watched(stream.into()))
    }

    /// A socket that no runtime knows of: only its `async` methods must not be used.
    pub(crate) fn bare(stream: Connection) -> Self {
        Self::over(Stream::Bare(stream))
    }

    fn over(stream: Stream) -> Self {
        Self {
            stream,
            inbound: Mutex::new(Deframer::new()),
        }
    }

    /// Whether descriptors can be passed over it.
    pub(crate) fn passes_descriptors(&self) -> bool {
        match &self.stream {
            Stream::Watched(stream) => stream.is_unix(),
            Stream::Bare(stream) => stream.is_unix(),
        }
    }

    /// Whether the kernel holds bytes of ours that it might drop if the socket were closed now. Never those of a Unix socket, which
    /// are the peer's as soon as they are sent.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        !self.passes_descriptors() && unacknowledged(self.as_fd()) != 0
    }

    /// Announces a region of ours or, with an anchor, one that was lent to us and is passed on. Returns `false` if the
    /// socket is full, because the peer has not taken what was announced before.
    ///
    /// # Errors
    ///
    /// If the peer is gone, or the operating system takes no more descriptors in flight (`ETOOMANYREFS`).
    pub(crate) fn send_region(&self, region: Region<BorrowedFd<'_>>) -> io::Result<bool> {
        let Transmit { bytes, fds } = Message::Region(region).encode();
        match self.try_send(&bytes, &fds) {
            Ok(sent) if sent == bytes.len() => Ok(true),
            // A Unix socket takes a message of this size as a whole or not at all.
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hands each region that the peer has announced to `on_region`, in order, without waiting.
    ///
    /// Takes at most 64 messages, so that a flood of them does not starve the caller's other work. `on_region` must not
    /// call this method.
    ///
    /// # Errors
    ///
    /// If anything but a region came (H13), or `on_region` fails. The session is then over.
    pub(crate) fn recv_pending(
        &self,
        mut on_region: impl FnMut(Region<OwnedFd>) -> Result<(), PeerMisbehaved>,
    ) -> Result<SocketState, ReceiveError> {
        let mut inbound = lock(&self.inbound);
        for _ in 0..MESSAGES_PER_CALL_MAX {
            match self.try_receive(&mut inbound)? {
                Arrival::Message(Message::Region(region)) => on_region(region)?,
                Arrival::Message(message) => {
                    let when = "after the handshake";
                    return Err(InvalidMessage::OutOfTurn {
                        message: message.name(),
                        when,
                    }
                    .into());
                }
                Arrival::Nothing => return Ok(SocketState::Drained),
                Arrival::Closed => return Ok(SocketState::Closed),
            }
        }
        Ok(SocketState::More)
    }

    /// Hangs up, so that the peer learns at once that the session is over (H14).
    ///
    /// Closing our descriptor would not be enough where somebody holds another one for the same socket: the owner of an
    /// inherited one, or a child that was forked at the wrong moment.
    pub(crate) fn hang_up(&self) {
        // It fails if the peer was faster.
        let _ = shutdown(self.as_fd().as_raw_fd(), Shutdown::Both);
    }

    /// Waits until [`recv_pending`](Self::recv_pending) may find something. Only the last task to call is woken.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Watched(stream) => stream.poll_read_ready(cx),
            Stream::Bare(_) => Poll::Pending,
        }
    }

    /// Waits until [`try_send`](Self::try_send) may find room. Only the last task to call is woken.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Watched(stream) => stream.poll_write_ready(cx),
            Stream::Bare(_) => Poll::Pending,
        }
    }

    /// Reads bytes as they come, without waiting; 0 at the end. Descriptors that come with them are closed.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.attempt(Interest::READABLE, || {
            receive::<FDS_MAX>(self.as_fd(), buffer)
        });
        match received {
            Ok(received) => Ok(received.len),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Reads one byte with the descriptors that come with it: four at most; `None` at the end. Fewer than were sent are an error, so
    /// that none is lost unnoticed.
    pub(crate) fn try_read_descriptors(&self) -> io::Result<Option<Vec<OwnedFd>>> {
        let mut byte = [0];
        let received =
            self.attempt(Interest::READABLE, || receive::<4>(self.as_fd(), &mut byte))?;
        if !received.complete {
            return Err(Errno::EMFILE.into());
        }
        Ok((received.len != 0).then_some(received.fds))
    }

    /// Waits until [`try_recv`](Self::try_recv) may find something.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Watched(stream) => stream.readable().await,
            Stream::Bare(_) => Err(not_watched()),
        }
    }

    /// Waits until [`try_send`](Self::try_send) may find room.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is sent.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Watched(stream) => stream.writable().await,
            Stream::Bare(_) => Err(not_watched()),
        }
    }

    /// Receives the next message, of whatever type, without waiting. What has arrived of one is kept.
    pub(crate) fn try_recv(&self) -> Result<Arrival, ReceiveError> {
        let mut inbound = lock(&self.inbound);
        self.try_receive(&mut inbound)
    }

    /// Sends as much as fits, without waiting. The descriptors travel with the first byte.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.attempt(Interest::WRITABLE, || send(self.as_fd(), bytes, fds))
    }

    /// Reads until a message is complete or nothing is left.
    fn try_receive(&self, inbound: &mut Deframer<OwnedFd>) -> Result<Arrival, ReceiveError> {
        let mut buffer = [0; 4096];
        loop {
            let wanted = inbound.wanted().min(buffer.len());
            let received = self.attempt(Interest::READABLE, || {
                receive::<FDS_MAX>(self.as_fd(), &mut buffer[..wanted])
            });
            let Received { len, fds, complete } = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Arrival::Nothing);
                }
                // The peer closed its side without having read everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Arrival::Closed);
                }
                Err(error) => return Err(ReceiveError::Io(error)),
            };
            if !complete {
                return Err(match fds.len() {
                    FDS_MAX => InvalidMessage::TooManyDescriptors.into(),
                    // There was room for more, so it is our own table that is full.
                    _ => ReceiveError::Io(Errno::EMFILE.into()),
                });
            }
            if len == 0 {
                return Ok(Arrival::Closed);
            }
            if let Some(message) = inbound.push(&buffer[..len], fds)? {
                return Ok(Arrival::Message(message));
            }
        }
    }

    /// Calls `operation` at once, whatever tokio believes of the socket: the caller may know better, for it may have
    /// learnt of a message through shared memory. If it would block, tokio is told, so that it can wake us.
    fn attempt<T>(
        &self,
        interest: Interest,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        match (operation(), &self.stream) {
            (Err(error), Stream::Watched(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.try_io(interest, operation)
            }
            (done, _) => done,
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Watched(stream) => stream.as_fd(),
            Stream::Bare(stream) => stream.as_fd(),
        }
    }
}

/// The error of somebody who waits on a socket that no runtime watches.
fn not_watched() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "no runtime watches this socket")
}

/// Messages that one call of [`ControlSocket::recv_pending`] takes. A side adds regions rarely, a few at a time.
const MESSAGES_PER_CALL_MAX: usize = 64;

/// Bytes with the descriptors that came with them.
#[derive(Debug)]
struct Received {
    /// 0 at the end of the stream.
    len: usize,
    fds: Vec<OwnedFd>,
    /// Whether all descriptors that were sent have arrived.
    complete: bool,
}

/// Sends as much as fits, the descriptors with the first byte.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let fds = fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    retry(|| {
        sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            flags,
            None,
        )
    })
}

/// Receives at most `buffer.len()` bytes.
///
/// There is room for exactly as many descriptors as a message may have, so a peer cannot fill our table with more.
fn receive<const FDS: usize>(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = cmsg_space!([RawFd; FDS]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let (len, flags) = retry(|| {
        control.fill(0);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        Ok((message.bytes, message.flags))
    })?;
    // nix's own iterator gives nothing if the control data was cut short, and the descriptors that did arrive would stay
    // open for ever.
    let fds = descriptors(&control)
        // SAFETY: the kernel put this descriptor into our table during the call above and told nobody else of it; the
        // control data is looked at just once.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    Ok(Received {
        len,
        fds,
        complete: !flags.contains(MsgFlags::MSG_CTRUNC),
    })
}

/// Lists the descriptors in control data that the kernel wrote over zeroes.
fn descriptors(mut control: &[u8]) -> impl Iterator<Item = RawFd> {
    const ALIGNMENT: usize = size_of::<usize>();
    const HEADER_LEN: usize = size_of::<libc::cmsghdr>().next_multiple_of(ALIGNMENT);
    let mut messages = std::iter::from_fn(move || {
        // `struct cmsghdr`: the length with this header as a `size_t`, then level and type as `int`s.
        let (len, header) = control.split_first_chunk()?;
        let len = usize::from_ne_bytes(*len);
        let (level, header) = header.split_first_chunk()?;
        let (kind, _) = header.split_first_chunk()?;
        let data = control.get(HEADER_LEN..len)?;
        control = control
            .get(len.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        let rights = i32::from_ne_bytes(*level) == libc::SOL_SOCKET
            && i32::from_ne_bytes(*kind) == libc::SCM_RIGHTS;
        Some(if rights { data } else { &[] })
    });
    let mut data: &[u8] = &[];
    std::iter::from_fn(move || {
        loop {
            match data.split_first_chunk() {
                Some((fd, rest)) => {
                    data = rest;
                    return Some(RawFd::from_ne_bytes(*fd));
                }
                None => data = messages.next()?,
            }
        }
    })
}

/// Bytes of a TCP connection that its peer's kernel has not acknowledged.
fn unacknowledged(socket: BorrowedFd<'_>) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the request takes a pointer to an `int`, which `bytes` is, and writes nothing else.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { bytes } else { 0 }
}

/// Repeats a call for as long as signals interrupt it.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests;
