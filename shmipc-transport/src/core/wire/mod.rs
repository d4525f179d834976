//! The messages of the control socket: encode, decode, nothing else.
//!
//! ```text
//! byte 0        4        6         7      8
//!      | length | 0x7758 | version | type | body …            all numbers big-endian
//! ```
//!
//! The length counts the header. The framing and type 10 are shmipc's; types from 32 on are ours.
//!
//! | type | message | body | descriptors | sent |
//! |---|---|---|---|---|
//! | 10 | negotiation | JSON, see [`negotiation`] | none | once each way, first the client's |
//! | 32 | outbox | u64 length, u64 memory_max, u32 layout | memory, doorbell | once each way, after the negotiation |
//! | 33 | ready | empty | none | once each way, after the peer's outbox was mapped |
//! | 34 | region | u32 id, u64 length | memory | any number of times after that |
//! | 0, 4 | legacy: what clients of shmipc's versions 2 and 3 begin with | see [`frames`] | none | first, instead of all this |
//! | 35 | forwarded region | u32 id, u64 length | memory, anchor | likewise, if both have agreed on it |
//!
//! Nothing here knows what a descriptor is: they are values of a type `Fd`, numbers in the tests.

mod codec;
pub(crate) mod negotiation;

pub(crate) use self::codec::Reader;
use crate::core::{
    num::RegionId,
    shmipc::frames::{self, Frame},
};

/// Every message begins with this many bytes (H1).
pub(crate) const HEADER_LEN: usize = 8;

/// No message carries more descriptors than this.
pub(crate) const FDS_MAX: usize = 2;

/// The longest JSON document that is looked at, in bytes.
///
/// Ours has about 150; the limit only bounds what an unknown peer can make us hold.
pub(crate) const NEGOTIATION_LEN_MAX: usize = 64 * 1024;

/// The second field of every header.
pub(crate) const MAGIC: u16 = 0x7758;

/// The version byte. Since version 4 of the shmipc protocol it is 0: what is spoken is in the negotiation.
const VERSION: u8 = 0;

/// A message of the control socket that breaks the protocol.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidMessage {
    /// The message does not begin as every shmipc message does. Whoever sent it speaks something else.
    #[error("magic number {0:#06x} instead of 0x7758: not a shmipc peer")]
    Magic(u16),
    /// A message of a type that this protocol does not have.
    #[error("unknown message type {0}")]
    UnknownType(u8),
    /// The header's version byte is not the one this protocol uses.
    #[error("version byte {0} instead of 0")]
    Version(u8),
    /// The header announces a length that no message of its type has.
    #[error("{message} message of {len} bytes")]
    Length {
        /// The message's name.
        message: &'static str,
        /// The announced length in bytes, header included.
        len: u32,
    },
    /// The body ended in the middle of a field.
    #[error("message ends {missing} bytes too early")]
    TooShort {
        /// Bytes that the field still needed.
        missing: usize,
    },
    /// The body went on after its last field.
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
    /// A message came with a wrong number of file descriptors.
    #[error("{message} message with {received} file descriptors instead of {expected}")]
    Descriptors {
        /// The message's name.
        message: &'static str,
        /// How many its type carries.
        expected: usize,
        /// How many came.
        received: usize,
    },
    /// More file descriptors were sent at once than any message carries.
    #[error("more file descriptors than any message carries")]
    TooManyDescriptors,
    /// The negotiation is not the JSON document that it should be.
    #[error("negotiation is not valid at line {line}, column {column} ({problem})")]
    Negotiation {
        /// What kind of error it is.
        problem: &'static str,
        /// Line of the document, from 1.
        line: usize,
        /// Column of the document, from 1.
        column: usize,
    },
    /// The peer lays its outbox out in a way that this version does not know.
    #[error("outbox of layout {0}, which this version does not know")]
    Layout(u32),
    /// A path or name in a message of shmipc's own protocol is empty, longer than 4 KiB, or contains a NUL byte.
    #[error("a path that cannot be one")]
    Path,
    /// A message that is well-formed, but not allowed at this point of the conversation.
    #[error("{message} message {when}")]
    OutOfTurn {
        /// The message's name.
        message: &'static str,
        /// Where the conversation stood.
        when: &'static str,
    },
}

