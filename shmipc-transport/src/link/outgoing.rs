//! A message on its way out: what is copied into the record, and what is only named in it.

use bytes::Bytes;

use super::{AllocFailure, Lease, OutboxLink, Run};
use crate::core::{
    mem::Block,
    num::{RegionId, index, u32_len},
    outbox::{INLINE_MAX, Part, RECORD_BODY_MAX, SEGMENTS_MAX},
};

/// One part of a message, in order.
#[derive(Debug)]
pub(crate) enum OutgoingPart {
    /// The next `len` of the inline bytes.
    Inline(u32),
    /// A block that was written for this message.
    Block(Block),
    /// Memory of ours that the application shares.
    Own {
        region: RegionId,
        offset: u32,
        bytes: Bytes,
    },
    /// Memory of the peer's that it lent us and now gets back.
    Theirs {
        part: Part,
        bytes: Bytes,
        /// Keeps the lease that `part` names.
        lease: Lease,
    },
    /// Memory of another session's that is passed on to the peer.
    Forwarded {
        region: RegionId,
        offset: u32,
        bytes: Bytes,
    },
    /// Slices of shmipc's own link that were written for this message.
    Run(Run),
    /// Bytes for which there was no block; they need one before the message can go.
    Spilled(Vec<u8>),
}

impl OutgoingPart {
    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(len) => *len as usize,
            Self::Block(block) => block.len(),
            Self::Run(run) => run.len(),
            Self::Own { bytes, .. }
            | Self::Theirs { bytes, .. }
            | Self::Forwarded { bytes, .. } => bytes.len(),
            Self::Spilled(bytes) => bytes.len(),
        }
    }

    /// Shows `look` its content, of which `inline` has what is inline, and the rest afterwards; nothing of slices, which are not in one piece.
    pub(super) fn look(&self, inline: &mut &[u8], look: impl FnOnce(&[u8])) {
        match self {
            Self::Inline(len) => {
                let (head, rest) = inline.split_at(index(*len));
                *inline = rest;
                look(head);
            }
            Self::Block(block) => look(block.as_ref()),
            Self::Own { bytes, .. }
            | Self::Theirs { bytes, .. }
            | Self::Forwarded { bytes, .. } => look(bytes),
            Self::Run(_) => {}
            Self::Spilled(bytes) => look(bytes),
        }
    }

    /// Copies its content to the end of `target`; as for [`look`](Self::look), `inline` has what is inline.
    pub(super) fn append_to(&self, inline: &mut &[u8], target: &mut Vec<u8>) {
        match self {
            Self::Run(run) => run.append_to(target),
            other => other.look(inline, |bytes| target.extend_from_slice(bytes)),
        }
    }

    /// Whether it is named where it was, and not copied for this message.
    pub(super) fn is_linked(&self) -> bool {
        matches!(
            self,
            Self::Own { .. } | Self::Theirs { .. } | Self::Forwarded { .. }
        )
    }
}

/// A message, composed part by part.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(super) inline: Vec<u8>,
    pub(super) parts: Vec<OutgoingPart>,
    len: usize,
}

impl Outgoing {
    /// The length of the message in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many more inline bytes it may have.
    pub(crate) fn inline_room(&self) -> usize {
        // The last part must have a segment left, whatever it is.
        if usize::from(SEGMENTS_MAX) <= self.parts.len() + 1 && !self.ends_inline() {
            return 0;
        }
        INLINE_MAX as usize - self.inline.len()
    }

    /// Whether one more part may be linked, with one to spare for what comes after it.
    pub(crate) fn may_link(&self) -> bool {
        self.parts.len() + 2 < usize::from(SEGMENTS_MAX)
    }

    /// Makes room for `capacity` inline bytes, before the first of them is written: many messages have none.
    pub(crate) fn expect_inline(&mut self, capacity: usize) {
        if self.inline.capacity() == 0 {
            self.inline.reserve_exact(capacity);
        }
    }

