//! Bytes that have been received and not read yet, across the borders of messages.

use std::{io, mem};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::RecvBuf;

/// What was received: `front` first, then `rest`.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Made contiguous for somebody who wants to see it in one piece.
    front: Bytes,
    /// As it was received.
    rest: RecvBuf,
    /// Whether nothing will follow.
    pub(super) has_ended: bool,
    /// Bytes that were taken, or let go of; wraps around.
    pub(super) consumed: usize,
}

impl Incoming {
    /// Bytes that are here.
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: RecvBuf) {
        self.rest.append(message);
    }

    /// The next bytes that are contiguous. Empty only if there are none.
    pub(super) fn chunk(&self) -> &[u8] {
        if self.front.is_empty() {
            self.rest.chunk()
        } else {
            &self.front
        }
    }

    /// Lets go of the next `count` bytes, which are here, and of the memory of whatever lies behind.
    pub(super) fn advance(&mut self, count: usize) {
        self.consumed = self.consumed.wrapping_add(count);
        let of_front = count.min(self.front.len());
        self.front.advance(of_front);
        if self.front.is_empty() {
            self.front = Bytes::new();
        }
        self.rest.advance(count - of_front);
    }

    /// Takes the bytes of [`chunk`](Self::chunk), but at most `most`. Long ones are not copied.
    pub(super) fn take_chunk(&mut self, most: usize) -> Bytes {
        let chunk = self.next_chunk(most);
        self.consumed = self.consumed.wrapping_add(chunk.len());
        chunk
    }

    fn next_chunk(&mut self, most: usize) -> Bytes {
        let len = self.chunk().len().min(most);
        if self.front.is_empty() {
            self.rest.copy_to_bytes(len)
        } else {
            self.front.split_to(len)
        }
    }

    /// Makes the next `len` bytes contiguous. Says whether they are here; if not, all that are here are contiguous.
    ///
    /// Copies what lies across the border of two messages, and only that. What was copied once is not copied again for each
    /// message that is added, and memory is taken for bytes that are here, never for those that were merely announced.
    pub(super) fn gather(&mut self, len: usize) -> bool {
        while self.front.len() < len && !self.rest.is_empty() {
            if self.front.is_empty() {
                self.front = self.next_chunk(len);
                continue;
            }
            let more = (len - self.front.len()).min(self.rest.len());
            // In place, if these bytes were copied before.
            let mut grown = mem::take(&mut self.front)
                .try_into_mut()
                .unwrap_or_else(|shared| {
                    let mut copy = BytesMut::with_capacity(shared.len() + more);
                    copy.extend_from_slice(&shared);
                    copy
                });
            grown.reserve(more);
            grown.put((&mut self.rest).take(more));
            self.front = grown.freeze();
        }
        len <= self.front.len()
    }

    /// The next `len` bytes, after [`gather`](Self::gather).
    pub(super) fn peek(&self, len: usize) -> &[u8] {
        &self.front[..len]
    }

    /// Takes the next `len` bytes, after [`gather`](Self::gather).
    pub(super) fn take(&mut self, len: usize) -> Bytes {
        self.consumed = self.consumed.wrapping_add(len);
        self.front.split_to(len)
    }

    /// Takes everything.
    pub(super) fn into_rest(self) -> RecvBuf {
        let mut all = RecvBuf::from(self.front);
        all.append(self.rest);
        all
    }
}

