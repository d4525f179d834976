//! Streams that a pool lends.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::line::Line;
use crate::Stream;

/// A stream of a session of a [`SessionPool`](crate::SessionPool), used as the [`Stream`] that it is.
///
/// Dropping it ends it, as with any stream. To have it reused, [give it back](Self::give_back): only its user knows when nothing
/// is under way on it any more.
///
/// It keeps its session: that goes on until the stream is over, whatever becomes of the pool, unless that is
/// [closed](crate::SessionPool::close).
#[derive(Debug)]
pub struct PooledStream {
    loan: Loan<Stream>,
}

/// A stream `S`, as tasks or as threads know it, that is counted by the session it was lent of.
#[derive(Debug)]
pub(super) struct Loan<S> {
    /// `None` only while it is taken out.
    stream: Option<S>,
    line: Arc<Line>,
}

impl<S> Loan<S> {
    /// `line` has counted it.
    pub(super) const fn new(stream: S, line: Arc<Line>) -> Self {
        Self {
            stream: Some(stream),
            line,
        }
    }

    /// Keeps the stream for reuse, if it is as good as new, and says whether it is.
    pub(super) fn give_back(mut self, stream: impl FnOnce(S) -> Stream) -> bool {
        let lent = self.stream.take();
        lent.is_some_and(|lent| self.line.keep(stream(lent)))
    }

    /// Counts the stream no more.
    pub(super) fn into_stream(mut self) -> S {
        self.stream.take().expect("it is there until it is taken")
    }
}

impl<S> Deref for Loan<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.stream.as_ref().expect("it is there until it is taken")
    }
}

impl<S> DerefMut for Loan<S> {
    fn deref_mut(&mut self) -> &mut S {
        self.stream.as_mut().expect("it is there until it is taken")
    }
}

impl<S> Drop for Loan<S> {
    fn drop(&mut self) {
        // First the stream, so that nobody finds it idle and counted.
        drop(self.stream.take());
        self.line.lent.sub();
    }
}

impl PooledStream {
    /// `line` has counted it.
    pub(super) fn new(stream: Stream, line: Arc<Line>) -> Self {
        Self {
            loan: Loan::new(stream, line),
        }
    }

    /// Gives the stream back for somebody else to use, and returns whether it will be. If not, it ends: the peer sees the end of what
    /// we send, and a reset only if it goes on sending.
    ///
    /// It is kept if it is as it was when it was opened: the first message was sent, neither direction has ended, everything that has
    /// arrived was received, its messages did not go over the socket, its session is the one that the pool uses, and not too many wait
    /// already. The peer is told nothing, and takes what follows for a part of what was before. So give a stream back only
    /// when by the protocol of the application nothing more can come: an answer that is late would be taken for somebody
    /// else's.
    pub fn give_back(self) -> bool {
        self.loan.give_back(|stream| stream)
    }

    /// Takes the stream out of the care of the pool, which no longer counts it.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.loan.into_stream()
    }
}

impl Deref for PooledStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.loan
    }
}

impl DerefMut for PooledStream {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.loan
    }
}
