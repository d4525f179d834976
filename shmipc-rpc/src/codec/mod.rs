//! How messages are encoded beyond protobuf: their compression, as gRPC has it.
//!
//! Messages can be compressed where they travel over HTTP/2 (feature `grpc`). The names are those of tonic: a generated client, or a
//! [`Caller`](crate::client::Caller), says by `send_compressed` what it sends, and by `accept_compressed` what it takes; a generated server
//! says both of itself, and compresses what the caller takes. Nothing is compressed unless that was said. Each encoding is a cargo
//! feature: `gzip`, `deflate`, `zstd`.
//!
//! ```ignore
//! let client = GreeterClient::connect("http://[::1]:50051").await?
//!     .send_compressed(CompressionEncoding::Gzip)
//!     .accept_compressed(CompressionEncoding::Gzip);
//! let server = GreeterServer::new(greeter).accept_compressed(CompressionEncoding::Gzip);
//! ```
//!
//! **Through shared memory nothing is compressed,** whatever was said: the bytes are there already, so that it would only cost. The same client
//! may be connected in either way. So may clients and servers that tonic generated (feature `tonic`): what those have compressed is
//! decompressed before it goes into shared memory, for which the feature of that encoding must be enabled here, too; it is
//! cheaper not to have them compress.
//!
//! Whoever sends may choose not to compress a message. Here that is done with messages that would not get shorter, with calls whose
//! [`SingleMessageCompressionOverride`] says so, and by [`Sender::send_uncompressed`](crate::Sender::send_uncompressed).
//!
//! # Limits
//!
//! The limits on the sizes of messages hold for what is decompressed, and decompressing ends where they are exceeded, with
//! [`Code::ResourceExhausted`](crate::Code::ResourceExhausted). They hold for what is compressed as well.
//!
//! # Errors
//!
//! A request that is compressed by something that the server does not take is answered with
//! [`Code::Unimplemented`](crate::Code::Unimplemented), and `grpc-accept-encoding` tells what it takes. A response like that fails
//! with [`Code::Internal`](crate::Code::Internal), and so does a message that is said to be compressed by nothing, or is not what its
//! compression demands. An encoding that is named, but not used, does no harm.

mod coding;
pub(crate) mod compress;

use std::fmt;

use http::{HeaderMap, HeaderValue};

pub use self::coding::Compression;
pub(crate) use self::{
    coding::{ClientCompression, Coding, Negotiated},
    compress::{compress, decompress},
};
use crate::grpc_headers;

/// A way to compress messages. There are as many as there are features enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionEncoding {
    /// gzip.
    #[cfg(feature = "gzip")]
    Gzip,
    /// What HTTP calls deflate: zlib.
    #[cfg(feature = "deflate")]
    Deflate,
    /// Zstandard.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl CompressionEncoding {
    /// All that there are.
    pub(crate) const ALL: &'static [Self] = &[
        #[cfg(feature = "gzip")]
        Self::Gzip,
        #[cfg(feature = "deflate")]
        Self::Deflate,
        #[cfg(feature = "zstd")]
        Self::Zstd,
    ];

    /// Returns the name in headers.
    const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => "gzip",
            #[cfg(feature = "deflate")]
            Self::Deflate => "deflate",
            #[cfg(feature = "zstd")]
            Self::Zstd => "zstd",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|encoding| encoding.name().as_bytes() == name)
    }
}

impl fmt::Display for CompressionEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether what a client or a server compresses is compressed in one call: an extension of its [`Request`](crate::Request), or of its
/// [`Response`](crate::Response).
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Response, codec::SingleMessageCompressionOverride};
///
/// let mut response = Response::new("noise");
/// response.extensions_mut().insert(SingleMessageCompressionOverride::Disable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SingleMessageCompressionOverride {
    /// As in other calls.
    #[default]
    Inherit,
    /// Its messages go as they are.
    Disable,
}

impl SingleMessageCompressionOverride {
    /// Whether the extensions of a request or response say that its messages go as they are.
    pub(crate) fn disables(extensions: &http::Extensions) -> bool {
        extensions.get() == Some(&Self::Disable)
    }
}

/// Some encodings, in the order in which they were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encodings([Option<CompressionEncoding>; 3]);

impl Encodings {
    pub(crate) const NONE: Self = Self([None; 3]);

