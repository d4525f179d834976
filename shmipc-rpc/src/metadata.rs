//! What travels beside the message: keys and values, as in HTTP.
//!
//! Metadata is an [`http::HeaderMap`]. A value is visible ASCII, unless its key ends in `-bin`: then the map holds base64
//! and the functions of this module convert it from and to bytes. They take keys as the map's own methods do.
//!
//! Some keys belong to gRPC, such as `grpc-status` and `content-type`. They are not sent as metadata.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, AsHeaderName, IntoHeaderName},
};

use crate::grpc_headers;

/// The base64 of gRPC: written without padding, read with or without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The end of a key whose values are bytes.
const BINARY_SUFFIX: &str = "-bin";

/// Why metadata was refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// The key of a binary value must end in `-bin`.
    #[error("the key {key:?} does not end in \"-bin\"")]
    NotBinaryKey {
        /// The key at fault.
        key: String,
    },
    /// The value of a key that ends in `-bin` is not base64.
    #[error("the value of {key:?} is not base64")]
    NotBase64 {
        /// The key at fault.
        key: String,
    },
    /// There are more values than a header map can hold (32,768).
    #[error("too many values")]
    TooMany,
}

/// Sets the binary value of `key` and removes its other values.
///
/// # Errors
///
/// Returns [`InvalidMetadata::NotBinaryKey`] if `key` does not end in `-bin`, and
/// [`InvalidMetadata::TooMany`] if the map is full.
///
/// # Panics
///
/// As [`HeaderMap::insert`], if `key` is text that is no header name in lower case. Whether it ends in `-bin` is looked at first.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{http::HeaderMap, metadata};
///
/// let mut map = HeaderMap::new();
/// metadata::insert_bin(&mut map, "trace-bin", [0, 255])?;
/// assert_eq!(metadata::get_bin(&map, "trace-bin")?.as_deref(), Some(&[0, 255][..]));
/// # Ok::<(), metadata::InvalidMetadata>(())
/// ```
pub fn insert_bin(
    map: &mut HeaderMap,
    key: impl IntoHeaderName + AsRef<str>,
    value: impl AsRef<[u8]>,
) -> Result<(), InvalidMetadata> {
    let value = encode(key.as_ref(), value.as_ref())?;
    map.try_insert(key, value)
        .map(drop)
        .map_err(|_| InvalidMetadata::TooMany)
}

/// Adds a binary value to those of `key`.
///
/// # Errors
///
/// Returns [`InvalidMetadata::NotBinaryKey`] if `key` does not end in `-bin`, and
/// [`InvalidMetadata::TooMany`] if the map is full.
///
/// # Panics
///
/// As [`insert_bin`].
pub fn append_bin(
    map: &mut HeaderMap,
    key: impl IntoHeaderName + AsRef<str>,
    value: impl AsRef<[u8]>,
) -> Result<(), InvalidMetadata> {
    let value = encode(key.as_ref(), value.as_ref())?;
    map.try_append(key, value)
        .map(drop)
        .map_err(|_| InvalidMetadata::TooMany)
}

/// Returns the first binary value of `key`, if there is one. Text that is no header name has none.
///
/// # Errors
///
/// Returns [`InvalidMetadata::NotBinaryKey`] if `key` does not end in `-bin`, and
/// [`InvalidMetadata::NotBase64`] if the value is not base64.
pub fn get_bin(
    map: &HeaderMap,
    key: impl AsHeaderName + AsRef<str>,
) -> Result<Option<Bytes>, InvalidMetadata> {
    get_all_bin(map, key).next().transpose()
}

/// Iterates over the binary values of `key`. Several of them in one header, separated by commas, count as several. Text that is no
/// header name has none.
///
/// # Errors
///
/// The only item is [`InvalidMetadata::NotBinaryKey`] if `key` does not end in `-bin`. An item is [`InvalidMetadata::NotBase64`] if the
/// value is not base64.
pub fn get_all_bin(
    map: &HeaderMap,
    key: impl AsHeaderName + AsRef<str>,
) -> impl Iterator<Item = Result<Bytes, InvalidMetadata>> {
    let refused = check_binary(key.as_ref()).err();
    let values = match &refused {
        None => Some(map.get_all(key.as_ref()).iter()),
        Some(_) => None,
    };
    let values = values
        .into_iter()
        .flatten()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let decoded = values.map(move |value| {
        let decoded = BASE64.decode(value.trim_ascii());
        decoded
            .map(Bytes::from)
            .map_err(|_| InvalidMetadata::NotBase64 {
                key: key.as_ref().to_owned(),
            })
    });
    refused.map(Err).into_iter().chain(decoded)
}

/// Tells whether `key` belongs to gRPC or HTTP, so that it is not sent as metadata.
pub(crate) fn is_reserved(key: &HeaderName) -> bool {
    RESERVED.contains(key)
}

/// Removes all keys that belong to gRPC or HTTP.
pub(crate) fn remove_reserved(map: &mut HeaderMap) {
    if map.is_empty() {
        return;
    }
    for key in &RESERVED {
        map.remove(key);
    }
}

