//! How long messages may be that somebody else has encoded.

use super::{Body, Payload, measured::Measured};

impl Body {
    /// Makes what somebody else has framed fail instead of passing a longer message on. Of all others, HTTP/2
    /// [looks](Self::poll_limited_frame) at each.
    #[cfg(feature = "grpc")]
    pub(crate) fn limited(mut self, message_len_max: usize) -> Self {
        match self.payload {
            // No message is longer than its prefix can say.
            Payload::Foreign(body) if u32::try_from(message_len_max).is_ok() => {
                self.payload = Payload::Foreign(Box::pin(Measured::new(body, message_len_max)));
            }
            _ => {}
        }
        self
    }
}
