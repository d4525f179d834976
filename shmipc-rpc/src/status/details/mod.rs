//! The customary details of errors, as `google.rpc` defines them.
//!
//! A [`Status`] carries details for programs as bytes. By convention of gRPC these are a `google.rpc.Status`, which holds any
//! number of messages; [`ErrorDetails`] is that list, sorted by type. Every implementation of gRPC understands it.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! use shmipc_rpc::{Code, Status, error_details::ErrorDetails};
//!
//! // The server says what is wrong, and when to come back.
//! let details = ErrorDetails::new()
//!     .with_bad_request("order.count", "must not be zero")
//!     .with_retry_after(Duration::from_millis(50));
//! let status = Status::with_error_details(Code::InvalidArgument, "the order cannot be taken", details);
//!
//! // The client looks at what it knows how to handle.
//! let details = status.error_details();
//! let wrong = &details.bad_request.as_ref().expect("just attached").field_violations[0];
//! assert_eq!(wrong.field, "order.count");
//! assert_eq!(details.retry_after(), Some(Duration::from_millis(50)));
//! ```

use std::time::Duration;

use prost::{DecodeError, Message, Name};
use prost_types::Any;

use super::{Code, Status};

// Made by shmipc-codegen. A test of the workspace compares it with `proto/google/rpc`.
#[rustfmt::skip]
mod google_rpc;

pub use self::google_rpc::{
    BadRequest, DebugInfo, ErrorInfo, Help, LocalizedMessage, PreconditionFailure, QuotaFailure,
    RequestInfo, ResourceInfo, RetryInfo, Status as RpcStatus, bad_request, help,
    precondition_failure, quota_failure,
};

/// The details of a [`Status`]: at most one message of each customary type, and any others.
///
/// Reading and writing it costs a few allocations per message. A status without details costs nothing.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorDetails {
    /// The cause, for programs to act upon.
    pub error_info: Option<ErrorInfo>,
    /// When to try again.
    pub retry_info: Option<RetryInfo>,
    /// What helps to find a fault.
    pub debug_info: Option<DebugInfo>,
    /// Which quotas were exceeded.
    pub quota_failure: Option<QuotaFailure>,
    /// Which preconditions do not hold.
    pub precondition_failure: Option<PreconditionFailure>,
    /// What is wrong with the request.
    pub bad_request: Option<BadRequest>,
    /// Names the request when somebody reports the error.
    pub request_info: Option<RequestInfo>,
    /// What was being accessed.
    pub resource_info: Option<ResourceInfo>,
    /// Where to read on.
    pub help: Option<Help>,
    /// A message that may be shown to the user.
    pub localized_message: Option<LocalizedMessage>,
    /// Messages of any other type, and further ones of the types above.
    pub other: Vec<Any>,
}

impl ErrorDetails {
    /// Begins with no details.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the cause: a constant, and the domain whose constant it is.
    #[must_use]
    pub fn with_error_info(
        mut self,
        reason: impl Into<String>,
        domain: impl Into<String>,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        self.error_info = Some(ErrorInfo {
            reason: reason.into(),
            domain: domain.into(),
            metadata: metadata.into_iter().collect(),
        });
        self
    }

    /// Sets how long the caller should wait before it tries again. What is longer than a `google.protobuf.Duration` can be
    /// (10,000 years) becomes that.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        // The bound is that of `google.protobuf.Duration`.
        const SECONDS_MAX: i64 = 315_576_000_000;

