//! shmipc's own link (protocol versions 2, 3 and 4): two regions that both processes write.
//!
//! ```text
//!   queue region                                 buffer region
//!  ┌─────────────────────────────┐              ┌──────────────────────────────────────────────┐
//!  │ queue client ──▶ server     │   element:   │ list of slices of 8 KiB: free list, slices   │
//!  │   cap, head, tail, working  │   stream,    │ list of slices of 32 KiB: free list, slices  │
//!  │   elements                  │   offset ──▶ │ list of slices of 128 KiB: …                 │
//!  ├─────────────────────────────┤   status     │   slice: cap, size, start, next, flags, data │
//!  │ queue server ──▶ client     │              └──────────────────────────────────────────────┘
//!  └─────────────────────────────┘
//! ```
//!
//! A message is a *chain* of slices, published by an *element* of the sender's queue. The sender takes slices out of free lists that
//! both sides share, and the receiver puts them back.
//!
//! # Nothing here is believed
//!
//! The peer can change all of it at any time. So each word is read once and checked against constants that were copied out and
//! verified when the region was mapped ([`Geometry`]). Own cursors are private and only announced. Every slice has a *claim* in
//! private memory ([`Pool`]), held from the moment at which it was taken out of a list, or arrived in a chain, until it was put
//! back or sent. A slice that arrives and is claimed already shows a peer that cycles, crosses or forges chains, or a free list
//! that handed something out twice; either ends the session before a byte is touched. So the worst that a peer can do is garbage
//! in its own messages, and the end of its own session.
//!
//! # Memory that two processes write
//!
//! All words are aligned `AtomicU32`s, also those that make up a 64-bit counter: see [`queue`]. Payload is copied in and out, and no
//! reference to it exists, except where it is lent, for [reading](Pool::lend) or for [writing](Pool::place_mut), because somebody has
//! decided to. Either takes a slice: who has that may use its data, and nobody else on this side.
//!
//! Comments and tests cite hazards by the names of the reference (H1, S4, V1, C7 …) that `docs/shmipc-link.md` lists.

mod buffers;
mod chain;
mod data;
pub(crate) mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod handshake;
mod pool;
mod queue;
mod spares;
pub(crate) mod terms;
#[cfg(test)]
mod tests;
mod violation;
mod walk;

pub(crate) use buffers::Geometry;
#[cfg(test)]
pub(crate) use buffers::InvalidPlan;
pub(crate) use chain::{ChainLimits, Piece};
pub(crate) use pool::{Pool, Slice, Slices};
pub(crate) use queue::{
    Consumer, ELEMENT_LEN, Element, Ends, Producer, QueueLayout, QueuePlan, Queues, state,
};
pub use violation::InvalidShmipc;
pub use walk::ListEnd;

use super::{mem::SharedRegion, num::u32_len, sync::AtomicU32};

/// The offset of a field, as offsets in regions are counted.
#[expect(
    clippy::cast_possible_truncation,
    reason = "offsets within heads of a few bytes"
)]
const fn field_at(offset: usize) -> u32 {
    offset as u32
}

/// The words of a region that both sides write.
pub(crate) trait Memory {
    /// The length in bytes.
    fn len(&self) -> u32;
    /// The word at `at`.
    ///
    /// # Panics
    ///
    /// If it is not inside or not aligned: whoever calls has verified the geometry.
    fn word(&self, at: u32) -> &AtomicU32;
}

impl Memory for SharedRegion {
    fn len(&self) -> u32 {
        u32_len(self.len())
    }

    fn word(&self, at: u32) -> &AtomicU32 {
        self.word(at)
    }
}
