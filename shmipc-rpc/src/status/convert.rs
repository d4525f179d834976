//! A status from other errors, and from and to the headers of gRPC.

use std::{
    borrow::Cow,
    error::Error,
    io::{self, ErrorKind},
};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use shmipc_transport::AllocError;

use super::{Code, Status};
use crate::{
    Body,
    error::BoxError,
    grpc_headers::{MESSAGE, STATUS, STATUS_DETAILS},
    metadata::{self, BASE64},
};

/// What must be encoded in `grpc-message`, beside all that is not ASCII.
const MESSAGE_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

impl Status {
    /// Finds the status behind an error of a tower service.
    ///
    /// The error, and then each of its sources, is looked at: a [`Status`] is that status;
    /// tower's timeout is [`Code::DeadlineExceeded`]; its load shedding is [`Code::ResourceExhausted`].
    /// Anything else is [`Code::Unknown`], with the error as its source.
    #[must_use]
    pub fn from_error(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(status) => return *status,
            Err(error) => error,
        };
        let (code, message) = match recognise(&*error) {
            Some(Recognised::Status(status)) => return status,
            Some(Recognised::Code(code, message)) => (code, Cow::Borrowed(message)),
            None => (Code::Unknown, Cow::Owned(error.to_string())),
        };
        Self::new(code, message).with_source(error)
    }

    /// Makes a status of why no memory is lent.
    pub(crate) fn from_alloc(error: AllocError) -> Self {
        let code = match error {
            AllocError::SessionLost(_) => Code::Unavailable,
            _ => Code::ResourceExhausted,
        };
        Self::new(code, error.to_string()).with_source(error)
    }

    /// Reads the status out of the headers, or trailers, of a gRPC response.
    ///
    /// Everything else in `headers` becomes the metadata of the status. Returns `None` if there is no
    /// `grpc-status`. A number that is not a code, a message that is not percent-encoded UTF-8 and details
    /// that are not base64 are read as well as possible, as gRPC demands.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(STATUS)?;
        let code = code
            .to_str()
            .ok()
            .and_then(|code| code.parse().ok())
            .map_or(Code::Unknown, Code::from_u32);
        let message = headers
            .get(MESSAGE)
            .map(|message| {
                percent_decode(message.as_bytes())
                    .decode_utf8_lossy()
                    .into_owned()
            })
            .unwrap_or_default();
        let details = headers
            .get(STATUS_DETAILS)
            .and_then(|details| BASE64.decode(details.as_bytes()).ok())
            .map(Bytes::from)
            .unwrap_or_default();
        let mut metadata = headers.clone();
        metadata::remove_reserved(&mut metadata);
        Some(Self::with_details(code, message, details).with_metadata(metadata))
    }

    /// Returns the failure that a response tells of in its head, and removes it from there.
    ///
    /// `None` means that it is not a failure, or not yet: trailers may follow. If the head says that all went well, the body
    /// knows it from here on.
    pub(crate) fn of_response(response: &mut http::Response<Body>) -> Option<Self> {
        let says = !response.headers().is_empty() && response.headers().contains_key(STATUS);
        let status = Self::of_head(response.status(), response.headers_mut());
        if says && status.is_none() {
            response.body_mut().end_well();
        }
        status
    }

    /// Returns the failure that the head of a response tells of, and removes it from `headers`.
    pub(crate) fn of_head(http: http::StatusCode, headers: &mut HeaderMap) -> Option<Self> {
        if !headers.is_empty() && headers.contains_key(STATUS) {
            let status = Self::from_headers(headers).filter(|status| status.code() != Code::Ok);
            remove_status_headers(headers);
            return status;
        }
        if http == http::StatusCode::OK {
            return None;
        }
        Some(Self::new(
            Code::from_http(http),
            format!("the response has the HTTP status {http}"),
        ))
    }

    /// Returns this status as the headers, or trailers, of a gRPC response.
    #[must_use]
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = self.metadata().clone();
        metadata::remove_reserved(&mut headers);
        headers.insert(STATUS, HeaderValue::from_static(self.code().as_header()));
        if !self.message().is_empty() {
            let message: Cow<'_, str> =
                percent_encode(self.message().as_bytes(), MESSAGE_ENCODED).into();
            // Percent-encoding leaves visible ASCII and spaces only, which a value may hold.
            if let Ok(message) = HeaderValue::try_from(message.as_ref()) {
                headers.insert(MESSAGE, message);
            }
        }
        if !self.details().is_empty() {
            // Base64 is visible ASCII.
            if let Ok(details) = HeaderValue::try_from(BASE64.encode(self.details())) {
                headers.insert(STATUS_DETAILS, details);
            }
        }
        headers
    }

    /// Makes the gRPC response that consists of this status only.
    #[must_use]
    pub fn into_http<B: Default>(self) -> http::Response<B> {
        let mut response = http::Response::new(B::default());
        *response.headers_mut() = self.to_headers();
        response
    }
}

impl From<BoxError> for Status {
    fn from(error: BoxError) -> Self {
        Self::from_error(error)
    }
}

