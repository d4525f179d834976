//! How a response ends, as far as its body is concerned.

use http_body::Body as _;

use super::{Body, End, Payload};

impl Body {
    /// Notes that the head of the response has said that all went well, so that nothing is missing if no trailers follow.
    pub(crate) fn end_well(&mut self) {
        match &self.payload {
            Payload::Empty if matches!(self.end, End::None) => self.end = End::Ok,
            Payload::Foreign(body) if body.is_end_stream() => {
                self.payload = Payload::Empty;
                self.end = End::Ok;
            }
            _ => {}
        }
    }
}