/// One message with the descriptors that belong to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Message<Fd> {
    /// A JSON document that [`negotiation`] can read. Who sent it decides which one it is.
    Negotiation(Vec<u8>),
    /// "This is my outbox."
    Outbox(Outbox<Fd>),
    /// "I have mapped your outbox."
    Ready,
    /// "My memory has grown by this", or "this was lent to me, and I pass it on".
    Region(Region<Fd>),
    /// What a client of shmipc's versions 2 and 3 begins with, which knows nothing of all this.
    Legacy(Frame),
}

/// An outbox as its owner describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outbox<Fd> {
    /// Length of `memory` in bytes.
    pub(crate) len: u64,
    /// What all regions of the owner together may come to, in bytes.
    pub(crate) memory_max: u64,
    /// The sealed memory file.
    pub(crate) memory: Fd,
    /// The eventfd or socket that wakes the owner.
    pub(crate) doorbell: Fd,
}

/// An additional region as its owner describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Region<Fd> {
    /// The name by which records refer to it.
    pub(crate) id: RegionId,
    /// Length of `memory` in bytes.
    pub(crate) len: u64,
    /// The sealed memory file.
    pub(crate) memory: Fd,
    /// Comes with memory that was made by somebody else, and is kept open for as long as it is mapped (O23).
    pub(crate) anchor: Option<Fd>,
}

/// The bytes of a message, and the descriptors to be sent with the first of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Transmit<Fd> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<Fd>,
}

impl<Fd> Message<Fd> {
    /// What the message is called in errors.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Negotiation(_) => Kind::Negotiation.name(),
            Self::Outbox(_) => Kind::Outbox.name(),
            Self::Ready => Kind::Ready.name(),
            Self::Region(Region { anchor: None, .. }) => Kind::Region.name(),
            Self::Region(Region { .. }) => Kind::Forwarded.name(),
            Self::Legacy(frame) => frame.name(),
        }
    }

    /// Puts the message into the form in which it is sent.
    pub(crate) fn encode(self) -> Transmit<Fd> {
        match self {
            Self::Negotiation(json) => Transmit {
                bytes: frame(Kind::Negotiation, &[&json]),
                fds: Vec::new(),
            },
            Self::Outbox(Outbox {
                len,
                memory_max,
                memory,
                doorbell,
            }) => Transmit {
                bytes: frame(
                    Kind::Outbox,
                    &[
                        &len.to_be_bytes(),
                        &memory_max.to_be_bytes(),
                        &LAYOUT_VERSION.to_be_bytes(),
                    ],
                ),
                fds: vec![memory, doorbell],
            },
            Self::Legacy(frame) => Transmit {
                bytes: frame.encode(2),
                fds: Vec::new(),
            },
            Self::Ready => Transmit {
                bytes: frame(Kind::Ready, &[]),
                fds: Vec::new(),
            },
            Self::Region(Region {
                id,
                len,
                memory,
                anchor,
            }) => {
                let kind = match anchor {
                    None => Kind::Region,
                    Some(_) => Kind::Forwarded,
                };
                Transmit {
                    bytes: frame(kind, &[&id.0.to_be_bytes(), &len.to_be_bytes()]),
                    fds: [memory].into_iter().chain(anchor).collect(),
                }
            }
        }
    }

    /// Makes a message of its parts (H3, H4). Whatever is wrong, `fds` are dropped and so closed.
    fn decode(kind: Kind, body: &[u8], fds: Vec<Fd>) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::new(body);
        let message = match kind {
            Kind::Negotiation => {
                let [] = kind.expect_fds(fds)?;
                Self::Negotiation(reader.remainder().to_vec())
            }
            Kind::Outbox => {
                let (len, memory_max, layout) = (reader.u64()?, reader.u64()?, reader.u32()?);
                if layout != LAYOUT_VERSION {
                    return Err(InvalidMessage::Layout(layout));
                }
                let [memory, doorbell] = kind.expect_fds(fds)?;
                Self::Outbox(Outbox {
                    len,
                    memory_max,
                    memory,
                    doorbell,
                })
            }
            Kind::Ready | Kind::Legacy => {
                let [] = kind.expect_fds(fds)?;
                Self::Ready
            }
            Kind::Region | Kind::Forwarded => {
                let (id, len) = (RegionId(reader.u32()?), reader.u64()?);
                let (memory, anchor) = if kind == Kind::Region {
                    let [memory] = kind.expect_fds(fds)?;
                    (memory, None)
                } else {
                    let [memory, anchor] = kind.expect_fds(fds)?;
                    (memory, Some(anchor))
                };
                Self::Region(Region {
                    id,
                    len,
                    memory,
                    anchor,
                })
            }
        };
        reader.expect_end()?;
        Ok(message)
    }
}

