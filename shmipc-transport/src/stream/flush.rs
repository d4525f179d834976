//! Whether more follows a message, and how that is said.

use crate::core::outbox::flags;

/// Whether more follows a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flush {
    /// More messages may follow.
    More,
    /// This is the last message. The peer's side of the stream stays open.
    End,
}

/// The flags of the record that carries a message, or the end alone.
pub(super) fn record_flags(has_message: bool, flush: Flush) -> u16 {
    let message = if has_message { flags::MESSAGE } else { 0 };
    let end = if flush == Flush::End { flags::END } else { 0 };
    message | end
}
