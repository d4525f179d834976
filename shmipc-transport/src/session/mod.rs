//! Sessions: two processes, joined.

mod accepting;
mod custody;
mod dispatch;
mod driver;
mod establish;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod handshake;
mod lead;
mod observe;
#[cfg(test)]
mod pair;
mod place;
mod presence;
mod pulse;
#[cfg(feature = "metrics")]
mod report;
mod restart;
mod shared;

use std::{
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(crate) use establish::Joining;
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_session, shmipc::fuzz_shmipc_session};
pub(crate) use handshake::{Strangers, dial_plain, dial_plain_blocking};
pub(crate) use lead::Elapsed;
pub(crate) use observe::Lack;
#[cfg(test)]
pub(crate) use pair::{pair, pair_with};
use place::Place;
pub(crate) use shared::{Shared, Waiter};

use crate::{
    Address, Config, LinkInfo, Peer,
    core::{mem::Block, num::u32_len},
    error::{AllocError, ConnectError, HandshakeError, SessionLost},
    link::AllocFailure,
    stream::{Stream, StreamShared},
    sys::socket::Watched,
};

/// A connection to a process on this host, through memory that both see.
///
/// Carries any number of [streams](Stream), which either side may open. Cheap to clone; all clones are the same session.
/// It ends when [`close`](Self::close) is called, when all of its handles and streams are dropped, or when the peer ends
/// it or dies, which both sides learn at once.
///
/// An idle session costs no CPU time, about 100 KiB of memory and four file descriptors.
#[derive(Clone, Debug)]
pub struct Session {
    owner: Arc<Owner>,
}

/// How long the peer of a drained session may take to hang up. Having taken everything, it does so at once.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// How often to look whether the peer has taken everything, which shmipc's protocol tells nobody.
const UNTOLD: Duration = Duration::from_millis(1);

/// How often to look at the queue of a peer that may forget to wake us, while a stream is open.
const DOUBT: Duration = Duration::from_secs(1);

/// Ends the session with the last handle.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
        #[cfg(feature = "metrics")]
        if self.shared.lead().is_some() {
            self.shared.report_end();
        }
    }
}

impl Session {
    /// Connects to the server at `address` with the default [`Config`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future hangs up; nothing else remains.
    pub async fn connect(address: impl Into<Address>) -> Result<Self, ConnectError> {
        Self::connect_with(address, Config::default()).await
    }

    /// Connects to the server at `address`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future hangs up; nothing else remains.
    pub async fn connect_with(
        address: impl Into<Address>,
        config: Config,
    ) -> Result<Self, ConnectError> {
        establish::connect(&address.into(), config).await
    }

    /// Shakes hands with a client that has connected. If it is not admitted, it is one of `strangers`.
    pub(crate) async fn accept(
        stream: impl Into<Watched>,
        config: Config,
        strangers: Strangers,
    ) -> Result<Self, HandshakeError> {
        establish::accept(stream, config, &strangers).await
    }

    /// Connects a session without a task, for [`blocking`](crate::blocking).
    pub(crate) fn connect_blocking(
        address: &Address,
        config: Config,
        deadline: Option<Instant>,
    ) -> Result<Self, ConnectError> {
        establish::connect_blocking(address, config, deadline)
    }

    fn new(shared: Arc<Shared>) -> Self {
        Self {
            owner: Arc::new(Owner { shared }),
        }
    }

    /// What is to be seen of it, for somebody who does not keep it going.
    pub(crate) fn share(&self) -> Arc<Shared> {
        Arc::clone(&self.owner.shared)
    }

    pub(crate) fn weak_owner(&self) -> Weak<Owner> {
        Arc::downgrade(&self.owner)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    /// Makes a stream of one that the peer has opened.
    pub(crate) fn accepted(&self, stream: Arc<StreamShared>) -> Stream {
        Stream::accepted(Arc::clone(&self.owner), stream)
    }

    /// Opens a stream. The peer learns of it with the first message.
    ///
    /// While the peer has as many streams open as it accepts, that message waits.
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] if the session is over.
    pub fn open_stream(&self) -> Result<Stream, SessionLost> {
        match self.shared().lost() {
            Some(lost) => Err(lost.clone()),
            None => Ok(Stream::open(Arc::clone(&self.owner))),
        }
    }

