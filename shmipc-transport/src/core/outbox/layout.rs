//! Where everything lies in an outbox, and how a peer's claims about that are checked.
//!
//! ```text
//! byte 0           128    256        384     512       640        4096              69632         86016
//!      | constants | head | returned | sleep | starved | (unused) | ring of records | return ring |
//! ```
//!
//! | word       | written by | read by the peer to learn                                              |
//! |------------|------------|------------------------------------------------------------------------|
//! | constants  | owner, once | the geometry and the owner's limits                                   |
//! | `head`     | owner      | how many bytes of the peer's own ring have been consumed               |
//! | `returned` | owner      | how many of the peer's segments have been given back                   |
//! | `sleep`    | owner      | whether a new record needs a ring of the doorbell                       |
//! | `starved`  | owner      | whether space that becomes free needs one                               |
//!
//! There is no `tail`: a record announces itself by its first word (see `ring`), which saves the reader one transfer of a
//! cache line for each message. Cursors lie 128 bytes apart, because the hardware fetches cache lines in pairs.

#[cfg(not(shmipc_loom))]
use std::mem::offset_of;

use crate::core::{
    mem::PeerRegion,
    num::Capacity,
    sync::{AtomicU32, Ordering},
};

/// The first word of every outbox: "SHMO".
const MAGIC: u32 = u32::from_be_bytes(*b"SHMO");
/// The version of this layout and of the records in its ring.
const VERSION: u32 = 1;

const RING_OFFSET: u32 = 4096;
const RING_LEN: u32 = 64 << 10;
/// The longest ring that a peer may have, in bytes or entries. Bounds the time that looking through all of it takes.
const RING_LEN_MAX: u32 = 1 << 20;
const RETURNS_OFFSET: u32 = RING_OFFSET + RING_LEN;
/// Entries of a return ring, and so the most segments that may be under way at once.
pub(crate) const RETURNS_MAX: u32 = 4096;
/// The length of an outbox: what a session costs before it uses any region.
pub(crate) const OUTBOX_LEN: u32 = RETURNS_OFFSET + RETURNS_MAX * 4;

/// A value with its pair of cache lines to itself.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct CacheLines<T>(pub(crate) T);

/// The head of an outbox, as it lies in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) constants: CacheLines<Constants>,
    /// Bytes of the peer's ring that the owner has consumed, counted without end.
    pub(crate) head: CacheLines<AtomicU32>,
    /// Entries of its return ring that the owner has filled, counted without end.
    pub(crate) returned: CacheLines<AtomicU32>,
    /// Odd while the owner sleeps. See `sleep`.
    pub(crate) sleep: CacheLines<AtomicU32>,
    /// Odd while somebody on the owner's side waits for space. See `sleep`.
    pub(crate) starved: CacheLines<AtomicU32>,
}

/// What the owner says of its outbox, once.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Constants {
    magic: AtomicU32,
    version: AtomicU32,
    ring_offset: AtomicU32,
    ring_len: AtomicU32,
    returns_offset: AtomicU32,
    returns_len: AtomicU32,
    streams_max: AtomicU32,
    window_messages: AtomicU32,
    window_bytes: AtomicU32,
}

#[cfg(not(shmipc_loom))] // Loom's atomics are larger than the real ones.
const _: () = {
    assert!(offset_of!(Header, constants) == 0);
    assert!(offset_of!(Header, head) == 128);
    assert!(offset_of!(Header, returned) == 256);
    assert!(offset_of!(Header, sleep) == 384);
    assert!(offset_of!(Header, starved) == 512);
    assert!(size_of::<Header>() == 640);
    assert!(size_of::<Header>() <= RING_OFFSET as usize);
};

/// How much the owner of an outbox is ready to receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Windows {
    /// Streams that the peer may have open at once.
    pub(crate) streams_max: u32,
    /// Messages that may be under way on one stream.
    pub(crate) messages: u32,
    /// Bytes that may be under way on one stream before the sender has to wait.
    pub(crate) bytes: u32,
}

impl Windows {
    /// The windows of a link without credit.
    pub(crate) const UNLIMITED: Self = Self {
        streams_max: u32::MAX,
        messages: u32::MAX,
        bytes: u32::MAX,
    };

    /// Whether there is no credit. No configuration allows for as many messages.
    pub(crate) const fn are_unlimited(&self) -> bool {
        self.messages == u32::MAX
    }

    /// Whether anything can be sent at all.
    pub(crate) const fn are_valid(&self) -> bool {
        self.streams_max != 0 && self.messages != 0 && self.bytes != 0
    }
}

