//! Memory of the peer's that we hold, and how it goes back.
//!
//! A lease ends when the last `Bytes` over it is dropped, in any thread. Its token then goes into the return ring; or, if
//! any part of it has been sent back to its owner, into the ring of *records*: the two rings are not ordered against each
//! other, and the owner must meet the message that uses the segment before it learns that we are done with it (O9).

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{Control, Link};
use crate::core::{
    num::{Capacity, RegionId, index},
    outbox::{Part, RETURNS_MAX, ReturnWriter},
    sync::lock,
};

/// How many leases are looked at to find the one that some bytes belong to.
const NEAREST: usize = 8;

/// What we hold of the peer's, by address.
#[derive(Debug)]
pub(super) struct Back {
    returns: ReturnWriter,
    /// By address and token: a peer may have the same memory under way in several messages at once.
    leases: BTreeMap<(usize, u32), Entry>,
}

#[derive(Debug)]
struct Entry {
    region: RegionId,
    offset: u32,
    len: u32,
    forwarded: bool,
}

impl Back {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            returns: ReturnWriter::new(capacity),
            leases: BTreeMap::new(),
        }
    }

    /// Notes that (part of) the lease of `token`, which lies at or before `address`, is being sent back to its owner.
    pub(super) fn forwarded(&mut self, address: usize, token: u32) {
        let mut candidates = self.leases.range_mut(..=(address, u32::MAX)).rev();
        if let Some((_, entry)) = candidates.find(|((_, known), _)| *known == token) {
            entry.forwarded = true;
        }
    }
}

/// Held by the `Bytes` that are lent to the application; gives the segment back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    link: Weak<Link>,
    address: usize,
    token: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If the session is over, there is nobody to give it back to; the mapping goes with the lease.
        if let Some(link) = self.link.upgrade() {
            link.end_lease(self.address, self.token);
        }
    }
}

impl Link {
    /// Registers a lease. `None` if the peer has more under way than it may, or sent a token twice.
    pub(super) fn begin_lease(self: &Arc<Self>, address: usize, part: &Part) -> Option<Lease> {
        let mut back = lock(&self.back);
        let Part {
            region,
            token,
            offset,
            len,
        } = *part;
        if index(RETURNS_MAX) <= back.leases.len() || back.leases.contains_key(&(address, token)) {
            return None;
        }
        back.leases.insert(
            (address, token),
            Entry {
                region,
                offset,
                len,
                forwarded: false,
            },
        );
        Some(Lease {
            link: Arc::downgrade(self),
            address,
            token,
        })
    }

    /// Segments of the peer's that we hold.
    pub(crate) fn leases_held(&self) -> usize {
        lock(&self.back).leases.len()
    }

    /// The part of the peer's memory that `bytes` is, if it is a lease of this session.
    pub(crate) fn locate_lease(&self, bytes: &[u8]) -> Option<Part> {
        let back = lock(&self.back);
        let address = bytes.as_ptr().addr();
        // Leases may overlap, so the nearest need not be the right one; but it is among the nearest, or not worth a search.
        let mut nearest = back
            .leases
            .range(..=(address, u32::MAX))
            .rev()
            .take(NEAREST);
        nearest.find_map(|(&(start, token), entry)| {
            let within = address - start;
            if index(entry.len) < within + bytes.len() {
                return None;
            }
            let (within, len) = (
                u32::try_from(within).ok()?,
                u32::try_from(bytes.len()).ok()?,
            );
            Some(Part {
                region: entry.region,
                token,
                offset: entry.offset + within,
                len,
            })
        })
    }

    /// Gives a segment back that was copied out.
    pub(super) fn give_back(&self, token: u32) {
        self.push_return(&mut lock(&self.back), token);
        self.offer_space();
    }

    fn end_lease(&self, address: usize, token: u32) {
        let forwarded = {
            let mut back = lock(&self.back);
            let Some(entry) = back.leases.remove(&(address, token)) else {
                return;
            };
            if !entry.forwarded {
                self.push_return(&mut back, token);
            }
            entry.forwarded
        };
        if forwarded {
            // A failure shows again, and ends the session, at the next look at the peer's cursors.
            drop(self.control(Control::Return { token }));
        } else {
            self.offer_space();
        }
    }

    fn push_return(&self, back: &mut Back, token: u32) {
        let entries = self.own_layout.returns_offset;
        back.returns.push(
            |slot| self.own.word(entries + 4 * slot),
            &self.own_header().returned.0,
            token,
        );
    }
}
