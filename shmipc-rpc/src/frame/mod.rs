//! RPC frames: what one message of the transport holds.
//!
//! ```text
//! byte 0             4          6       7      8
//!      | message len | head len | flags | zero | head … | message … |
//! ```
//!
//! Numbers are little endian. The head is one of the messages of `proto/shmipc/rpc/v1/rpc.proto`; it is written and
//! read by hand here ([`head`]), so that a call allocates nothing for it. A test compares that with prost.

mod half;
mod head;
mod outgoing;
mod reader;
mod response;

use bytes::Buf;
use shmipc_transport::RecvBuf;

pub(crate) use self::{
    half::{Ending, HalfError, HalfSender},
    head::{
        Head, HeadRef, RequestHead, RequestHeadRef, ResponseHead, ResponseHeadRef, Trailers,
        TrailersRef,
    },
    outgoing::{FrameTooLarge, Outgoing},
    response::ResponseFrame,
};
use crate::Status;

/// The length of what comes before the head.
pub(crate) const PREFIX_LEN: usize = 8;

/// What a frame does to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) const NONE: Self = Self(0);
    /// Begins the sender's half of the call; the head is a request or response head.
    pub(crate) const OPEN: Self = Self(1);
    /// Carries a message. Without it, the message length is zero.
    pub(crate) const MESSAGE: Self = Self(2);
    /// Ends the sender's half of the call.
    pub(crate) const END: Self = Self(4);
    /// Carries trailers: in the response head if `OPEN` is set as well, else they are the head.
    pub(crate) const TRAILERS: Self = Self(8);
    /// Gives the call up.
    pub(crate) const CANCEL: Self = Self(16);

    /// A whole half of a unary call.
    pub(crate) const UNARY: Self = Self(Self::OPEN.0 | Self::MESSAGE.0 | Self::END.0);

    const ALL: Self = Self(0b1_1111);

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) message_len: u32,
    pub(crate) head_len: u16,
    pub(crate) flags: Flags,
}

impl Prefix {
    pub(crate) fn encode(self) -> [u8; PREFIX_LEN] {
        let [m0, m1, m2, m3] = self.message_len.to_le_bytes();
        let [h0, h1] = self.head_len.to_le_bytes();
        [m0, m1, m2, m3, h0, h1, self.flags.0, 0]
    }

    pub(crate) fn decode(bytes: [u8; PREFIX_LEN]) -> Result<Self, InvalidFrame> {
        let [m0, m1, m2, m3, h0, h1, flags, zero] = bytes;
        if flags & !Flags::ALL.0 != 0 || zero != 0 {
            return Err(InvalidFrame::ReservedBits { flags, zero });
        }
        Ok(Self {
            message_len: u32::from_le_bytes([m0, m1, m2, m3]),
            head_len: u16::from_le_bytes([h0, h1]),
            flags: Flags(flags),
        })
    }

    /// Checks the lengths against that of the frame (R1), and returns the length of the head.
    fn check(self, frame_len: usize) -> Result<usize, InvalidFrame> {
        let head_len = usize::from(self.head_len);
        // On every supported target a `usize` holds the sum of a `u32` and a `u16`.
        let prefix_says = PREFIX_LEN + head_len + self.message_len as usize;
        if frame_len != prefix_says {
            return Err(InvalidFrame::WrongLength {
                len: frame_len,
                prefix_says,
            });
        }
        if !self.flags.contains(Flags::MESSAGE) && self.message_len != 0 {
            return Err(InvalidFrame::UnflaggedMessage);
        }
        Ok(head_len)
    }
}

/// Takes the first frame off a message of the transport, in which several may follow each other (R1).
///
/// What cannot be told apart is taken as one frame, which [`open`] refuses.
pub(crate) fn take_first(message: &mut RecvBuf) -> RecvBuf {
    if let Some((prefix, _)) = message.chunk().split_first_chunk()
        && let Ok(prefix) = Prefix::decode(*prefix)
    {
        let len = PREFIX_LEN + usize::from(prefix.head_len) + prefix.message_len as usize;
        if len < message.len() {
            return message.split_to(len);
        }
    }
    std::mem::take(message)
}

/// Returns the first message in `frames`, and the length of its frame, if that holds nothing else and lies in one piece, and the message
/// is so short that all of it would be copied to be owned: then it may as well be decoded where it lies.
pub(crate) fn first_short(frames: &RecvBuf, len_max: usize) -> Option<(&[u8], usize)> {
    let (prefix, rest) = frames.chunk().split_first_chunk()?;
    let prefix = Prefix::decode(*prefix).ok()?;
    let len = prefix.message_len as usize;
    let is_short = len < RecvBuf::SHARED_MIN && len <= len_max;
    if prefix.flags != Flags::MESSAGE || prefix.head_len != 0 || !is_short {
        return None;
    }
    Some((rest.get(..len)?, PREFIX_LEN + len))
}

