//! The heads of frames, as protobuf (R4).

use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    InvalidFrame,
    reader::{Reader, WireType},
};
use crate::{Code, Status, metadata};

/// A head to be written.
pub(crate) trait Head {
    /// The number of bytes that [`write`](Self::write) will write.
    fn encoded_len(&self) -> usize;

    /// Writes the head to `out`, which must have room for it.
    fn write(&self, out: &mut impl BufMut);
}

/// Any head, or none, to be written.
#[derive(Debug)]
pub(crate) enum HeadRef<'a> {
    None,
    Request(RequestHeadRef<'a>),
    Response(ResponseHeadRef<'a>),
    Trailers(TrailersRef<'a>),
}

impl Head for HeadRef<'_> {
    fn encoded_len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Request(head) => head.encoded_len(),
            Self::Response(head) => head.encoded_len(),
            Self::Trailers(head) => head.encoded_len(),
        }
    }

    fn write(&self, out: &mut impl BufMut) {
        match self {
            Self::None => {}
            Self::Request(head) => head.write(out),
            Self::Response(head) => head.write(out),
            Self::Trailers(head) => head.write(out),
        }
    }
}

/// The head of a request, to be written.
#[derive(Debug)]
pub(crate) struct RequestHeadRef<'a> {
    pub(crate) path: &'a str,
    pub(crate) timeout_ns: Option<u64>,
    pub(crate) metadata: &'a HeaderMap,
}

impl Head for RequestHeadRef<'_> {
    fn encoded_len(&self) -> usize {
        let path = if self.path.is_empty() {
            0
        } else {
            field_len(self.path.len())
        };
        path + self.timeout_ns.map_or(0, |ns| 1 + varint_len(ns)) + metadata_len(self.metadata)
    }

    fn write(&self, out: &mut impl BufMut) {
        if !self.path.is_empty() {
            put_field(out, 1, self.path.as_bytes());
        }
        if let Some(ns) = self.timeout_ns {
            put_varint_field(out, 2, ns);
        }
        put_metadata(out, 3, self.metadata);
    }
}

/// The head of a request, as it was received.
#[derive(Debug, PartialEq)]
pub(crate) struct RequestHead<'a> {
    pub(crate) path: &'a str,
    pub(crate) timeout: Option<Duration>,
}

impl<'a> RequestHead<'a> {
    /// Reads the head, and adds its metadata to `metadata`.
    pub(crate) fn decode(head: &'a [u8], metadata: &mut HeaderMap) -> Result<Self, InvalidFrame> {
        let mut reader = Reader::new(head);
        let mut decoded = Self {
            path: "",
            timeout: None,
        };
        while let Some(key) = reader.key()? {
            match key.field {
                1 => decoded.path = reader.str(key)?,
                2 => {
                    key.expect(WireType::Varint)?;
                    decoded.timeout = Some(Duration::from_nanos(reader.varint()?));
                }
                3 => {
                    key.expect(WireType::Delimited)?;
                    read_metadata(reader.bytes()?, metadata)?;
                }
                _ => reader.skip(key)?,
            }
        }
        Ok(decoded)
    }
}

/// The head of a response, to be written.
#[derive(Debug)]
pub(crate) struct ResponseHeadRef<'a> {
    pub(crate) metadata: &'a HeaderMap,
    pub(crate) trailers: Option<TrailersRef<'a>>,
}

impl Head for ResponseHeadRef<'_> {
    fn encoded_len(&self) -> usize {
        let trailers = self
            .trailers
            .as_ref()
            .map_or(0, |trailers| field_len(trailers.encoded_len()));
        metadata_len(self.metadata) + trailers
    }

    fn write(&self, out: &mut impl BufMut) {
        put_metadata(out, 1, self.metadata);
        if let Some(trailers) = &self.trailers {
            put_delimited_key(out, 2);
            put_varint(out, trailers.encoded_len() as u64);
            trailers.write(out);
        }
    }
}

/// The head of a response, as it was received.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ResponseHead {
    pub(crate) metadata: HeaderMap,
    pub(crate) trailers: Option<Box<Trailers>>,
}

impl ResponseHead {
    pub(crate) fn decode(head: &[u8]) -> Result<Self, InvalidFrame> {
        let mut reader = Reader::new(head);
        let mut decoded = Self::default();
        while let Some(key) = reader.key()? {
            match key.field {
                1 => {
                    key.expect(WireType::Delimited)?;
                    read_metadata(reader.bytes()?, &mut decoded.metadata)?;
                }
                2 => {
                    key.expect(WireType::Delimited)?;
                    decoded
                        .trailers
                        .get_or_insert_default()
                        .merge(reader.bytes()?)?;
                }
                _ => reader.skip(key)?,
            }
        }
        Ok(decoded)
    }
}

/// The end of a call, to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrailersRef<'a> {
    pub(crate) code: Code,
    pub(crate) message: &'a str,
    pub(crate) details: &'a [u8],
    pub(crate) metadata: &'a HeaderMap,
}

impl<'a> TrailersRef<'a> {
    /// The end of a call that went well.
    pub(crate) fn ok(metadata: &'a HeaderMap) -> Self {
        Self {
            code: Code::Ok,
            message: "",
            details: &[],
            metadata,
        }
    }

