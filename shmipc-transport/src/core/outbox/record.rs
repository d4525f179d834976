//! What lies in the ring: a head of 16 bytes, then a body.
//!
//! ```text
//! byte 0             4                     8           16                     16 + 16·n
//!      | kind, body  | flags, segments     | stream id | n segments           | inline bytes |
//!      | length (24) | n (16)              | (64)      | of 16 bytes each     |              |
//! ```
//!
//! A message is the concatenation of its parts in the order of the segments. A segment names a range of a region, or the
//! next `len` of the inline bytes. A message without segments consists of the inline bytes alone.

use crate::core::num::{RegionId, StreamId, index};

/// The longest payload that travels inside the ring; longer ones lie in blocks.
///
/// An estimate, not yet measured on either side of it: up to about here, copying twice should cost less than a block, its
/// return and its lease.
pub(crate) const INLINE_MAX: u32 = 2048;
/// The most segments of one message.
pub(crate) const SEGMENTS_MAX: u16 = 64;
/// The longest body of a record, in bytes.
pub(crate) const RECORD_BODY_MAX: u32 = SEGMENT_LEN * SEGMENTS_MAX as u32 + INLINE_MAX;
pub(crate) const HEAD_LEN: u32 = 16;
const SEGMENT_LEN: u32 = 16;

/// Set in a segment's region if it lies in the memory of the one who receives the record.
const YOURS: u32 = 1 << 31;
/// The region of a segment that lies in the record itself.
const INLINE: u32 = YOURS - 1;

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nothing: the rest of the ring before its end, or a message that was given up while it was written.
    Pad = 1,
    /// A message, the end of a stream, or both.
    Data = 2,
    /// The sender gives a stream up; the body is a u32 code.
    Reset = 3,
    /// The stream's receiver has room for more; the body is two u32: messages and bytes.
    Credit = 4,
    /// The sender will accept no further streams.
    GoAway = 5,
    /// The sender closes the session in good order, and this is its last record.
    Bye = 6,
    /// A region of the sender's is on its way over the socket; the body is two u32: id and length.
    RegionAdded = 7,
    /// The sender will not refer to a region again; the body is its u32 id.
    RegionDropped = 8,
    /// A segment of the *receiver's* is given back, behind the records that sent it back; the body is its u32 token.
    Return = 9,
    /// The sender wants to know whether we are there; the body is a u64 of its choice.
    Ping = 10,
    /// The answer to a ping; the body is that of the ping.
    Pong = 11,
}

/// Bits of a data record.
pub(crate) mod flags {
    /// There is a message (possibly an empty one).
    pub(crate) const MESSAGE: u16 = 1;
    /// The sender sends no more on this stream.
    pub(crate) const END: u16 = 2;
    pub(crate) const ALL: u16 = MESSAGE | END;
}

/// The head of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RecordHead {
    pub(crate) kind: Kind,
    pub(crate) body_len: u32,
    pub(crate) flags: u16,
    pub(crate) segments: u16,
    pub(crate) stream: StreamId,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// No record has this kind.
    #[error("record kind {0} does not exist")]
    Kind(u8),
    /// The record is longer than any may be, or runs over the end of the ring.
    #[error("a record body of {0} bytes is too long")]
    Length(u32),
    /// The body is not as long as its kind demands.
    #[error("a {kind} record with a body of {len} bytes")]
    BodyLength {
        /// The record's kind.
        kind: &'static str,
        /// Its body's length in bytes.
        len: u32,
    },
    /// Unknown flags, or none where some are needed.
    #[error("flags {0:#06x} make no sense")]
    Flags(u16),
    /// More segments than a message may have, or than the body holds.
    #[error("{0} segments are too many")]
    Segments(u16),
    /// The inline bytes are not exactly those that the segments name.
    #[error("inline segments do not cover the inline bytes")]
    InlineBytes,
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Self, InvalidRecord> {
        Ok(match byte {
            1 => Self::Pad,
            2 => Self::Data,
            3 => Self::Reset,
            4 => Self::Credit,
            5 => Self::GoAway,
            6 => Self::Bye,
            7 => Self::RegionAdded,
            8 => Self::RegionDropped,
            9 => Self::Return,
            10 => Self::Ping,
            11 => Self::Pong,
            unknown => return Err(InvalidRecord::Kind(unknown)),
        })
    }

    /// The body's length, where the kind alone decides it.
    const fn body_len(self) -> Option<(u32, &'static str)> {
        match self {
            Self::Pad | Self::Data => None,
            Self::GoAway => Some((0, "go-away")),
            Self::Bye => Some((0, "bye")),
            Self::Reset => Some((4, "reset")),
            Self::RegionDropped => Some((4, "region-dropped")),
            Self::Return => Some((4, "return")),
            Self::Credit => Some((8, "credit")),
            Self::RegionAdded => Some((8, "region-added")),
            Self::Ping => Some((8, "ping")),
            Self::Pong => Some((8, "pong")),
        }
    }
}

impl RecordHead {
    /// A head without flags or segments.
    pub(crate) fn control(kind: Kind, stream: StreamId, body_len: u32) -> Self {
        Self {
            kind,
            body_len,
            flags: 0,
            segments: 0,
            stream,
        }
    }

    /// The first word, whose appearance publishes the record.
    pub(crate) fn first_word(&self) -> u32 {
        u32::from(self.kind as u8) << 24 | self.body_len
    }

    /// The other words.
    pub(crate) fn rest(&self) -> [u8; 12] {
        let mut rest = [0; 12];
        rest[..2].copy_from_slice(&self.flags.to_ne_bytes());
        rest[2..4].copy_from_slice(&self.segments.to_ne_bytes());
        rest[4..].copy_from_slice(&self.stream.0.to_ne_bytes());
        rest
    }

