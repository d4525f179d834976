//! Our own link: each process writes only memory that it owns, and the other maps that memory read-only.
//!
//! ```text
//!        process A                                  process B
//!  ┌──── outbox of A (A writes) ────┐       ┌──── outbox of B (B writes) ────┐
//!  │ header: head, returned, sleep… │       │ header: head, returned, sleep… │
//!  │ ring of records        A ───▶ B│       │ ring of records        B ───▶ A│
//!  │ return ring: B's blocks that A │       │ return ring: A's blocks that B │
//!  │              is done with      │       │              is done with      │
//!  └────────────────────────────────┘       └────────────────────────────────┘
//!     + regions of A: payload blocks           + regions of B: payload blocks
//! ```
//!
//! The numbered rules (O1, O2, …) that comments here cite are those of `docs/protocol.md`.

mod flights;
mod layout;
mod record;
mod returns;
mod ring;
mod sleep;

pub(crate) use flights::{Flight, Flights};
pub use layout::InvalidGeometry;
pub(crate) use layout::{Geometry, Header, OUTBOX_LEN, RETURNS_MAX, Windows};
pub use record::InvalidRecord;
#[cfg(any(test, fuzzing))]
pub use record::fuzz_record;
pub(crate) use record::{
    INLINE_MAX, Kind, Part, RECORD_BODY_MAX, RecordHead, SEGMENTS_MAX, Segment, flags,
};
pub use returns::ReturnsOverrun;
pub(crate) use returns::{ReturnReader, ReturnWriter};
pub use ring::HeadOverrun;
pub(crate) use ring::{Backlog, Consumer, Producer, ReadRing, Slot, WriteRing};
pub(crate) use sleep::{Bell, SleepWord};
