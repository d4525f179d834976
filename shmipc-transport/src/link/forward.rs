//! Memory that one session has lent us, passed on to the peer of another (O22, O23).
//!
//! Three processes take part. The *owner* lent us a segment; we pass the memory file that it lies in on to the *reader*,
//! under an id of our own, and name the segment in a message. The reader gives it back to us when it has no use for it any
//! more, and only then is our own lease over, and the owner may use the memory again.
//!
//! The difficulty is the end of the session with the reader. What its application still holds stays readable (it holds a
//! mapping), so the owner must not get it back although nobody will ever return it to us. Therefore the reader holds an
//! *anchor* for as long as it maps the file: one end of a pair of sockets, of which we watch the other. The kernel closes
//! it at the latest when the reader dies. Until then the segments that were under way are kept for it, by the session
//! with the owner ([`OutboxLink::keep`]).
//!
//! A region is passed on once at most: whoever got it by being passed on does not pass it on again, but copies. Our anchor
//! would not tell us of a fourth process.

use std::{
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
};

use bytes::Bytes;

use super::{Control, Lease, OutboxLink};
use crate::{
    core::{
        mem::{PeerRegion, RegionName},
        num::{RegionId, u32_len},
        sync::{AtomicBool, Ordering, lock},
        wire::Region,
    },
    error::PeerMisbehaved,
    sys::anchor,
};

/// `Bytes` of another session at least this long are passed on rather than copied.
///
/// An estimate, not yet measured on either side of it: below, a copy should cost less than the bookkeeping and the faults of
/// the reader's mapping, and does not make one session's memory wait for another's reader.
const FORWARD_MIN: usize = 64 << 10;

/// The most regions that may be passed on to a peer at a time (O22).
pub(super) const FORWARDED_MAX: usize = 64;

/// The most sessions from which a session passes memory on. A message that has nothing to pass on is looked for in all.
const SOURCES_MAX: usize = 64;

/// What a link knows of the memory that it passes on.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    /// Whose memory may be passed on, the latest first.
    sources: Vec<Weak<OutboxLink>>,
    regions: Vec<Arc<Forwarded>>,
}

/// A region of another session's peer, announced to ours.
///
/// There is one share in it for the table, and one for each segment under way.
#[derive(Debug)]
pub(crate) struct Forwarded {
    id: RegionId,
    name: RegionName,
    source: Weak<OutboxLink>,
    /// Says when the reader has closed its anchor.
    watch: OwnedFd,
    /// Set when the session with the reader is over.
    ended: AtomicBool,
    /// Whether it was used since somebody last looked.
    used: AtomicBool,
}

/// A segment of another session's, for a message of ours.
#[derive(Debug)]
pub(crate) struct ForwardedPart {
    lease: Lease,
    region: Arc<Forwarded>,
    offset: u32,
}

/// Behind the `Bytes` of a segment that was passed on.
struct Share {
    bytes: Bytes,
    lease: Option<Lease>,
    region: Arc<Forwarded>,
}

impl Forwarded {
    /// Whether the reader has let go of its mapping.
    pub(crate) fn is_released(&self) -> bool {
        anchor::is_released(&self.watch)
    }

    /// A descriptor that becomes readable when [`is_released`](Self::is_released) may have changed.
    pub(crate) fn watch(&self) -> std::io::Result<OwnedFd> {
        self.watch.try_clone()
    }

    /// Whether nothing of it is under way. Holds for as long as the table is locked.
    fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }
}

impl ForwardedPart {
    pub(crate) fn region(&self) -> RegionId {
        self.region.id
    }

    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// Joins it with a share in the memory itself.
    pub(crate) fn share(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Share {
            bytes,
            lease: Some(self.lease),
            region: self.region,
        })
    }
}

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // While the session lives, the reader has returned the segment. Afterwards, nobody knows. Acquire: pairs with the
        // Release in `OutboxLink::end_forwards`, which comes before the shares under way are dropped.
        if self.region.ended.load(Ordering::Acquire)
            && let Some(source) = self.region.source.upgrade()
            && let Some(lease) = self.lease.take()
        {
            source.keep(lease, Arc::clone(&self.region));
        }
    }
}

impl OutboxLink {
    /// Allows for memory that `source` was lent to be passed on to our peer. Returns whether that will be done.
    pub(crate) fn forward_from(&self, source: &Arc<Self>) -> bool {
        if !self.may_forward || std::ptr::eq(self, &raw const **source) {
            return false;
        }
        let mut forwards = lock(&self.forwards);
        let sources = &mut forwards.sources;
        let latest = sources.first();
        if !latest.is_some_and(|latest| std::ptr::eq(latest.as_ptr(), &raw const **source)) {
            sources.retain(|known| {
                known.strong_count() != 0 && !std::ptr::eq(known.as_ptr(), &raw const **source)
            });
            sources.truncate(SOURCES_MAX - 1);
            sources.insert(0, Arc::downgrade(source));
        }
        true
    }

