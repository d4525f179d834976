//! A received message.

use std::{collections::VecDeque, iter, mem};

use bytes::{Buf, Bytes};

use crate::link::Guarded;

/// A message that was received: its bytes, in place.
///
/// A short message has been copied out of the ring. A longer one still lies in memory of the sender's;
/// [`copy_to_bytes`](Buf::copy_to_bytes) shares it without a copy where the range is contiguous. Its memory goes back to
/// the sender when the last `Bytes` over it is dropped, in whichever thread, also after the session has ended. Where payloads are
/// [`Guarded`](crate::Payloads::Guarded), it was copied when it was received. Clones share its memory.
#[derive(Debug, Default)]
pub struct RecvBuf {
    front: Bytes,
    /// What follows. Most messages have one part; so that they cost little to pass on, and to drop, this is a pointer.
    #[expect(
        clippy::box_collection,
        reason = "most messages have none, and all of them are moved"
    )]
    rest: Option<Box<VecDeque<Bytes>>>,
    /// All parts of a message of which some must be copied before anybody looks at them. Set until it is received.
    #[expect(
        clippy::box_collection,
        reason = "most messages have none, and all of them are moved"
    )]
    unread: Option<Box<Vec<Unread>>>,
    len: usize,
    /// How many bytes of our own memory the front is the rest of. Zero if it lies elsewhere.
    copied: usize,
}

/// A part of a message that nobody has received yet.
#[derive(Debug)]
enum Unread {
    Bytes(Bytes),
    Guarded(Guarded),
}

impl RecvBuf {
    /// Ranges of at least so many bytes are shared by [`copy_to_bytes`](Buf::copy_to_bytes) rather than copied.
    ///
    /// Below, a copy is cheaper than the bookkeeping of a share, and does not hold on to a whole block of the sender's. What is left of
    /// memory of our own is handed out as it is all the same, if that is most of it.
    pub const SHARED_MIN: usize = 256;

    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self {
            len: bytes.len(),
            front: bytes,
            rest: None,
            unread: None,
            copied: 0,
        }
    }

    /// A message that was copied.
    pub(crate) fn from_copy(bytes: Vec<u8>) -> Self {
        Self {
            copied: bytes.len(),
            ..Self::from_bytes(Bytes::from(bytes))
        }
    }

    /// Appends a part.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if let Some(unread) = &mut self.unread {
            unread.push(Unread::Bytes(bytes));
        } else if self.front.is_empty() {
            (self.front, self.copied) = (bytes, 0);
        } else if !bytes.is_empty() {
            self.rest.get_or_insert_default().push_back(bytes);
        }
    }

    /// Appends a part that must be copied before anybody looks at it.
    pub(crate) fn push_guarded(&mut self, part: Guarded) {
        self.len += part.len();
        let (front, rest) = (&mut self.front, &mut self.rest);
        let unread = self.unread.get_or_insert_with(|| {
            let rest = rest.take().into_iter().flat_map(|rest| *rest);
            let parts = iter::once(mem::take(front)).chain(rest);
            Box::new(parts.map(Unread::Bytes).collect())
        });
        unread.push(Unread::Guarded(part));
    }

    /// Whether parts of it must be copied before anybody looks at them.
    pub(crate) fn is_guarded(&self) -> bool {
        self.unread.is_some()
    }

    /// The message as it is received: what must be copied, is. `None` if there is no memory for that.
    pub(crate) fn into_received(mut self) -> Option<Self> {
        let Some(unread) = self.unread.take() else {
            return Some(self);
        };
        let mut message = Self::default();
        for part in *unread {
            message.push(match part {
                Unread::Bytes(bytes) => bytes,
                Unread::Guarded(part) => part.copy()?,
            });
        }
        Some(message)
    }

    /// Appends what has not been read of another message.
    pub(crate) fn append(&mut self, other: Self) {
        self.push(other.front);
        let rest = other.rest.into_iter().flat_map(|rest| *rest);
        rest.for_each(|part| self.push(part));
    }

    /// Bytes that have not been read yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first `len` bytes as a buffer of their own. Never copies.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Self {
        assert!(
            len <= self.len,
            "cannot split {len} bytes off a message of {}",
            self.len
        );
        let (mut head, copied) = (Self::default(), self.copied);
        while head.len < len {
            let take = self.front.len().min(len - head.len);
            head.push(self.front.split_to(take));
            self.len -= take;
            self.next_part();
        }
        head.copied = copied;
        head
    }

    fn next_part(&mut self) {
        if self.front.is_empty() {
            // Although it is empty, it would keep the memory.
            let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
            self.front = next.unwrap_or_default();
            self.copied = 0;
        }
    }
}

