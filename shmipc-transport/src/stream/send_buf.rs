//! A message that is being written.
#![expect(
    unsafe_code,
    reason = "`BufMut` is an unsafe trait; nothing here does anything unsafe"
)]

use std::{
    mem,
    ops::{Deref, DerefMut},
};

use bytes::{Buf, BufMut, buf::UninitSlice};

use crate::{
    core::{
        mem::Block,
        num::{RegionId, u32_len},
        outbox::{INLINE_MAX, Part},
    },
    error::SendError,
    link::{ForwardedPart, Lease, Link, Outgoing, OutgoingPart, Run},
};

/// `Bytes` of ours at least this long are linked rather than copied into a message.
const LINK_MIN: usize = INLINE_MAX as usize;
/// The inline bytes for which there is room at first in a message that is too long to lie inline: heads, and what lies between parts.
const INLINE_FIRST: usize = 256;
/// The first block that a message without large parts takes; each further one is twice as long.
const BLOCK_FIRST: usize = 16 << 10;
/// The longest of those.
const BLOCK_LONGEST: usize = 1 << 20;

/// A message to be sent: bytes are written straight into shared memory.
///
/// Short messages, and the short parts of long ones, are collected and travel inside the ring; the rest is written into
/// blocks of the session's memory. A [`Bytes`](bytes::Bytes) of the session's own (from
/// [`Session::alloc`](crate::Session::alloc), or received from this session) that is [`put`](BufMut::put) is *linked*: the
/// message refers to it, and nothing is copied. So is a long one of another session's, if
/// [`Session::forward_from`](crate::Session::forward_from) allows for it.
///
/// Writing never waits and never fails. If the session's memory is exhausted, the message is kept in private memory, and
/// sending it waits for a block; a message that waits holds no shared memory, so what it has linked is copied then. A message that
/// could never be sent is dropped as it is written, and sending it reports that.
#[derive(Debug)]
pub struct SendBuf {
    link: Link,
    message: Outgoing,
    target: Target,
    /// How long the message will be, as far as anybody said.
    size_hint: usize,
    /// The length of the next block.
    block_len: usize,
    /// Bytes that were dropped, because no message can be so long.
    refused: usize,
    /// Where those write who use [`chunk_mut`](BufMut::chunk_mut).
    scratch: [u8; 64],
}

/// Where the next bytes go.
#[derive(Debug)]
enum Target {
    Inline,
    Block {
        block: Block,
        written: usize,
    },
    /// Slices of shmipc's own link.
    Run(Run),
    /// There is no block. Will need one.
    Spill(Vec<u8>),
}

/// Memory that can be named instead of copied.
enum Linkable {
    Own { region: RegionId, offset: u32 },
    Theirs { part: Part, lease: Lease },
    Forwarded(ForwardedPart),
}

impl SendBuf {
    pub(crate) fn new(link: Link, size_hint: usize) -> Self {
        Self {
            link,
            message: Outgoing::default(),
            target: Target::Inline,
            size_hint,
            block_len: BLOCK_FIRST,
            refused: 0,
            scratch: [0; 64],
        }
    }

    /// Bytes written so far, including those that are linked.
    #[must_use]
    pub fn len(&self) -> usize {
        let pending = match &self.target {
            Target::Inline => 0,
            Target::Block { written, .. } => *written,
            Target::Run(run) => run.len(),
            Target::Spill(bytes) => bytes.len(),
        };
        self.message.len() + pending + self.refused
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lends `len` contiguous bytes at the end of the message, to be filled in place. [`Reserved::commit`] says how many of
    /// them were; dropped before, none are written.
    ///
    /// They are contiguous for the receiver, too. Where they are few and the message is short, they lie in private memory, and are
    /// copied once; also while the session's memory is exhausted. Over shmipc's own link, they are copied if no slice is as long, in which
    /// case they are not contiguous for the receiver either, or if the peer is not [trusted](crate::Payloads) to leave them alone. Their
    /// content is arbitrary: left over from earlier messages of this session, or zeros.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::TooLarge`] if a message of that length could never be sent. What was written before stays.
    pub fn reserve(&mut self, len: usize) -> Result<Reserved<'_>, SendError> {
        let (total, max) = (self.len().saturating_add(len), self.link.message_max());
        if max < total {
            return Err(SendError::TooLarge { len: total, max });
        }
        if self.room() < len || !self.has_place(len) {
            self.seal();
            self.target = self.open_block(len);
        }
        let space = match &mut self.target {
            Target::Block { written, .. } => Space::Block { start: *written },
            Target::Run(run) if run.has_place(len) => Space::Run,
            Target::Inline | Target::Run(_) | Target::Spill(_) => Space::Apart(vec![0; len]),
        };
        Ok(Reserved {
            buf: self,
            len,
            space,
        })
    }

