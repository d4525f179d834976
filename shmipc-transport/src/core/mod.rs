//! The pure part: no system call, no clock, no runtime.
//!
//! Everything here is a value that is told what happened and says what to do next, so that tests own both ends of a
//! conversation and loom may interleave them. The one thing that reaches outside is [`mem`], which reads and writes
//! mappings that [`sys`](crate::sys) made.

pub(crate) mod flag;
pub(crate) mod handshake;
pub(crate) mod mem;
pub(crate) mod num;
pub(crate) mod outbox;
pub(crate) mod restart;
pub(crate) mod selection;
pub(crate) mod shmipc;
pub(crate) mod streams;
pub(crate) mod succession;
pub(crate) mod sync;
pub(crate) mod waiters;
pub(crate) mod wire;
