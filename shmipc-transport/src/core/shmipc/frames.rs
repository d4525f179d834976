//! shmipc's messages on the socket: encode, decode, nothing else.
//!
//! ```text
//! byte 0        4        6         7      8
//!      | length | 0x7758 | version | type | body …            all numbers big-endian
//! ```
//!
//! | type | message | body | said |
//! |---|---|---|---|
//! | 0 | paths of files | u16 length and queue path, u16 length and buffer path | by clients, in the handshake |
//! | 1 | polling | empty | after an element was published for a consumer that sleeps |
//! | 2 | close | u32 stream | where a close cannot go through the queue |
//! | 3 | fallback | u32 stream, u32 status, payload | where there is no shared memory |
//! | 4 | version | empty; the version is that of the header | first by the client of version 3, then by its server |
//! | 5 | names of memory files | as type 0 | by clients, in the handshake; the files follow |
//! | 6 | mapped | empty | by servers of version 3 and 4, at the end of the handshake |
//! | 7 | ready for descriptors | empty | by servers, before the files are passed |
//! | 8, 9 | hot restart, its acknowledgement | u64 epoch | by old servers; by their clients |
//! | 10 | negotiation | JSON, see [`negotiation`](crate::core::wire::negotiation) | first in version 4 |

use crate::core::{
    num::index,
    wire::{InvalidMessage, MAGIC, NEGOTIATION_LEN_MAX, Reader},
};

/// Every message begins with this many bytes.
pub(crate) const HEADER_LEN: usize = 8;

/// Bytes of a fallback message before its payload.
pub(crate) const FALLBACK_HEADER_LEN: usize = 16;

/// The longest payload of a fallback message, in bytes: other implementations take no longer message than 32 MiB (V8, H57).
pub(crate) const FALLBACK_MAX: usize = (32 << 20) - FALLBACK_HEADER_LEN;

/// The longest path or name, in bytes.
const PATH_MAX: usize = 4096;

/// Types of messages, by their number on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    FilePaths = 0,
    Polling = 1,
    Close = 2,
    Fallback = 3,
    Version = 4,
    MemfdNames = 5,
    Mapped = 6,
    ReadyForDescriptors = 7,
    HotRestart = 8,
    HotRestartAck = 9,
    Negotiation = 10,
}

impl FrameKind {
    const ALL: [Self; 11] = [
        Self::FilePaths,
        Self::Polling,
        Self::Close,
        Self::Fallback,
        Self::Version,
        Self::MemfdNames,
        Self::Mapped,
        Self::ReadyForDescriptors,
        Self::HotRestart,
        Self::HotRestartAck,
        Self::Negotiation,
    ];

    fn from_wire(number: u8) -> Result<Self, InvalidMessage> {
        let known = Self::ALL.into_iter().find(|&kind| kind as u8 == number);
        known.ok_or(InvalidMessage::UnknownType(number))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::FilePaths => "file paths",
            Self::Polling => "polling",
            Self::Close => "close",
            Self::Fallback => "fallback",
            Self::Version => "version",
            Self::MemfdNames => "memory file names",
            Self::Mapped => "mapped",
            Self::ReadyForDescriptors => "ready for descriptors",
            Self::HotRestart => "hot restart",
            Self::HotRestartAck => "hot restart acknowledgement",
            Self::Negotiation => "negotiation",
        }
    }

    /// Which bodies there are. Checked before anything else is done with a message (H25, H26, V8).
    fn takes(self, body_len: usize) -> bool {
        match self {
            Self::FilePaths | Self::MemfdNames => (4..=4 + 2 * PATH_MAX).contains(&body_len),
            Self::Polling | Self::Version | Self::Mapped | Self::ReadyForDescriptors => {
                body_len == 0
            }
            Self::Close => body_len == 4,
            Self::Fallback => (8..=8 + FALLBACK_MAX).contains(&body_len),
            Self::HotRestart | Self::HotRestartAck => body_len == 8,
            Self::Negotiation => body_len <= NEGOTIATION_LEN_MAX,
        }
    }
}

/// Where a client's regions are: paths of files, or mere names if they are passed as memory files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Paths {
    pub(crate) queue: Vec<u8>,
    pub(crate) buffer: Vec<u8>,
}

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    FilePaths(Paths),
    Polling,
    Close {
        stream: u32,
    },
    Fallback {
        stream: u32,
        status: u32,
        payload: Vec<u8>,
    },
    /// The highest version that the sender speaks.
    Version(u8),
    MemfdNames(Paths),
    Mapped,
    ReadyForDescriptors,
    HotRestart {
        epoch: u64,
    },
    HotRestartAck {
        epoch: u64,
    },
    /// A JSON document.
    Negotiation(Vec<u8>),
}

