//! Slices that are being written for a message.

use std::sync::Arc;

use super::ShmipcLink;
use crate::core::{
    num::{index, u32_len},
    shmipc::Slice,
};

/// Slices with what was written to them, in order. Those that are not sent go back when it is dropped.
#[derive(Debug)]
pub(crate) struct Run {
    link: Arc<ShmipcLink>,
    slices: Vec<(Slice, u32)>,
    /// The slice that is being written.
    current: usize,
    len: usize,
    room: usize,
}

impl Run {
    /// Takes slices for `len` bytes; `None` if they are not to be had.
    pub(crate) fn take(link: &Arc<ShmipcLink>, len: usize) -> Option<Self> {
        let slices = link.take_slices(u32_len(len))?;
        let room = slices.iter().map(|slice| index(slice.capacity())).sum();
        Some(Self {
            link: Arc::clone(link),
            slices: slices.into_iter().map(|slice| (slice, 0)).collect(),
            current: 0,
            len: 0,
            room,
        })
    }

    /// Bytes that were written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Appends bytes, for which there is room.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        self.room -= bytes.len();
        while !bytes.is_empty() {
            let (slice, written) = &mut self.slices[self.current];
            let left = index(slice.capacity() - *written);
            let (head, rest) = bytes.split_at(left.min(bytes.len()));
            self.link.memory().copy_in(slice.data() + *written, head);
            *written += u32_len(head.len());
            bytes = rest;
            if !bytes.is_empty() {
                self.current += 1;
            }
        }
    }

    /// The slices that were written; the others go back.
    pub(super) fn into_written(mut self) -> Vec<(Slice, u32)> {
        let slices = std::mem::take(&mut self.slices);
        let (written, unused): (Vec<_>, Vec<_>) =
            slices.into_iter().partition(|&(_, written)| written != 0);
        self.slices = unused;
        written
    }

    /// Copies what was written to the end of `target`.
    pub(super) fn append_to(&self, target: &mut Vec<u8>) {
        for (slice, written) in &self.slices {
            self.link.memory().append_to(slice.data(), *written, target);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for (slice, _) in self.slices.drain(..) {
            self.link.put_slice(slice);
        }
    }
}