    /// Appends inline bytes, at most [`inline_room`](Self::inline_room).
    pub(crate) fn write_inline(&mut self, bytes: &[u8]) {
        self.inline.extend_from_slice(bytes);
        let len = u32_len(bytes.len());
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(OutgoingPart::Inline(last)) => *last += len,
            _ => self.parts.push(OutgoingPart::Inline(len)),
        }
    }

    /// Appends a part.
    pub(crate) fn push(&mut self, part: OutgoingPart) {
        self.len += part.len();
        self.parts.push(part);
    }

    /// Whether something was spilled.
    pub(crate) fn is_spilled(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| matches!(part, OutgoingPart::Spilled(_)))
    }

    /// Moves what was spilled into blocks.
    ///
    /// # Errors
    ///
    /// Returns why one of them could not be had. If that is because all memory is in use, the message then holds none at all, and needs a
    /// single block: who waits for memory holds nothing that others, or it itself, may be waiting for.
    pub(crate) fn unspill(&mut self, link: &OutboxLink) -> Result<(), AllocFailure> {
        match self.take_blocks(link) {
            // What it held may be what it needs.
            Err(AllocFailure::Full(_)) if self.retreat() => self.take_blocks(link),
            outcome => outcome,
        }
    }

    /// Moves what was spilled into blocks, if there is one for each part: what was taken for some only to be given back would be missed
    /// by others meanwhile.
    fn take_blocks(&mut self, link: &OutboxLink) -> Result<(), AllocFailure> {
        let lens = self.parts.iter().filter_map(|part| match part {
            OutgoingPart::Spilled(bytes) => Some(u32_len(bytes.len())),
            _ => None,
        });
        let lens: Vec<_> = lens.collect();
        let mut blocks = link.alloc_all(&lens)?.into_iter();
        for part in &mut self.parts {
            if let OutgoingPart::Spilled(bytes) = part
                && let Some(mut block) = blocks.next()
            {
                block.as_mut_slice().copy_from_slice(bytes);
                *part = OutgoingPart::Block(block);
            }
        }
        Ok(())
    }

    /// Lets go of all blocks and of all that is linked, and keeps the content in private memory, in one piece with what lies between. Returns
    /// whether that changed anything.
    fn retreat(&mut self) -> bool {
        let is_inline = |part: &OutgoingPart| matches!(part, OutgoingPart::Inline(_));
        let first = self.parts.iter().position(|part| !is_inline(part));
        let last = self.parts.iter().rposition(|part| !is_inline(part));
        let (Some(first), Some(last)) = (first, last) else {
            return false;
        };
        let outer = &self.parts[first..=last];
        if let [OutgoingPart::Spilled(_)] = outer {
            return false;
        }
        let before = self.parts[..first].iter().map(OutgoingPart::len).sum();
        let mut inline = &self.inline[before..];
        let mut content = Vec::with_capacity(outer.iter().map(OutgoingPart::len).sum());
        for part in outer {
            part.append_to(&mut inline, &mut content);
        }
        let after = self.inline.len() - inline.len();
        self.inline.drain(before..after);
        let content = OutgoingPart::Spilled(content);
        drop(self.parts.splice(first..=last, [content]));
        true
    }

    /// Whether the message consists of inline bytes alone, and so needs no segments.
    pub(super) fn is_inline(&self) -> bool {
        matches!(self.parts[..], [] | [OutgoingPart::Inline(_)])
    }

    /// The length of the record's body.
    pub(super) fn body_len(&self) -> u32 {
        let segments = if self.is_inline() {
            0
        } else {
            self.parts.len()
        };
        let len = u32_len(segments * 16 + self.inline.len());
        debug_assert!(
            len <= RECORD_BODY_MAX,
            "parts and inline bytes are bounded as they are added"
        );
        len
    }

    fn ends_inline(&self) -> bool {
        matches!(self.parts.last(), Some(OutgoingPart::Inline(_)))
    }
}
