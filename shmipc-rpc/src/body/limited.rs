//! How long messages may be that nobody has encoded yet, or that somebody else has.

use super::{Body, Payload, measured::Measured};

impl Body {
    /// Tells those who send the messages how long one may be, and makes what somebody else has framed fail instead of passing a
    /// longer one on. Of all others, HTTP/2 [looks](Self::poll_limited_frame) at each.
    #[cfg(feature = "grpc")]
    pub(crate) fn limited(mut self, message_len_max: usize) -> Self {
        match self.payload {
            Payload::Messages(ref mut messages) => {
                messages.get_mut().as_mut().limit(message_len_max);
            }
            // No message is longer than its prefix can say.
            Payload::Foreign(body) if u32::try_from(message_len_max).is_ok() => {
                self.payload = Payload::Foreign(Box::pin(Measured::new(body, message_len_max)));
            }
            _ => {}
        }
        self
    }
}
