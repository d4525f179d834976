//! The framing of gRPC over HTTP/2: one byte of flags, four of length, the message.

use std::{collections::VecDeque, mem};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The length of what comes before a message.
pub(crate) const PREFIX_LEN: usize = 5;

/// The flag of a message that is compressed.
pub(crate) const COMPRESSED: u8 = 1;

/// Pieces below this are short.
const SHORT: usize = 1 << 10;

/// Returns what comes before a message of `len` bytes.
///
/// A message that is too long for the framing gets the largest length. The limits on messages are below that.
pub(crate) fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    let [l0, l1, l2, l3] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, l0, l1, l2, l3]
}

/// Pieces of a message, in order. Most are but one, for which nothing is allocated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    /// Not empty, unless all is.
    first: Bytes,
    rest: VecDeque<Bytes>,
    remaining: usize,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.remaining += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else if !piece.is_empty() {
            self.rest.push_back(piece);
        }
    }

    /// Appends what has come over a connection. Short pieces are put together: each by itself would take many times its bytes, and hold on
    /// to the memory that it was read into.
    pub(crate) fn receive(&mut self, piece: Bytes) {
        let is_short = |piece: &Bytes| piece.len() < SHORT;
        match self.rest.back_mut() {
            Some(last) if is_short(last) && is_short(&piece) => {
                self.remaining += piece.len();
                let own = mem::take(last).try_into_mut();
                let mut own = own.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                own.put(piece);
                *last = own.freeze();
            }
            _ => self.push(piece),
        }
    }

    /// Takes the first `len` bytes, of which there must be so many. Never copies.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        assert!(len <= self.remaining, "cannot split past the end");
        let mut head = Self::default();
        while head.remaining < len {
            let wanted = len - head.remaining;
            head.push(self.first.split_to(wanted.min(self.first.len())));
            self.next_piece();
        }
        self.remaining -= len;
        head
    }

    fn next_piece(&mut self) {
        if self.first.is_empty() {
            self.first = self.rest.pop_front().unwrap_or_default();
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "cannot advance past the end");
        self.remaining -= count;
        while count != 0 {
            let step = count.min(self.first.len());
            self.first.advance(step);
            self.next_piece();
            count -= step;
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.remaining, "cannot copy past the end");
        // Within one piece it is not copied.
        if len <= self.first.len() {
            let bytes = self.first.split_to(len);
            self.next_piece();
            self.remaining -= len;
            return bytes;
        }
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put(self.take(len));
        bytes.freeze()
    }
}