    /// The end of a call that failed.
    pub(crate) fn failed(status: &'a Status) -> Self {
        Self {
            code: status.code(),
            message: status.message(),
            details: status.details(),
            metadata: status.metadata(),
        }
    }
}

impl Head for TrailersRef<'_> {
    fn encoded_len(&self) -> usize {
        let code = if self.code == Code::Ok {
            0
        } else {
            1 + varint_len(self.code.as_u32().into())
        };
        let present = |len| if len == 0 { 0 } else { field_len(len) };
        code + present(self.message.len())
            + present(self.details.len())
            + metadata_len(self.metadata)
    }

    fn write(&self, out: &mut impl BufMut) {
        if self.code != Code::Ok {
            put_varint_field(out, 1, self.code.as_u32().into());
        }
        if !self.message.is_empty() {
            put_field(out, 2, self.message.as_bytes());
        }
        if !self.details.is_empty() {
            put_field(out, 3, self.details);
        }
        put_metadata(out, 4, self.metadata);
    }
}

/// The end of a call, as it was received.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Trailers {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: Bytes,
    pub(crate) metadata: HeaderMap,
}

impl Trailers {
    pub(crate) fn decode(head: &[u8]) -> Result<Self, InvalidFrame> {
        let mut decoded = Self::default();
        decoded.merge(head)?;
        Ok(decoded)
    }

    /// Returns the metadata of a call that went well.
    pub(crate) fn into_result(self) -> Result<HeaderMap, Status> {
        match Code::from_u32(self.code) {
            Code::Ok => Ok(self.metadata),
            code => {
                Err(Status::with_details(code, self.message, self.details)
                    .with_metadata(self.metadata))
            }
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<(), InvalidFrame> {
        let mut reader = Reader::new(bytes);
        while let Some(key) = reader.key()? {
            match key.field {
                1 => {
                    key.expect(WireType::Varint)?;
                    // Protobuf keeps the low half of a number that is too large for its field.
                    let [c0, c1, c2, c3, ..] = reader.varint()?.to_le_bytes();
                    self.code = u32::from_le_bytes([c0, c1, c2, c3]);
                }
                2 => self.message = reader.str(key)?.to_owned(),
                3 => {
                    key.expect(WireType::Delimited)?;
                    self.details = Bytes::copy_from_slice(reader.bytes()?);
                }
                4 => {
                    key.expect(WireType::Delimited)?;
                    read_metadata(reader.bytes()?, &mut self.metadata)?;
                }
                _ => reader.skip(key)?,
            }
        }
        Ok(())
    }
}

/// Reads one entry of metadata into `map`. Reserved keys are passed over.
fn read_metadata(bytes: &[u8], map: &mut HeaderMap) -> Result<(), InvalidFrame> {
    let mut reader = Reader::new(bytes);
    let mut name = "";
    let mut value: &[u8] = &[];
    while let Some(key) = reader.key()? {
        match key.field {
            1 => name = reader.str(key)?,
            2 => {
                key.expect(WireType::Delimited)?;
                value = reader.bytes()?;
            }
            _ => reader.skip(key)?,
        }
    }
    // Not `from_lowercase`, which lets some names pass that `from_bytes` knows to be none.
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(InvalidFrame::MetadataKey);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidFrame::MetadataKey)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| InvalidFrame::MetadataValue)?;
    if !metadata::is_reserved(&name) {
        map.try_append(name, value)
            .map_err(|_| InvalidFrame::MetadataTooMany)?;
    }
    Ok(())
}

/// The values that are sent: all but the reserved ones.
fn sent(metadata: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    metadata
        .iter()
        .filter(|(name, _)| !metadata::is_reserved(name))
}

fn entry_len(name: &HeaderName, value: &HeaderValue) -> usize {
    field_len(name.as_str().len())
        + if value.is_empty() {
            0
        } else {
            field_len(value.len())
        }
}

fn metadata_len(metadata: &HeaderMap) -> usize {
    if metadata.is_empty() {
        return 0;
    }
    sent(metadata)
        .map(|(name, value)| field_len(entry_len(name, value)))
        .sum()
}

fn put_metadata(out: &mut impl BufMut, field: u8, metadata: &HeaderMap) {
    if metadata.is_empty() {
        return;
    }
    for (name, value) in sent(metadata) {
        put_delimited_key(out, field);
        put_varint(out, entry_len(name, value) as u64);
        put_field(out, 1, name.as_str().as_bytes());
        if !value.is_empty() {
            put_field(out, 2, value.as_bytes());
        }
    }
}

/// The length of a delimited field with a number below 16.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn put_field(out: &mut impl BufMut, field: u8, bytes: &[u8]) {
    put_delimited_key(out, field);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_varint_field(out: &mut impl BufMut, field: u8, value: u64) {
    out.put_u8(field << 3);
    put_varint(out, value);
}

fn put_delimited_key(out: &mut impl BufMut, field: u8) {
    out.put_u8((field << 3) | 2);
}

fn varint_len(value: u64) -> usize {
    // Seven bits to a byte, at least one byte.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests;
