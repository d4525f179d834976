//! Reads protobuf fields out of a slice.

use super::InvalidFrame;

/// How a field's value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Delimited,
    Fixed32,
}

/// A reader that cannot run past the end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A field's number and the layout of its value, which comes next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) field: u32,
    pub(super) wire_type: WireType,
}

impl Key {
    /// Checks that the value has the layout which the definition of its field demands.
    pub(super) fn expect(self, wire_type: WireType) -> Result<(), InvalidFrame> {
        if self.wire_type == wire_type {
            Ok(())
        } else {
            Err(InvalidFrame::HeadWireType {
                field: self.field,
                wire_type: self.wire_type as u8,
            })
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads the key of the next field. `None` at the end.
    pub(super) fn key(&mut self) -> Result<Option<Key>, InvalidFrame> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key).map_err(|_| InvalidFrame::HeadKey(key))? >> 3;
        if field == 0 {
            return Err(InvalidFrame::HeadKey(key));
        }
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Delimited,
            5 => WireType::Fixed32,
            // Groups are as old as protobuf and were never used here. 6 and 7 mean nothing.
            _ => return Err(InvalidFrame::HeadKey(key)),
        };
        Ok(Some(Key { field, wire_type }))
    }

    pub(super) fn varint(&mut self) -> Result<u64, InvalidFrame> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().enumerate() {
            // The tenth byte has room for one bit.
            if index == 10 || (index == 9 && byte > 1) {
                return Err(InvalidFrame::HeadVarint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(InvalidFrame::HeadTruncated)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], InvalidFrame> {
        let len = usize::try_from(self.varint()?).map_err(|_| InvalidFrame::HeadTruncated)?;
        self.take(len)
    }

    pub(super) fn str(&mut self, key: Key) -> Result<&'a str, InvalidFrame> {
        key.expect(WireType::Delimited)?;
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| InvalidFrame::HeadNotUtf8 { field: key.field })
    }

    /// Passes over the value of a field that is not known here.
    pub(super) fn skip(&mut self, key: Key) -> Result<(), InvalidFrame> {
        match key.wire_type {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Delimited => self.bytes().map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidFrame> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(InvalidFrame::HeadTruncated)?;
        self.rest = rest;
        Ok(taken)
    }
}