/// What is said to those who want more bytes than there are.
pub(crate) fn unexpected_end(wanted: usize, found: usize) -> io::Error {
    let message = format!("the peer ended the stream: {wanted} bytes were wanted, {found} came");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn message(parts: &[Vec<u8>]) -> RecvBuf {
        let mut message = RecvBuf::default();
        for part in parts {
            message.append(RecvBuf::from(Bytes::copy_from_slice(part)));
        }
        message
    }

    #[test]
    fn only_what_lies_across_a_border_is_copied() {
        let first = Bytes::from(vec![1; 1000]);
        let second = Bytes::from(vec![2; 1000]);
        let mut incoming = Incoming::default();
        incoming.push(first.clone().into());
        incoming.push(second.clone().into());
        assert!(incoming.gather(600));
        assert_eq!(incoming.peek(600).as_ptr(), first.as_ptr());
        assert_eq!(incoming.take(600).as_ptr(), first.as_ptr());
        assert!(incoming.gather(600));
        assert_eq!(
            incoming.take(600)[..],
            [[1; 400].as_slice(), &[2; 200]].concat()
        );
        assert_eq!(incoming.chunk().as_ptr(), second[200..].as_ptr());
    }

    #[test]
    fn bytes_that_were_copied_are_not_copied_again() {
        let mut incoming = Incoming::default();
        let mut moves = 0;
        let mut place = std::ptr::null();
        for _ in 0..4096 {
            incoming.push(Bytes::from_static(&[7; 16]).into());
            assert!(!incoming.gather(1 << 20));
            let now = incoming.chunk().as_ptr();
            moves += usize::from(now != place);
            place = now;
        }
        assert!(moves < 64, "{moves} moves for 4096 messages");
    }

    #[test]
    fn what_has_been_read_is_given_back() {
        let owner = Arc::new([1; 1000]);
        let shared = || Bytes::from_owner(Owned(Arc::clone(&owner)));
        let mut incoming = Incoming::default();
        for _ in 0..2 {
            incoming.push(shared().into());
            incoming.advance(1000);
            assert_eq!(Arc::strong_count(&owner), 1);
            incoming.push(shared().into());
            incoming.push(shared().into());
            assert!(incoming.gather(2000));
            assert_eq!(Arc::strong_count(&owner), 1, "copied");
            drop(incoming.take(2000));
            incoming.push(shared().into());
            assert!(incoming.gather(10));
            incoming.advance(1000);
            assert_eq!(Arc::strong_count(&owner), 1);
        }
    }

    struct Owned(Arc<[u8; 1000]>);

    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0[..]
        }
    }

    proptest! {
        /// The oracle is the concatenation of all messages.
        #[test]
        fn reads_like_one_slice(
            messages: Vec<Vec<Vec<u8>>>,
            ops: Vec<(u8, u16)>,
        ) {
            let whole = messages.concat().concat();
            let mut oracle = whole.as_slice();
            let mut messages = messages.iter();
            let mut incoming = Incoming::default();
            let mut received = 0;
            for (op, len) in ops {
                if op & 1 == 0 && let Some(next) = messages.next() {
                    incoming.push(message(next));
                    received += next.iter().map(Vec::len).sum::<usize>();
                }
                let here = received - (whole.len() - oracle.len());
                prop_assert_eq!(incoming.len(), here);
                let len = usize::from(len) % (here + 2);
                match op >> 1 & 3 {
                    0 => {
                        let is_here = incoming.gather(len);
                        prop_assert_eq!(is_here, len <= here);
                        if is_here {
                            prop_assert_eq!(incoming.peek(len), &oracle[..len]);
                        }
                        continue;
                    }
                    1 if incoming.gather(len) => prop_assert_eq!(&incoming.take(len)[..], &oracle[..len]),
                    2 if len <= here => incoming.advance(len),
                    _ => {
                        let chunk = incoming.take_chunk(len);
                        prop_assert_eq!(&chunk[..], &oracle[..chunk.len()]);
                        prop_assert_eq!(chunk.is_empty(), here == 0 || len == 0);
                        oracle = &oracle[chunk.len()..];
                        continue;
                    }
                }
                oracle = &oracle[len..];
            }
            let here = received - (whole.len() - oracle.len());
            let mut rest = incoming.into_rest();
            prop_assert_eq!(&rest.copy_to_bytes(here)[..], &oracle[..here]);
        }
    }
}
