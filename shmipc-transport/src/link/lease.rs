//! Memory of the peer's that we hold, and how it goes back.
//!
//! A lease ends when the last `Bytes` over it is dropped, in any thread. Its token then goes into the return ring; or, if
//! any part of it has been sent back to its owner, into the ring of *records*: the two rings are not ordered against each
//! other, and the owner must meet the message that uses the segment before it learns that we are done with it (O9).

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{
    Control, OutboxLink,
    leases::{Held, Leases},
};
use crate::{
    core::{
        mem::{PeerRegion, Trust},
        num::{Capacity, RegionId, index},
        outbox::{Part, RETURNS_MAX, ReturnWriter},
        sync::lock,
    },
    dump::LeaseDump,
    error::PeerMisbehaved,
    sys::clock,
};

/// The most regions that a peer may have at once. With those of 16 MiB and up, more than `memory_max` ever takes.
pub(super) const REGIONS_MAX: usize = 1024;

/// What we hold of the peer's.
#[derive(Debug)]
pub(super) struct Back {
    returns: ReturnWriter,
    regions: HashMap<RegionId, HeldRegion, RandomState>,
    leases: Leases,
    /// Set when the session is over: from then on nothing is returned, because the peer cannot tell what we still hold
    /// from what we do not.
    severed: bool,
}

/// A region of the peer's, or one that it has passed on.
#[derive(Debug)]
pub(super) struct HeldRegion {
    pub(super) region: PeerRegion,
    /// Set if what lies there may be lent in place.
    pub(super) trust: Option<Trust>,
}

/// What is done with a segment that has arrived.
pub(super) enum Received {
    /// It is lent.
    Lent(PeerRegion, Lease, Trust),
    /// It must be copied out.
    Guarded(Guarded),
    /// It is empty, and was given back.
    Empty,
}

/// A segment of the peer's that may not be looked at where it lies. It stays there until somebody receives the message: a peer
/// that names the same memory in many messages does not have us hold a copy for each.
#[derive(Debug)]
pub(crate) struct Guarded {
    region: PeerRegion,
    offset: u32,
    len: u32,
    _lease: Lease,
}

impl Guarded {
    pub(crate) fn len(&self) -> usize {
        index(self.len)
    }

    /// Copies it out, and gives it back. `None` if there is no memory for that.
    pub(crate) fn copy(self) -> Option<Bytes> {
        // The range was verified when its lease began.
        let copy = self.region.try_copy_to_vec(self.offset, self.len).ok()?;
        copy.map(Bytes::from)
    }
}

impl Back {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            returns: ReturnWriter::new(capacity),
            regions: HashMap::default(),
            leases: Leases::new(),
            severed: false,
        }
    }

    /// Ends everything. What it returns is to be dropped without the lock.
    pub(super) fn sever(&mut self) -> impl Sized + use<> {
        self.severed = true;
        mem::take(&mut self.regions)
    }
}

/// A share in a segment of the peer's, which goes back when the last of them is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    link: Weak<OutboxLink>,
    token: u32,
}

impl Lease {
    /// Notes that (part of) it is being sent back to its owner.
    pub(super) fn sent_back(&self, back: &mut Back) {
        if let Some(held) = back.leases.get_mut(self.token) {
            held.sent_back = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If the session is over, there is nobody to give it back to; the mapping goes with the lease.
        if let Some(link) = self.link.upgrade() {
            link.end_lease(self.token);
        }
    }
}

impl OutboxLink {
    /// Adds a region, unless the peer has too many, or one of this id.
    pub(super) fn hold_region(&self, id: RegionId, held: HeldRegion) -> Result<(), HeldRegion> {
        let regions = &mut lock(&self.back).regions;
        let forwarded = || regions.values().filter(|held| held.region.is_forwarded());
        let is_full = REGIONS_MAX <= regions.len()
            || held.region.is_forwarded() && super::FORWARDED_MAX <= forwarded().count();
        if is_full || regions.contains_key(&id) {
            return Err(held);
        }
        regions.insert(id, held);
        Ok(())
    }