    /// Waits for a stream that the peer opens. Its first message is there by then.
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] once the session is over and all streams that had come were taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a stream leaves the queue only in the poll that returns it.
    pub async fn accept_stream(&self) -> Result<Stream, SessionLost> {
        std::future::poll_fn(|cx| self.poll_accept_stream(cx)).await
    }

    /// Polls for a stream that the peer opens; see [`accept_stream`](Self::accept_stream).
    ///
    /// Yields now and then although there is one, so that a busy session does not starve its neighbours.
    ///
    /// # Errors
    ///
    /// Returns why the session is over.
    pub fn poll_accept_stream(&self, cx: &mut Context<'_>) -> Poll<Result<Stream, SessionLost>> {
        let accepted = self.shared().poll_accept(cx);
        accepted.map(|accepted| Ok(self.accepted(accepted?)))
    }

    /// Lends `len` bytes of memory that the peer can read. Filled and frozen, it is sent without being copied.
    ///
    /// Waits while all of the configured memory is in use. The content is arbitrary (left over from earlier messages of
    /// this session), and visible to the peer from the moment it is written.
    ///
    /// Over shmipc's own link it is private memory, which is copied when it is sent: there, the peer could write to it.
    ///
    /// # Errors
    ///
    /// See [`AllocError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a block that was found is returned in the same poll.
    pub async fn alloc(&self, len: usize) -> Result<Lent, AllocError> {
        let mut place = Place::new(self.shared());
        std::future::poll_fn(|cx| self.poll_alloc(cx, len, &mut place)).await
    }

    fn poll_alloc(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        place: &mut Place<'_>,
    ) -> Poll<Result<Lent, AllocError>> {
        let shared = self.shared();
        let lost = |lost: SessionLost| Poll::Ready(Err(AllocError::SessionLost(lost)));
        let max = shared.link.message_max();
        if max < len {
            return Poll::Ready(Err(AllocError::TooLarge { len, max }));
        }
        let waits = !place.is_taken();
        loop {
            if let Some(reason) = shared.lost() {
                return lost(reason.clone());
            }
            let supply = match shared.link.alloc(u32_len(len)) {
                Ok(Some(block)) => {
                    let memory = LentMemory::Shared(block);
                    return Poll::Ready(Ok(Lent { memory }));
                }
                Ok(None) => {
                    let memory = LentMemory::Private(vec![0; len]);
                    return Poll::Ready(Ok(Lent { memory }));
                }
                Err(AllocFailure::TooLarge) => {
                    return Poll::Ready(Err(AllocError::TooLarge { len, max }));
                }
                Err(AllocFailure::Io(error)) => {
                    return Poll::Ready(Err(AllocError::Io(Arc::new(error))));
                }
                Err(AllocFailure::Misbehaved(misbehaved)) => return lost(shared.blame(misbehaved)),
                Err(AllocFailure::Full(supply)) => supply,
            };
            if let Err(misbehaved) = shared.link.wait_for_space(place.ticket(), cx.waker()) {
                return lost(shared.blame(misbehaved));
            }
            // A block may have come back, or the session have ended, between the look and the registration.
            if shared.link.supply() == supply && shared.lost().is_none() {
                if waits {
                    shared.lacks(Lack::Memory);
                }
                return Poll::Pending;
            }
        }
    }

    /// Allows for memory that `source` has lent us to be passed on to this session's peer: a `Bytes` of 64 KiB or more that
    /// was received from `source` and is [sent](crate::SendBuf) here is then named where it lies, and not copied. Returns
    /// whether that will be done.
    ///
    /// It will not, and such bytes go on to be copied, if the peer does not know how to, or is of another user than we are, or
    /// if either session is a [blocking](crate::blocking) one; nor is memory passed on that is not of our own user, or that was passed on to us. Nothing else is different.
    ///
    /// *This peer can then read all of the memory region in which the bytes lie*: whatever the peer of `source` has sent us
    /// there, sends us there later, and is writing there, up to 16 MiB of it at a time or, for longer messages, that
    /// message alone. It can until a while after the last such message ([`memory_idle`](crate::ConfigBuilder::memory_idle)).
    /// That is nothing that a process of our own user could not read by `ptrace`; if yours cannot do that, or must not see
    /// it, do not call this.
    ///
    /// What this peer holds of the memory, the peer of `source` waits for, as if we held it ourselves, even when this session
    /// has ended meanwhile. It may be called once or before each message: it is idempotent and cheap. A session remembers
    /// the last 64 sources, and none of them is kept open by it.
    pub fn forward_from(&self, source: &Self) -> bool {
        let (sink, source) = (self.shared(), source.shared());
        // Where no task looks after a session, nobody would hear in time of what has come back.
        let are_looked_after = sink.lead().is_none() && source.lead().is_none();
        are_looked_after && sink.link.forward_from(&source.link)
    }

    /// The process on the other side.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared().peer
    }

    /// The link that both sides have agreed on.
    #[must_use]
    pub fn link(&self) -> LinkInfo {
        self.shared().link.info()
    }

    /// The settings of this session.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared().config
    }

    /// Waits until the session is over, and returns why.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub async fn closed(&self) -> SessionLost {
        self.until(|shared| shared.lost().cloned()).await
    }

    /// Asks the peer whether it is there, and waits for the answer. Returns how long that took.
    ///
    /// A peer that has died is noticed without being asked. This finds out whether one that lives still looks after the
    /// session: set a limit with [`tokio::time::timeout`].
    ///
    /// # Errors
    ///
    /// Returns [`SessionLost`] if the session is over, or ends meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a late answer is ignored.
    pub async fn ping(&self) -> Result<Duration, SessionLost> {
        let began = Instant::now();
        self.shared().pinged().await.map(|()| began.elapsed())
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().lost().is_some()
    }

    /// Ends the session. What was sent before still reaches the peer; all streams end here with
    /// [`SessionLost::ClosedHere`]. `Bytes` that were received stay readable.
    pub fn close(&self) {
        self.shared().close();
    }

    /// Asks the peer to open no more streams. Those that are open, or on their way, go on.
    pub fn go_away(&self) {
        self.shared().go_away();
    }

    /// Asks the peer to open no more streams, waits until all streams of both sides are over, and ends the session. Returns
    /// when it has ended, for this reason or another.
    ///
    /// Streams that the peer opens before it learns of this are [accepted](Self::accept_stream) like others, so none is
    /// lost. Waits for a peer that is stopped, and for streams without end: set a limit with [`tokio::time::timeout`], and
    /// [`close`](Self::close).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time enabled.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session goes on, and the peer opens no more streams all the same.
    pub async fn drain(&self) {
        self.shared().wind_down().await;
    }

    /// Ends the session without a word.
    pub(crate) fn hang_up(&self) {
        self.shared().lose(SessionLost::ClosedHere);
        self.shared().farewell();
    }

    /// Drains as far as saying goodbye. The peer is then given [`FAREWELL`] to hang up.
    pub(crate) async fn drain_streams(&self) {
        self.shared().drain_streams().await;
    }

    /// A handle that does not keep the session going.
    #[must_use]
    pub fn downgrade(&self) -> WeakSession {
        WeakSession {
            owner: Arc::downgrade(&self.owner),
            shared: Arc::clone(&self.owner.shared),
        }
    }

    /// Whether the peer has asked us to open no more streams (O18), or to [move](Self::restart_epoch) to its successor.
    #[must_use]
    pub fn is_going_away(&self) -> bool {
        self.shared().is_going_away()
    }

    /// Waits until the peer asks us to open no more streams, or to [move](Self::restart_epoch) to its successor, or the session is
    /// over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken.
    pub async fn going_away(&self) {
        self.until(|shared| (shared.is_going_away() || shared.lost().is_some()).then_some(()))
            .await;
    }

    async fn until<T>(&self, check: impl Fn(&Shared) -> Option<T>) -> T {
        self.shared().until(check).await
    }
}