impl Buf for RecvBuf {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        &self.front
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        if count < self.front.len() {
            self.len -= count;
            self.front.advance(count);
        } else {
            self.advance_parts(count);
        }
    }

    /// Shares the range if it is contiguous and not short, and copies it otherwise, unless it is most of what was copied before, and all
    /// that is left of it.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(
            len <= self.len,
            "cannot take {len} bytes of a message of {}",
            self.len
        );
        let is_long = Self::SHARED_MIN <= len && len <= self.front.len();
        // Then nobody else's memory is shared, and little of ours is held on to in vain.
        let is_rest = len == self.len && len == self.front.len() && self.copied <= 2 * len;
        if is_long || is_rest && self.copied != 0 {
            let shared = self.front.split_to(len);
            self.len -= len;
            self.next_part();
            return shared;
        }
        let mut copy = Vec::with_capacity(len);
        while copy.len() < len {
            let chunk = &self.front[..self.front.len().min(len - copy.len())];
            copy.extend_from_slice(chunk);
            self.advance(chunk.len());
        }
        copy.into()
    }
}

impl RecvBuf {
    /// Advances to the end of the first part, or beyond.
    fn advance_parts(&mut self, mut count: usize) {
        assert!(
            count <= self.len,
            "cannot advance by {count} bytes in a message of {}",
            self.len
        );
        self.len -= count;
        while self.front.len() < count {
            count -= self.front.len();
            self.front.clear();
            self.next_part();
        }
        self.front.advance(count);
        self.next_part();
    }
}

impl Clone for RecvBuf {
    fn clone(&self) -> Self {
        Self {
            front: self.front.clone(),
            rest: self.rest.clone(),
            // Whoever has the message has received it.
            unread: None,
            len: self.len,
            copied: self.copied,
        }
    }
}

impl From<Bytes> for RecvBuf {
    fn from(bytes: Bytes) -> Self {
        Self::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(parts: &[Vec<u8>]) -> RecvBuf {
        let mut message = RecvBuf::default();
        for part in parts {
            message.push(Bytes::copy_from_slice(part));
        }
        message
    }

    #[test]
    fn long_ranges_are_shared_and_short_ones_copied() {
        let part = Bytes::from(vec![1; 4096]);
        let mut message = RecvBuf::from_bytes(part.clone());
        let long = message.copy_to_bytes(RecvBuf::SHARED_MIN);
        assert_eq!(long.as_ptr(), part.as_ptr());
        let short = message.copy_to_bytes(16);
        assert_ne!(short.as_ptr(), part[RecvBuf::SHARED_MIN..].as_ptr());
        let rest = message.split_to(message.len());
        assert_eq!(
            rest.chunk().as_ptr(),
            part[RecvBuf::SHARED_MIN + 16..].as_ptr()
        );
    }

    #[test]
    fn what_is_left_of_a_copy_is_not_copied_again() {
        let taken = |message: &mut RecvBuf, len| {
            let place = message.chunk().as_ptr();
            message.copy_to_bytes(len).as_ptr() == place
        };
        let mut message = RecvBuf::from_copy(vec![1; 100]);
        message.advance(30);
        assert!(!taken(&mut message, 10), "there is more");
        assert!(taken(&mut message, 60));
        assert!(message.is_empty());
        message.push(Bytes::copy_from_slice(&[2; 10]));
        assert!(!taken(&mut message, 10), "it is of another kind");

        let mut message = RecvBuf::from_copy(vec![1; 100]);
        let mut head = message.split_to(60);
        assert!(taken(&mut head, 60));
        assert!(!taken(&mut message, 40), "the others hold on to it");

        let mut message = RecvBuf::from_copy(vec![1; 100]);
        message.advance(90);
        assert!(!taken(&mut message, 10), "it would hold on to all of it");
    }

    proptest! {
        /// The oracle is the concatenation of the parts.
        #[test]
        fn reads_like_one_slice(parts: Vec<Vec<u8>>, ops: Vec<(u8, u16)>) {
            let whole = parts.concat();
            let mut oracle = whole.as_slice();
            let mut message = message(&parts);
            for (op, len) in ops {
                let len = usize::from(len) % (oracle.len() + 1);
                let (expected, rest) = oracle.split_at(len);
                match op % 3 {
                    0 => prop_assert_eq!(&message.copy_to_bytes(len)[..], expected),
                    1 => {
                        let mut head = message.split_to(len);
                        prop_assert_eq!(&head.copy_to_bytes(len)[..], expected);
                    }
                    _ => message.advance(len),
                }
                oracle = rest;
                prop_assert_eq!(message.remaining(), oracle.len());
                prop_assert!(oracle.is_empty() || !message.chunk().is_empty());
            }
        }
    }
}
