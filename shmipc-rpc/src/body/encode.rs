//! Messages that are yet to be encoded, of which only the length must be known.

use std::any::Any;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use shmipc_transport::SendBuf;

use super::grpc;

/// Something that can be encoded straight into the place from which it is sent, and again if it must be sent once more.
///
/// There is one method per kind of place, for [`BufMut`] cannot be a trait object: its `put`, through which a
/// message hands over its `bytes` fields whole, is generic.
pub(crate) trait Encode {
    /// Returns the number of bytes that encoding will write.
    fn encoded_len(&self) -> usize;

    /// Encodes into the front of `out`, which is long enough, and moves `out` behind it.
    fn encode_to_slice(&mut self, out: &mut &mut [u8]);

    /// Encodes to the end of `out`. Memory that belongs to the same session is linked, not copied.
    fn encode_to_buffer(&mut self, out: &mut SendBuf);

    /// Encodes into memory of its own, as a message in the framing of gRPC over HTTP/2.
    fn encode_to_grpc(&mut self) -> Bytes;

    /// Whether the message may be compressed.
    fn is_compressible(&self) -> bool {
        true
    }
}

/// A message that can be stored without naming its type.
pub(crate) trait EncodeMessage: Encode + Any + Send + Sync {}

impl<T: Encode + Any + Send + Sync> EncodeMessage for T {}

/// A protobuf message that is owned.
#[derive(Debug)]
pub(crate) struct Owned<T>(pub(crate) T);

/// A protobuf message that is borrowed.
#[derive(Debug)]
pub(crate) struct Borrowed<'a, T>(pub(crate) &'a T);

/// A message that was encoded elsewhere, and is passed on, but not compressed.
#[derive(Debug)]
pub(crate) struct Incompressible(pub(crate) Bytes);

/// A message that was encoded elsewhere, and is passed on. Clones of it share its memory.
#[derive(Debug)]
pub(crate) struct Encoded<B>(pub(crate) B);

impl<T: prost::Message> Encode for Owned<T> {
    fn encoded_len(&self) -> usize {
        Borrowed(&self.0).encoded_len()
    }

    fn encode_to_slice(&mut self, out: &mut &mut [u8]) {
        Borrowed(&self.0).encode_to_slice(out);
    }

    fn encode_to_buffer(&mut self, out: &mut SendBuf) {
        Borrowed(&self.0).encode_to_buffer(out);
    }

    fn encode_to_grpc(&mut self) -> Bytes {
        Borrowed(&self.0).encode_to_grpc()
    }
}

// `encode_raw` is `encode` without a check of the room, which would compute the length once more. The callers
// have computed it in order to make room.
impl<T: prost::Message> Encode for Borrowed<'_, T> {
    fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    fn encode_to_slice(&mut self, out: &mut &mut [u8]) {
        self.0.encode_raw(out);
    }

    fn encode_to_buffer(&mut self, out: &mut SendBuf) {
        self.0.encode_raw(out);
    }

    fn encode_to_grpc(&mut self) -> Bytes {
        let len = self.encoded_len();
        let mut out = BytesMut::with_capacity(grpc::PREFIX_LEN + len);
        out.put_slice(&grpc::prefix(len));
        self.0.encode_raw(&mut out);
        out.freeze()
    }
}

impl<B: Buf + Clone> Encode for Encoded<B> {
    fn encoded_len(&self) -> usize {
        self.0.remaining()
    }

    fn encode_to_slice(&mut self, out: &mut &mut [u8]) {
        out.put(self.0.clone());
    }

    fn encode_to_buffer(&mut self, out: &mut SendBuf) {
        let mut rest = self.0.clone();
        while rest.has_remaining() {
            let chunk_len = rest.chunk().len();
            // As `Bytes`, the buffer can recognise memory that need not be copied.
            out.put(rest.copy_to_bytes(chunk_len));
        }
    }

    fn encode_to_grpc(&mut self) -> Bytes {
        let len = self.encoded_len();
        let mut out = BytesMut::with_capacity(grpc::PREFIX_LEN + len);
        out.put_slice(&grpc::prefix(len));
        out.put(self.0.clone());
        out.freeze()
    }
}

impl Encode for Incompressible {
    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode_to_slice(&mut self, out: &mut &mut [u8]) {
        out.put_slice(&self.0);
    }

    fn encode_to_buffer(&mut self, out: &mut SendBuf) {
        out.put(self.0.clone());
    }

    fn encode_to_grpc(&mut self) -> Bytes {
        Encoded(self.0.clone()).encode_to_grpc()
    }

    fn is_compressible(&self) -> bool {
        false
    }
}

impl Encode for Box<dyn EncodeMessage> {
    fn encoded_len(&self) -> usize {
        (**self).encoded_len()
    }

    fn encode_to_slice(&mut self, out: &mut &mut [u8]) {
        (**self).encode_to_slice(out);
    }

    fn encode_to_buffer(&mut self, out: &mut SendBuf) {
        (**self).encode_to_buffer(out);
    }

    fn encode_to_grpc(&mut self) -> Bytes {
        (**self).encode_to_grpc()
    }

    fn is_compressible(&self) -> bool {
        (**self).is_compressible()
    }
}
