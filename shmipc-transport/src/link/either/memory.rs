//! Memory that the peer can see, and memory of others. shmipc's own link has none that could be lent: its slices are written to by
//! both sides.

use std::sync::Arc;

use super::Link;
use crate::{
    core::{
        mem::{Block, HeapFigures, Supply},
        num::RegionId,
        outbox::Part,
    },
    error::PeerMisbehaved,
    link::{AllocFailure, Forwarded, ForwardedPart, Lease},
};

impl Link {
    /// Takes out a block of `len` bytes; `None` if the link has none of its own.
    ///
    /// # Errors
    ///
    /// See [`AllocFailure`].
    pub(crate) fn alloc(&self, len: u32) -> Result<Option<Block>, AllocFailure> {
        match self {
            Self::Outbox(link) => link.alloc(len).map(Some),
            Self::Shmipc(_) => Ok(None),
        }
    }

    /// How often there was more memory to be had than before. Where a link has none of its own, that is never.
    pub(crate) fn supply(&self) -> Supply {
        match self {
            Self::Outbox(link) => link.supply(),
            Self::Shmipc(_) => Supply::default(),
        }
    }

    /// Gives memory that is not in use back to the system. Returns whether any is left.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn retire_idle(&self) -> Result<bool, PeerMisbehaved> {
        match self {
            Self::Outbox(link) => link.retire_idle(),
            Self::Shmipc(_) => Ok(false),
        }
    }

    /// Whether memory of others has been passed on.
    pub(crate) fn has_forwarded(&self) -> bool {
        match self {
            Self::Outbox(link) => link.has_forwarded(),
            Self::Shmipc(_) => false,
        }
    }

    /// Drops regions of others that are no longer used.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn sweep_forwarded(&self) -> Result<(), PeerMisbehaved> {
        match self {
            Self::Outbox(link) => link.sweep_forwarded(),
            Self::Shmipc(_) => Ok(()),
        }
    }

    /// What is kept for readers in other sessions.
    pub(crate) fn take_kept(&self) -> Vec<(Lease, Arc<Forwarded>)> {
        match self {
            Self::Outbox(link) => link.take_kept(),
            Self::Shmipc(_) => Vec::new(),
        }
    }

    /// Allows for memory of another session's to be passed on over this link; both must be our own.
    pub(crate) fn forward_from(&self, source: &Self) -> bool {
        match (self, source) {
            (Self::Outbox(link), Self::Outbox(source)) => link.forward_from(source),
            _ => false,
        }
    }

    /// What the arena holds.
    pub(crate) fn heap_figures(&self) -> HeapFigures {
        match self {
            Self::Outbox(link) => link.heap_figures(),
            Self::Shmipc(_) => HeapFigures::default(),
        }
    }

    /// Where `bytes` lies in our arena, if it does.
    pub(crate) fn locate_own(&self, bytes: &[u8]) -> Option<(RegionId, u32)> {
        match self {
            Self::Outbox(link) => link.locate_own(bytes),
            Self::Shmipc(_) => None,
        }
    }

    /// The part of the peer's memory that `bytes` is, if it is a lease of this session.
    pub(crate) fn pin_lease(&self, bytes: &[u8]) -> Option<(Part, Lease)> {
        match self {
            Self::Outbox(link) => link.pin_lease(bytes),
            Self::Shmipc(_) => None,
        }
    }

    /// The part of another session's memory that `bytes` is, if it may be passed on.
    pub(crate) fn locate_forwardable(&self, bytes: &[u8]) -> Option<ForwardedPart> {
        match self {
            Self::Outbox(link) => link.locate_forwardable(bytes),
            Self::Shmipc(_) => None,
        }
    }
}
