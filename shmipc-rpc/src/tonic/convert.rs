//! Statuses, codes, requests and responses: from one crate's to the other's.

use std::error::Error;

use ::tonic::metadata::MetadataMap;

use crate::{Code, Request, Response, Status, context::CallContext, deadline, metadata};

impl From<Code> for ::tonic::Code {
    fn from(code: Code) -> Self {
        Self::from_i32(i32::from(code as u8))
    }
}

impl From<::tonic::Code> for Code {
    fn from(code: ::tonic::Code) -> Self {
        Self::from_u32(i32::from(code).unsigned_abs())
    }
}

/// Code, message, details, metadata and source are kept.
impl From<Status> for ::tonic::Status {
    fn from(status: Status) -> Self {
        let metadata = MetadataMap::from_headers(status.metadata().clone());
        let (code, details) = (status.code().into(), status.details().clone());
        let source = status.shared_source();
        let mut converted =
            Self::with_details_and_metadata(code, status.message(), details, metadata);
        if let Some(source) = source {
            converted.set_source(source);
        }
        converted
    }
}

/// Code, message, details and metadata are kept. If there is a source, the whole becomes the source of the new one.
impl From<::tonic::Status> for Status {
    fn from(status: ::tonic::Status) -> Self {
        let details = bytes::Bytes::copy_from_slice(status.details());
        let converted = Self::with_details(status.code().into(), status.message(), details)
            .with_metadata(status.metadata().clone().into_headers());
        if status.source().is_some() {
            converted.with_source(status)
        } else {
            converted
        }
    }
}

/// Message, metadata and extensions are kept. `grpc-timeout` in the metadata becomes the timeout.
impl<T> From<::tonic::Request<T>> for Request<T> {
    fn from(request: ::tonic::Request<T>) -> Self {
        let (metadata, extensions, message) = request.into_parts();
        let mut metadata = metadata.into_headers();
        let timeout = metadata.remove(GRPC_TIMEOUT);
        let timeout = timeout.and_then(|value| deadline::parse_grpc_timeout(value.as_bytes()));
        let mut request = Self::with_context(message, metadata, extensions, CallContext::default());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

/// Message, metadata and extensions are kept. The time that the call has becomes `grpc-timeout` in the metadata.
impl<T> From<Request<T>> for ::tonic::Request<T> {
    fn from(request: Request<T>) -> Self {
        let timeout = request.timeout_from_now();
        let (message, metadata, extensions) = request.into_content();
        let metadata = MetadataMap::from_headers(metadata);
        let mut request = Self::from_parts(metadata, extensions, message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

/// Message, metadata and extensions are kept.
impl<T> From<::tonic::Response<T>> for Response<T> {
    fn from(response: ::tonic::Response<T>) -> Self {
        let (metadata, message, extensions) = response.into_parts();
        Self::from_parts(metadata.into_headers(), message, extensions)
    }
}

/// Message, metadata and extensions are kept. Metadata that was to come after the message joins the rest, for tonic has no place for
/// it.
impl<T> From<Response<T>> for ::tonic::Response<T> {
    fn from(response: Response<T>) -> Self {
        let (message, mut parts) = response.into_content();
        metadata::merge(&mut parts.metadata, Some(Box::new(parts.trailers)));
        let metadata = MetadataMap::from_headers(parts.metadata);
        Self::from_parts(metadata, message, parts.extensions)
    }
}

const GRPC_TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_one_key_is_kept_whether_it_comes_before_the_message_or_after() {
        let mut response = Response::new(());
        let value = http::HeaderValue::from_static;
        response.metadata_mut().insert("x-key", value("before"));
        response.trailers_mut().insert("x-key", value("after"));
        let converted = ::tonic::Response::<()>::from(response);
        let values = converted.metadata().get_all("x-key").iter();
        assert_eq!(values.collect::<Vec<_>>(), ["before", "after"]);
    }
}
