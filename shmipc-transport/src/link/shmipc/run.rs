//! Slices that are being written for a message.

use std::sync::Arc;

use super::ShmipcLink;
use crate::core::{
    num::{index, u32_len},
    shmipc::{Slice, Slices},
};

/// Slices with what was written to them, in order. Those that are not sent go back when it is dropped.
#[derive(Debug)]
pub(crate) struct Run {
    link: Arc<ShmipcLink>,
    slices: Slices,
    /// The slice that is being written.
    current: usize,
    len: usize,
    room: usize,
}

impl Run {
    /// Takes slices for `len` bytes; `None` if they are not to be had.
    pub(crate) fn take(link: &Arc<ShmipcLink>, len: usize) -> Option<Self> {
        let slices = link.take_slices(u32_len(len))?;
        let capacity = |(slice, _): &(Slice, u32)| index(slice.capacity());
        let room = slices.iter().map(capacity).sum();
        Some(Self {
            link: Arc::clone(link),
            slices,
            current: 0,
            len: 0,
            room,
        })
    }

    /// Bytes that were written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The slices that it has.
    pub(super) fn slices(&self) -> usize {
        self.slices.len()
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
            self.link.pool.write(slice, *written, head);
            *written += u32_len(head.len());
            bytes = rest;
            if !bytes.is_empty() {
                self.current += 1;
            }
        }
    }

    /// The slice that is written next, unless all are full.
    fn next(&self) -> Option<usize> {
        let has_room = |&number: &usize| {
            let slice = self.slices.get(number);
            slice.is_some_and(|(slice, written)| *written < slice.capacity())
        };
        [self.current, self.current + 1].into_iter().find(has_room)
    }

    /// Whether the next `len` bytes can be written in place, contiguous. Not, if nobody has decided to rely on the peer.
    pub(crate) fn has_place(&self, len: usize) -> bool {
        let room = |number: usize| {
            let (slice, written) = &self.slices[number];
            index(slice.capacity() - written)
        };
        self.link.trust.is_some() && self.next().is_some_and(|next| len <= room(next))
    }

    /// The next `len` bytes, to be written; none if there is no [place](Self::has_place).
    pub(crate) fn place_mut(&mut self, len: usize) -> &mut [u8] {
        match self.next() {
            Some(next) if self.has_place(len) => {
                let (slice, written) = &mut self.slices[next];
                self.link.place_mut(slice, *written, u32_len(len))
            }
            _ => &mut [],
        }
    }

    /// As [`place_mut`](Self::place_mut), for reading.
    pub(crate) fn place(&self, len: usize) -> &[u8] {
        match (self.next(), self.link.trust) {
            (Some(next), Some(trust)) if self.has_place(len) => {
                let (slice, written) = &self.slices[next];
                self.link.pool.place(slice, *written, u32_len(len), trust)
            }
            _ => &[],
        }
    }

    /// Makes `len` bytes that were written in place part of the message.
    pub(crate) fn wrote(&mut self, len: usize) {
        if let Some(next) = self.next() {
            self.current = next;
            self.slices[next].1 += u32_len(len);
            self.len += len;
            self.room -= len;
        }
    }

    /// The slices that were written; the others go back.
    pub(super) fn into_written(mut self) -> Slices {
        let mut slices = std::mem::take(&mut self.slices);
        // They are written in order.
        self.link.put_unwritten(&mut slices);
        slices
    }

    /// Copies what was written to the end of `target`.
    pub(in crate::link) fn append_to(&self, target: &mut Vec<u8>) {
        for (slice, written) in &self.slices {
            self.link.pool.append_to(slice, 0, *written, target);
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