/// Adds trailing metadata to what came before the message. What a full map cannot hold is left out.
pub(crate) fn merge(map: &mut HeaderMap, trailing: Option<Box<HeaderMap>>) {
    let Some(trailing) = trailing else { return };
    for (key, value) in &*trailing {
        if !is_reserved(key) && map.try_append(key.clone(), value.clone()).is_err() {
            return;
        }
    }
}

/// Keys that carry the protocol itself where it runs over HTTP/2.
static RESERVED: [HeaderName; 10] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TE,
    grpc_headers::ACCEPT_ENCODING,
    grpc_headers::ENCODING,
    grpc_headers::MESSAGE,
    grpc_headers::MESSAGE_TYPE,
    grpc_headers::STATUS,
    grpc_headers::STATUS_DETAILS,
    grpc_headers::TIMEOUT,
];

fn check_binary(key: &str) -> Result<(), InvalidMetadata> {
    let end = key.len().saturating_sub(BINARY_SUFFIX.len());
    // Keys are found whatever their case.
    if key.as_bytes()[end..].eq_ignore_ascii_case(BINARY_SUFFIX.as_bytes()) {
        Ok(())
    } else {
        Err(InvalidMetadata::NotBinaryKey {
            key: key.to_owned(),
        })
    }
}

fn encode(key: &str, value: &[u8]) -> Result<HeaderValue, InvalidMetadata> {
    check_binary(key)?;
    // Base64 is visible ASCII, so the conversion cannot fail.
    HeaderValue::try_from(BASE64.encode(value)).map_err(|_| InvalidMetadata::NotBase64 {
        key: key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: HeaderName = HeaderName::from_static("some-bin");

    #[test]
    fn padding_is_optional_and_commas_separate() {
        let mut map = HeaderMap::new();
        map.insert(KEY, HeaderValue::from_static("AQ==, AQ,AQI="));
        let values: Result<Vec<_>, _> = get_all_bin(&map, &KEY).collect();
        assert_eq!(
            values,
            Ok(vec![
                Bytes::from_static(&[1]),
                Bytes::from_static(&[1]),
                Bytes::from_static(&[1, 2])
            ])
        );
    }

    #[test]
    fn binary_values_need_a_binary_key_and_base64() {
        let mut map = HeaderMap::new();
        let key = HeaderName::from_static("some");
        assert_eq!(
            insert_bin(&mut map, key, [1]),
            Err(InvalidMetadata::NotBinaryKey {
                key: "some".to_owned()
            })
        );
        map.insert(KEY, HeaderValue::from_static("*"));
        assert_eq!(
            get_bin(&map, &KEY),
            Err(InvalidMetadata::NotBase64 {
                key: "some-bin".to_owned()
            })
        );
    }

    #[test]
    fn keys_are_whatever_a_header_map_takes() {
        let mut map = HeaderMap::new();
        assert_eq!(insert_bin(&mut map, "some-bin", [1]), Ok(()));
        assert_eq!(append_bin(&mut map, KEY, [2]), Ok(()));
        assert_eq!(append_bin(&mut map, &KEY, [3]), Ok(()));
        let owned = "some-bin".to_owned();
        for first in [
            get_bin(&map, "some-bin"),
            get_bin(&map, "Some-Bin"),
            get_bin(&map, &owned),
            get_bin(&map, owned),
            get_bin(&map, &KEY),
            get_bin(&map, KEY),
        ] {
            assert_eq!(first, Ok(Some(Bytes::from_static(&[1]))));
        }
        assert_eq!(get_all_bin(&map, "some-bin").count(), 3);
    }

    #[test]
    fn a_wrong_key_is_an_error_and_one_that_is_no_header_name_finds_nothing() {
        let mut map = HeaderMap::new();
        for key in ["", "bin", "-bi", "some", "ünlike"] {
            let refused = InvalidMetadata::NotBinaryKey {
                key: key.to_owned(),
            };
            assert_eq!(get_bin(&map, key), Err(refused.clone()));
            assert_eq!(insert_bin(&mut map, key, []), Err(refused.clone()));
            assert_eq!(append_bin(&mut map, key, []), Err(refused));
        }
        assert_eq!(get_bin(&map, "a space-bin"), Ok(None));
        assert!(map.is_empty());
    }

    #[test]
    #[should_panic(expected = "invalid")]
    fn text_that_is_no_header_name_is_not_inserted() {
        let _ = insert_bin(&mut HeaderMap::new(), "A space-bin", []);
    }

    proptest! {
        #[test]
        fn binary_values_round_trip(values: Vec<Vec<u8>>) {
            let mut map = HeaderMap::new();
            for value in &values {
                append_bin(&mut map, KEY, value).expect("the key is binary and the map is small");
            }
            let read: Result<Vec<_>, _> = get_all_bin(&map, &KEY).map(|value| value.map(Vec::from)).collect();
            prop_assert_eq!(read, Ok(values));
        }
    }
}
