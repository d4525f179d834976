//! What can be measured.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing to measure.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Case {
    /// The transport.
    pub peer: PeerKind,
    /// Where the processes run.
    pub placement: Placement,
    /// What a call does.
    pub work: Work,
    /// Length of the payload in each direction, in bytes.
    pub size: usize,
    /// Calls that wait for their answer at the same time.
    pub in_flight: usize,
}

/// The transports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum PeerKind {
    /// Two processes that spin on cache lines: the limit of small messages.
    Limit,
    /// Two processes that spin, and write and read shared buffers: the limit of large messages.
    Memory,
    /// The same lines as [`Limit`](Self::Limit), with blocking eventfds to wait on.
    Eventfd,
    /// A blocking Unix domain socket.
    Socket,
    /// tonic over a Unix domain socket, tuned.
    Tonic(Runtime),
    /// tonic over a Unix domain socket, with its defaults.
    TonicDefaults,
    /// shmipc-rpc.
    Shmipc(Waiting),
    /// shmipc-rpc without a runtime.
    Blocking(Waiting),
    /// shmipc-rpc, behind three layers.
    Layered,
    /// Clients and servers that tonic generated, over shmipc-rpc.
    TonicAdapter,
    /// Streams of shmipc-transport, without RPC, over the outbox link.
    Outbox,
    /// The same over the link that speaks shmipc's own protocol.
    Link(Wire),
    /// The same over version 3 of that, to a server made with shmipc-go.
    LinkToGo,
    /// Streams of the `shmipc` crate.
    Crate(Wire),
    /// Streams of shmipc-go.
    Go(Wire),
    /// Unix domain sockets on tokio, one for each stream.
    Sockets,
}

/// A version of shmipc's protocol, and how a side is woken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Wire {
    /// Named files, and a message over the socket.
    V2,
    /// Memory files, and a message over the socket.
    V3,
    /// Memory files, and an eventfd in each direction.
    V4Eventfd,
    /// Memory files that both sides look into now and then.
    V4Polling,
}

/// The tokio runtime of a peer, on both sides.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Runtime {
    /// `current_thread`.
    CurrentThread,
    /// `multi_thread` with two workers.
    TwoWorkers,
}

/// How both sides of shmipc-rpc wait.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Waiting {
    /// `Wait::Adaptive`, the default.
    Adaptive,
    /// `Wait::Block`.
    Block,
    /// `Wait::Busy`.
    Busy,
}

/// Where the two processes run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Placement {
    /// Where the scheduler puts them.
    Free,
    /// Each pinned to a processor of its own.
    Apart,
    /// Both pinned to the same processor.
    Together,
}

/// What a call does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Work {
    /// Every byte is written and read, in both directions.
    Exchange,
    /// The payload is sent on as it was received, by both sides, and nobody looks at it.
    Forward,
    /// Memory for the payload is reserved and sent in both directions, and nobody writes or reads it.
    Untouched,
    /// As [`Exchange`](Self::Exchange), but each call in flight has a connection of its own.
    Crowd,
    /// As [`Exchange`](Self::Exchange), within one call of many messages in both directions.
    Converse,
    /// The server sends messages without end within one call; every byte of them is written and read.
    Watch,
}

/// Messages of a [`Work::Watch`] that are taken together, so that reading the clock is no part of the figure.
const WATCHED_TOGETHER: u64 = 100;

/// For how long a client calls, and what is watched.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Measure {
    /// Calls for a time.
    Timed {
        /// How long to call before anything is counted.
        warm_up: Duration,
        /// How long to call.
        duration: Duration,
    },
    /// Makes calls under a tracer: `calls` of them between two [markers](crate::syscalls::mark).
    Traced {
        /// Calls before the first marker.
        ramp: u64,
        /// Calls between the markers.
        calls: u64,
    },
    /// Makes a few calls and notes the place of every allocation.
    Allocations {
        /// Calls to get into a steady state.
        warm_up: u64,
        /// Calls to note.
        calls: u64,
    },
    /// Calls a little, and then does nothing.
    Idle {
        /// How long to do nothing.
        duration: Duration,
    },
}

