//! Hot restarts as values: who was told, who has moved, who may be told that all have.
//!
//! ```text
//! old server                          client                               new server
//!   |  hot restart(epoch), per session  |                                       |
//!   | --------------------------------> |  a new session in the place of each   |
//!   |                                   | ------------------------------------> |
//!   |                                   |  … until all have moved               |
//!   | <-- acknowledgement, per session  |                                       |
//!   |                                   |                                       |
//! ```
//!
//! [`Notice`] is what the two sides of one session have said, [`RollCall`] an old server's restart, and [`Relocation`] a
//! client's part in it. What the protocol of shmipc leaves to goodwill is contained here: acknowledgements are matched to
//! sessions (H28), epochs are compared, and whoever waits does so for a limited time (H62).
//!
//! Time is a [`Duration`](core::time::Duration) since any fixed moment of the caller's choice.

mod notice;
mod relocation;
mod roll_call;

pub(crate) use notice::Notice;
pub(crate) use relocation::{Act, Relocation};
pub(crate) use roll_call::{Fate, RollCall, Tally};
