//! Payload buffers that are used again, for the peers that have no shared memory to lend.
//!
//! A payload of megabytes from the general allocator is fresh from the kernel each time, and the page faults would be
//! most of its cost. So that no peer is slowed by what a careful user would avoid, these buffers come back when the last
//! [`Bytes`] over them is dropped.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one length. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    len: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer of a [`Pool`], to be filled. Goes back when it is dropped.
#[derive(Debug)]
pub struct Pooled {
    buffer: Vec<u8>,
    home: Arc<Shared>,
}

impl Pool {
    /// Makes a pool of buffers of `len` bytes. They are allocated when first needed.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                len,
                free: Mutex::default(),
            }),
        }
    }

    /// Takes a buffer that nobody uses. Its contents are those of its last use.
    #[must_use]
    pub fn take(&self) -> Pooled {
        let used = self
            .shared
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let buffer = used.unwrap_or_else(|| vec![0; self.shared.len]);
        Pooled {
            buffer,
            home: Arc::clone(&self.shared),
        }
    }
}

impl Pooled {
    /// Turns the filled buffer into `Bytes`, without a copy.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        self.home
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_reader() {
        let pool = Pool::new(100);
        let bytes = pool.take().freeze();
        let place = bytes.as_ptr();
        let reader = bytes.clone();
        drop(bytes);
        assert_ne!(pool.take().as_ptr(), place, "somebody still reads it");
        drop(reader);
        assert_eq!(pool.take().as_ptr(), place);
    }
}
