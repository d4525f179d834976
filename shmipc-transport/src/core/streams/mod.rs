//! What a session knows of its streams: credit in both directions, ends, and which ids may still be opened.
//!
//! Credit is counted twice, in messages and in bytes. A message may be sent while both are above zero and then takes all
//! of its length, so that a message longer than the window can still be sent; the debt holds up the next one. The
//! receiver counts along, which is how it catches a peer that sends without credit.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{num::StreamId, outbox::Windows};
use crate::error::PeerMisbehaved;

/// What we may still send on a stream.
#[derive(Debug)]
pub(crate) struct SendCredit {
    messages: u32,
    bytes: i64,
    window: Windows,
}

impl SendCredit {
    pub(crate) fn new(window: Windows) -> Self {
        Self {
            messages: window.messages,
            bytes: i64::from(window.bytes),
            window,
        }
    }

    /// Messages and bytes that may be sent.
    pub(crate) fn left(&self) -> (u32, i64) {
        (self.messages, self.bytes)
    }

    /// Whether a message may be sent now.
    pub(crate) fn is_open(&self) -> bool {
        0 < self.messages && 0 < self.bytes
    }

    /// Spends credit for a message of `len` bytes.
    pub(crate) fn spend(&mut self, len: u32) {
        debug_assert!(self.is_open(), "asked before");
        if self.window.are_unlimited() {
            return;
        }
        self.messages -= 1;
        self.bytes -= i64::from(len);
    }

    /// Undoes [`spend`](Self::spend), because the message could not be sent after all.
    pub(crate) fn refund(&mut self, len: u32) {
        if self.window.are_unlimited() {
            return;
        }
        self.messages += 1;
        self.bytes += i64::from(len);
    }

    /// Takes what the peer grants; `false` if that is more than its window ever allowed (O16).
    #[must_use]
    pub(crate) fn grant(&mut self, messages: u32, bytes: u32) -> bool {
        let total = (
            u64::from(self.messages) + u64::from(messages),
            self.bytes + i64::from(bytes),
        );
        if u64::from(self.window.messages) < total.0 || i64::from(self.window.bytes) < total.1 {
            return false;
        }
        self.messages += messages;
        self.bytes = total.1;
        true
    }
}

/// What the peer may still send on a stream, and what we owe it.
#[derive(Debug)]
pub(crate) struct RecvCredit {
    messages: u32,
    bytes: i64,
    owed_messages: u32,
    owed_bytes: u64,
    window: Windows,
}

impl RecvCredit {
    pub(crate) fn new(window: Windows) -> Self {
        Self {
            messages: window.messages,
            bytes: i64::from(window.bytes),
            owed_messages: 0,
            owed_bytes: 0,
            window,
        }
    }

    /// Messages and bytes that the peer may send.
    pub(crate) fn left(&self) -> (u32, i64) {
        (self.messages, self.bytes)
    }

    /// A message has arrived; `false` if there was no credit for it (O16).
    #[must_use]
    pub(crate) fn arrive(&mut self, len: usize) -> bool {
        if self.window.are_unlimited() {
            return true;
        }
        if self.messages == 0 || self.bytes <= 0 {
            return false;
        }
        self.messages -= 1;
        self.bytes -= i64::try_from(len).unwrap_or(i64::MAX);
        true
    }

    /// The application has taken a message. Returns the credit that should be granted now: not for each message, but
    /// once it is half a window, so that credit costs little and the sender never runs dry.
    pub(crate) fn consume(&mut self, len: usize) -> Option<(u32, u32)> {
        if self.window.are_unlimited() {
            return None;
        }
        self.owed_messages += 1;
        self.owed_bytes += len as u64;
        if self.owed_messages * 2 < self.window.messages
            && self.owed_bytes * 2 < u64::from(self.window.bytes)
        {
            return None;
        }
        let bytes = u32::try_from(self.owed_bytes).unwrap_or(u32::MAX);
        let messages = std::mem::take(&mut self.owed_messages);
        self.owed_bytes -= u64::from(bytes);
        self.messages += messages;
        self.bytes += i64::from(bytes);
        Some((messages, bytes))
    }
}

/// Who opens which ids.
#[derive(Debug)]
enum Numbering {
    /// Each side opens those of its parity, up to this one, in order.
    Parity { last: u64 },
    /// Likewise, but the other side may hear of them in another order. These of the peer's have been passed over.
    ParityInAnyOrder {
        last: u64,
        gaps: HashSet<u64, RandomState>,
    },
    /// The client opens 2, 3, 4 and so on, of which the server may hear in any order; the server opens none. Ids that were
    /// closed lately are remembered, since the peer may not have heard of that (H47).
    ClientOnly {
        is_client: bool,
        closed: VecDeque<u64>,
        closed_set: HashSet<u64, RandomState>,
    },
}

/// How many ids may be passed over, where they have no order.
const GAPS_MAX: usize = 65_536;