    /// Forgets a region.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::UnknownRegion`] if there is none.
    pub(super) fn drop_region(&self, id: RegionId) -> Result<(), PeerMisbehaved> {
        let region = lock(&self.back).regions.remove(&id);
        region
            .map(drop)
            .ok_or(PeerMisbehaved::UnknownRegion { region: id.0 })
    }

    /// Whether the session is over.
    pub(super) fn is_severed(&self) -> bool {
        lock(&self.back).severed
    }

    /// A region that the peer has not dropped.
    pub(super) fn peer_region(&self, id: RegionId) -> Option<PeerRegion> {
        Some(lock(&self.back).regions.get(&id)?.region.clone())
    }

    /// Takes a segment that has arrived, and registers a lease unless it is empty.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if there is no such segment, if the peer has more under way than it may, or sent a token
    /// twice.
    pub(super) fn begin_lease(self: &Arc<Self>, part: &Part) -> Result<Received, PeerMisbehaved> {
        let mut back = lock(&self.back);
        let Part {
            region,
            token,
            offset,
            len,
        } = *part;
        let unknown = PeerMisbehaved::UnknownRegion { region: region.0 };
        let held = back.regions.get(&region).ok_or(unknown)?;
        let memory = held.region.clone();
        let trust = held.trust;
        let address = memory.address(offset, len)?;
        if len == 0 {
            self.push_return(&mut back, token);
            drop(back);
            self.offer_space();
            return Ok(Received::Empty);
        }
        let held = Held {
            region,
            offset,
            len,
            address,
            shares: 1,
            sent_back: false,
            began: clock::coarse(),
        };
        if !back.leases.begin(token, held) {
            return Err(PeerMisbehaved::TooManySegments { max: RETURNS_MAX });
        }
        let link = Arc::downgrade(self);
        let lease = Lease { link, token };
        Ok(match trust {
            Some(trust) => Received::Lent(memory, lease, trust),
            None => Received::Guarded(Guarded {
                region: memory,
                offset,
                len,
                _lease: lease,
            }),
        })
    }

    /// How many segments of the peer's we hold, and for how long the oldest of them, to a few milliseconds.
    ///
    /// Costs a look at each, which are [`RETURNS_MAX`] at most.
    pub(crate) fn leases_held(&self) -> (usize, Option<Duration>) {
        let back = lock(&self.back);
        let oldest = back.leases.iter().map(|held| held.began).min();
        let age = oldest.map(|began| clock::coarse().saturating_sub(began));
        (back.leases.len(), age)
    }

    /// The segments of the peer's that we hold.
    pub(super) fn dump_leases(&self) -> Vec<LeaseDump> {
        let (back, now) = (lock(&self.back), clock::coarse());
        let dump = back.leases.iter().map(|held| LeaseDump {
            region: held.region.0,
            offset: held.offset,
            len: held.len,
            age: now.saturating_sub(held.began),
            sent_back: held.sent_back,
        });
        dump.collect()
    }

    /// The part of the peer's memory that `bytes` is, if it is a lease of this session, and a share in that lease: the
    /// bytes may belong to another one of the same memory, which does not keep this one from ending.
    pub(crate) fn pin_lease(self: &Arc<Self>, bytes: &[u8]) -> Option<(Part, Lease)> {
        let mut back = lock(&self.back);
        let address = bytes.as_ptr().addr();
        let (token, held) = back.leases.find(address, bytes.len())?;
        let within = u32::try_from(address - held.address).ok()?;
        let part = Part {
            region: held.region,
            token,
            offset: held.offset + within,
            len: u32::try_from(bytes.len()).ok()?,
        };
        held.shares = held.shares.checked_add(1)?;
        let link = Arc::downgrade(self);
        Some((part, Lease { link, token }))
    }

    fn end_lease(&self, token: u32) {
        let sent_back = {
            let mut back = lock(&self.back);
            let Some(Held { sent_back, .. }) = back.leases.end(token) else {
                return;
            };
            if back.severed {
                return;
            }
            if !sent_back {
                self.push_return(&mut back, token);
            }
            sent_back
        };
        if sent_back {
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