    pub(crate) fn add(&mut self, encoding: CompressionEncoding) {
        if self.contains(encoding) {
            return;
        }
        // There are no more encodings than places.
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some(encoding);
        }
    }

    pub(crate) fn all() -> Self {
        let mut all = Self::NONE;
        CompressionEncoding::ALL
            .iter()
            .for_each(|&each| all.add(each));
        all
    }

    pub(crate) fn contains(self, encoding: CompressionEncoding) -> bool {
        self.0.contains(&Some(encoding))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0[0].is_none()
    }

    /// Returns the one of these that the other side would like best to receive. `None`: it takes none of them.
    fn wanted(self, headers: &HeaderMap) -> Option<CompressionEncoding> {
        if self.is_empty() {
            return None;
        }
        Self::named(headers).find(|&encoding| self.contains(encoding))
    }

    /// Returns those that the other side takes, as far as they are known.
    #[cfg(feature = "grpc")]
    fn accepted(headers: &HeaderMap) -> Self {
        let mut accepted = Self::NONE;
        Self::named(headers).for_each(|encoding| accepted.add(encoding));
        accepted
    }

    /// Iterates over those that the other side takes.
    fn named(headers: &HeaderMap) -> impl Iterator<Item = CompressionEncoding> {
        let values = headers.get_all(grpc_headers::ACCEPT_ENCODING).iter();
        values
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|name| CompressionEncoding::from_name(name.trim_ascii()))
    }

    /// Returns the value of `grpc-accept-encoding` for who takes these.
    fn header_value(self) -> HeaderValue {
        let names = self.0.iter().flatten().map(|encoding| encoding.name());
        let value = names.chain(["identity"]).collect::<Vec<_>>().join(",");
        // Names are visible ASCII.
        HeaderValue::try_from(value).unwrap_or(grpc_headers::IDENTITY)
    }
}

#[cfg(all(test, feature = "deflate", feature = "gzip", feature = "zstd"))]
mod tests {
    use super::*;
    use crate::Code;

    fn accepting(value: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(value);
        HeaderMap::from_iter([(grpc_headers::ACCEPT_ENCODING, value)])
    }

    #[test]
    fn encodings_keep_their_order() {
        let mut encodings = Encodings::NONE;
        assert!(encodings.is_empty());
        for encoding in [CompressionEncoding::Zstd, CompressionEncoding::Gzip] {
            encodings.add(encoding);
            encodings.add(CompressionEncoding::Zstd);
            assert!(encodings.contains(encoding));
        }
        assert!(!encodings.contains(CompressionEncoding::Deflate));
        assert_eq!(encodings.header_value(), "zstd,gzip,identity");
        assert_eq!(
            Encodings::all().header_value(),
            "gzip,deflate,zstd,identity"
        );
        for &encoding in CompressionEncoding::ALL {
            let name = encoding.to_string();
            assert_eq!(
                CompressionEncoding::from_name(name.as_bytes()),
                Some(encoding)
            );
        }
    }

    #[test]
    fn the_receiver_chooses_among_what_the_sender_has() {
        let mut ours = Encodings::NONE;
        assert_eq!(ours.wanted(&accepting("gzip")), None);
        ours.add(CompressionEncoding::Gzip);
        ours.add(CompressionEncoding::Zstd);
        for (value, wanted) in [
            ("identity", None),
            ("", None),
            ("deflate,br", None),
            ("gzip", Some(CompressionEncoding::Gzip)),
            ("br, zstd ,gzip", Some(CompressionEncoding::Zstd)),
        ] {
            assert_eq!(ours.wanted(&accepting(value)), wanted, "{value:?}");
        }
        assert_eq!(ours.wanted(&HeaderMap::new()), None);
        let mut several = accepting("identity");
        let gzip = HeaderValue::from_static("gzip");
        several.append(grpc_headers::ACCEPT_ENCODING, gzip);
        assert_eq!(ours.wanted(&several), Some(CompressionEncoding::Gzip));
    }

    #[test]
    fn a_message_is_compressed_by_what_the_head_names() {
        let headers = |value| {
            HeaderMap::from_iter([(grpc_headers::ENCODING, HeaderValue::from_static(value))])
        };
        let mut accepted = Encodings::NONE;
        accepted.add(CompressionEncoding::Gzip);
        let of = |headers: &HeaderMap, flags| {
            let coding = Coding::of_request(headers, accepted).of_message(flags);
            coding.map_err(|status| status.code())
        };
        assert_eq!(of(&headers("gzip"), 1), Ok(CompressionEncoding::Gzip));
        assert_eq!(of(&headers("gzip"), 2), Err(Code::Internal));
        assert_eq!(of(&headers("zstd"), 1), Err(Code::Unimplemented));
        assert_eq!(of(&headers("br"), 1), Err(Code::Unimplemented));
        assert_eq!(of(&headers("identity"), 1), Err(Code::Internal));
        assert_eq!(of(&HeaderMap::new(), 1), Err(Code::Internal));
        let response = HeaderValue::from_static("zstd");
        let coding = Coding::of_response(Some(&response), accepted).of_message(1);
        assert_eq!(coding.map_err(|status| status.code()), Err(Code::Internal));
        let coding = Coding::of_neighbour(&headers("br")).of_message(1);
        assert_eq!(
            coding.map_err(|status| status.code()),
            Err(Code::Unimplemented)
        );
        assert!(Coding::of_neighbour(&headers("zstd")).of_message(1).is_ok());
    }
}