/// How many closed ids are remembered, where they have no order.
const CLOSED_MAX: usize = 4096;

/// The streams of a session, by id.
#[derive(Debug)]
pub(crate) struct StreamTable<S> {
    open: HashMap<u64, Arc<S>, RandomState>,
    numbering: Numbering,
    /// The next id that we open; its parity is that of our side.
    next_local: u64,
    /// The highest id that the peer has opened, if it has opened any.
    last_remote: Option<u64>,
    /// Streams opened by us, or by the peer, that are not over yet.
    local: u32,
    remote: u32,
    /// How many of ours the peer accepts, and how many of the peer's we do.
    local_max: u32,
    remote_max: u32,
    /// Streams that we, or the peer, have opened so far.
    opened: u64,
    accepted: u64,
}

/// What an id in a record stands for.
#[derive(Debug)]
pub(crate) enum Lookup<S> {
    /// A stream that is open.
    Open(Arc<S>),
    /// A stream that the peer opens hereby.
    New,
    /// A stream that is over. What still arrives for it has crossed our reset, and is dropped (O17).
    Over,
}

impl<S> StreamTable<S> {
    pub(crate) fn new(connecting: bool, local_max: u32, remote_max: u32) -> Self {
        let numbering = Numbering::Parity { last: u64::MAX - 2 };
        let next_local = if connecting { 1 } else { 2 };
        Self::numbered(numbering, next_local, local_max, remote_max)
    }

    /// Like [`new`](Self::new), with ids of 32 bits, which may be heard of in another order than they were given in.
    pub(crate) fn with_short_ids(connecting: bool, local_max: u32, remote_max: u32) -> Self {
        let numbering = Numbering::ParityInAnyOrder {
            last: u64::from(u32::MAX - 2),
            gaps: HashSet::default(),
        };
        let next_local = if connecting { 1 } else { 2 };
        Self::numbered(numbering, next_local, local_max, remote_max)
    }

    /// The streams of a session in which only the client opens some, of 32 bits.
    pub(crate) fn opened_by_client(is_client: bool, remote_max: u32) -> Self {
        let numbering = Numbering::ClientOnly {
            is_client,
            closed: VecDeque::new(),
            closed_set: HashSet::default(),
        };
        Self::numbered(numbering, 2, u32::MAX, remote_max)
    }

    fn numbered(numbering: Numbering, next_local: u64, local_max: u32, remote_max: u32) -> Self {
        Self {
            open: HashMap::default(),
            numbering,
            next_local,
            last_remote: None,
            local: 0,
            remote: 0,
            local_max,
            remote_max,
            opened: 0,
            accepted: 0,
        }
    }

    /// Whether the peer would accept one more stream of ours.
    pub(crate) fn may_open(&self) -> bool {
        self.local < self.local_max
    }

    /// Whether this side has no ids left to open streams with, or never had any.
    pub(crate) fn is_exhausted(&self) -> bool {
        match &self.numbering {
            Numbering::Parity { last } | Numbering::ParityInAnyOrder { last, .. } => {
                *last < self.next_local
            }
            Numbering::ClientOnly { is_client, .. } => {
                !is_client || u64::from(u32::MAX) <= self.next_local
            }
        }
    }

    fn step(&self) -> u64 {
        match &self.numbering {
            Numbering::Parity { .. } | Numbering::ParityInAnyOrder { .. } => 2,
            Numbering::ClientOnly { .. } => 1,
        }
    }

    /// Opens a stream of ours. The caller has asked [`may_open`](Self::may_open) and [`is_exhausted`](Self::is_exhausted).
    pub(crate) fn open_local(&mut self, stream: Arc<S>) -> StreamId {
        let id = StreamId(self.next_local);
        self.next_local += self.step();
        self.local += 1;
        self.opened += 1;
        self.open.insert(id.0, stream);
        id
    }

    /// Undoes [`open_local`](Self::open_local) for the stream that was opened last and of which the peer has not heard. Returns
    /// whether one may now be opened that had to wait.
    #[must_use]
    pub(crate) fn unopen_local(&mut self, id: StreamId) -> bool {
        debug_assert_eq!(
            id.0 + self.step(),
            self.next_local,
            "nothing was opened in between"
        );
        if self.open.remove(&id.0).is_none() {
            return false;
        }
        self.next_local = id.0;
        self.local -= 1;
        self.opened -= 1;
        self.local + 1 == self.local_max
    }

