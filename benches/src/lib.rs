//! The benchmark of the workspace: every transport in the same run, between two real processes.
//!
//! `cargo run --release -p benches` measures and writes `docs/benchmarks`. What is measured, and how, is told in the
//! report itself (see [`report`]); this is how the code lies:
//!
//! ```text
//! main ─▶ cli ─▶ harness::suite      which cases, how often, in which order
//!                   │ one case
//!                   ▼
//!                harness::session    spawns a client and a server process (this binary again), speaks with both
//!                   │ one role
//!                   ▼
//!                harness::role ─▶ peers::*     the transport under test, behind `Peer` and `Caller`
//! ```
//!
//! The processes share no state with the one that starts them: commands and results are lines of JSON on their
//! standard input and output. The counting allocator ([`alloc`]) is installed in all of them, for all peers.

pub mod alloc;
pub mod cli;
pub mod harness;
pub mod inherit;
pub mod pattern;
pub mod peers;
pub mod pool;
pub mod report;
pub mod shared;
pub mod syscalls;

/// What went wrong, in words for the person who ran the command.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The result of anything in this package.
pub type Result<T> = std::result::Result<T, Failure>;
