//! The headers, and trailers, that gRPC itself has in HTTP/2.

#[cfg(feature = "grpc")]
use http::{HeaderMap, header};
use http::{HeaderName, HeaderValue};

pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(crate) const MESSAGE_TYPE: HeaderName = HeaderName::from_static("grpc-message-type");

/// The header, or trailer, that carries the code.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The header, or trailer, that carries the message, percent-encoded.
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The header, or trailer, that carries the details in base64.
pub(crate) const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// The code of a call that went well.
pub(crate) const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

#[cfg(feature = "grpc")]
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Not compressed, which everybody understands.
pub(crate) const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Tells whether a message has the content type of gRPC, whatever its encoding.
#[cfg(feature = "grpc")]
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().strip_prefix(CONTENT_TYPE.as_bytes()) {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

#[cfg(all(test, feature = "grpc"))]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let check = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, value)]))
        };
        assert!(check("application/grpc"));
        assert!(check("application/grpc+proto"));
        assert!(check("application/grpc;charset=utf-8"));
        assert!(!check("application/grpc-web"));
        assert!(!check("text/html"));
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