/// Takes prefix and head off `frame`, which then holds exactly the message.
///
/// `read_head` sees the head in place.
pub(crate) fn open<R>(
    frame: &mut impl Buf,
    read_head: impl FnOnce(Prefix, &[u8]) -> Result<R, InvalidFrame>,
) -> Result<R, InvalidFrame> {
    let len = frame.remaining();
    if let Some((prefix, rest)) = frame.chunk().split_first_chunk() {
        let prefix = Prefix::decode(*prefix)?;
        let head_len = prefix.check(len)?;
        if let Some(head) = rest.get(..head_len) {
            let read = read_head(prefix, head)?;
            frame.advance(PREFIX_LEN + head_len);
            return Ok(read);
        }
    }
    // The first piece ends early, which is not forbidden.
    let mut prefix = [0; PREFIX_LEN];
    frame
        .try_copy_to_slice(&mut prefix)
        .map_err(|_| InvalidFrame::TooShort { len })?;
    let prefix = Prefix::decode(prefix)?;
    let head_len = prefix.check(len)?;
    read_head(prefix, &frame.copy_to_bytes(head_len))
}

/// Takes the prefix off a frame that is all of a response, with a message and nothing else. Returns `false`, having done nothing, if it
/// is another one.
///
/// Most responses are such. For them, this is what [`open`] does.
pub(crate) fn open_plain(frame: &mut RecvBuf) -> bool {
    let Some((prefix, _)) = frame.chunk().split_first_chunk() else {
        return false;
    };
    let is_plain = Prefix::decode(*prefix)
        .is_ok_and(|prefix| prefix.flags == Flags::UNARY && prefix.check(frame.len()) == Ok(0));
    if is_plain {
        frame.advance(PREFIX_LEN);
    }
    is_plain
}

/// The status for a message that is longer than the limit (R8).
pub(crate) fn message_too_large(len: usize, max: usize) -> Status {
    FrameTooLarge::Message { len, max }.into()
}

