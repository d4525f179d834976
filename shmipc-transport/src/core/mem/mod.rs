//! Memory that two processes see. The only folder of the core that holds pointers into a mapping.
//!
//! # Who may write what
//!
//! A mapping is either *ours* ([`OwnedRegion`]: mapped writable here, sealed so that the peer can only ever map it
//! read-only) or the *peer's* ([`PeerRegion`]: mapped read-only here). The kernel enforces both. Only shmipc's own protocol
//! has regions that both sides write ([`SharedRegion`]).
//!
//! # Torn payloads
//!
//! What we read from a peer's region may change while we read it, because its owner may write at any time. Words are
//! therefore read as atomics, once. Bytes are copied out by `ptr::copy_nonoverlapping`, in three functions and nowhere else
//! ([`PeerRegion::copy_out`], `PeerRegion::fill`, [`SharedRegion::append_to`]): a peer that
//! writes meanwhile makes the *copy* arbitrary, which is what the bytes of a lying peer are anyhow. By the letter of the
//! memory model such a race between processes is outside what the language describes; in practice the copy is a
//! `memcpy`, and no reference into the peer's memory exists while it runs.
//!
//! The exception is *lending* ([`PeerRegion::lend`], and the three ways of [`SharedRegion`]'s): it forms slices over memory that the peer
//! could still write. It is only used for peers that the trust policy names ([`Payloads`](crate::Payloads)); the contract is stated there.

mod bins;
mod block;
mod buddy;
mod heap;
mod region;
mod ring;

pub(crate) use block::Block;
pub(crate) use heap::{Exhausted, Heap, HeapFigures, RetiredRegion, Supply};
pub use region::OutOfRegion;
pub(crate) use region::{Origin, OwnedRegion, PeerRegion, RegionName, SharedRegion, Trust};
pub(crate) use ring::{OwnRing, PeerRing};