/// The layout that [`crate::core::outbox`] describes.
const LAYOUT_VERSION: u32 = 1;

/// Puts messages together from bytes and descriptors as they arrive.
///
/// The bytes of a message must not be read in one go with those of the next, because only then is it certain to which of
/// them the descriptors belong: read at most [`wanted`](Self::wanted) bytes at a time (H5).
#[derive(Debug)]
pub(crate) struct Deframer<Fd> {
    header: Option<Header>,
    /// What has arrived of the header, or of the body.
    bytes: Vec<u8>,
    fds: Vec<Fd>,
}

impl<Fd> Deframer<Fd> {
    pub(crate) const fn new() -> Self {
        Self {
            header: None,
            bytes: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// How many bytes may be read next. Never 0.
    pub(crate) const fn wanted(&self) -> usize {
        match &self.header {
            None => HEADER_LEN - self.bytes.len(),
            Some(header) => header.body_len - self.bytes.len(),
        }
    }

    /// Takes at most [`wanted`](Self::wanted) bytes, and the descriptors that came with them.
    ///
    /// Returns a message if it is now complete. After an error the conversation is over.
    ///
    /// # Panics
    ///
    /// If there are more than `wanted` bytes.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        fds: impl IntoIterator<Item = Fd>,
    ) -> Result<Option<Message<Fd>>, InvalidMessage> {
        assert!(
            bytes.len() <= self.wanted(),
            "bytes of two messages must not be read together"
        );
        self.bytes.extend_from_slice(bytes);
        self.fds.extend(fds);
        if FDS_MAX < self.fds.len() {
            return Err(InvalidMessage::TooManyDescriptors);
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(header) = self.bytes.first_chunk() else {
                    return Ok(None);
                };
                let header = Header::decode(*header)?;
                self.bytes.clear();
                *self.header.insert(header)
            }
        };
        if self.bytes.len() < header.body_len {
            return Ok(None);
        }
        let Self {
            header: _,
            bytes,
            fds,
        } = std::mem::replace(self, Self::new());
        if header.kind == Kind::Legacy {
            let [] = header.kind.expect_fds(fds)?;
            return frames::decode(header.bytes, bytes).map(|frame| Some(Message::Legacy(frame)));
        }
        Message::decode(header.kind, &bytes, fds).map(Some)
    }
}

/// The types of messages, by their number on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    /// Type 0 or 4.
    Legacy = 0,
    Negotiation = 10,
    Outbox = 32,
    Ready = 33,
    Region = 34,
    Forwarded = 35,
}

impl Kind {
    const fn from_wire(number: u8) -> Result<Self, InvalidMessage> {
        match number {
            0 | 4 => Ok(Self::Legacy),
            10 => Ok(Self::Negotiation),
            32 => Ok(Self::Outbox),
            33 => Ok(Self::Ready),
            34 => Ok(Self::Region),
            35 => Ok(Self::Forwarded),
            unknown => Err(InvalidMessage::UnknownType(unknown)),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Negotiation => "negotiation",
            Self::Outbox => "outbox",
            Self::Ready => "ready",
            Self::Region => "region",
            Self::Forwarded => "forwarded region",
        }
    }

