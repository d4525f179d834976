//! The framing of gRPC over HTTP/2: one byte of flags, four of length, the message.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use crate::{Status, error::BoxError};

/// The length of what comes before a message.
pub(crate) const PREFIX_LEN: usize = 5;

/// Returns what comes before a message of `len` bytes.
///
/// A message that is too long for the framing gets the largest length. The limits on messages are below that.
pub(crate) fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    let [l0, l1, l2, l3] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, l0, l1, l2, l3]
}

/// Pieces of a message, in order.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "cannot advance past the end");
        self.remaining -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.remaining, "cannot copy past the end");
        match self.pieces.front_mut() {
            // Within one piece it is not copied.
            Some(piece) if len <= piece.len() => {
                let bytes = piece.split_to(len);
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                self.remaining -= len;
                bytes
            }
            _ => {
                let mut bytes = BytesMut::with_capacity(len);
                bytes.put(self.take(len));
                bytes.freeze()
            }
        }
    }
}

/// What a body turned out to hold.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// The message, without framing. `None` if the body is empty.
    pub(crate) message: Option<Pieces>,
    /// The trailers, if there were any.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Reads a body that holds at most one message of at most `message_len_max` bytes.
pub(crate) async fn collect<B>(body: B, message_len_max: usize) -> Result<Collected, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut pieces = Pieces::default();
    let mut trailers = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| Status::from_error(error.into()))?;
        match frame.into_data() {
            Ok(data) => pieces.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        check_size(&pieces, message_len_max)?;
    }
    let message = if pieces.has_remaining() {
        Some(take_message(pieces)?)
    } else {
        None
    };
    Ok(Collected { message, trailers })
}

/// Refuses a message that is too long as soon as that can be known.
fn check_size(pieces: &Pieces, max: usize) -> Result<(), Status> {
    // A length in the prefix that is a lie is found out when the body ends.
    if pieces.remaining() > max.saturating_add(PREFIX_LEN) {
        let message = format!("the message has more than {max} bytes, which is the limit");
        return Err(Status::resource_exhausted(message));
    }
    Ok(())
}

/// Takes the framing off the one message that `pieces` consist of.
fn take_message(mut pieces: Pieces) -> Result<Pieces, Status> {
    let mut prefix = [0; PREFIX_LEN];
    pieces
        .try_copy_to_slice(&mut prefix)
        .map_err(|_| Status::internal("the body ends within a prefix"))?;
    let [flags, length @ ..] = prefix;
    if flags != 0 {
        return Err(Status::unimplemented(
            "the message is compressed, which is not supported",
        ));
    }
    let len = u32::from_be_bytes(length) as usize;
    if pieces.remaining() != len {
        let found = pieces.remaining();
        return Err(Status::internal(format!(
            "the body has {found} bytes for a message of {len}"
        )));
    }
    Ok(pieces)
}

/// Reads arbitrary bytes as a body that arrives in pieces; the first byte is their length.
pub(crate) fn fuzz(data: &[u8]) {
    const LIMIT: usize = 64;

    let Some((&piece_len, bytes)) = data.split_first() else {
        return;
    };
    let body = InPieces::new(bytes, usize::from(piece_len).max(1));
    let mut future = pin!(collect(body, LIMIT));
    let collected = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    if let Poll::Ready(Ok(Collected {
        message: Some(mut message),
        ..
    })) = collected
    {
        let len = message.remaining();
        assert_eq!(message.copy_to_bytes(len), bytes[PREFIX_LEN..]);
    }
}

/// A body that is there, but in pieces.
struct InPieces(VecDeque<Bytes>);

impl InPieces {
    fn new(bytes: &[u8], piece_len: usize) -> Self {
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

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use proptest::prelude::*;

    use super::*;
    use crate::Code;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime needs no rights")
            .block_on(future)
    }

    proptest! {
        #[test]
        fn a_message_survives_any_cutting(message: Vec<u8>, len in 1usize..20) {
            let framed = [&prefix(message.len())[..], &message].concat();
            let collected = block_on(collect(InPieces::new(&framed, len), message.len()));
            let mut pieces = collected.expect("it is well-formed").message.expect("there is one");
            let len = pieces.remaining();
            prop_assert_eq!(pieces.copy_to_bytes(len), message);
        }

        #[test]
        fn pieces_behave_like_one_slice(pieces: Vec<Vec<u8>>, cuts: Vec<prop::sample::Index>) {
            let whole = pieces.concat();
            let mut oracle = &whole[..];
            let mut tested = Pieces::default();
            pieces.into_iter().for_each(|piece| tested.push(piece.into()));
            for (turn, cut) in cuts.into_iter().enumerate() {
                let len = cut.index(oracle.len() + 1);
                if turn % 2 == 0 {
                    prop_assert_eq!(tested.copy_to_bytes(len), oracle.copy_to_bytes(len));
                } else {
                    tested.advance(len);
                    oracle.advance(len);
                }
                prop_assert_eq!(tested.remaining(), oracle.remaining());
            }
        }

        #[test]
        fn arbitrary_bodies_never_panic(bytes: Vec<u8>) {
            fuzz(&bytes);
        }
    }

    #[test]
    fn bodies_that_are_not_one_message_are_refused() {
        let code = |bytes: &'static [u8]| {
            block_on(collect(Full::new(Bytes::from_static(bytes)), 4))
                .map(|_| ())
                .map_err(|status| status.code())
        };
        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&[0, 0, 0, 0, 1, 7]), Ok(()));
        assert_eq!(code(&[0, 0, 0]), Err(Code::Internal));
        assert_eq!(code(&[0, 0, 0, 0, 2, 7]), Err(Code::Internal));
        assert_eq!(code(&[0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Code::Internal));
        assert_eq!(code(&[1, 0, 0, 0, 1, 7]), Err(Code::Unimplemented));
        assert_eq!(
            code(&[0, 0, 0, 0, 5, 1, 2, 3, 4, 5]),
            Err(Code::ResourceExhausted)
        );
    }
}