/// What only tests and fuzz targets need.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use http_body::Frame;

    use super::{Buf, Bytes, PREFIX_LEN, VecDeque};
    use crate::{Status, body::Decoder, codec::Coding};

    /// Reads arbitrary bytes as a body that arrives in pieces; the first byte is their length.
    pub(crate) fn body(data: &[u8]) {
        const LIMIT: usize = 64;

        let Some((&piece_len, bytes)) = data.split_first() else {
            return;
        };
        let body = InPieces::new(bytes, usize::from(piece_len).max(1));
        let mut decoder = Decoder::new(Box::pin(body), Coding::Identity, LIMIT);
        let mut cx = Context::from_waker(Waker::noop());
        let mut rest = bytes;
        while let Poll::Ready(Some(Ok(mut message))) = decoder.poll_message(&mut cx) {
            let len = message.remaining();
            assert!(len <= LIMIT, "longer messages are refused");
            rest.advance(PREFIX_LEN);
            assert_eq!(message.copy_to_bytes(len), rest[..len]);
            rest.advance(len);
        }
    }

    /// A body that is there, but in pieces.
    pub(super) struct InPieces(VecDeque<Bytes>);

    impl InPieces {
        pub(super) fn new(bytes: &[u8], piece_len: usize) -> Self {
            Self(
                bytes
                    .chunks(piece_len)
                    .map(Bytes::copy_from_slice)
                    .collect(),
            )
        }
    }

    impl http_body::Body for InPieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::{fuzz::InPieces, *};
    use crate::{Code, Status, body::Decoder, codec::Coding};

    #[test]
    fn many_short_pieces_become_few() {
        let mut pieces = Pieces::default();
        let bytes: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        for at in 0..bytes.len() {
            // As a connection lends it out of what it has read.
            let read = Bytes::copy_from_slice(&bytes[at..(at + 16).min(bytes.len())]);
            pieces.receive(read.slice(..1));
        }
        assert!(pieces.rest.len() <= bytes.len() / SHORT + 1);
        assert_eq!(pieces.remaining(), bytes.len());
        assert_eq!(pieces.copy_to_bytes(bytes.len()), bytes);
        // Long ones are left as they are.
        let long = Bytes::from(vec![1; SHORT]);
        pieces.receive(long.clone());
        pieces.receive(long.clone());
        assert_eq!(pieces.rest[0].as_ptr(), long.as_ptr());
    }

    /// Decodes all messages of a body that arrives in pieces of `len` bytes.
    fn decode_all(bytes: &[u8], len: usize, max: usize) -> Result<Vec<Bytes>, Status> {
        let mut decoder = Decoder::new(Box::pin(InPieces::new(bytes, len)), Coding::Identity, max);
        let mut cx = Context::from_waker(Waker::noop());
        let mut messages = Vec::new();
        loop {
            match decoder.poll_message(&mut cx) {
                Poll::Ready(Some(message)) => {
                    let mut message = message?;
                    let len = message.remaining();
                    messages.push(message.copy_to_bytes(len));
                }
                Poll::Ready(None) => return Ok(messages),
                Poll::Pending => panic!("everything is there"),
            }
        }
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(messages: Vec<Vec<u8>>, len in 1usize..20) {
            let framed: Vec<u8> = messages
                .iter()
                .flat_map(|message| [&prefix(message.len())[..], message].concat())
                .collect();
            let decoded = decode_all(&framed, len, usize::MAX).expect("it is well-formed");
            prop_assert_eq!(decoded, messages);
        }

        #[test]
        fn pieces_behave_like_one_slice(pieces: Vec<Vec<u8>>, cuts: Vec<prop::sample::Index>) {
            let whole = pieces.concat();
            let mut oracle = &whole[..];
            let mut tested = Pieces::default();
            pieces.into_iter().for_each(|piece| tested.push(piece.into()));
            for (turn, cut) in cuts.into_iter().enumerate() {
                let len = cut.index(oracle.len() + 1);
                if turn % 3 == 0 {
                    prop_assert_eq!(tested.copy_to_bytes(len), oracle.copy_to_bytes(len));
                } else if turn % 3 == 1 {
                    prop_assert_eq!(tested.split_to(len).copy_to_bytes(len), oracle.copy_to_bytes(len));
                } else {
                    tested.advance(len);
                    oracle.advance(len);
                }
                prop_assert_eq!(tested.remaining(), oracle.remaining());
            }
        }

        #[test]
        fn arbitrary_bodies_never_panic(bytes: Vec<u8>) {
            fuzz::body(&bytes);
        }
    }

    #[test]
    fn one_message_that_is_all_is_taken_whole_and_nothing_is_lost_of_others() {
        let mut cx = Context::from_waker(Waker::noop());
        for (messages, is_whole) in [(0, false), (1, true), (2, false)] {
            let bytes = [0, 0, 0, 0, 2, 7, 8].repeat(messages);
            for piece_len in [1, 7, 100] {
                let mut decoder = Decoder::new(
                    Box::pin(InPieces::new(&bytes, piece_len)),
                    Coding::Identity,
                    2,
                );
                let whole = decoder
                    .take_whole(&mut cx)
                    .map(|(mut message, _)| message.get_u16());
                assert_eq!(whole, is_whole.then_some(0x0708));
                let rest = std::iter::from_fn(|| match decoder.poll_message(&mut cx) {
                    Poll::Ready(message) => message,
                    Poll::Pending => panic!("everything is there"),
                });
                let rest = rest
                    .collect::<Result<Vec<_>, _>>()
                    .expect("they are well-formed");
                assert_eq!(rest.len(), messages - usize::from(is_whole));
            }
        }
        // A failure is told once, as it would have been.
        let mut decoder = Decoder::new(
            Box::pin(InPieces::new(&[0, 0, 0, 0, 3], 5)),
            Coding::Identity,
            2,
        );
        assert!(decoder.take_whole(&mut cx).is_none());
        let told = decoder.poll_message(&mut cx);
        assert!(matches!(told, Poll::Ready(Some(Err(_)))));
        assert!(matches!(decoder.poll_message(&mut cx), Poll::Ready(None)));
    }

    #[test]
    fn bodies_that_are_not_messages_are_refused() {
        let count = |bytes: &[u8]| {
            decode_all(bytes, 3, 4)
                .map(|messages| messages.len())
                .map_err(|status| status.code())
        };
        assert_eq!(count(&[]), Ok(0));
        assert_eq!(count(&[0, 0, 0, 0, 1, 7]), Ok(1));
        assert_eq!(count(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(2));
        assert_eq!(count(&[0, 0, 0]), Err(Code::Internal));
        assert_eq!(count(&[0, 0, 0, 0, 2, 7]), Err(Code::Internal));
        assert_eq!(count(&[0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Code::Internal));
        assert_eq!(count(&[1, 0, 0, 0, 1, 7]), Err(Code::Internal));
        assert_eq!(count(&[2, 0, 0, 0, 1, 7]), Err(Code::Internal));
        assert_eq!(
            count(&[0, 0, 0, 0, 5, 1, 2, 3, 4, 5]),
            Err(Code::ResourceExhausted)
        );
    }
}
