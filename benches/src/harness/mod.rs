//! Spawns the two processes of a case, measures, and brings the results home.
//!
//! # What a figure means
//!
//! * A *case* is a peer, where its processes run, what a call does, its size, and how many calls are in flight.
//! * Each case runs in two fresh processes, [`Plan::rounds`](suite::Plan) times; between two rounds of a case all other
//!   cases run, so that a disturbance hits all of them alike. The report shows the median over the rounds of what each
//!   round found.
//! * Samples are taken while the processors are as close to each other as they come, see `distance.rs`.
//! * A call's latency is the time between two readings of the client's clock, one for each call. The cost of reading the
//!   clock and of recording, which is in each figure of each peer, is measured too and stated in the report.
//! * The counters of both processes (processor time, allocations) are read just before and just after the calls.

pub mod case;
pub mod control;
pub mod counters;
mod distance;
pub mod process;
pub mod role;
pub mod session;
pub mod suite;
pub mod window;