/// Why a frame was refused: the peer does not speak the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidFrame {
    #[error("a frame of {len} bytes is shorter than its prefix")]
    TooShort { len: usize },
    #[error("a frame has {len} bytes, but its prefix says {prefix_says}")]
    WrongLength { len: usize, prefix_says: usize },
    #[error("a frame has reserved bits set (flags {flags:#04x}, last byte {zero:#04x})")]
    ReservedBits { flags: u8, zero: u8 },
    #[error("a frame has a message, but not the flag that announces it")]
    UnflaggedMessage,
    #[error("a frame with these flags cannot come now ({0:?})")]
    UnexpectedFlags(Flags),
    #[error("the head ends early")]
    HeadTruncated,
    #[error("the head has a number that is too long")]
    HeadVarint,
    #[error("the head has a field key that is none ({0:#x})")]
    HeadKey(u64),
    #[error("field {field} of the head has the wire type {wire_type}")]
    HeadWireType { field: u32, wire_type: u8 },
    #[error("field {field} of the head is not UTF-8")]
    HeadNotUtf8 { field: u32 },
    #[error("metadata has a key that is not a lower-case header name")]
    MetadataKey,
    #[error("metadata has a value that is not a header value")]
    MetadataValue,
    #[error("there are more metadata values than a header map can hold")]
    MetadataTooMany,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_that_travel_together_are_told_apart() {
        let frame = |message: &'static [u8]| {
            let prefix = Prefix {
                message_len: u32::try_from(message.len()).unwrap(),
                head_len: 0,
                flags: Flags::MESSAGE,
            };
            frame(prefix.encode(), message)
        };
        let parts = [frame(b"one"), frame(b""), frame(b"three")];
        let mut message = RecvBuf::from(Bytes::from(parts.concat()));
        for part in parts {
            let mut first = take_first(&mut message);
            assert_eq!(first.copy_to_bytes(first.len()), part);
        }
        assert!(message.is_empty());
        // What cannot be told apart stays in one piece, and is refused.
        let mut rest = RecvBuf::from(Bytes::from_static(&[9, 0, 0, 0, 0, 0, 2, 0, 1]));
        let mut first = take_first(&mut rest);
        assert!(rest.is_empty());
        assert!(open(&mut first, |_, _| Ok(())).is_err());
    }

    fn frame(prefix: [u8; PREFIX_LEN], rest: &[u8]) -> Vec<u8> {
        [&prefix[..], rest].concat()
    }

    #[test]
    fn a_frame_must_be_as_long_as_it_says() {
        let prefix = Prefix {
            message_len: 3,
            head_len: 2,
            flags: Flags::UNARY,
        }
        .encode();
        for len in 0..8 {
            let read = open(&mut &vec![0; len][..], |_, _| Ok(()));
            assert_eq!(read, Err(InvalidFrame::TooShort { len }));
        }
        for len in (0..8).filter(|&len| len != 5) {
            let read = open(&mut &frame(prefix, &vec![0; len])[..], |_, _| Ok(()));
            assert_eq!(
                read,
                Err(InvalidFrame::WrongLength {
                    len: len + 8,
                    prefix_says: 13
                })
            );
        }
    }

    #[test]
    fn the_head_is_seen_whole_even_if_it_lies_in_pieces() {
        let prefix = Prefix {
            message_len: 1,
            head_len: 4,
            flags: Flags::UNARY,
        }
        .encode();
        let whole = frame(prefix, b"headm");
        for split in 0..whole.len() {
            let (mut first, mut second) = (&whole[..split], &whole[split..]);
            let mut pieces = (&mut first).chain(&mut second);
            let head = open(&mut pieces, |_, head| Ok(Bytes::copy_from_slice(head)));
            assert_eq!(head.as_deref(), Ok(&b"head"[..]));
            assert_eq!(pieces.copy_to_bytes(1), "m");
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        let read = Prefix::decode([0, 0, 0, 0, 0, 0, 32, 0]);
        assert_eq!(read, Err(InvalidFrame::ReservedBits { flags: 32, zero: 0 }));
        let read = Prefix::decode([0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(read, Err(InvalidFrame::ReservedBits { flags: 0, zero: 1 }));
    }

    #[test]
    fn a_message_needs_its_flag() {
        let prefix = Prefix {
            message_len: 1,
            head_len: 0,
            flags: Flags::END,
        }
        .encode();
        assert_eq!(
            open(&mut &frame(prefix, b"m")[..], |_, _| Ok(())),
            Err(InvalidFrame::UnflaggedMessage)
        );
    }

    proptest! {
        /// The oracle is how any frame is opened.
        #[test]
        fn a_plain_response_is_opened_as_any_other(
            flags in prop_oneof![Just(Flags::UNARY.0), 0u8..64],
            head_len in prop_oneof![Just(0u16), 0u16..4],
            message_len in 0u32..20,
            len in prop_oneof![Just(None), (0usize..30).prop_map(Some)],
        ) {
            let prefix = Prefix { message_len, head_len, flags: Flags(flags) };
            let mut bytes = frame(prefix.encode(), &[0; 40]);
            bytes.truncate(len.unwrap_or(PREFIX_LEN + usize::from(head_len) + message_len as usize));
            let mut plain = RecvBuf::from(Bytes::from(bytes.clone()));
            let mut any = RecvBuf::from(Bytes::from(bytes.clone()));
            if open_plain(&mut plain) {
                let read = open(&mut any, ResponseFrame::read).expect("it is a response");
                prop_assert!(read.opening.is_some_and(|metadata| metadata.is_empty()));
                prop_assert!(read.has_message && matches!(read.ending, Some(Ok(None))));
                prop_assert_eq!(plain.len(), any.len());
            } else {
                prop_assert_eq!(plain.len(), bytes.len(), "nothing was done");
                let is_whole = bytes.len() == PREFIX_LEN + message_len as usize;
                prop_assert!(flags != Flags::UNARY.0 || head_len != 0 || !is_whole);
            }
        }

        /// The oracle is how frames that travel together are told apart, and opened.
        #[test]
        fn a_short_message_is_found_where_it_lies(
            flags in prop_oneof![Just(Flags::MESSAGE.0), 0u8..64],
            head_len in prop_oneof![Just(0u16), 0u16..4],
            message_len in prop_oneof![0u32..20, 250u32..260],
            len_max in prop_oneof![Just(usize::MAX), 0usize..30],
            followed in 0usize..20,
            missing in prop_oneof![Just(0usize), 0usize..30],
        ) {
            let prefix = Prefix { message_len, head_len, flags: Flags(flags) };
            let frame_len = PREFIX_LEN + usize::from(head_len) + message_len as usize;
            let mut bytes = frame(prefix.encode(), &[7; 300]);
            bytes.truncate((frame_len + followed).saturating_sub(missing));
            let mut frames = RecvBuf::from(Bytes::from(bytes));
            let found = first_short(&frames, len_max).map(|(message, len)| (Bytes::copy_from_slice(message), len));
            let mut first = take_first(&mut frames);
            let first_len = first.len();
            let opened = open(&mut first, |prefix, _| Ok(prefix.flags));
            match found {
                Some((message, len)) => {
                    prop_assert_eq!(len, first_len);
                    prop_assert_eq!(opened, Ok(Flags::MESSAGE));
                    prop_assert_eq!(first.copy_to_bytes(first.len()), message);
                }
                None => {
                    let is_other = opened != Ok(Flags::MESSAGE) || head_len != 0;
                    prop_assert!(is_other || len_max.min(RecvBuf::SHARED_MIN - 1) < first.len());
                }
            }
        }

        #[test]
        fn prefix_round_trips(message_len: u32, head_len: u16, flags in 0u8..32) {
            let prefix = Prefix { message_len, head_len, flags: Flags(flags) };
            prop_assert_eq!(Prefix::decode(prefix.encode()), Ok(prefix));
        }
    }
}