    /// Says what the id of a record stands for (O15). A stream may be opened by the record that carries its first message.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::StreamId`] for a stream of ours that we never opened, and for one of the peer's that is
    /// named without having been opened, where `opens` is false.
    pub(crate) fn look_up(&self, id: StreamId, opens: bool) -> Result<Lookup<S>, PeerMisbehaved> {
        if let Some(stream) = self.open.get(&id.0) {
            return Ok(Lookup::Open(Arc::clone(stream)));
        }
        if let Numbering::ClientOnly {
            is_client,
            closed_set,
            ..
        } = &self.numbering
        {
            return match (
                id.0 != 0,
                !is_client && opens && !closed_set.contains(&id.0),
            ) {
                (false, _) => Err(PeerMisbehaved::StreamId { stream: id.0 }),
                (true, true) => Ok(Lookup::New),
                (true, false) => Ok(Lookup::Over),
            };
        }
        let ours = self.is_ours(id.0);
        let known = if ours {
            id.0 < self.next_local
        } else if let Numbering::ParityInAnyOrder { gaps, .. } = &self.numbering
            && gaps.contains(&id.0)
        {
            !opens // What is said of one that was given up before it was opened is nothing.
        } else {
            !self.is_after_last_remote(id)
        };
        match (known && id.0 != 0, !ours && opens && id.0 != 0) {
            (true, _) => Ok(Lookup::Over),
            (false, true) => Ok(Lookup::New),
            (false, false) => Err(PeerMisbehaved::StreamId { stream: id.0 }),
        }
    }

    /// Forgets streams of the peer's that are over, if it has no more to open.
    pub(crate) fn make_room(&mut self, is_over: impl Fn(&S) -> bool) {
        if self.remote < self.remote_max {
            return;
        }
        let is_over = |(id, stream): &(&u64, &Arc<S>)| !self.is_ours(**id) && is_over(stream);
        let over: Vec<_> = self
            .open
            .iter()
            .filter(is_over)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.close(StreamId(id));
        }
    }

    /// Opens a stream of the peer's that [`look_up`](Self::look_up) called new.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::TooManyStreams`] if it has no more to open.
    pub(crate) fn open_remote(
        &mut self,
        id: StreamId,
        stream: Arc<S>,
    ) -> Result<(), PeerMisbehaved> {
        // Where what is said of different streams has no order, those that are over at the peer may be open here.
        let most = match self.numbering {
            Numbering::ParityInAnyOrder { .. } => self.remote_max.saturating_mul(2),
            Numbering::Parity { .. } | Numbering::ClientOnly { .. } => self.remote_max,
        };
        if most <= self.remote {
            return Err(PeerMisbehaved::TooManyStreams {
                max: self.remote_max,
            });
        }
        if let Numbering::ParityInAnyOrder { gaps, .. } = &mut self.numbering {
            // An honest peer is passing over a few, for a moment; and those that it has given up, for good.
            let next = self.last_remote.map_or(2 - id.0 % 2, |last| last + 2);
            let passed_over = (next..id.0).step_by(2);
            let passed_over_count =
                usize::try_from(id.0.saturating_sub(next) / 2).unwrap_or(usize::MAX);
            if GAPS_MAX < gaps.len().saturating_add(passed_over_count) {
                return Err(PeerMisbehaved::StreamId { stream: id.0 });
            }
            gaps.remove(&id.0);
            gaps.extend(passed_over);
        }
        self.last_remote = self.last_remote.max(Some(id.0));
        self.remote += 1;
        self.accepted += 1;
        self.open.insert(id.0, stream);
        Ok(())
    }

    /// Forgets a stream that is over on the wire. Returns whether one of ours may now be opened that had to wait.
    pub(crate) fn close(&mut self, id: StreamId) -> bool {
        if self.open.remove(&id.0).is_none() {
            return false;
        }
        if self.is_ours(id.0) {
            self.local -= 1;
            return self.local + 1 == self.local_max;
        }
        self.remote -= 1;
        self.remember(id);
        false
    }

    /// Has data that still comes for this id dropped, where ids have no order.
    pub(crate) fn remember(&mut self, id: StreamId) {
        if let Numbering::ClientOnly {
            closed, closed_set, ..
        } = &mut self.numbering
            && closed_set.insert(id.0)
        {
            closed.push_back(id.0);
            if CLOSED_MAX < closed.len()
                && let Some(oldest) = closed.pop_front()
            {
                closed_set.remove(&oldest);
            }
        }
    }

    /// Whether no stream is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// At most `count` of the streams that are open, in no particular order.
    pub(crate) fn some(&self, count: usize) -> Vec<Arc<S>> {
        self.open.values().take(count).cloned().collect()
    }

    /// How many streams we have opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// How many streams the peer has opened so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Takes out all streams, because the session is over.
    pub(crate) fn clear(&mut self) -> Vec<Arc<S>> {
        (self.local, self.remote) = (0, 0);
        self.open.drain().map(|(_, stream)| stream).collect()
    }

    /// Whether a stream is one of this side's, if it has this id.
    fn is_ours(&self, id: u64) -> bool {
        match self.numbering {
            Numbering::ClientOnly { is_client, .. } => is_client,
            Numbering::Parity { .. } | Numbering::ParityInAnyOrder { .. } => {
                id % 2 == self.next_local % 2
            }
        }
    }

    fn is_after_last_remote(&self, id: StreamId) -> bool {
        self.last_remote.is_none_or(|last| last < id.0)
    }
}

#[cfg(test)]
mod tests;