    /// Whether it lies in memory of this link's.
    pub(crate) fn is_for(&self, link: &Link) -> bool {
        self.link.is(link)
    }

    /// Forgets all that was written.
    pub(crate) fn clear(&mut self) {
        self.message = Outgoing::default();
        self.target = Target::Inline;
        self.refused = 0;
    }

    /// Ends the writing, as often as it is called. `Err` is the length of a message that can never be sent.
    pub(crate) fn sealed(&mut self) -> Result<&mut Outgoing, usize> {
        let len = self.len();
        self.seal();
        if len <= self.link.message_max() && self.refused == 0 {
            Ok(&mut self.message)
        } else {
            Err(len)
        }
    }

    /// Turns what is being written into a part of the message.
    fn seal(&mut self) {
        match mem::replace(&mut self.target, Target::Inline) {
            // An untouched block goes back.
            Target::Block { mut block, written } if written != 0 => {
                block.truncate(written);
                self.message.push(OutgoingPart::Block(block));
            }
            Target::Run(run) if run.len() != 0 => self.message.push(OutgoingPart::Run(run)),
            Target::Spill(bytes) if !bytes.is_empty() => {
                self.message.push(OutgoingPart::Spilled(bytes))
            }
            Target::Inline | Target::Block { .. } | Target::Run(_) | Target::Spill(_) => {}
        }
    }

    /// Bytes that fit at the target.
    fn room(&self) -> usize {
        match &self.target {
            Target::Inline => self.message.inline_room(),
            Target::Block { block, written } => block.len() - written,
            Target::Run(run) => run.room(),
            Target::Spill(_) => usize::MAX,
        }
    }

    /// Whether slices, if they are the target, have `len` contiguous bytes left.
    fn has_place(&self, len: usize) -> bool {
        match &self.target {
            Target::Run(run) => run.has_place(len),
            Target::Inline | Target::Block { .. } | Target::Spill(_) => true,
        }
    }

    /// Sees to it that the target has room for some of the `wanted` bytes, and for all of them where they are many, so
    /// that the receiver finds them contiguous.
    fn make_room(&mut self, wanted: usize) {
        let room = self.room();
        let may_straddle =
            wanted < LINK_MIN && matches!(self.target, Target::Block { .. } | Target::Run(_));
        if room < wanted && (room == 0 || !may_straddle) {
            self.seal();
            self.target = self.open_block(wanted);
        }
    }

    /// A block for a write of `wanted` bytes. A long write gets one of just its length; otherwise blocks grow with the
    /// message, though never beyond what it is said to need.
    fn open_block(&mut self, wanted: usize) -> Target {
        let left = self.size_hint.saturating_sub(self.message.len());
        let grown = if left == 0 {
            self.block_len
        } else {
            self.block_len.min(left)
        };
        let len = grown.max(wanted);
        self.block_len = (2 * self.block_len).min(BLOCK_LONGEST);
        let fits = self.message.may_link() && len <= self.link.message_max();
        // Whatever the reason is that there is none, sending the message meets it again, and can wait or report it.
        let target = match &self.link {
            _ if !fits => None,
            Link::Outbox(link) => {
                let block = link.alloc(u32_len(len)).ok();
                block.map(|block| Target::Block { block, written: 0 })
            }
            Link::Shmipc(link) => link.run(len).map(Target::Run),
        };
        target.unwrap_or_else(|| Target::Spill(Vec::with_capacity(if fits { len } else { 0 })))
    }

    fn copy(&mut self, mut source: &[u8]) {
        if self.link.message_max() < self.len() + source.len() {
            self.refuse(source.len());
            return;
        }
        while !source.is_empty() {
            self.make_room(source.len());
            let (head, rest) = source.split_at(source.len().min(self.room()));
            match &mut self.target {
                Target::Inline => {
                    let is_short = self.size_hint <= INLINE_MAX as usize;
                    let expected = if is_short {
                        self.size_hint
                    } else {
                        INLINE_FIRST
                    };
                    self.message.expect_inline(expected.max(head.len()));
                    self.message.write_inline(head);
                }
                Target::Block { block, written } => {
                    block.as_mut_slice()[*written..*written + head.len()].copy_from_slice(head);
                    *written += head.len();
                }
                Target::Run(run) => run.write(head),
                Target::Spill(bytes) => bytes.extend_from_slice(head),
            }
            source = rest;
        }
    }

    /// Counts bytes of a message that is too long to be sent, and lets go of what it holds.
    fn refuse(&mut self, len: usize) {
        self.refused += len + self.len() - self.refused;
        self.message = Outgoing::default();
        self.target = Target::Inline;
    }

