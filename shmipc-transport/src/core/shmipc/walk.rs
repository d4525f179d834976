//! A look at a free list from its first slice to its last, for people.
//!
//! Both sides go on changing the list meanwhile, and the peer may have written anything. So nothing follows from what is found, and nothing
//! is followed that is no slice of the list, nor for longer than there are slices.

use super::{
    Memory, Pool,
    buffers::{HAS_NEXT, field},
};
use crate::core::{num::u32_len, sync::Ordering};

/// The most slices of a list that are looked at.
const WALK_MAX: u32 = 65_536;

/// What a free list looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Walk {
    /// How many slices it says are free.
    pub(crate) says: i32,
    /// Where the first and the last of them lie, from the first slice of the list.
    pub(crate) head: u32,
    pub(crate) tail: u32,
    /// How many were found, 65,536 at most.
    pub(crate) found: u32,
    pub(crate) end: ListEnd,
    /// Slices of the list that this side holds, of as many at most.
    pub(crate) held: u32,
}

/// Where the links of a free list of shmipc's own link lead, from the first slice on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ListEnd {
    /// To the last slice, as they should.
    Last,
    /// To a slice without a successor, which is not the last: somebody is about to link one, or has died before.
    Cut,
    /// To what is no slice of the list.
    Astray,
    /// On and on, in a circle.
    Circle,
    /// Further than was looked: 65,536 slices.
    Beyond,
}

impl<M: Memory> Pool<M> {
    /// Looks at a free list.
    pub(crate) fn walk(&self, number: usize) -> Walk {
        let list = &self.geometry().lists()[number];
        let word = |at: u32| self.memory().word(at).load(Ordering::Acquire);
        let (head, tail) = (
            word(list.header + field::HEAD),
            word(list.header + field::TAIL),
        );
        let (mut at, mut found) = (head, 0);
        let end = loop {
            if list.slice(at).is_none() {
                break ListEnd::Astray;
            }
            if found == list.count {
                break ListEnd::Circle;
            }
            if found == WALK_MAX {
                break ListEnd::Beyond;
            }
            found += 1;
            if at == tail {
                break ListEnd::Last;
            }
            let slice = list.first + at;
            if word(slice + field::SLICE_FLAGS) & HAS_NEXT == 0 {
                break ListEnd::Cut;
            }
            at = word(slice + field::SLICE_NEXT);
        };
        let held = (0..list.count.min(WALK_MAX)).filter(|&slice| self.holds(number, slice));
        Walk {
            says: word(list.header + field::SIZE).cast_signed(),
            head,
            tail,
            found,
            end,
            held: u32_len(held.count()),
        }
    }
}
