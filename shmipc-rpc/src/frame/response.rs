//! What a frame from the server says.

use http::HeaderMap;

use super::{Flags, InvalidFrame, Prefix, ResponseHead, Trailers};
use crate::Status;

/// The head of a frame from the server, in any of its forms (R3).
#[derive(Debug)]
pub(crate) struct ResponseFrame {
    /// The metadata that opens the response.
    pub(crate) opening: Option<HeaderMap>,
    pub(crate) has_message: bool,
    /// How the call ended, if this is the last frame: the metadata of one that went well, if there is any.
    pub(crate) ending: Option<Result<Option<Box<HeaderMap>>, Status>>,
}

impl ResponseFrame {
    /// Reads the head of a frame with this prefix.
    pub(crate) fn read(prefix: Prefix, head: &[u8]) -> Result<Self, InvalidFrame> {
        let flags = prefix.flags;
        let unexpected = Err(InvalidFrame::UnexpectedFlags(flags));
        let mut frame = Self {
            opening: None,
            has_message: flags.contains(Flags::MESSAGE),
            ending: None,
        };
        if flags.contains(Flags::CANCEL) {
            frame.ending = Some(Err(Status::cancelled("the server gave the call up")));
            return Ok(frame);
        }
        let (ends, has_trailers) = (flags.contains(Flags::END), flags.contains(Flags::TRAILERS));
        if flags.contains(Flags::OPEN) {
            let ResponseHead { metadata, trailers } = ResponseHead::decode(head)?;
            frame.opening = Some(metadata);
            // One message and nothing to add is how a unary response ends.
            if ends && (has_trailers || frame.has_message) {
                let trailers = trailers.filter(|_| has_trailers);
                frame.ending = Some(trailers.map_or(Ok(None), |trailers| ending(*trailers)));
            }
        } else if has_trailers && ends {
            frame.ending = Some(ending(Trailers::decode(head)?));
        } else if !frame.has_message {
            return unexpected;
        }
        if frame.ending.is_some() == ends && (ends || !has_trailers) {
            Ok(frame)
        } else {
            unexpected
        }
    }
}

fn ending(trailers: Trailers) -> Result<Option<Box<HeaderMap>>, Status> {
    let metadata = trailers.into_result()?;
    Ok((!metadata.is_empty()).then(|| Box::new(metadata)))
}
