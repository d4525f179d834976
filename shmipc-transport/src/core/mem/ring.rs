//! The rings' bytes, as they lie in a mapping.
#![expect(
    unsafe_code,
    reason = "lends the range of a reserved slot for encoding in place"
)]

use super::{OwnedRegion, PeerRegion};
use crate::core::{
    num::{index, u32_len},
    outbox::{Geometry, ReadRing, Slot, WriteRing},
    sync::AtomicU32,
};

/// The ring in our own outbox. There is one producer for it, and slots come from no other.
#[derive(Debug)]
pub(crate) struct OwnRing {
    region: OwnedRegion,
    offset: u32,
}

impl OwnRing {
    /// The ring of records in `region`, an outbox of ours.
    pub(crate) fn new(region: OwnedRegion, geometry: &Geometry) -> Self {
        Self {
            region,
            offset: geometry.ring_offset,
        }
    }

    /// Lends the body of a reserved record for writing.
    pub(crate) fn body<'s>(&'s self, slot: &'s mut Slot) -> &'s mut [u8] {
        let start = self.offset + slot.body();
        // SAFETY: a slot names a range that the ring's only producer has reserved and will not hand out again before the
        // slot is committed; the slot is not `Clone`, and it is borrowed for as long as the slice lives.
        unsafe { self.region.exclusive(start..start + slot.body_len()) }
    }
}

impl WriteRing for OwnRing {
    fn word(&self, at: u32) -> &AtomicU32 {
        self.region.word(self.offset + at)
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        self.region.write(self.offset + at, bytes);
    }

    fn zero(&self, at: u32, len: u32) {
        const ZEROES: [u8; 1024] = [0; 1024];
        let mut done = 0;
        while done < len {
            let zeroes = &ZEROES[..index(len - done).min(ZEROES.len())];
            self.region.write(self.offset + at + done, zeroes);
            done += u32_len(zeroes.len());
        }
    }
}

/// The ring in the peer's outbox, whose geometry has been verified against its mapping.
#[derive(Debug)]
pub(crate) struct PeerRing {
    region: PeerRegion,
    offset: u32,
}

impl PeerRing {
    /// The ring of records in `region`, for which `geometry` was read.
    pub(crate) fn new(region: PeerRegion, geometry: &Geometry) -> Self {
        Self {
            region,
            offset: geometry.ring_offset,
        }
    }

    /// Copies the body of a record into a new vector.
    pub(crate) fn copy_body(&self, at: u32, len: u32) -> Vec<u8> {
        self.region
            .copy_to_vec(self.offset + at, len)
            .expect(VERIFIED)
    }
}

impl ReadRing for PeerRing {
    fn load(&self, at: u32) -> u32 {
        self.region.load(self.offset + at).expect(VERIFIED)
    }

    fn read(&self, at: u32, target: &mut [u8]) {
        self.region
            .copy_out(self.offset + at, target)
            .expect(VERIFIED);
    }
}

const VERIFIED: &str = "the geometry was verified, and the consumer stays inside its capacity";
