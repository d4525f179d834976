//! What an element says between two of our own processes, in the bytes of its status that others leave alone.
//!
//! ```text
//! status: | argument (16 bits) | kind (8 bits) | state of the stream, always 0 (8 bits) |
//! ```
//!
//! The status of a message on the socket says the same, with the kinds that concern messages. What must not overtake those is said there
//! as well: resets of their streams, and whatever says that nothing came before that has not been heard of.

use crate::{
    core::{
        num::StreamId,
        outbox::flags,
        shmipc::{Element, InvalidShmipc, frames::Frame, state},
    },
    link::Control,
};

/// The kinds of records. The first is what others send as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    Message = 0,
    /// A message, and the sender sends no more on the stream.
    LastMessage = 1,
    /// The sender sends no more on the stream.
    End = 2,
    /// A message of no bytes.
    EmptyMessage = 3,
    LastEmptyMessage = 4,
    Reset = 5,
    Credit = 6,
    GoAway = 7,
    Bye = 8,
    Ping = 9,
    Pong = 10,
}

const KINDS: [Kind; 11] = [
    Kind::Message,
    Kind::LastMessage,
    Kind::End,
    Kind::EmptyMessage,
    Kind::LastEmptyMessage,
    Kind::Reset,
    Kind::Credit,
    Kind::GoAway,
    Kind::Bye,
    Kind::Ping,
    Kind::Pong,
];

/// What an element says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Record {
    /// A message that lies at `offset` (`None`: an empty one, or none at all), and whether it is the last.
    Message {
        offset: Option<u32>,
        is_message: bool,
        end: bool,
    },
    Reset {
        code: u32,
    },
    Credit {
        messages: u32,
        bytes: u32,
    },
    GoAway,
    Bye,
    Ping {
        nonce: u64,
    },
    Pong {
        nonce: u64,
    },
}

/// The status word of a message with these flags of a record.
pub(super) fn status_of(record_flags: u16, is_empty: bool) -> u32 {
    let is_message = record_flags & flags::MESSAGE != 0;
    let end = record_flags & flags::END != 0;
    let kind = match (is_message, is_empty, end) {
        (true, false, false) => Kind::Message,
        (true, false, true) => Kind::LastMessage,
        (true, true, false) => Kind::EmptyMessage,
        (true, true, true) => Kind::LastEmptyMessage,
        (false, ..) => Kind::End,
    };
    state::OPEN | (kind as u32) << 8
}

impl Record {
    /// Reads what one of our own says.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc::Status`] if there is no such record.
    pub(super) fn of(element: &Element) -> Result<Self, InvalidShmipc> {
        let Element {
            stream,
            offset,
            status,
        } = *element;
        let wrong = InvalidShmipc::Status { status };
        let [low, kind, ..] = status.to_le_bytes();
        if u32::from(low) != state::OPEN {
            return Err(wrong);
        }
        let nonce = u64::from(stream) | u64::from(offset) << 32;
        let message = |offset, is_message, end| Self::Message {
            offset,
            is_message,
            end,
        };
        let kind = KINDS.into_iter().find(|&known| known as u8 == kind);
        Ok(match kind.ok_or(wrong)? {
            Kind::Message => message(Some(offset), true, false),
            Kind::LastMessage => message(Some(offset), true, true),
            Kind::End => message(None, false, true),
            Kind::EmptyMessage => message(None, true, false),
            Kind::LastEmptyMessage => message(None, true, true),
            Kind::Reset => Self::Reset { code: offset },
            Kind::Credit => Self::Credit {
                messages: status >> 16,
                bytes: offset,
            },
            Kind::GoAway => Self::GoAway,
            Kind::Bye => Self::Bye,
            Kind::Ping => Self::Ping { nonce },
            Kind::Pong => Self::Pong { nonce },
        })
    }
}

/// The most messages that one record can grant.
const GRANT_MAX: u32 = u16::MAX as u32;

