//! What a compiler would make of this description, written by hand:
//!
//! ```text
//! struct Request  { u64 id; string name; u32 width; u32 height; }
//! struct Response { u64 id; string name; bytes pixels; }
//! ```
//!
//! On the wire, a message is a head of fixed length and what the head says the length of. Numbers are little endian.
//!
//! ```text
//! request   id (8)  width (4)  height (4)  length of the name (4)     name
//! response  id (8)  length of the name (4)  number of pixels (4)      name, pixels
//! ```
//!
//! A writer reserves space for the whole message and fills it in place. A reader peeks at the head, so that nothing is taken of a message that
//! cannot be, and shares the pixels with the sender's memory. That is the same for tasks and for threads, but for the waiting.

use std::io;

use bytes::Bytes;
use shmipc_transport::{ByteReader, ByteWriter, blocking};

/// Asks for a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) pixels: Bytes,
}

/// The longest name and the most pixels that are believed.
const NAME_MAX: u32 = 1 << 10;
const PIXELS_MAX: u32 = 16 << 20;

/// A message of the description.
pub(crate) trait Message: Sized {
    /// Bytes of the head.
    const HEAD_LEN: usize;

    /// What the head says.
    type Head;

    /// Reads a head of [`HEAD_LEN`](Self::HEAD_LEN) bytes, and refuses one that cannot be.
    fn head(bytes: &[u8]) -> io::Result<Self::Head>;

    /// The lengths of the two fields behind the head.
    fn lens(head: &Self::Head) -> [usize; 2];

    /// Puts a message together.
    fn of(head: Self::Head, name: String, rest: Bytes) -> Self;

    /// Bytes of the whole message.
    fn encoded_len(&self) -> usize;

    /// Fills as many bytes.
    fn encode(&self, target: &mut [u8]);
}

impl Message for Request {
    const HEAD_LEN: usize = 20;
    type Head = (u64, u32, u32, u32);

    fn head(bytes: &[u8]) -> io::Result<Self::Head> {
        let head = (
            u64_at(bytes, 0),
            u32_at(bytes, 8),
            u32_at(bytes, 12),
            u32_at(bytes, 16),
        );
        let (_, width, height, name_len) = head;
        let is_small = width
            .checked_mul(height)
            .is_some_and(|len| len <= PIXELS_MAX);
        within(is_small && name_len <= NAME_MAX)?;
        Ok(head)
    }

    fn lens(&(.., name_len): &Self::Head) -> [usize; 2] {
        [name_len as usize, 0]
    }

    fn of((id, width, height, _): Self::Head, name: String, _: Bytes) -> Self {
        Self {
            id,
            name,
            width,
            height,
        }
    }

    fn encoded_len(&self) -> usize {
        Self::HEAD_LEN + self.name.len()
    }

    fn encode(&self, target: &mut [u8]) {
        let (head, name) = target.split_at_mut(Self::HEAD_LEN);
        head[..8].copy_from_slice(&self.id.to_le_bytes());
        head[8..12].copy_from_slice(&self.width.to_le_bytes());
        head[12..16].copy_from_slice(&self.height.to_le_bytes());
        head[16..].copy_from_slice(&len_of(name).to_le_bytes());
        name.copy_from_slice(self.name.as_bytes());
    }
}

impl Message for Response {
    const HEAD_LEN: usize = 16;
    type Head = (u64, u32, u32);

    fn head(bytes: &[u8]) -> io::Result<Self::Head> {
        let head = (u64_at(bytes, 0), u32_at(bytes, 8), u32_at(bytes, 12));
        let (_, name_len, pixels_len) = head;
        within(name_len <= NAME_MAX && pixels_len <= PIXELS_MAX)?;
        Ok(head)
    }

    fn lens(&(_, name_len, pixels_len): &Self::Head) -> [usize; 2] {
        [name_len as usize, pixels_len as usize]
    }

    fn of((id, ..): Self::Head, name: String, pixels: Bytes) -> Self {
        Self { id, name, pixels }
    }

