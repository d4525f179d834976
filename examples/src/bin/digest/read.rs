//! From a name to content that can be sent.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
};

use bytes::Bytes;
use shmipc_rpc::{Channel, Lent, Status};
use tokio::task::spawn_blocking;

/// The largest file. It is sent as one message, and protobuf allows for less than 2 GiB.
pub(crate) const CONTENT_LEN_MAX: usize = (2 << 30) - (64 << 10);

/// The most that a request takes: the content, and a few bytes to say that it is one.
pub(crate) const REQUEST_LEN_MAX: usize = 2 << 30;

/// Why a file has no digest.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be read.
    Read(io::Error),
    /// It has more than [`CONTENT_LEN_MAX`] bytes.
    TooLarge,
    /// The server, or the way to it, failed.
    Call(Status),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

/// Something that is open for reading.
pub(crate) struct Input {
    file: File,
    /// `None` if nobody can know, as with a pipe.
    pub(crate) len: Option<usize>,
}

impl Input {
    /// Opens a file, or the standard input for `-`.
    pub(crate) fn open(name: &OsStr) -> Result<Self, Failure> {
        let file = if name == "-" {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(name)?
        };
        let metadata = file.metadata()?;
        let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if metadata.is_file() && CONTENT_LEN_MAX < len {
            return Err(Failure::TooLarge);
        }
        // Files that the kernel makes up as they are read claim to be empty.
        let len = (metadata.is_file() && 0 < len).then_some(len);
        Ok(Self { file, len })
    }

    /// Reads it to its end: into memory that the server can see if the length is known, else into memory of our own.
    pub(crate) async fn read(self, channel: &Channel) -> Result<Bytes, Failure> {
        let lent = match self.len {
            Some(len) => Some(channel.alloc(len).await?),
            None => None,
        };
        let read = spawn_blocking(move || match lent {
            Some(lent) => fill(self.file, lent),
            None => read_on(self.file, Vec::new()).map(Bytes::from),
        });
        read.await.map_err(io::Error::from)?
    }
}

/// Reads into `lent`, which has room for the whole file, unless it changes while it is read.
fn fill(mut file: File, mut lent: Lent) -> Result<Bytes, Failure> {
    let mut filled = 0;
    while filled < lent.len() {
        match file.read(&mut lent[filled..]) {
            Ok(0) => lent.truncate(filled),
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let rest = read_on(file, Vec::new())?;
    if rest.is_empty() {
        return Ok(lent.freeze());
    }
    let mut content = lent.to_vec();
    content.extend(rest);
    if CONTENT_LEN_MAX < content.len() {
        return Err(Failure::TooLarge);
    }
    Ok(content.into())
}

/// Appends what is left of a file, and a little more than is allowed at most.
fn read_on(file: File, mut content: Vec<u8>) -> Result<Vec<u8>, Failure> {
    file.take(CONTENT_LEN_MAX as u64 + 1)
        .read_to_end(&mut content)?;
    if CONTENT_LEN_MAX < content.len() {
        return Err(Failure::TooLarge);
    }
    Ok(content)
}
