//! A message between the moment when it has its place and that when the peer can see it.

use std::mem;

use super::{ShmipcGuard, ShmipcLink, record::status_of};
use crate::core::{
    num::{StreamId, u32_len},
    outbox::flags,
    shmipc::{Element, Slice, Slices, state},
    sync::lock,
};

/// How a message goes.
#[derive(Debug)]
pub(super) enum Route {
    /// In these slices.
    Shared(Slices),
    /// In these bytes, over the socket.
    Socket(Vec<u8>),
    /// Without any bytes.
    Nothing,
}

/// A message that has its place. Dropped without being committed, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct ShmipcReservation<'l> {
    pub(super) link: &'l ShmipcLink,
    pub(super) route: Option<Route>,
    pub(super) stream: u32,
    /// What is written by [`body`](Self::body), to be copied as it is committed, unless it is written in place.
    pub(super) body: Vec<u8>,
    pub(super) len: usize,
}

impl<'l> ShmipcReservation<'l> {
    /// The body, to be written.
    pub(crate) fn body(&mut self) -> &mut [u8] {
        match self.route.as_mut().and_then(|route| route.place(self.len)) {
            Some((slice, len)) => self.link.place_mut(slice, 0, len),
            None => &mut self.body,
        }
    }

    /// Publishes the message, and wakes the peer if it must be woken.
    pub(crate) fn commit(&mut self, record_flags: u16) {
        if let Some(mut tx) = self.publish(record_flags) {
            self.link.wake(&mut tx);
        }
    }

    /// Publishes the message. The caller [wakes the peer](ShmipcLink::wake_peer) soon.
    pub(crate) fn commit_quietly(&mut self, record_flags: u16) {
        self.publish(record_flags);
    }

    /// Publishes the message, and returns the lock under which that was done.
    fn publish(&mut self, record_flags: u16) -> Option<ShmipcGuard<'l>> {
        let (link, stream) = (self.link, self.stream);
        let is_message = record_flags & flags::MESSAGE != 0;
        let status = if link.speaks_records {
            status_of(record_flags, self.len == 0)
        } else {
            state::OPEN
        };
        let element = |offset| Element {
            stream,
            offset,
            status,
        };
        let lock = || {
            let mut tx = lock(&link.tx);
            tx.reserved -= 1;
            tx
        };
        Some(match self.route.take()? {
            Route::Shared(mut slices) => {
                link.fill(&mut slices, &self.body);
                let element = element(link.pool.link(slices));
                let mut tx = lock();
                link.publish(&mut tx, element);
                tx
            }
            Route::Nothing if link.speaks_records => {
                let mut tx = lock();
                link.publish(&mut tx, element(0));
                tx
            }
            // Natively there are neither empty messages nor ends of one direction.
            Route::Nothing => lock(),
            Route::Socket(mut bytes) => {
                if bytes.is_empty() {
                    mem::swap(&mut bytes, &mut self.body);
                }
                let mut tx = lock();
                link.fall_back(&mut tx, stream, status, &bytes);
                link.counters.fallbacks_sent.add(u64::from(is_message));
                if record_flags & flags::END != 0 {
                    tx.forget(StreamId(u64::from(stream)));
                }
                tx
            }
        })
    }
}

impl Route {
    /// The slice in which a message of `len` bytes is written in place, and how long it is.
    fn place(&mut self, len: usize) -> Option<(&mut Slice, u32)> {
        match self {
            // As many as there will be are written already.
            Self::Shared(slices) => match &mut slices[..] {
                [(slice, written)] if *written == u32_len(len) => Some((slice, *written)),
                _ => None,
            },
            Self::Socket(_) | Self::Nothing => None,
        }
    }
}

impl Drop for ShmipcReservation<'_> {
    fn drop(&mut self) {
        let Some(route) = self.route.take() else {
            return;
        };
        lock(&self.link.tx).reserved -= 1;
        if let Route::Shared(slices) = route {
            for (slice, _) in slices {
                self.link.put_slice(slice);
            }
        }
    }
}
