//! Giving segments back: a ring of tokens that the receiver of messages writes and their sender reads.
//!
//! It needs no cursor of the reader's: a sender never has more segments under way than the ring has entries
//! ([`Flights`](super::Flights) sees to that), so a receiver that gives back each segment once never overruns it.

use crate::core::{
    num::Capacity,
    sync::{AtomicU32, Ordering, fence},
};

/// The writing end: tokens of the peer's segments that we are done with.
#[derive(Debug)]
pub(crate) struct ReturnWriter {
    capacity: Capacity,
    /// Entries written so far. Ours alone.
    count: u32,
}

impl ReturnWriter {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self { capacity, count: 0 }
    }

    /// Gives `token` back. `entry` yields the word of a slot, `returned` announces it.
    pub(crate) fn push<'w>(
        &mut self,
        entry: impl Fn(u32) -> &'w AtomicU32,
        returned: &AtomicU32,
        token: u32,
    ) {
        // Relaxed: published by the Release below.
        entry(self.capacity.slot(self.count)).store(token, Ordering::Relaxed);
        self.count = self.count.wrapping_add(1);
        // Release: pairs with the Acquire fence in `ReturnReader::refresh`. Our reads of the segment come before it, too.
        returned.store(self.count, Ordering::Release);
    }
}

/// The peer says that it returned more segments than were under way.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{claimed} returns at once, with only {under_way} segments under way")]
pub struct ReturnsOverrun {
    /// Entries that the peer claims to have added.
    pub claimed: u32,
    /// Segments that it could return.
    pub under_way: u32,
}

/// The reading end: tokens of our segments that the peer is done with.
#[derive(Debug)]
pub(crate) struct ReturnReader {
    capacity: Capacity,
    /// Entries taken so far. Ours alone.
    count: u32,
    /// Entries that we know to be there.
    ready: u32,
}

impl ReturnReader {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            count: 0,
            ready: 0,
        }
    }

    /// Looks how many entries are there; at most `under_way` may be.
    ///
    /// # Errors
    ///
    /// Returns [`ReturnsOverrun`] if there are more (O14).
    pub(crate) fn refresh(&mut self, returned: u32, under_way: u32) -> Result<u32, ReturnsOverrun> {
        // Acquire: pairs with the Release in `ReturnWriter::push`.
        fence(Ordering::Acquire);
        let claimed = returned.wrapping_sub(self.count);
        if under_way < claimed || self.capacity.get() < claimed {
            return Err(ReturnsOverrun { claimed, under_way });
        }
        self.ready = claimed;
        Ok(claimed)
    }

    /// Takes the next entry that `refresh` found; `load` reads a slot.
    pub(crate) fn pop<E>(
        &mut self,
        load: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<Option<u32>, E> {
        if self.ready == 0 {
            return Ok(None);
        }
        let token = load(self.capacity.slot(self.count))?;
        self.ready -= 1;
        self.count = self.count.wrapping_add(1);
        Ok(Some(token))
    }

    /// Undoes the last [`pop`](Self::pop), so that a token that cannot be is found again by whoever looks next.
    pub(crate) fn put_back(&mut self) {
        self.ready += 1;
        self.count = self.count.wrapping_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use super::*;
    use crate::core::{
        num::index,
        sync::{model, thread},
    };

    #[test]
    fn every_token_comes_back_once_and_in_order() {
        model(|| {
            const COUNT: u32 = 3;
            let entries: Arc<Vec<AtomicU32>> =
                Arc::new((0..4).map(|_| AtomicU32::new(0)).collect());
            let returned = Arc::new(AtomicU32::new(0));
            let capacity = Capacity::new(4).unwrap();
            let writer = {
                let (entries, returned) = (Arc::clone(&entries), Arc::clone(&returned));
                thread::spawn(move || {
                    let mut writer = ReturnWriter::new(capacity);
                    for token in 1..=COUNT {
                        writer.push(|slot| &entries[index(slot)], &returned, token);
                    }
                })
            };
            let mut reader = ReturnReader::new(capacity);
            let mut seen = 0;
            while seen < COUNT {
                if reader
                    .refresh(returned.load(Ordering::Relaxed), COUNT - seen)
                    .unwrap()
                    == 0
                {
                    thread::yield_now();
                }
                while let Some(token) = reader
                    .pop(|slot| Ok::<_, Infallible>(entries[index(slot)].load(Ordering::Relaxed)))
                    .unwrap()
                {
                    seen += 1;
                    assert_eq!(token, seen);
                }
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn more_returns_than_segments_are_caught() {
        model(|| {
            let mut reader = ReturnReader::new(Capacity::new(8).unwrap());
            assert_eq!(
                reader.refresh(3, 2),
                Err(ReturnsOverrun {
                    claimed: 3,
                    under_way: 2
                })
            );
            assert_eq!(
                reader.refresh(u32::MAX, 8),
                Err(ReturnsOverrun {
                    claimed: u32::MAX,
                    under_way: 8
                })
            );
        });
    }
}
