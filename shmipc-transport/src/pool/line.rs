//! A session of a pool, and its streams that nobody uses at the moment.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use crate::{
    Session, Stream,
    core::sync::{Gauge, lock},
    session::Shared,
};

/// Shared by the pool and by the streams that it has lent of this session.
#[derive(Debug)]
pub(super) struct Line {
    /// Lines are numbered in the order in which somebody began to connect them.
    pub(super) number: u64,
    pub(super) session: Session,
    /// Since when it has been there.
    pub(super) since: Instant,
    /// Streams that are lent.
    pub(super) lent: Gauge,
    /// Streams that were given back; `None` once the pool has done with the session.
    idle: Mutex<Option<Vec<Stream>>>,
    idle_max: usize,
}

impl Line {
    pub(super) fn new(number: u64, session: Session, idle_max: usize) -> Arc<Self> {
        Arc::new(Self {
            number,
            session,
            since: Instant::now(),
            lent: Gauge::new(),
            idle: Mutex::new(Some(Vec::new())),
            idle_max,
        })
    }

    /// Whether streams may be opened.
    pub(super) fn takes_streams(&self) -> bool {
        let shared = self.session.shared();
        shared.may_open(&lock(&shared.streams)).is_ok()
    }

    /// Whether its peer neither knows go-away nor goodbye: it hears of restarts in shmipc's own words.
    pub(super) fn is_native(&self) -> bool {
        self.shared().link.is_native()
    }

    pub(super) fn shared(&self) -> &Shared {
        self.session.shared()
    }

    /// A stream of this session, which has [counted](Self::lent) it, and whether others have used it; `None` if the session is lost, and
    /// then it counts no more.
    pub(super) fn stream(&self, reuses: bool) -> Option<(Stream, bool)> {
        let reused = if reuses { self.reuse() } else { None };
        if let Some(stream) = reused {
            return Some((stream, true));
        }
        let opened = self.session.open_stream().ok();
        if opened.is_none() {
            self.lent.sub();
        }
        Some((opened?, false))
    }

    /// A stream that was given back, and is as it was then.
    fn reuse(&self) -> Option<Stream> {
        loop {
            let stream = lock(&self.idle).as_mut()?.pop()?;
            if stream.is_at_rest() {
                return Some(stream);
            }
            stream.end();
        }
    }

    /// Keeps a stream for reuse, if it is as good as new. If not, it ends.
    pub(super) fn keep(&self, mut stream: Stream) -> bool {
        let left = if stream.comes_to_rest() {
            self.push(stream)
        } else {
            Some(stream)
        };
        let is_kept = left.is_none();
        // Under no lock of ours.
        left.into_iter().for_each(Stream::end);
        is_kept
    }

    /// Adds a stream, or returns it if there is no place.
    fn push(&self, stream: Stream) -> Option<Stream> {
        match &mut *lock(&self.idle) {
            Some(streams) if streams.len() < self.idle_max => {
                streams.push(stream);
                None
            }
            _ => Some(stream),
        }
    }

    pub(super) fn idle(&self) -> usize {
        lock(&self.idle).as_ref().map_or(0, Vec::len)
    }

    /// Ends the streams that nobody uses, and keeps no more.
    pub(super) fn retire(&self) {
        let idle = lock(&self.idle).take();
        idle.into_iter().flatten().for_each(Stream::end);
    }
}