/// Puts a control record into the form of an element. What is left of it needs another.
pub(super) fn element_of(control: Control) -> Option<(Element, Option<Control>)> {
    let element = |stream: u32, offset: u32, kind: Kind, argument: u32| Element {
        stream,
        offset,
        status: state::OPEN | (kind as u32) << 8 | argument << 16,
    };
    let halves = |nonce: u64| {
        let [a, b, c, d, e, f, g, h] = nonce.to_le_bytes();
        (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        )
    };
    Some(match control {
        Control::Reset { stream, code } => (element(wire_id(stream), code, Kind::Reset, 0), None),
        Control::Credit {
            stream,
            messages,
            bytes,
        } => {
            let now = messages.min(GRANT_MAX);
            let rest = (now < messages).then_some(Control::Credit {
                stream,
                messages: messages - now,
                bytes: 0,
            });
            (element(wire_id(stream), bytes, Kind::Credit, now), rest)
        }
        Control::GoAway => (element(0, 0, Kind::GoAway, 0), None),
        Control::Bye => (element(0, 0, Kind::Bye, 0), None),
        Control::Ping { nonce } => {
            let (low, high) = halves(nonce);
            (element(low, high, Kind::Ping, 0), None)
        }
        Control::Pong { nonce } => {
            let (low, high) = halves(nonce);
            (element(low, high, Kind::Pong, 0), None)
        }
        // These concern our own link alone.
        Control::RegionAdded { .. } | Control::RegionDropped { .. } | Control::Return { .. } => {
            return None;
        }
    })
}

/// What an element would say, as a frame that follows messages over the socket: its offset is in the place of a payload.
pub(super) fn frame_of(element: &Element) -> Frame {
    Frame::Fallback {
        stream: element.stream,
        status: element.status,
        payload: element.offset.to_be_bytes().to_vec(),
    }
}

/// The offset in the place of a payload.
pub(super) fn offset_in(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// A stream's id as elements have it: the table hands out no longer ones.
pub(super) fn wire_id(stream: StreamId) -> u32 {
    u32::try_from(stream.0).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(control: Control) -> Vec<Record> {
        let mut next = Some(control);
        std::iter::from_fn(|| {
            let (element, rest) = element_of(next.take()?)?;
            next = rest;
            Some(Record::of(&element).unwrap())
        })
        .collect()
    }

    #[test]
    fn what_is_said_is_heard() {
        let stream = StreamId(7);
        let nonce = 0x0123_4567_89ab_cdef;
        assert_eq!(
            said(Control::Reset { stream, code: 9 }),
            [Record::Reset { code: 9 }]
        );
        assert_eq!(said(Control::GoAway), [Record::GoAway]);
        assert_eq!(said(Control::Bye), [Record::Bye]);
        assert_eq!(said(Control::Ping { nonce }), [Record::Ping { nonce }]);
        assert_eq!(said(Control::Pong { nonce }), [Record::Pong { nonce }]);
        let grant = Control::Credit {
            stream,
            messages: 65_536,
            bytes: u32::MAX,
        };
        assert_eq!(
            said(grant),
            [
                Record::Credit {
                    messages: 65_535,
                    bytes: u32::MAX
                },
                Record::Credit {
                    messages: 1,
                    bytes: 0
                },
            ]
        );
    }

    #[test]
    fn messages_say_whether_they_are_the_last() {
        for (record_flags, is_empty) in [
            (flags::MESSAGE, false),
            (flags::MESSAGE | flags::END, false),
            (flags::MESSAGE, true),
            (flags::MESSAGE | flags::END, true),
            (flags::END, true),
        ] {
            let element = Element {
                stream: 2,
                offset: 44,
                status: status_of(record_flags, is_empty),
            };
            let expected = Record::Message {
                offset: (!is_empty).then_some(44),
                is_message: record_flags & flags::MESSAGE != 0,
                end: record_flags & flags::END != 0,
            };
            assert_eq!(Record::of(&element), Ok(expected));
        }
        assert_eq!(status_of(flags::MESSAGE, false), 0, "what others say");
    }

    #[test]
    fn what_nobody_says_ends_the_session() {
        for status in [1, 2, 11 << 8, 0xff00] {
            let element = Element {
                status,
                ..Element::default()
            };
            assert_eq!(Record::of(&element), Err(InvalidShmipc::Status { status }));
        }
    }
}
