//! Which streams go over the socket.

use std::collections::{HashSet, VecDeque};

use foldhash::fast::RandomState;

/// How many streams that are over are remembered to have fallen back.
const LEAVING_MAX: usize = 1024;

/// Streams that have fallen back to the socket.
#[derive(Debug, Default)]
pub(super) struct Fallen {
    /// Those of which our messages go there.
    ours: HashSet<u32, RandomState>,
    /// Those of them that are over.
    leaving: VecDeque<u32>,
    /// Those of which messages have come from there.
    theirs: HashSet<u32, RandomState>,
}

impl Fallen {
    /// Whether our messages go over the socket.
    pub(super) fn contains(&self, stream: u32) -> bool {
        self.ours.contains(&stream)
    }

    /// Whether messages of either side do, or did.
    pub(super) fn has_met(&self, stream: u32) -> bool {
        self.ours.contains(&stream) || self.theirs.contains(&stream)
    }

    /// From now on our messages do.
    pub(super) fn insert(&mut self, stream: u32) {
        self.ours.insert(stream);
    }

    /// A message has come over the socket. It is for an open stream, or is [dropped](Self::dropped) next.
    pub(super) fn heard_of(&mut self, stream: u32) {
        self.theirs.insert(stream);
    }

    /// What has come was for a stream that is not open, and of which nobody will hear that it is over.
    pub(super) fn dropped(&mut self, stream: u32) {
        self.theirs.remove(&stream);
    }

    /// The last was said of a stream. Returns whether it had fallen back.
    pub(super) fn remove(&mut self, stream: u32) -> bool {
        self.ours.remove(&stream)
    }

    /// Forgets a stream that is over, some time: what is said of it last stays on the socket.
    pub(super) fn forget(&mut self, stream: u32) {
        self.theirs.remove(&stream);
        if self.ours.contains(&stream) {
            self.leaving.push_back(stream);
        }
        if LEAVING_MAX < self.leaving.len()
            && let Some(oldest) = self.leaving.pop_front()
        {
            self.ours.remove(&oldest);
        }
    }
}
