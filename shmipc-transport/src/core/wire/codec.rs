//! Numbers in and out of message bodies. Everything on the socket is big-endian.

use super::InvalidMessage;

/// Takes a message body apart: cannot run past its end, and says whether anything was left.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, InvalidMessage> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, InvalidMessage> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, InvalidMessage> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], InvalidMessage> {
        let (head, rest) =
            self.rest
                .split_at_checked(len)
                .ok_or_else(|| InvalidMessage::TooShort {
                    missing: len - self.rest.len(),
                })?;
        self.rest = rest;
        Ok(head)
    }

    /// Everything that was not read yet.
    pub(crate) const fn remainder(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// Says that the body must have been read to its end.
    pub(crate) const fn expect_end(self) -> Result<(), InvalidMessage> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(InvalidMessage::TrailingBytes(left)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidMessage> {
        let (head, rest) =
            self.rest
                .split_first_chunk()
                .ok_or_else(|| InvalidMessage::TooShort {
                    missing: N - self.rest.len(),
                })?;
        self.rest = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian() {
        let mut reader = Reader::new(&[0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(reader.u32(), Ok(0x0102));
        assert_eq!(reader.u64(), Ok(0x0304));
        assert_eq!(reader.expect_end(), Ok(()));
    }

    #[test]
    fn running_past_the_end_is_an_error_and_takes_nothing() {
        let mut reader = Reader::new(&[0, 0, 1]);
        assert_eq!(reader.u32(), Err(InvalidMessage::TooShort { missing: 1 }));
        assert_eq!(reader.remainder(), [0, 0, 1]);
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        assert_eq!(
            Reader::new(&[1, 2]).expect_end(),
            Err(InvalidMessage::TrailingBytes(2))
        );
    }
}