    fn encoded_len(&self) -> usize {
        Self::HEAD_LEN + self.name.len() + self.pixels.len()
    }

    fn encode(&self, target: &mut [u8]) {
        let (head, rest) = target.split_at_mut(Self::HEAD_LEN);
        let (name, pixels) = rest.split_at_mut(self.name.len());
        head[..8].copy_from_slice(&self.id.to_le_bytes());
        head[8..12].copy_from_slice(&len_of(name).to_le_bytes());
        head[12..].copy_from_slice(&len_of(pixels).to_le_bytes());
        name.copy_from_slice(self.name.as_bytes());
        pixels.copy_from_slice(&self.pixels);
    }
}

/// Writes a message. Flush the writer when no other follows at once.
pub(crate) async fn write<M: Message>(writer: &mut ByteWriter, message: &M) -> io::Result<()> {
    let len = message.encoded_len();
    let mut space = writer.reserve(len).await?;
    message.encode(&mut space);
    space.commit(len);
    Ok(())
}

/// Reads a message.
pub(crate) async fn read<M: Message>(reader: &mut ByteReader) -> io::Result<M> {
    let head = M::head(reader.peek(M::HEAD_LEN).await?)?;
    reader.discard(M::HEAD_LEN).await?;
    let [name_len, rest_len] = M::lens(&head);
    let name = text(&reader.read_bytes(name_len).await?)?;
    let rest = reader.read_bytes(rest_len).await?;
    Ok(M::of(head, name, rest))
}

/// As [`write()`], in this thread.
pub(crate) fn write_blocking<M: Message>(
    writer: &mut blocking::ByteWriter,
    message: &M,
) -> io::Result<()> {
    let len = message.encoded_len();
    let mut space = writer.reserve(len)?;
    message.encode(&mut space);
    space.commit(len);
    Ok(())
}

/// As [`read`], in this thread.
pub(crate) fn read_blocking<M: Message>(reader: &mut blocking::ByteReader) -> io::Result<M> {
    let head = M::head(reader.peek(M::HEAD_LEN)?)?;
    reader.discard(M::HEAD_LEN)?;
    let [name_len, rest_len] = M::lens(&head);
    let name = text(&reader.read_bytes(name_len)?)?;
    let rest = reader.read_bytes(rest_len)?;
    Ok(M::of(head, name, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes[at..at + 4].try_into();
    u32::from_le_bytes(word.expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes[at..at + 8].try_into();
    u64::from_le_bytes(word.expect("eight bytes"))
}

fn len_of(field: &[u8]) -> u32 {
    u32::try_from(field.len()).expect("fields are shorter than 4 GiB")
}

fn within(is_believed: bool) -> io::Result<()> {
    if is_believed {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message that is longer than any may be",
        ))
    }
}

fn text(bytes: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let kind = io::ErrorKind::InvalidData;
        io::Error::new(kind, error)
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_believed_is_refused_by_its_head() {
        let request = Request {
            id: 7,
            name: "x".repeat(1025),
            width: 1,
            height: 1,
        };
        let mut bytes = vec![0; request.encoded_len()];
        request.encode(&mut bytes);
        Request::head(&bytes).unwrap_err();
        let request = Request {
            width: 1 << 16,
            height: 1 << 16,
            name: String::new(),
            ..request
        };
        let mut bytes = vec![0; request.encoded_len()];
        request.encode(&mut bytes);
        Request::head(&bytes).unwrap_err();
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let response = Response {
            id: u64::MAX,
            name: "näme".to_owned(),
            pixels: Bytes::from_static(&[1, 2, 3]),
        };
        let mut bytes = vec![0; response.encoded_len()];
        response.encode(&mut bytes);
        let head = Response::head(&bytes).unwrap();
        assert_eq!(Response::lens(&head), [5, 3]);
        let (name, pixels) = bytes[Response::HEAD_LEN..].split_at(5);
        let again = Response::of(head, text(name).unwrap(), pixels.to_vec().into());
        assert_eq!(again, response);
    }
}