        let seconds = i64::try_from(delay.as_secs()).map_or(SECONDS_MAX, |s| s.min(SECONDS_MAX));
        let nanos = if seconds == SECONDS_MAX {
            0
        } else {
            i32::try_from(delay.subsec_nanos()).unwrap_or_default()
        };
        self.retry_info = Some(RetryInfo {
            retry_delay: Some(prost_types::Duration { seconds, nanos }),
        });
        self
    }

    /// Sets what helps to find a fault. Mind who gets to see it.
    #[must_use]
    pub fn with_debug_info(
        mut self,
        detail: impl Into<String>,
        stack_entries: impl IntoIterator<Item = String>,
    ) -> Self {
        self.debug_info = Some(DebugInfo {
            stack_entries: stack_entries.into_iter().collect(),
            detail: detail.into(),
        });
        self
    }

    /// Adds an exceeded quota: whose it is, and how it was exceeded.
    #[must_use]
    pub fn with_quota_failure(
        mut self,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let violation = quota_failure::Violation {
            subject: subject.into(),
            description: description.into(),
            ..quota_failure::Violation::default()
        };
        let failure = self.quota_failure.get_or_insert_default();
        failure.violations.push(violation);
        self
    }

    /// Adds a precondition that does not hold: its kind, what it was demanded of, and how it can be met.
    #[must_use]
    pub fn with_precondition_failure(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let violation = precondition_failure::Violation {
            r#type: kind.into(),
            subject: subject.into(),
            description: description.into(),
        };
        let failure = self.precondition_failure.get_or_insert_default();
        failure.violations.push(violation);
        self
    }

    /// Adds a field that is wrong: its path, and what is wrong with it.
    #[must_use]
    pub fn with_bad_request(
        mut self,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let violation = bad_request::FieldViolation {
            field: field.into(),
            description: description.into(),
            ..bad_request::FieldViolation::default()
        };
        let bad_request = self.bad_request.get_or_insert_default();
        bad_request.field_violations.push(violation);
        self
    }

    /// Sets what the service can find the request by.
    #[must_use]
    pub fn with_request_info(
        mut self,
        request_id: impl Into<String>,
        serving_data: impl Into<String>,
    ) -> Self {
        self.request_info = Some(RequestInfo {
            request_id: request_id.into(),
            serving_data: serving_data.into(),
        });
        self
    }

    /// Sets what was being accessed.
    #[must_use]
    pub fn with_resource_info(mut self, resource: ResourceInfo) -> Self {
        self.resource_info = Some(resource);
        self
    }

    /// Adds a place to read on at.
    #[must_use]
    pub fn with_help(mut self, description: impl Into<String>, url: impl Into<String>) -> Self {
        let link = help::Link {
            description: description.into(),
            url: url.into(),
        };
        self.help.get_or_insert_default().links.push(link);
        self
    }

    /// Sets a message that may be shown to the user, and its language, such as `en-GB`.
    #[must_use]
    pub fn with_localized_message(
        mut self,
        locale: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        self.localized_message = Some(LocalizedMessage {
            locale: locale.into(),
            message: message.into(),
        });
        self
    }

    /// Adds a message of any other type.
    #[must_use]
    pub fn with_other<M: Name>(mut self, message: &M) -> Self {
        self.other.push(pack(message));
        self
    }

    /// Returns how long the caller should wait before it tries again, if the details say so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let delay = self.retry_info.as_ref()?.retry_delay?;
        // A negative delay says nothing sensible.
        Duration::try_from(delay).ok()
    }

    /// Returns the first message of a type among [`other`](Self::other).
    ///
    /// # Errors
    ///
    /// Returns [`DecodeError`] if there is one, but it is malformed.
    pub fn find_other<M: Name + Default>(&self) -> Result<Option<M>, DecodeError> {
        let found = self
            .other
            .iter()
            .find(|any| type_name(any) == M::full_name());
        found.map(|any| M::decode(&*any.value)).transpose()
    }

    /// Tells whether there are no details.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn into_messages(self) -> Vec<Any> {
        let known = [
            self.error_info.as_ref().map(pack),
            self.retry_info.as_ref().map(pack),
            self.debug_info.as_ref().map(pack),
            self.quota_failure.as_ref().map(pack),
            self.precondition_failure.as_ref().map(pack),
            self.bad_request.as_ref().map(pack),
            self.request_info.as_ref().map(pack),
            self.resource_info.as_ref().map(pack),
            self.help.as_ref().map(pack),
            self.localized_message.as_ref().map(pack),
        ];
        known.into_iter().flatten().chain(self.other).collect()
    }

    /// Puts a message into its place. One that is malformed, or whose place is taken, is among the others.
    fn add(&mut self, any: Any) -> Result<(), DecodeError> {
        let added = match type_name(&any).strip_prefix("google.rpc.") {
            Some("ErrorInfo") => fill(&mut self.error_info, &any),
            Some("RetryInfo") => fill(&mut self.retry_info, &any),
            Some("DebugInfo") => fill(&mut self.debug_info, &any),
            Some("QuotaFailure") => fill(&mut self.quota_failure, &any),
            Some("PreconditionFailure") => fill(&mut self.precondition_failure, &any),
            Some("BadRequest") => fill(&mut self.bad_request, &any),
            Some("RequestInfo") => fill(&mut self.request_info, &any),
            Some("ResourceInfo") => fill(&mut self.resource_info, &any),
            Some("Help") => fill(&mut self.help, &any),
            Some("LocalizedMessage") => fill(&mut self.localized_message, &any),
            _ => Ok(false),
        };
        if !matches!(added, Ok(true)) {
            self.other.push(any);
        }
        added.map(drop)
    }
}

impl Status {
    /// Makes a status with these details. Without any it is the same as [`Status::new`].
    ///
    /// They are sent in the header `grpc-status-details-bin` where the call goes over HTTP/2, where proxies often allow
    /// no more than 8 KiB of headers altogether.
    pub fn with_error_details(
        code: Code,
        message: impl Into<String>,
        details: ErrorDetails,
    ) -> Self {
        let message = message.into();
        if details.is_empty() {
            return Self::new(code, message);
        }
        let status = RpcStatus {
            code: i32::from(code as u8),
            message: message.clone(),
            details: details.into_messages(),
        };
        Self::with_details(code, message, status.encode_to_vec())
    }

    /// Returns the details, as far as they can be read. See [`check_error_details`](Self::check_error_details).
    #[must_use]
    pub fn error_details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::default();
        for any in self.rpc_details().unwrap_or_default() {
            // What is malformed stays among the others.
            let _ = details.add(any);
        }
        details
    }

    /// Returns the details.
    ///
    /// # Errors
    ///
    /// Returns [`DecodeError`] if [`details`](Self::details) are no `google.rpc.Status`, or a message of a customary type is
    /// malformed.
    pub fn check_error_details(&self) -> Result<ErrorDetails, DecodeError> {
        let mut details = ErrorDetails::default();
        for any in self.rpc_details()? {
            details.add(any)?;
        }
        Ok(details)
    }

    fn rpc_details(&self) -> Result<Vec<Any>, DecodeError> {
        Ok(RpcStatus::decode(self.details().clone())?.details)
    }
}

/// Decodes a message into its place. `false`: the place is taken.
fn fill<M: Message + Default>(place: &mut Option<M>, any: &Any) -> Result<bool, DecodeError> {
    let free = place.is_none();
    if free {
        *place = Some(M::decode(&*any.value)?);
    }
    Ok(free)
}

fn pack<M: Name>(message: &M) -> Any {
    let type_url = M::type_url();
    // Types whose authors chose no domain have the default one.
    let type_url = match type_url.strip_prefix('/') {
        Some(name) => format!("type.googleapis.com/{name}"),
        None => type_url,
    };
    Any {
        type_url,
        value: message.encode_to_vec(),
    }
}

/// Returns the full name of a message's type: what follows the last slash of the URL.
fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
