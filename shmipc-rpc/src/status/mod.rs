//! How a call ended, if not well.

mod code;
mod convert;
#[cfg(feature = "error-details")]
pub mod details;

use std::{error::Error, fmt};

use bytes::Bytes;
use http::HeaderMap;

use crate::error::{BoxError, SharedError};

pub use self::code::Code;
pub(crate) use self::convert::remove_status_headers;

/// Why a call failed: a [`Code`], a message for people, and optionally details for programs.
///
/// It is as large as a pointer, so a `Result<_, Status>` is cheap to return.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Code, Status};
///
/// let status = Status::not_found("no such digest");
/// assert_eq!(status.code(), Code::NotFound);
/// assert_eq!(status.to_string(), "NOT_FOUND: no such digest");
/// ```
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    details: Bytes,
    metadata: HeaderMap,
    source: Option<SharedError>,
    /// Whether the call has certainly not left this process.
    unsent: bool,
}

impl Status {
    /// Makes a status from a code and a message for people.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            details: Bytes::new(),
            metadata: HeaderMap::new(),
            source: None,
            unsent: false,
        }))
    }

    /// Makes a status that also carries details for programs, which are sent as they are.
    ///
    /// By convention they are an encoded `google.rpc.Status`, which the module `error_details`, of the feature of that name, reads
    /// and writes.
    #[must_use]
    pub fn with_details(code: Code, message: impl Into<String>, details: impl Into<Bytes>) -> Self {
        let mut status = Self::new(code, message);
        status.0.details = details.into();
        status
    }

    /// Attaches metadata, which is sent along.
    #[must_use]
    pub fn with_metadata(mut self, metadata: HeaderMap) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// Attaches the error that led to this status. It is not sent.
    ///
    /// Takes any error, a boxed one, or an `Arc<dyn Error + Send + Sync>`, which is shared.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{error::Error, fs};
    ///
    /// use shmipc_rpc::Status;
    ///
    /// let error = fs::read("/nowhere").unwrap_err();
    /// let status = Status::data_loss("the catalogue is gone").with_source(error);
    /// assert!(status.source().is_some());
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        // Not an error about an error, which nobody could downcast.
        let source = match source.into().downcast::<SharedError>() {
            Ok(shared) => *shared,
            Err(source) => source.into(),
        };
        self.0.source = Some(source);
        self
    }

    /// Notes that the call has certainly not left this process, so that it does no harm to make it again.
    #[must_use]
    pub(crate) fn unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    /// Whether the call has certainly not left this process.
    pub(crate) fn is_unsent(&self) -> bool {
        self.0.unsent
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Returns the message for people. It may be empty.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the details for programs. They may be empty.
    #[must_use]
    pub fn details(&self) -> &Bytes {
        &self.0.details
    }

    /// Returns the metadata that came, or will be sent, with this status.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        &self.0.metadata
    }

    /// Returns the error that led to this status.
    #[cfg(feature = "tonic")]
    pub(crate) fn shared_source(&self) -> Option<SharedError> {
        self.0.source.clone()
    }

    /// Returns the metadata that came, or will be sent, with this status, to be changed.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.metadata
    }

    /// Returns the status without what may have made it too large to be sent.
    pub(crate) fn shortened(&self) -> Self {
        const MESSAGE_LEN_MAX: usize = 4096;

        let message = self.message();
        if message.len() <= MESSAGE_LEN_MAX {
            return Self::new(self.code(), message);
        }
        let fits = |&end: &usize| message.is_char_boundary(end);
        let end = (0..=MESSAGE_LEN_MAX).rev().find(fits).unwrap_or(0);
        Self::new(self.code(), format!("{}…", &message[..end]))
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        impl Status {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(message: impl Into<String>) -> Self {
                    Self::new(Code::$code, message)
                }
            )*
        }
    };
}

constructors! {
    /// Makes a status of code [`Code::Cancelled`].
    cancelled => Cancelled;
    /// Makes a status of code [`Code::Unknown`].
    unknown => Unknown;
    /// Makes a status of code [`Code::InvalidArgument`].
    invalid_argument => InvalidArgument;
    /// Makes a status of code [`Code::DeadlineExceeded`].
    deadline_exceeded => DeadlineExceeded;
    /// Makes a status of code [`Code::NotFound`].
    not_found => NotFound;
    /// Makes a status of code [`Code::AlreadyExists`].
    already_exists => AlreadyExists;
    /// Makes a status of code [`Code::PermissionDenied`].
    permission_denied => PermissionDenied;
    /// Makes a status of code [`Code::ResourceExhausted`].
    resource_exhausted => ResourceExhausted;
    /// Makes a status of code [`Code::FailedPrecondition`].
    failed_precondition => FailedPrecondition;
    /// Makes a status of code [`Code::Aborted`].
    aborted => Aborted;
    /// Makes a status of code [`Code::OutOfRange`].
    out_of_range => OutOfRange;
    /// Makes a status of code [`Code::Unimplemented`].
    unimplemented => Unimplemented;
    /// Makes a status of code [`Code::Internal`].
    internal => Internal;
    /// Makes a status of code [`Code::Unavailable`].
    unavailable => Unavailable;
    /// Makes a status of code [`Code::DataLoss`].
    data_loss => DataLoss;
    /// Makes a status of code [`Code::Unauthenticated`].
    unauthenticated => Unauthenticated;
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut status = f.debug_struct("Status");
        status
            .field("code", &self.0.code)
            .field("message", &self.0.message);
        if !self.0.details.is_empty() {
            status.field("details", &self.0.details);
        }
        if !self.0.metadata.is_empty() {
            status.field("metadata", &self.0.metadata);
        }
        if let Some(source) = &self.0.source {
            status.field("source", source);
        }
        status.finish()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code.name())?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        Ok(())
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_status_is_as_large_as_a_pointer() {
        assert_eq!(size_of::<Status>(), size_of::<usize>());
        assert_eq!(size_of::<Result<u64, Status>>(), 16);
    }

    #[test]
    fn display_does_not_repeat_the_source() {
        let status = Status::unavailable("the server cannot be reached")
            .with_source(std::io::Error::other("refused"));
        assert_eq!(
            status.to_string(),
            "UNAVAILABLE: the server cannot be reached"
        );
        assert_eq!(
            status.source().expect("just attached").to_string(),
            "refused"
        );
    }

    #[test]
    fn a_source_is_what_was_attached() {
        let io = || std::io::Error::other("refused");
        let shared: SharedError = Arc::new(io());
        for status in [
            Status::unknown("").with_source(io()),
            Status::unknown("").with_source(BoxError::from(io())),
            Status::unknown("").with_source(shared),
        ] {
            let source = status.source().expect("just attached");
            assert!(source.is::<std::io::Error>(), "{source:?}");
        }
    }
}