    /// Bytes from this record's head to the next one's, for a body of `body_len`.
    pub(crate) const fn stride(body_len: u32) -> u32 {
        (HEAD_LEN + body_len).next_multiple_of(HEAD_LEN)
    }

    /// Checks what can be checked by looking at the head alone (O6, O7).
    ///
    /// # Errors
    ///
    /// Returns the first thing that is wrong.
    pub(crate) fn decode(first_word: u32, rest: [u8; 12]) -> Result<Self, InvalidRecord> {
        let [f0, f1, s0, s1, id @ ..] = rest;
        let (flags, segments) = (u16::from_ne_bytes([f0, f1]), u16::from_ne_bytes([s0, s1]));
        let (kind, body_len) = Self::decode_first(first_word)?;
        if let Some((expected, name)) = kind.body_len()
            && body_len != expected
        {
            return Err(InvalidRecord::BodyLength {
                kind: name,
                len: body_len,
            });
        }
        if kind == Kind::Data {
            let has_message = flags & flags::MESSAGE != 0;
            if flags == 0 || flags & !flags::ALL != 0 || (!has_message && body_len != 0) {
                return Err(InvalidRecord::Flags(flags));
            }
            if RECORD_BODY_MAX < body_len {
                return Err(InvalidRecord::Length(body_len));
            }
            if SEGMENTS_MAX < segments || body_len < u32::from(segments) * SEGMENT_LEN {
                return Err(InvalidRecord::Segments(segments));
            }
            if INLINE_MAX < body_len - u32::from(segments) * SEGMENT_LEN {
                return Err(InvalidRecord::InlineBytes);
            }
        }
        Ok(Self {
            kind,
            body_len,
            flags,
            segments,
            stream: StreamId(u64::from_ne_bytes(id)),
        })
    }

    /// Splits the first word.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidRecord::Kind`] for a kind that does not exist.
    pub(crate) fn decode_first(first_word: u32) -> Result<(Kind, u32), InvalidRecord> {
        let [kind, ..] = first_word.to_be_bytes();
        Ok((Kind::from_byte(kind)?, first_word & 0x00ff_ffff))
    }
}

/// One part of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Segment {
    /// The next bytes that lie in the record itself.
    Inline { len: u32 },
    /// A range of a region of the sender's, to be given back by its token.
    Theirs(Part),
    /// A range of a region of the receiver's own, which the sender holds and sends back.
    Yours(Part),
}

/// A range in a region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) region: RegionId,
    pub(crate) token: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Segment {
    pub(crate) fn encode(self) -> [u8; 16] {
        let [region, token, offset, len] = match self {
            Self::Inline { len } => [INLINE, 0, 0, len],
            Self::Theirs(part) => [part.region.0, part.token, part.offset, part.len],
            Self::Yours(part) => [part.region.0 | YOURS, part.token, part.offset, part.len],
        };
        let mut bytes = [0; 16];
        for (target, word) in bytes.chunks_exact_mut(4).zip([region, token, offset, len]) {
            target.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Any bytes are a segment; whether it makes sense is for the link to find out.
    pub(crate) fn decode(bytes: [u8; 16]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (region, len) = (word(0), word(12));
        if region == INLINE {
            return Self::Inline { len };
        }
        let part = Part {
            region: RegionId(region & !YOURS),
            token: word(4),
            offset: word(8),
            len,
        };
        if region & YOURS != 0 {
            Self::Yours(part)
        } else {
            Self::Theirs(part)
        }
    }

    /// The `i`th segment of a record's body.
    pub(crate) fn of_body(body: &[u8], i: u16) -> Option<Self> {
        let at = usize::from(i) * index(SEGMENT_LEN);
        Some(Self::decode(
            body.get(at..at + index(SEGMENT_LEN))?.try_into().ok()?,
        ))
    }
}

/// Reads `data` as a record, head and segments: the body of the fuzz target for this module.
#[cfg(any(test, fuzzing))]
pub fn fuzz_record(data: &[u8]) {
    let Some((first_word, rest)) = data.split_first_chunk() else {
        return;
    };
    let Some((rest, body)) = rest.split_first_chunk() else {
        return;
    };
    let first_word = u32::from_ne_bytes(*first_word);
    let Ok(head) = RecordHead::decode(first_word, *rest) else {
        return;
    };
    assert_eq!((head.first_word(), head.rest()), (first_word, *rest));
    for i in 0..head.segments {
        if let Some(segment) = Segment::of_body(body, i) {
            let again = Segment::decode(segment.encode());
            assert_eq!(again, segment, "what was read survives a round trip");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_have_the_documented_bytes() {
        let head = RecordHead {
            kind: Kind::Data,
            body_len: 0x102,
            flags: flags::MESSAGE | flags::END,
            segments: 2,
            stream: StreamId(5),
        };
        assert_eq!(head.first_word(), 0x0200_0102);
        assert_eq!(head.rest(), [3, 0, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_stride_holds_head_and_body() {
        assert_eq!(RecordHead::stride(0), 16);
        assert_eq!(RecordHead::stride(1), 32);
        assert_eq!(RecordHead::stride(16), 32);
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same(word: u32, rest: [u8; 12]) {
            if let Ok(head) = RecordHead::decode(word, rest) {
                prop_assert_eq!((head.first_word(), head.rest()), (word, rest));
            }
        }

        #[test]
        fn segments_survive(region in 0u32..INLINE, token: u32, offset: u32, len: u32, yours: bool) {
            let part = Part { region: RegionId(region), token, offset, len };
            let segment = if yours { Segment::Yours(part) } else { Segment::Theirs(part) };
            prop_assert_eq!(Segment::decode(segment.encode()), segment);
        }
    }
}