/// A handle of a [`Session`] that does not keep it going: for whoever serves the peer for as long as somebody else has a use
/// for the session.
#[derive(Clone, Debug)]
pub struct WeakSession {
    owner: Weak<Owner>,
    /// Kept, because whoever waits here is woken through it.
    shared: Arc<Shared>,
}

impl WeakSession {
    /// Returns an ordinary handle, unless there are no others: then the session is over.
    #[must_use]
    pub fn upgrade(&self) -> Option<Session> {
        self.owner.upgrade().map(|owner| Session { owner })
    }

    /// The process on the other side.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Polls for a stream that the peer opens; see [`Session::poll_accept_stream`].
    ///
    /// # Errors
    ///
    /// Returns why the session is over.
    pub fn poll_accept_stream(&self, cx: &mut Context<'_>) -> Poll<Result<Stream, SessionLost>> {
        let accepted = self.shared.poll_accept(cx);
        accepted.map(|accepted| self.accepted(accepted?))
    }

    /// As [`poll_accept_stream`](Self::poll_accept_stream), for a side that expects no stream: nothing is spent on looking out
    /// for one, so that it takes longer to be found.
    ///
    /// # Errors
    ///
    /// Returns why the session is over.
    pub fn poll_unexpected_stream(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, SessionLost>> {
        let accepted = self.shared.poll_unexpected(cx);
        accepted.map(|accepted| self.accepted(accepted?))
    }

    fn accepted(&self, stream: Arc<StreamShared>) -> Result<Stream, SessionLost> {
        match self.owner.upgrade() {
            Some(owner) => Ok(Stream::accepted(owner, stream)),
            None => Err(self.shared.reason()),
        }
    }
}

/// Memory of a session, lent for writing. See [`Session::alloc`].
#[derive(Debug)]
pub struct Lent {
    memory: LentMemory,
}

#[derive(Debug)]
enum LentMemory {
    Shared(Block),
    Private(Vec<u8>),
}

impl Lent {
    /// Ends the writing. The `Bytes` keeps the memory until the last share in it is dropped, here and at the peer.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        match self.memory {
            LentMemory::Shared(block) => Bytes::from_owner(block),
            LentMemory::Private(bytes) => bytes.into(),
        }
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.memory {
            LentMemory::Shared(block) => block.truncate(len),
            LentMemory::Private(bytes) => bytes.truncate(len),
        }
    }
}

impl std::ops::Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            LentMemory::Shared(block) => block.as_ref(),
            LentMemory::Private(bytes) => bytes,
        }
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            LentMemory::Shared(block) => block.as_mut_slice(),
            LentMemory::Private(bytes) => bytes,
        }
    }
}