    /// Bounds what has to be held before the body can be looked at (H2).
    const fn body_len_max(self) -> usize {
        match self {
            Self::Negotiation => NEGOTIATION_LEN_MAX,
            // The exact length is the decoder's to check.
            Self::Legacy | Self::Outbox | Self::Ready | Self::Region | Self::Forwarded => 64,
        }
    }

    fn expect_fds<const N: usize, Fd>(self, fds: Vec<Fd>) -> Result<[Fd; N], InvalidMessage> {
        fds.try_into()
            .map_err(|fds: Vec<Fd>| InvalidMessage::Descriptors {
                message: self.name(),
                expected: N,
                received: fds.len(),
            })
    }
}

/// A header that has been checked.
#[derive(Clone, Copy, Debug)]
struct Header {
    bytes: [u8; HEADER_LEN],
    kind: Kind,
    /// Length of what follows the header, in bytes.
    body_len: usize,
}

impl Header {
    fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, InvalidMessage> {
        let [l0, l1, l2, l3, m0, m1, version, kind] = bytes;
        let magic = u16::from_be_bytes([m0, m1]);
        if magic != MAGIC {
            return Err(InvalidMessage::Magic(magic));
        }
        let kind = Kind::from_wire(kind)?;
        if kind == Kind::Legacy {
            let body_len = frames::body_len(bytes)?;
            return Ok(Self {
                bytes,
                kind,
                body_len,
            });
        }
        if version != VERSION {
            return Err(InvalidMessage::Version(version));
        }
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let body_len = usize::try_from(len)
            .ok()
            .and_then(|len| len.checked_sub(HEADER_LEN));
        match body_len {
            Some(body_len) if body_len <= kind.body_len_max() => Ok(Self {
                bytes,
                kind,
                body_len,
            }),
            _ => Err(InvalidMessage::Length {
                message: kind.name(),
                len,
            }),
        }
    }
}

/// Puts a header before the fields of a body.
///
/// # Panics
///
/// If the body is longer than its type allows.
fn frame(kind: Kind, fields: &[&[u8]]) -> Vec<u8> {
    let body_len = fields.iter().map(|field| field.len()).sum::<usize>();
    assert!(
        body_len <= kind.body_len_max(),
        "we send what the peer would accept"
    );
    let len = u32::try_from(HEADER_LEN + body_len).expect("no message is longer than 64 KiB");
    let mut bytes = Vec::with_capacity(HEADER_LEN + body_len);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&MAGIC.to_be_bytes());
    bytes.extend_from_slice(&[VERSION, kind as u8]);
    for field in fields {
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Decodes whatever `data` holds as a conversation: the body of the fuzz target for this module.
///
/// The first byte of each step says how many descriptors come with it, the second how many of the wanted bytes.
#[cfg(any(test, fuzzing))]
pub fn fuzz_deframer(mut data: &[u8]) {
    let mut deframer = Deframer::new();
    while let [fds, len, rest @ ..] = data {
        let len = usize::from(*len).min(deframer.wanted()).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        data = rest;
        match deframer.push(bytes, (0..*fds % 4).map(u32::from)) {
            Err(_) => return,
            Ok(None) => {}
            Ok(Some(Message::Negotiation(json))) => {
                // One of the two at most; neither may panic.
                let _ = negotiation::Request::decode(&json);
                let _ = negotiation::Response::decode(&json);
            }
            Ok(Some(message)) => {
                let mut again = Deframer::new();
                let Transmit { bytes, fds } = message.clone().encode();
                let (header, body) = bytes.split_at(HEADER_LEN);
                let decoded = match again.push(header, fds) {
                    Ok(None) => again.push(body, []),
                    complete => complete,
                };
                assert_eq!(
                    decoded,
                    Ok(Some(message)),
                    "what was accepted survives a round trip"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