impl Frame {
    const fn kind(&self) -> FrameKind {
        match self {
            Self::FilePaths(_) => FrameKind::FilePaths,
            Self::Polling => FrameKind::Polling,
            Self::Close { .. } => FrameKind::Close,
            Self::Fallback { .. } => FrameKind::Fallback,
            Self::Version(_) => FrameKind::Version,
            Self::MemfdNames(_) => FrameKind::MemfdNames,
            Self::Mapped => FrameKind::Mapped,
            Self::ReadyForDescriptors => FrameKind::ReadyForDescriptors,
            Self::HotRestart { .. } => FrameKind::HotRestart,
            Self::HotRestartAck { .. } => FrameKind::HotRestartAck,
            Self::Negotiation(_) => FrameKind::Negotiation,
        }
    }

    /// What the message is called in errors.
    pub(crate) const fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Puts the message into the form in which it is sent in a session of protocol `version`.
    ///
    /// # Panics
    ///
    /// If it is longer than its type allows.
    pub(crate) fn encode(&self, version: u8) -> Vec<u8> {
        let mut body = Vec::new();
        let version = match self {
            Self::FilePaths(paths) | Self::MemfdNames(paths) => {
                for path in [&paths.queue, &paths.buffer] {
                    let len = u16::try_from(path.len()).expect("paths are at most 4 KiB long");
                    body.extend_from_slice(&len.to_be_bytes());
                    body.extend_from_slice(path);
                }
                version
            }
            Self::Close { stream } => {
                body.extend_from_slice(&stream.to_be_bytes());
                version
            }
            Self::Fallback {
                stream,
                status,
                payload,
            } => {
                return fallback(version, *stream, *status, payload.len(), |target| {
                    target.extend_from_slice(payload);
                });
            }
            Self::HotRestart { epoch } | Self::HotRestartAck { epoch } => {
                body.extend_from_slice(&epoch.to_be_bytes());
                version
            }
            Self::Negotiation(json) => {
                body.extend_from_slice(json);
                0
            }
            Self::Version(offered) => *offered,
            Self::Polling | Self::Mapped | Self::ReadyForDescriptors => version,
        };
        assert!(
            self.kind().takes(body.len()),
            "we send what the peer would accept"
        );
        let mut bytes = header(version, self.kind(), body.len()).to_vec();
        bytes.extend_from_slice(&body);
        bytes
    }

    fn decode(header: &Header, body: Vec<u8>) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::new(&body);
        let frame = match header.kind {
            FrameKind::FilePaths => Self::FilePaths(Paths::decode(&mut reader)?),
            FrameKind::MemfdNames => Self::MemfdNames(Paths::decode(&mut reader)?),
            FrameKind::Polling => Self::Polling,
            FrameKind::Close => Self::Close {
                stream: reader.u32()?,
            },
            FrameKind::Fallback => {
                let (stream, status) = (reader.u32()?, reader.u32()?);
                let mut payload = body;
                payload.drain(..8);
                return Ok(Self::Fallback {
                    stream,
                    status,
                    payload,
                });
            }
            FrameKind::Version => Self::Version(header.version),
            FrameKind::Mapped => Self::Mapped,
            FrameKind::ReadyForDescriptors => Self::ReadyForDescriptors,
            FrameKind::HotRestart => Self::HotRestart {
                epoch: reader.u64()?,
            },
            FrameKind::HotRestartAck => Self::HotRestartAck {
                epoch: reader.u64()?,
            },
            FrameKind::Negotiation => Self::Negotiation(reader.remainder().to_vec()),
        };
        reader.expect_end()?;
        Ok(frame)
    }
}

impl Paths {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, InvalidMessage> {
        let mut path = || {
            let len = reader.u16()?;
            let path = reader.bytes(usize::from(len))?;
            if path.is_empty() || PATH_MAX < path.len() || path.contains(&0) {
                return Err(InvalidMessage::Path);
            }
            Ok(path.to_vec())
        };
        Ok(Self {
            queue: path()?,
            buffer: path()?,
        })
    }
}

/// A fallback message whose payload of `len` bytes is appended by `write`.
///
/// # Panics
///
/// If that is more than [`FALLBACK_MAX`].
pub(crate) fn fallback(
    version: u8,
    stream: u32,
    status: u32,
    len: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    assert!(len <= FALLBACK_MAX, "the length was checked");
    let mut bytes = Vec::with_capacity(FALLBACK_HEADER_LEN + len);
    bytes.extend_from_slice(&header(version, FrameKind::Fallback, 8 + len));
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&status.to_be_bytes());
    write(&mut bytes);
    assert_eq!(
        bytes.len(),
        FALLBACK_HEADER_LEN + len,
        "all of it was written"
    );
    bytes
}

