//! Somebody else's body, whose messages may only be so long.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::grpc::PREFIX_LEN;
use crate::{Status, error::BoxError, frame};

pin_project! {
    /// A body in the framing of gRPC that is passed on as it is, up to a message that is too long, which it fails instead of.
    ///
    /// One that is compressed is measured as it is: who takes it apart measures what comes of it.
    ///
    /// The beginning of a prefix is held back until the rest of it has come, so that what was passed on before a failure are whole
    /// messages.
    pub(crate) struct Measured<B> {
        #[pin]
        body: B,
        // What the failure of the body is for who reads it.
        status_of: fn(BoxError) -> Status,
        message_len_max: usize,
        // How much is yet to come of the message whose prefix has come.
        left: usize,
        held: Bytes,
        // How it fails, once what came before was passed on.
        failure: Option<Status>,
        is_over: bool,
    }
}

impl<B> Measured<B> {
    pub(crate) fn new(body: B, message_len_max: usize) -> Self {
        Self::failing(body, Status::from_error, message_len_max)
    }

    /// As [`new`](Self::new). If the body fails, that is such a status.
    pub(crate) fn failing(
        body: B,
        status_of: fn(BoxError) -> Status,
        message_len_max: usize,
    ) -> Self {
        Self {
            body,
            status_of,
            message_len_max,
            left: 0,
            held: Bytes::new(),
            failure: None,
            is_over: false,
        }
    }
}

/// Finds out how much of `data` may be passed on, of which the first `left` bytes belong to a message whose prefix has come.
///
/// Returns how many bytes that are, and how many are left of the last message.
///
/// # Errors
///
/// Returns the length of a message that is too long, and where it begins.
fn measure(data: &[u8], mut left: usize, max: usize) -> Result<(usize, usize), (usize, usize)> {
    let mut at = 0;
    loop {
        let step = left.min(data.len() - at);
        at += step;
        left -= step;
        let Some((&[_, l0, l1, l2, l3], _)) = data[at..].split_first_chunk::<PREFIX_LEN>() else {
            // All of it, but for the beginning of a prefix.
            return Ok((at, left));
        };
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if max < len {
            return Err((len, at));
        }
        at += PREFIX_LEN;
        left = len;
    }
}

impl<B> http_body::Body for Measured<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        loop {
            if let Some(status) = this.failure.take() {
                *this.is_over = true;
                return Poll::Ready(Some(Err(status)));
            }
            if *this.is_over {
                return Poll::Ready(None);
            }
            let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => {
                    *this.is_over = true;
                    return Poll::Ready(Some(Err((this.status_of)(error.into()))));
                }
                None if this.held.has_remaining() => {
                    *this.failure = Some(ends_within());
                    continue;
                }
                None => return Poll::Ready(None),
            };
            let mut data = match frame {
                Ok(data) => data,
                Err(_) if this.held.has_remaining() => {
                    *this.failure = Some(ends_within());
                    continue;
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            if this.held.has_remaining() {
                let mut joined = BytesMut::with_capacity(this.held.len() + data.len());
                joined.extend_from_slice(this.held);
                joined.extend_from_slice(&data);
                data = joined.freeze();
            }
            match measure(&data, *this.left, *this.message_len_max) {
                Ok((passed, left)) => {
                    *this.held = data.split_off(passed);
                    *this.left = left;
                }
                Err((len, begins)) => {
                    data.truncate(begins);
                    *this.held = Bytes::new();
                    *this.failure = Some(frame::message_too_large(len, *this.message_len_max));
                }
            }
            if data.has_remaining() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_more = self.held.has_remaining() || self.failure.is_some();
        !has_more && (self.is_over || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.held.has_remaining() || self.failure.is_some() {
            return SizeHint::default();
        }
        self.body.size_hint()
    }
}

fn ends_within() -> Status {
    Status::internal("the body ends within a message")
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use http::HeaderMap;
    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;
    use crate::{Code, body::grpc};

    /// Frames that are there.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frames = messages
            .iter()
            .map(|message| [&grpc::prefix(message.len())[..], message].concat());
        frames.collect::<Vec<_>>().concat()
    }

    /// Passes pieces of `len` bytes on, and trailers. Returns what passes, and how it ends.
    fn pass(bytes: &[u8], len: usize, max: usize) -> (Vec<u8>, Result<(), Code>) {
        let pieces = bytes.chunks(len).map(Bytes::copy_from_slice);
        let trailers = Frame::trailers(HeaderMap::new());
        let frames = pieces.map(Frame::data).chain([trailers]).collect();
        let mut body = std::pin::pin!(Measured::new(Frames(frames), max));
        let (mut passed, mut has_trailers) = (Vec::new(), false);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let is_end = body.is_end_stream();
            match body.as_mut().poll_frame(&mut cx) {
                Poll::Pending => panic!("everything is there"),
                Poll::Ready(None) => {
                    assert!(has_trailers, "it ends with them, or fails");
                    return (passed, Ok(()));
                }
                Poll::Ready(Some(Err(status))) => {
                    assert!(!is_end, "there is a failure to come");
                    assert!(matches!(body.poll_frame(&mut cx), Poll::Ready(None)));
                    return (passed, Err(status.code()));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    assert!(!is_end, "there is a frame to come");
                    match frame.into_data() {
                        Ok(data) => passed.extend_from_slice(&data),
                        Err(_) => has_trailers = true,
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn messages_pass_up_to_the_first_that_is_too_long(
            messages: Vec<Vec<u8>>,
            len in 1usize..20,
            max in 0usize..100,
        ) {
            let (passed, ended) = pass(&framed(&messages), len, max);
            let short: Vec<_> = messages.iter().take_while(|message| message.len() <= max).cloned().collect();
            prop_assert_eq!(passed, framed(&short));
            let expected = if short.len() == messages.len() { Ok(()) } else { Err(Code::ResourceExhausted) };
            prop_assert_eq!(ended, expected);
        }
    }

    #[test]
    fn a_body_that_ends_within_a_prefix_fails() {
        let bytes = [framed(&[vec![1, 2, 3]]), vec![0, 0]].concat();
        for len in [1, 100] {
            let (passed, ended) = pass(&bytes, len, 3);
            assert_eq!((&passed[..], ended), (&bytes[..8], Err(Code::Internal)));
        }
    }
}