impl Case {
    /// One call in flight, exchanging `size` bytes, placed by the scheduler.
    #[must_use]
    pub const fn exchange(peer: PeerKind, size: usize) -> Self {
        Self {
            peer,
            placement: Placement::Free,
            work: Work::Exchange,
            size,
            in_flight: 1,
        }
    }

    /// The same, as `work`.
    #[must_use]
    pub const fn work(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// How many calls, or messages, count as one that is timed.
    #[must_use]
    pub const fn timed_together(&self) -> u64 {
        match self.work {
            Work::Watch => WATCHED_TOGETHER,
            Work::Exchange | Work::Forward | Work::Untouched | Work::Crowd | Work::Converse => 1,
        }
    }

    /// The same, with the processes placed.
    #[must_use]
    pub const fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// The same, with `calls` in flight.
    #[must_use]
    pub const fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls;
        self
    }

    /// The same, without looking at the payload.
    #[must_use]
    pub const fn forwarding(mut self) -> Self {
        self.work = Work::Forward;
        self
    }
}

impl fmt::Display for Case {
    /// Writes what `--only` is compared with, such as `shmipc/adaptive/one-cpu/exchange/64B/1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = match self.peer {
            PeerKind::Limit => "limit",
            PeerKind::Memory => "memory",
            PeerKind::Eventfd => "eventfd",
            PeerKind::Socket => "uds",
            PeerKind::Tonic(Runtime::CurrentThread) => "tonic",
            PeerKind::Tonic(Runtime::TwoWorkers) => "tonic/two-workers",
            PeerKind::TonicDefaults => "tonic-defaults",
            PeerKind::Shmipc(Waiting::Adaptive) => "shmipc/adaptive",
            PeerKind::Shmipc(Waiting::Block) => "shmipc/block",
            PeerKind::Shmipc(Waiting::Busy) => "shmipc/busy",
            PeerKind::Blocking(Waiting::Adaptive) => "shmipc-blocking/adaptive",
            PeerKind::Blocking(Waiting::Block) => "shmipc-blocking/block",
            PeerKind::Blocking(Waiting::Busy) => "shmipc-blocking/busy",
            PeerKind::Layered => "shmipc/layered",
            PeerKind::TonicAdapter => "shmipc/tonic",
            PeerKind::Outbox => "outbox",
            PeerKind::Link(Wire::V2) => "link/v2",
            PeerKind::Link(Wire::V3) => "link/v3",
            PeerKind::Link(Wire::V4Eventfd) => "link/v4-eventfd",
            PeerKind::Link(Wire::V4Polling) => "link/v4-polling",
            PeerKind::LinkToGo => "link-to-go",
            PeerKind::Crate(Wire::V2) => "crate/v2",
            PeerKind::Crate(Wire::V3) => "crate/v3",
            PeerKind::Crate(Wire::V4Eventfd) => "crate/v4-eventfd",
            PeerKind::Crate(Wire::V4Polling) => "crate/v4-polling",
            PeerKind::Go(Wire::V2) => "go/v2",
            PeerKind::Go(Wire::V3) => "go/v3",
            PeerKind::Go(Wire::V4Eventfd) => "go/v4-eventfd",
            PeerKind::Go(Wire::V4Polling) => "go/v4-polling",
            PeerKind::Sockets => "uds-async",
        };
        let placement = match self.placement {
            Placement::Free => "free",
            Placement::Apart => "two-cpus",
            Placement::Together => "one-cpu",
        };
        let work = match self.work {
            Work::Exchange => "exchange",
            Work::Forward => "forward",
            Work::Untouched => "untouched",
            Work::Crowd => "crowd",
            Work::Converse => "converse",
            Work::Watch => "watch",
        };
        write!(
            f,
            "{peer}/{placement}/{work}/{}B/{}",
            self.size, self.in_flight
        )
    }
}