fn header(version: u8, kind: FrameKind, body_len: usize) -> [u8; HEADER_LEN] {
    let len = u32::try_from(HEADER_LEN + body_len).expect("no message is longer than 32 MiB");
    let [l0, l1, l2, l3] = len.to_be_bytes();
    let [m0, m1] = MAGIC.to_be_bytes();
    [l0, l1, l2, l3, m0, m1, version, kind as u8]
}

/// A header that has been checked.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: FrameKind,
    version: u8,
    body_len: usize,
}

impl Header {
    fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, InvalidMessage> {
        let [l0, l1, l2, l3, m0, m1, version, kind] = bytes;
        let magic = u16::from_be_bytes([m0, m1]);
        if magic != MAGIC {
            return Err(InvalidMessage::Magic(magic));
        }
        let kind = FrameKind::from_wire(kind)?;
        // A server may advertise a version that nobody knows yet; elsewhere there is none but these.
        if VERSION_MAX < version && kind != FrameKind::Version {
            return Err(InvalidMessage::Version(version));
        }
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let body_len = index(len).checked_sub(HEADER_LEN);
        match body_len {
            Some(body_len) if kind.takes(body_len) => Ok(Self {
                kind,
                version,
                body_len,
            }),
            _ => Err(InvalidMessage::Length {
                message: kind.name(),
                len,
            }),
        }
    }
}

/// How many bytes follow a header.
///
/// # Errors
///
/// Returns [`InvalidMessage`] if it is none of shmipc's.
pub(crate) fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, InvalidMessage> {
    Header::decode(header).map(|header| header.body_len)
}

/// Makes a message of a header and its body.
///
/// # Errors
///
/// Returns [`InvalidMessage`] if they are none of shmipc's.
pub(crate) fn decode(header: [u8; HEADER_LEN], body: Vec<u8>) -> Result<Frame, InvalidMessage> {
    Frame::decode(&Header::decode(header)?, body)
}

/// The highest version byte of any message; version 4 itself says 0.
const VERSION_MAX: u8 = 4;

/// Puts messages together from bytes as they arrive.
///
/// Read at most [`wanted`](Self::wanted) bytes at a time: what follows a message in a handshake may have descriptors with it.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    header: Option<Header>,
    /// What has arrived of the header, or of the body.
    bytes: Vec<u8>,
}

impl Deframer {
    /// How many bytes may be read next. Never 0.
    pub(crate) fn wanted(&self) -> usize {
        match &self.header {
            None => HEADER_LEN - self.bytes.len(),
            Some(header) => header.body_len - self.bytes.len(),
        }
    }

    /// Bytes of an unfinished message that are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Takes at most [`wanted`](Self::wanted) bytes. Returns a message if it is now complete.
    ///
    /// Memory is taken as bytes arrive, not as they are announced.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidMessage`] if it is none. The conversation is over then.
    ///
    /// # Panics
    ///
    /// If there are more than `wanted` bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Frame>, InvalidMessage> {
        assert!(
            bytes.len() <= self.wanted(),
            "messages must not be read together"
        );
        self.bytes.extend_from_slice(bytes);
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(&bytes) = self.bytes.first_chunk() else {
                    return Ok(None);
                };
                self.bytes.clear();
                *self.header.insert(Header::decode(bytes)?)
            }
        };
        if self.bytes.len() < header.body_len {
            return Ok(None);
        }
        let Self { bytes, .. } = std::mem::take(self);
        Frame::decode(&header, bytes).map(Some)
    }
}

/// Takes `data` for what a socket brings: the body of the fuzz target for this module.
#[cfg(any(test, fuzzing))]
pub fn fuzz_frames(mut data: &[u8]) {
    let mut deframer = Deframer::default();
    while !data.is_empty() {
        let (bytes, rest) = data.split_at(deframer.wanted().min(data.len()));
        data = rest;
        match deframer.push(bytes) {
            Ok(None) => {}
            Ok(Some(frame)) => {
                let again = Deframer::decode_all(&frame.encode(3));
                assert_eq!(again, Ok(vec![frame]), "what was read can be said");
            }
            Err(_) => return,
        }
    }
}

#[cfg(any(test, fuzzing))]
impl Deframer {
    /// All messages in `bytes`.
    pub(crate) fn decode_all(mut bytes: &[u8]) -> Result<Vec<Frame>, InvalidMessage> {
        let mut deframer = Self::default();
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(deframer.wanted().min(bytes.len()));
            frames.extend(deframer.push(head)?);
            bytes = rest;
        }
        Ok(frames)
    }
}