    /// The part of another session's memory that `bytes` is, if it may be passed on to our peer.
    pub(crate) fn locate_forwardable(&self, bytes: &[u8]) -> Option<ForwardedPart> {
        if !self.may_forward || bytes.len() < FORWARD_MIN {
            return None;
        }
        (0..SOURCES_MAX)
            .map_while(|i| self.source(i))
            .find_map(|source| {
                let source = source.upgrade()?;
                let (part, lease) = source.pin_lease(bytes)?;
                let memory = source.peer_region(part.region)?;
                // By the address, not by what the owner said: it may use an id again.
                let offset = memory.offset_of(bytes)?;
                let region = self.announced(&source, &memory)?;
                Some(ForwardedPart {
                    lease,
                    region,
                    offset,
                })
            })
    }

    fn source(&self, i: usize) -> Option<Weak<Self>> {
        lock(&self.forwards).sources.get(i).cloned()
    }

    /// The region under which our peer knows `memory`, to which it is announced now if need be. `None` if that cannot be
    /// done: then the bytes are copied.
    fn announced(&self, source: &Arc<Self>, memory: &PeerRegion) -> Option<Arc<Forwarded>> {
        let file = memory.file()?;
        if let Some(known) = self.forwarded(memory) {
            return Some(known);
        }
        // As for regions of our own: descriptors and announcements go in one order.
        let _growing = lock(&self.growing);
        if let Some(known) = self.forwarded(memory) {
            return Some(known);
        }
        if FORWARDED_MAX <= lock(&self.forwards).regions.len() {
            self.collect_returns(&mut self.tx()).ok()?;
            self.drop_forwarded(|_| true).ok()?;
        }
        if FORWARDED_MAX <= lock(&self.forwards).regions.len() {
            return None;
        }
        let (watch, anchor) = anchor::pair().ok()?;
        let (id, len) = (self.heap.foreign_id(), u32_len(memory.len()));
        let sent = self.socket.send_region(Region {
            id,
            len: u64::from(len),
            memory: file.as_fd(),
            anchor: Some(anchor.as_fd()),
        });
        if !matches!(sent, Ok(true)) {
            return None;
        }
        self.control(Control::RegionAdded { id, len }).ok()?;
        let region = Arc::new(Forwarded {
            id,
            name: memory.name(),
            source: Arc::downgrade(source),
            watch,
            ended: AtomicBool::new(false),
            used: AtomicBool::new(true),
        });
        lock(&self.forwards).regions.push(Arc::clone(&region));
        self.wake_keeper();
        Some(region)
    }

    /// The region under which our peer knows `memory`, if it does.
    fn forwarded(&self, memory: &PeerRegion) -> Option<Arc<Forwarded>> {
        let forwards = lock(&self.forwards);
        let known = forwards
            .regions
            .iter()
            .find(|region| region.name.is_of(memory))?;
        // Relaxed: only the sweep looks, under the same lock.
        known.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(known))
    }

    /// Whether the peer holds memory that was passed on to it.
    pub(crate) fn has_forwarded(&self) -> bool {
        !lock(&self.forwards).regions.is_empty()
    }

    /// Has the peer unmap what was passed on to it and has not been used since this was last called, and what its owner has
    /// given up, so that no memory outlives its use for long.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn sweep_forwarded(&self) -> Result<(), PeerMisbehaved> {
        // What has come back is idle from now on.
        self.collect_returns(&mut self.tx())?;
        self.drop_forwarded(|region| {
            region.name.is_void() || !region.used.swap(false, Ordering::Relaxed)
        })
    }

    /// Drops those regions of which nothing is under way and of which `may_go` says that they may (O13).
    fn drop_forwarded(&self, may_go: impl Fn(&Forwarded) -> bool) -> Result<(), PeerMisbehaved> {
        let mut gone = Vec::new();
        lock(&self.forwards).regions.retain(|region| {
            let goes = may_go(region) && region.is_idle();
            if goes {
                gone.push(region.id);
            }
            !goes
        });
        for id in gone {
            self.control(Control::RegionDropped { id })?;
        }
        Ok(())
    }

    /// Takes note that the session is over: what is dropped from now on was not returned (O23).
    pub(super) fn end_forwards(&self) {
        let forwards = mem::take(&mut *lock(&self.forwards));
        for region in &forwards.regions {
            // Release: pairs with the Acquire in the drop of `Share`.
            region.ended.store(true, Ordering::Release);
        }
    }

    /// Keeps a lease of ours for the reader of `region`, with whom the session is over, until it lets go of its mapping.
    fn keep(&self, lease: Lease, region: Arc<Forwarded>) {
        if self.is_severed() {
            return;
        }
        lock(&self.kept).push((lease, region));
        self.wake_keeper();
    }

    /// What is [kept](Self::keep) since this was last called. The caller drops each lease once its region [is
    /// released](Forwarded::is_released), or when this session is over.
    pub(crate) fn take_kept(&self) -> Vec<(Lease, Arc<Forwarded>)> {
        mem::take(&mut *lock(&self.kept))
    }
}