    /// What `chunk` is, if the peer can see its memory.
    fn linkable(&self, chunk: &[u8]) -> Option<Linkable> {
        if chunk.len() < LINK_MIN || !self.message.may_link() || self.refused != 0 {
            return None;
        }
        if let Some((region, offset)) = self.link.locate_own(chunk) {
            return Some(Linkable::Own { region, offset });
        }
        if let Some((part, lease)) = self.link.pin_lease(chunk) {
            return Some(Linkable::Theirs { part, lease });
        }
        self.link.locate_forwardable(chunk).map(Linkable::Forwarded)
    }
}

// SAFETY: `chunk_mut` lends initialised memory of our own, and what `advance_mut` takes from it is copied; `remaining_mut`
// promises what `copy` keeps.
unsafe impl BufMut for SendBuf {
    fn remaining_mut(&self) -> usize {
        usize::MAX - self.len()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        let scratch = self.scratch;
        self.copy(&scratch[..count]);
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(&mut self.scratch)
    }

    /// Links what lies in memory of the session, and copies the rest.
    fn put<T: Buf>(&mut self, mut source: T)
    where
        Self: Sized,
    {
        while source.has_remaining() {
            let chunk = source.chunk();
            let (start, len) = (chunk.as_ptr(), chunk.len());
            let Some(linkable) = self.linkable(chunk) else {
                self.copy(chunk);
                source.advance(len);
                continue;
            };
            // For `Bytes` this is a share in its owner, which keeps the memory as it is. Anything else makes a copy.
            let bytes = source.copy_to_bytes(len);
            if bytes.as_ptr() == start {
                self.seal();
                self.message.push(match linkable {
                    Linkable::Own { region, offset } => OutgoingPart::Own {
                        region,
                        offset,
                        bytes,
                    },
                    Linkable::Theirs { part, lease } => OutgoingPart::Theirs { part, bytes, lease },
                    Linkable::Forwarded(part) => OutgoingPart::Forwarded {
                        region: part.region(),
                        offset: part.offset(),
                        bytes: part.share(bytes),
                    },
                });
            } else {
                self.copy(&bytes);
            }
        }
    }

    fn put_slice(&mut self, source: &[u8]) {
        self.copy(source);
    }

    fn put_u8(&mut self, byte: u8) {
        self.copy(&[byte]);
    }

    fn put_bytes(&mut self, byte: u8, mut count: usize) {
        let run = [byte; 1024];
        while count != 0 {
            let part = count.min(run.len());
            self.copy(&run[..part]);
            count -= part;
        }
    }
}

/// Space at the end of a message, lent by [`SendBuf::reserve`]. Derefs to a slice of as many bytes as were wanted.
#[derive(Debug)]
#[must_use = "nothing is written before `commit` says how much"]
pub struct Reserved<'a> {
    buf: &'a mut SendBuf,
    len: usize,
    space: Space,
}

/// Where the reserved bytes are.
#[derive(Debug)]
enum Space {
    /// From here in the block that is the target.
    Block { start: usize },
    /// In the slice that is written next.
    Run,
    /// In private memory, from which they are copied.
    Apart(Vec<u8>),
}

impl Reserved<'_> {
    /// Makes the first `written` of the bytes part of the message.
    ///
    /// # Panics
    ///
    /// If so many were not reserved.
    pub fn commit(self, written: usize) {
        let Self { buf, len, space } = self;
        assert!(
            written <= len,
            "{written} bytes were written where {len} were reserved"
        );
        match (space, &mut buf.target) {
            (Space::Block { start }, Target::Block { written: end, .. }) => *end = start + written,
            (Space::Run, Target::Run(run)) => run.wrote(written),
            (Space::Block { .. } | Space::Run, _) => {
                unreachable!("the target does not change while it is lent")
            }
            (Space::Apart(bytes), _) => buf.copy(&bytes[..written]),
        }
    }
}

impl Deref for Reserved<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match (&self.space, &self.buf.target) {
            (Space::Apart(bytes), _) => bytes,
            (Space::Block { start }, Target::Block { block, .. }) => {
                &block.as_ref()[*start..*start + self.len]
            }
            (Space::Run, Target::Run(run)) => run.place(self.len),
            (Space::Block { .. } | Space::Run, _) => &[],
        }
    }
}

impl DerefMut for Reserved<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match (&mut self.space, &mut self.buf.target) {
            (Space::Apart(bytes), _) => bytes,
            (Space::Block { start }, Target::Block { block, .. }) => {
                &mut block.as_mut_slice()[*start..*start + self.len]
            }
            (Space::Run, Target::Run(run)) => run.place_mut(self.len),
            (Space::Block { .. } | Space::Run, _) => &mut [],
        }
    }
}