/// The kind of the error decides on the code, as in tonic; its text is the message, and the error the source.
///
/// | code | kinds |
/// |---|---|
/// | [`Code::Aborted`] | `ConnectionAborted` |
/// | [`Code::AlreadyExists`] | `AlreadyExists` |
/// | [`Code::DataLoss`] | `InvalidData` |
/// | [`Code::DeadlineExceeded`] | `TimedOut` |
/// | [`Code::Internal`] | `BrokenPipe`, `Interrupted`, `WouldBlock`, `WriteZero` |
/// | [`Code::InvalidArgument`] | `InvalidInput` |
/// | [`Code::NotFound`] | `NotFound` |
/// | [`Code::OutOfRange`] | `UnexpectedEof` |
/// | [`Code::PermissionDenied`] | `PermissionDenied` |
/// | [`Code::Unavailable`] | `AddrInUse`, `AddrNotAvailable`, `ConnectionRefused`, `ConnectionReset`, `NotConnected` |
/// | [`Code::Unknown`] | all others |
///
/// The message is sent, and may name paths of this host: make a status of your own where callers are not to learn them.
impl From<io::Error> for Status {
    fn from(error: io::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::AddrInUse
            | ErrorKind::AddrNotAvailable
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::NotConnected => Code::Unavailable,
            ErrorKind::AlreadyExists => Code::AlreadyExists,
            ErrorKind::BrokenPipe
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::WriteZero => Code::Internal,
            ErrorKind::ConnectionAborted => Code::Aborted,
            ErrorKind::InvalidData => Code::DataLoss,
            ErrorKind::InvalidInput => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::PermissionDenied => Code::PermissionDenied,
            ErrorKind::TimedOut => Code::DeadlineExceeded,
            ErrorKind::UnexpectedEof => Code::OutOfRange,
            _ => Code::Unknown,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}

impl From<std::convert::Infallible> for Status {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Removes what [`Status::to_headers`] adds.
pub(crate) fn remove_status_headers(headers: &mut HeaderMap) {
    if headers.is_empty() {
        return;
    }
    headers.remove(STATUS);
    headers.remove(MESSAGE);
    headers.remove(STATUS_DETAILS);
}

/// What an error turned out to be.
enum Recognised {
    Status(Status),
    Code(Code, &'static str),
}

/// Looks for an error that has a status of its own among `error` and its sources.
fn recognise(error: &(dyn Error + 'static)) -> Option<Recognised> {
    // A chain of sources that is longer than any sane one may be a circle.
    const SOURCES_MAX: usize = 32;

    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.take(SOURCES_MAX).find_map(|error| {
        if let Some(status) = error.downcast_ref::<Status>() {
            Some(Recognised::Status(status.clone()))
        } else if let Some(status) = recognise_tonic(error) {
            Some(Recognised::Status(status))
        } else if error.is::<tower::timeout::error::Elapsed>() {
            Some(Recognised::Code(
                Code::DeadlineExceeded,
                "the time allowed by a layer has passed",
            ))
        } else if error.is::<tower::load_shed::error::Overloaded>() {
            Some(Recognised::Code(
                Code::ResourceExhausted,
                "the service is overloaded",
            ))
        } else {
            None
        }
    })
}

/// Converts a status of tonic.
#[cfg(feature = "tonic")]
fn recognise_tonic(error: &(dyn Error + 'static)) -> Option<Status> {
    error
        .downcast_ref::<tonic::Status>()
        .map(|status| status.clone().into())
}

#[cfg(not(feature = "tonic"))]
fn recognise_tonic(_: &(dyn Error + 'static)) -> Option<Status> {
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] BoxError);

    #[test]
    fn the_kind_of_an_io_error_decides_on_the_code() {
        for (kind, code) in [
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::PermissionDenied, Code::PermissionDenied),
            (ErrorKind::ConnectionRefused, Code::Unavailable),
            (ErrorKind::TimedOut, Code::DeadlineExceeded),
            (ErrorKind::UnexpectedEof, Code::OutOfRange),
            (ErrorKind::BrokenPipe, Code::Internal),
            (ErrorKind::OutOfMemory, Code::Unknown),
        ] {
            let status = Status::from(io::Error::new(kind, "the disk"));
            assert_eq!((status.code(), status.message()), (code, "the disk"));
            let source = status.source().and_then(|source| source.downcast_ref());
            assert_eq!(source.map(io::Error::kind), Some(kind));
        }
    }

    #[test]
    fn a_status_is_found_behind_other_errors() {
        let status = Status::from_error(Box::new(Outer(Box::new(Status::aborted("inner")))));
        assert_eq!((status.code(), status.message()), (Code::Aborted, "inner"));

        let status = Status::from_error(Box::new(Outer(Box::new(
            tower::timeout::error::Elapsed::new(),
        ))));
        assert_eq!(status.code(), Code::DeadlineExceeded);

        let status = Status::from_error(Box::new(tower::load_shed::error::Overloaded::new()));
        assert_eq!(status.code(), Code::ResourceExhausted);

        let status = Status::from_error(Box::new(Outer("cause".into())));
        assert_eq!((status.code(), status.message()), (Code::Unknown, "outer"));
    }

    #[test]
    fn headers_without_a_status_are_no_status() {
        assert!(Status::from_headers(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_broken_status_is_read_as_well_as_possible() {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from_static("many"));
        headers.insert(MESSAGE, HeaderValue::from_static("100%"));
        headers.insert(STATUS_DETAILS, HeaderValue::from_static("!"));
        let status = Status::from_headers(&headers).expect("there is a grpc-status");
        assert_eq!((status.code(), status.message()), (Code::Unknown, "100%"));
        assert!(status.details().is_empty());
    }

    proptest! {
        #[test]
        fn headers_round_trip(code in 0u32..17, message: String, details: Vec<u8>) {
            let mut metadata = HeaderMap::new();
            metadata.insert("x-key", HeaderValue::from_static("value"));
            let status = Status::with_details(Code::from_u32(code), message, details).with_metadata(metadata);
            let read = Status::from_headers(&status.to_headers()).expect("there is a grpc-status");
            prop_assert_eq!(read.code(), status.code());
            prop_assert_eq!(read.message(), status.message());
            prop_assert_eq!(read.details(), status.details());
            prop_assert_eq!(read.metadata(), status.metadata());
        }
    }
}
