//! Records that are no messages.

use crate::core::{
    num::{RegionId, StreamId},
    outbox::{Kind, RecordHead},
};

/// A record that is not a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    Reset {
        stream: StreamId,
        code: u32,
    },
    Credit {
        stream: StreamId,
        messages: u32,
        bytes: u32,
    },
    GoAway,
    Bye,
    RegionAdded {
        id: RegionId,
        len: u32,
    },
    RegionDropped {
        id: RegionId,
    },
    Return {
        token: u32,
    },
    Ping {
        nonce: u64,
    },
    Pong {
        nonce: u64,
    },
}

impl Control {
    /// Its head and its body, of which the head says how much there is.
    pub(super) fn encode(self) -> (RecordHead, [u8; 8]) {
        let none = StreamId(0);
        let (kind, stream, words, len) = match self {
            Self::Reset { stream, code } => (Kind::Reset, stream, [code, 0], 4),
            Self::Credit {
                stream,
                messages,
                bytes,
            } => (Kind::Credit, stream, [messages, bytes], 8),
            Self::GoAway => (Kind::GoAway, none, [0, 0], 0),
            Self::Bye => (Kind::Bye, none, [0, 0], 0),
            Self::RegionAdded { id, len } => (Kind::RegionAdded, none, [id.0, len], 8),
            Self::RegionDropped { id } => (Kind::RegionDropped, none, [id.0, 0], 4),
            Self::Return { token } => (Kind::Return, none, [token, 0], 4),
            Self::Ping { nonce } => (Kind::Ping, none, split(nonce), 8),
            Self::Pong { nonce } => (Kind::Pong, none, split(nonce), 8),
        };
        let mut body = [0; 8];
        body[..4].copy_from_slice(&words[0].to_ne_bytes());
        body[4..].copy_from_slice(&words[1].to_ne_bytes());
        (RecordHead::control(kind, stream, len), body)
    }
}

/// The low and the high half of `word`.
fn split(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}
