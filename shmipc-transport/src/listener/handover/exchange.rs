//! What predecessor and successor say to each other.
//!
//! ```text
//! predecessor                                   successor
//!   | <------------------------------- connects    |
//!   | one byte with the listening socket --------> |
//!   | what it is called ------------------------>  |  listens
//!   | <------------------------------- one byte    |
//! ```
//!
//! Each side goes on as far as it can without waiting; who waits is its caller.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
};

use nix::poll::PollFlags;

use crate::{Address, listener::bind::FileIdentity, sys::socket::ControlSocket};

/// What a listening socket is called, and the file that leads to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Description {
    pub(super) name: Name,
    /// Only of a path.
    pub(super) file: Option<FileIdentity>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Path(PathBuf),
    Abstract(String),
    Tcp(SocketAddr),
    /// It was inherited, and its name is not known.
    None,
}

/// Kind, device, inode, and the length of the name.
const HEAD_LEN: usize = 1 + 8 + 8 + 2;

/// The longest name: longer than any that a socket can have.
const NAME_MAX: usize = 512;

/// How far one side is.
#[derive(Debug)]
pub(super) enum Step<T> {
    Done(T),
    Wants(PollFlags),
}

/// The predecessor's side.
#[derive(Debug)]
pub(super) struct Giving<'a> {
    listening: &'a OwnedFd,
    bytes: Vec<u8>,
    sent: usize,
}

/// The successor's side.
#[derive(Debug, Default)]
pub(super) struct Taking {
    listening: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Description {
    pub(super) fn of(address: &Address, file: Option<FileIdentity>) -> Self {
        let name = match address {
            Address::Path(path) => Name::Path(path.clone()),
            Address::Abstract(name) => Name::Abstract(name.clone()),
            Address::Tcp(address) => Name::Tcp(*address),
            Address::Fd(_) => Name::None,
        };
        Self { name, file }
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, name) = match &self.name {
            Name::None => (0, Vec::new()),
            Name::Path(path) => (1, path.as_os_str().as_bytes().to_vec()),
            Name::Abstract(name) => (2, name.as_bytes().to_vec()),
            Name::Tcp(address) => (3, address.to_string().into_bytes()),
        };
        let FileIdentity { device, inode } = self.file.unwrap_or_default();
        let len = u16::try_from(name.len()).expect("a socket was bound to this name");
        let mut bytes = vec![kind];
        bytes.extend(device.to_be_bytes());
        bytes.extend(inode.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(name);
        bytes
    }

    /// Reads what has arrived; `None` if that is not all yet.
    fn decode(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some((head, name)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let [kind, rest @ ..] = *head;
        let word = |at: usize| {
            let word = rest[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(word)
        };
        let file = FileIdentity {
            device: word(0),
            inode: word(8),
        };
        let len = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
        if NAME_MAX < len || 3 < kind {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if name.len() < len {
            return Ok(None);
        }
        let name = name[..len].to_vec();
        let name = match kind {
            0 => Name::None,
            1 => Name::Path(std::ffi::OsString::from_vec(name).into()),
            _ => {
                let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
                match kind {
                    2 => Name::Abstract(name),
                    _ => Name::Tcp(name.parse().map_err(|_| io::ErrorKind::InvalidData)?),
                }
            }
        };
        let has_file = matches!(name, Name::Path(_)) && file != FileIdentity::default();
        Ok(Some(Self {
            file: has_file.then_some(file),
            name,
        }))
    }
}

impl<'a> Giving<'a> {
    pub(super) fn new(listening: &'a OwnedFd, description: &Description) -> Self {
        let mut bytes = vec![0];
        bytes.extend(description.encode());
        Self {
            listening,
            bytes,
            sent: 0,
        }
    }

    /// Goes on. Done once the successor has said that it listens.
    pub(super) fn advance(&mut self, socket: &ControlSocket) -> io::Result<Step<()>> {
        while self.sent < self.bytes.len() {
            let fds = [self.listening.as_fd()];
            // The socket comes with a byte of its own.
            let (fds, end) = match self.sent {
                0 => (&fds[..], 1),
                _ => (&[][..], self.bytes.len()),
            };
            match socket.try_send(&self.bytes[self.sent..end], fds) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Step::Wants(PollFlags::POLLOUT));
                }
                Err(error) => return Err(error),
            }
        }
        match socket.try_read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Step::Done(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Step::Wants(PollFlags::POLLIN))
            }
            Err(error) => Err(error),
        }
    }
}

impl Taking {
    /// Goes on. Done with the socket, which is yet to be [acknowledged](acknowledge).
    pub(super) fn advance(
        &mut self,
        socket: &ControlSocket,
    ) -> io::Result<Step<(OwnedFd, Description)>> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let wants = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(Step::Wants(PollFlags::POLLIN)),
            _ => Err(error),
        };
        if self.listening.is_none() {
            let fds = match socket.try_read_descriptors() {
                Ok(fds) => fds.ok_or_else(ended)?,
                Err(error) => return wants(error),
            };
            let [listening] = <[OwnedFd; 1]>::try_from(fds)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.listening = Some(listening);
        }
        loop {
            if let Some(description) = Description::decode(&self.bytes)?
                && let Some(listening) = self.listening.take()
            {
                return Ok(Step::Done((listening, description)));
            }
            let mut buffer = [0; HEAD_LEN + NAME_MAX];
            match socket.try_read(&mut buffer) {
                Ok(0) => return Err(ended()),
                Ok(len) => self.bytes.extend_from_slice(&buffer[..len]),
                Err(error) => return wants(error),
            }
        }
    }
}

/// Says that the successor listens.
///
/// # Errors
///
/// If the predecessor does not wait for that any more: then it goes on listening, and has not passed anything on.
pub(super) fn acknowledge(socket: &ControlSocket) -> io::Result<()> {
    socket.try_send(&[1], &[]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_in_whatever_pieces() {
        let file = FileIdentity {
            device: 7,
            inode: u64::MAX,
        };
        for (name, file) in [
            (Name::Path("/run/a.sock".into()), Some(file)),
            (Name::Path("/run/a.sock".into()), None),
            (Name::Abstract("route".to_owned()), None),
            (Name::Tcp("[::1]:4242".parse().unwrap()), None),
            (Name::None, None),
        ] {
            let description = Description { name, file };
            let bytes = description.encode();
            for end in 0..bytes.len() {
                assert_eq!(Description::decode(&bytes[..end]).unwrap(), None);
            }
            assert_eq!(Description::decode(&bytes).unwrap(), Some(description));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut bytes = Description {
            name: Name::Abstract("x".to_owned()),
            file: None,
        }
        .encode();
        *bytes.last_mut().unwrap() = 0xff;
        Description::decode(&bytes).unwrap_err();
        bytes[17] = 0xff;
        Description::decode(&bytes).unwrap_err();
        bytes[0] = 4;
        Description::decode(&bytes).unwrap_err();
    }
}
