//! Calls that HTTP/2 could not carry.

use std::{error::Error, iter};

use crate::{Code, Status};

/// Returns the first error of that type, of this and all that are behind it.
fn find<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let chain = iter::successors(Some(error as &(dyn Error + 'static)), |&error| {
        error.source()
    });
    chain.into_iter().find_map(|error| error.downcast_ref())
}

/// How a server says that it has not looked at a request, nor will (RFC 9113, section 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has reset just this one.
    Reset,
    /// It is going away, and names the last request that it has looked at. Those fail otherwise, if at all.
    ///
    /// A request that was begun in the very moment when it said so looks the same, though it may still be looked at.
    GoAway,
}

impl Refusal {
    pub(super) fn of(error: &hyper::Error) -> Option<Self> {
        let error = find::<h2::Error>(error).filter(|error| error.is_remote())?;
        if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            Some(Self::Reset)
        } else {
            error.is_go_away().then_some(Self::GoAway)
        }
    }
}

/// Finds out what a call comes to that HTTP/2 could not carry.
pub(super) fn status_of(error: hyper::Error) -> Status {
    // The body of the request has failed; its own error says why.
    if let Some(status) = find::<Status>(&error) {
        return status.clone();
    }
    let reset = find::<h2::Error>(&error).filter(|error| error.is_reset());
    let reason = reset.and_then(h2::Error::reason);
    let (code, message) = match reason {
        // Not the server's word, but ours on what it has sent.
        Some(reason) if reset.is_some_and(h2::Error::is_library) => (
            Code::Internal,
            format!(
                "the response has more headers than `max_header_list_size` allows, or is malformed: {reason}"
            ),
        ),
        Some(reason) => (
            code_of(reason),
            format!("the server reset the call: {reason}"),
        ),
        None => (
            Code::Unavailable,
            "the connection ended before the call did".to_owned(),
        ),
    };
    Status::new(code, message).with_source(error)
}

/// As the protocol of gRPC over HTTP/2 has it.
fn code_of(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}
