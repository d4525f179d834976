//! Segments of ours that the peer has not given back yet.
//!
//! A segment under way keeps its memory alive on our side, and its token is the only name under which the peer can give
//! it back. Tokens are checked against this private table: returning one twice, or one that was never sent, is caught.

use bytes::Bytes;

use super::RETURNS_MAX;
use crate::core::{
    mem::Block,
    num::{RegionId, index, u32_len},
};

/// Names a segment under way: its slot in the low half, the slot's generation in the high half.
pub(crate) type Token = u32;

/// A segment that the peer may be reading.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) region: RegionId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// What keeps the memory from being reused.
    pub(crate) memory: Memory,
}

/// How a segment's memory is held.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A block that was written for this one message.
    Block(Block),
    /// A share in memory that the application may hold as well.
    Shared(Bytes),
    /// A share in memory of another session's.
    Foreign(Bytes),
}

#[derive(Debug, Default)]
struct Slot {
    generation: u16,
    flight: Option<Flight>,
}

/// All segments under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    slots: Vec<Slot>,
    vacant: Vec<u16>,
    count: u32,
}

impl Flights {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether `segments` more may be under way.
    pub(crate) fn has_room(&self, segments: usize) -> bool {
        index(self.count) + segments <= index(RETURNS_MAX)
    }

    /// Registers a segment. The caller has asked [`has_room`](Self::has_room).
    pub(crate) fn depart(&mut self, flight: Flight) -> Token {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u16::try_from(self.slots.len() - 1).expect("RETURNS_MAX slots fit into 16 bits")
        });
        self.count += 1;
        let entry = &mut self.slots[usize::from(slot)];
        entry.flight = Some(flight);
        u32::from(entry.generation) << 16 | u32::from(slot)
    }

    /// Takes a segment back; `None` if no such segment is under way.
    pub(crate) fn land(&mut self, token: Token) -> Option<Flight> {
        let slot = self.slot(token)?;
        let flight = self.slots[slot].flight.take()?;
        self.slots[slot].generation = self.slots[slot].generation.wrapping_add(1);
        self.vacant.push(u16::try_from(slot).ok()?);
        self.count -= 1;
        Some(flight)
    }

    /// Shares the memory of a segment that the peer sends back to us; `None` if it is not under way or has no such
    /// range.
    pub(crate) fn share(
        &mut self,
        token: Token,
        region: RegionId,
        offset: u32,
        len: u32,
    ) -> Option<Bytes> {
        let slot = self.slot(token)?;
        let flight = self.slots[slot].flight.as_mut()?;
        let start = offset.checked_sub(flight.offset)?;
        if flight.region != region || flight.len < start.checked_add(len)? {
            return None;
        }
        if let Memory::Block(_) = flight.memory
            && let Memory::Block(block) =
                std::mem::replace(&mut flight.memory, Memory::Shared(Bytes::new()))
        {
            flight.memory = Memory::Shared(Bytes::from_owner(block));
        }
        let (Memory::Shared(bytes) | Memory::Foreign(bytes)) = &flight.memory else {
            return None;
        };
        // A block may be longer than the part of it that was sent; the flight's own range was checked above.
        let within = index(start);
        (within + index(len) <= bytes.len()).then(|| bytes.slice(within..within + index(len)))
    }

    /// Those that are under way, with their tokens.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &Flight)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(i, slot)| {
            let token: Token = u32::from(slot.generation) << 16 | i;
            Some((token, slot.flight.as_ref()?))
        })
    }

    /// Forgets all segments, because the session is over.
    pub(crate) fn clear(&mut self) -> Vec<Flight> {
        self.count = 0;
        self.vacant.clear();
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|slot| slot.flight)
            .collect()
    }

    fn slot(&self, token: Token) -> Option<usize> {
        let slot = index(token & 0xffff);
        (u32::from(self.slots.get(slot)?.generation) == token >> 16).then_some(slot)
    }
}

impl Flight {
    /// A segment that is a block of its own.
    pub(crate) fn block(block: Block) -> Self {
        Self {
            region: block.region(),
            offset: block.offset(),
            len: u32_len(block.len()),
            memory: Memory::Block(block),
        }
    }

    /// A segment that is (part of) memory which the application holds as `bytes`, at `offset` of `region`.
    pub(crate) fn shared(region: RegionId, offset: u32, bytes: Bytes) -> Self {
        Self {
            region,
            offset,
            len: u32_len(bytes.len()),
            memory: Memory::Shared(bytes),
        }
    }

    /// A segment of memory that another session has lent us as `bytes`, at `offset` of what the peer knows as `region`.
    pub(crate) fn foreign(region: RegionId, offset: u32, bytes: Bytes) -> Self {
        Self {
            region,
            offset,
            len: u32_len(bytes.len()),
            memory: Memory::Foreign(bytes),
        }
    }

    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.memory, Memory::Foreign(_))
    }

    /// Whether others have a share in its memory, so that what they have written may run when it is dropped.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.memory, Memory::Foreign(_) | Memory::Shared(_))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flight(len: u32) -> Flight {
        Flight::shared(RegionId(1), 4096, Bytes::from(vec![7; index(len)]))
    }

    #[test]
    fn only_what_is_under_way_can_be_shared_and_only_within_its_range() {
        let mut flights = Flights::default();
        let token = flights.depart(flight(100));
        assert_eq!(
            flights.share(token, RegionId(1), 4106, 90).unwrap().len(),
            90
        );
        assert!(
            flights.share(token, RegionId(2), 4106, 90).is_none(),
            "another region"
        );
        assert!(
            flights.share(token, RegionId(1), 4095, 1).is_none(),
            "before its start"
        );
        assert!(
            flights.share(token, RegionId(1), 4106, 91).is_none(),
            "beyond its end"
        );
        assert!(
            flights
                .share(token, RegionId(1), u32::MAX, u32::MAX)
                .is_none()
        );
        flights.land(token).unwrap();
        assert!(
            flights.share(token, RegionId(1), 4106, 90).is_none(),
            "no longer under way"
        );
    }

    proptest! {
        /// The oracle is the list of tokens that are out.
        #[test]
        fn a_token_lands_once(ops: Vec<(bool, u16)>) {
            let mut flights = Flights::default();
            let (mut out, mut spent) = (Vec::new(), Vec::new());
            for (depart, n) in ops {
                if depart {
                    out.push(flights.depart(flight(1)));
                } else if !out.is_empty() {
                    let token = out.swap_remove(usize::from(n) % out.len());
                    prop_assert!(flights.land(token).is_some());
                    spent.push(token);
                }
                prop_assert_eq!(index(flights.count()), out.len());
            }
            for token in spent {
                if !out.contains(&token) {
                    prop_assert!(flights.land(token).is_none());
                }
            }
        }
    }
}