/// An outbox's layout, known to fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) ring_offset: u32,
    pub(crate) ring: Capacity,
    pub(crate) returns_offset: u32,
    pub(crate) returns: Capacity,
}

/// What is wrong with a peer's description of its outbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGeometry {
    /// The memory is too small for a header.
    #[error("{0} bytes are too few for an outbox")]
    TooSmall(usize),
    /// The first word is not that of an outbox.
    #[error("{0:#010x} is not the magic number of an outbox")]
    Magic(u32),
    /// The layout is one we do not know, although the handshake agreed on ours.
    #[error("layout version {0} was not agreed on")]
    Version(u32),
    /// A ring's length is not a power of two in the accepted range.
    #[error("a ring of {0} bytes or entries is not acceptable")]
    RingLength(u32),
    /// A ring does not lie inside the memory, or is misaligned, or overlaps its neighbour.
    #[error("the rings at {ring} and {returns} do not fit into {mapped} bytes")]
    Placement {
        /// Where the ring of records was said to lie.
        ring: u32,
        /// Where the return ring was said to lie.
        returns: u32,
        /// The length of the memory in bytes.
        mapped: usize,
    },
    /// A window of zero would never let us send.
    #[error("a window of zero messages, bytes or streams")]
    Window,
}

impl Constants {
    /// Describes our own outbox, before anybody else sees it.
    pub(crate) fn describe(&self, windows: Windows) {
        let Windows {
            streams_max,
            messages,
            bytes,
        } = windows;
        for (word, value) in [
            (&self.magic, MAGIC),
            (&self.version, VERSION),
            (&self.ring_offset, RING_OFFSET),
            (&self.ring_len, RING_LEN),
            (&self.returns_offset, RETURNS_OFFSET),
            (&self.returns_len, RETURNS_MAX),
            (&self.streams_max, streams_max),
            (&self.window_messages, messages),
            (&self.window_bytes, bytes),
        ] {
            word.store(value, Ordering::Relaxed); // The handshake's socket orders this before any look at it.
        }
    }
}

impl Geometry {
    /// The layout of every outbox that this version makes.
    pub(crate) fn ours() -> Self {
        Self {
            ring_offset: RING_OFFSET,
            ring: Capacity::new(RING_LEN).expect("a constant power of two"),
            returns_offset: RETURNS_OFFSET,
            returns: Capacity::new(RETURNS_MAX).expect("a constant power of two"),
        }
    }

    /// Copies the peer's claims out of its outbox, once, and checks them (O3).
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the first claim that does not hold.
    pub(crate) fn read(region: &PeerRegion) -> Result<(Self, Windows), InvalidGeometry> {
        let header: &Header = region
            .layout(0)
            .map_err(|_| InvalidGeometry::TooSmall(region.len()))?;
        let load = |word: &AtomicU32| word.load(Ordering::Relaxed);
        let claimed = &header.constants.0;
        let (magic, version) = (load(&claimed.magic), load(&claimed.version));
        if magic != MAGIC {
            return Err(InvalidGeometry::Magic(magic));
        }
        if version != VERSION {
            return Err(InvalidGeometry::Version(version));
        }
        let capacity = |word: &AtomicU32, least: u32| {
            let len = load(word);
            Capacity::new(len)
                .filter(|ring| least <= ring.get() && ring.get() <= RING_LEN_MAX)
                .ok_or(InvalidGeometry::RingLength(len))
        };
        let ring = capacity(&claimed.ring_len, 4 * super::RECORD_BODY_MAX)?;
        let returns = capacity(&claimed.returns_len, RETURNS_MAX)?;
        let (ring_offset, returns_offset) =
            (load(&claimed.ring_offset), load(&claimed.returns_offset));
        let end = |offset: u32, len: u32| u64::from(offset) + u64::from(len);
        let ring_end = end(ring_offset, ring.get());
        let fits = ring_offset.is_multiple_of(64)
            && returns_offset.is_multiple_of(64)
            && RING_OFFSET <= ring_offset
            && ring_end <= u64::from(returns_offset)
            && end(returns_offset, returns.get().saturating_mul(4)) <= region.len() as u64;
        if !fits {
            return Err(InvalidGeometry::Placement {
                ring: ring_offset,
                returns: returns_offset,
                mapped: region.len(),
            });
        }
        let windows = Windows {
            streams_max: load(&claimed.streams_max),
            messages: load(&claimed.window_messages),
            bytes: load(&claimed.window_bytes),
        };
        if !windows.are_valid() {
            return Err(InvalidGeometry::Window);
        }
        Ok((
            Self {
                ring_offset,
                ring,
                returns_offset,
                returns,
            },
            windows,
        ))
    }
}
