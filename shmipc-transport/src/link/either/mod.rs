//! Either link: one match for each operation.
//!
//! What a short call does is inlined, so that the match is all that our own link pays for there being another.

mod memory;

use std::{sync::Arc, task::Waker, time::Duration};

use super::{
    AllocFailure, Arrival, Control, LinkFigures, OutboxGuard, OutboxLink, OutboxReservation,
    OutboxRx, Outgoing, ShmipcLink,
    shmipc::{ShmipcGuard, ShmipcReservation, ShmipcRx},
};
use crate::{
    core::{num::StreamId, waiters::Ticket},
    error::PeerMisbehaved,
    stats::Counters,
};

/// The link of a session.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    Outbox(Arc<OutboxLink>),
    Shmipc(Arc<ShmipcLink>),
}

/// Its receiving half.
#[derive(Debug)]
pub(crate) enum Rx {
    Outbox(OutboxRx),
    Shmipc(Box<ShmipcRx>),
}

/// Its sending half, locked.
#[derive(Debug)]
pub(crate) enum TxGuard<'l> {
    Outbox(OutboxGuard<'l>),
    Shmipc(ShmipcGuard<'l>),
}

/// A message that has its place, and is published by being committed.
#[derive(Debug)]
pub(crate) enum Reservation<'l> {
    Outbox(OutboxReservation<'l>),
    Shmipc(ShmipcReservation<'l>),
}

const MATCHES: &str = "the halves of a link are made together";

impl Rx {
    #[inline]
    fn outbox(&self) -> &OutboxRx {
        match self {
            Self::Outbox(rx) => rx,
            Self::Shmipc(_) => unreachable!("{MATCHES}"),
        }
    }

    #[inline]
    fn outbox_mut(&mut self) -> &mut OutboxRx {
        match self {
            Self::Outbox(rx) => rx,
            Self::Shmipc(_) => unreachable!("{MATCHES}"),
        }
    }

    fn shmipc(&self) -> &ShmipcRx {
        match self {
            Self::Shmipc(rx) => rx,
            Self::Outbox(_) => unreachable!("{MATCHES}"),
        }
    }

    fn shmipc_mut(&mut self) -> &mut ShmipcRx {
        match self {
            Self::Shmipc(rx) => rx,
            Self::Outbox(_) => unreachable!("{MATCHES}"),
        }
    }
}

impl<'l> TxGuard<'l> {
    #[inline]
    fn outbox(&mut self) -> &mut OutboxGuard<'l> {
        match self {
            Self::Outbox(tx) => tx,
            Self::Shmipc(_) => unreachable!("{MATCHES}"),
        }
    }

    fn shmipc(&mut self) -> &mut ShmipcGuard<'l> {
        match self {
            Self::Shmipc(tx) => tx,
            Self::Outbox(_) => unreachable!("{MATCHES}"),
        }
    }
}

impl Reservation<'_> {
    /// The body, to be written.
    #[inline]
    pub(crate) fn body(&mut self) -> &mut [u8] {
        match self {
            Self::Outbox(reservation) => reservation.body(),
            Self::Shmipc(reservation) => reservation.body(),
        }
    }

    /// Writes a composed message, for which the place was [reserved](Link::reserve_for).
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    #[inline]
    pub(crate) fn compose(
        &mut self,
        tx: &mut TxGuard<'_>,
        message: &mut Outgoing,
    ) -> Result<(), PeerMisbehaved> {
        match self {
            Self::Outbox(reservation) => reservation.compose(tx.outbox(), message),
            Self::Shmipc(_) => Ok(()), // It lies in its slices, which were found for it.
        }
    }

    /// Publishes the message, and wakes the peer if it must be woken.
    // By reference, here and below: what was written lately and is moved must first leave the CPU, behind all that was written to
    // the ring.
    #[inline]
    pub(crate) fn commit(&mut self, stream: StreamId, flags: u16) {
        match self {
            Self::Outbox(reservation) => reservation.commit(stream, flags),
            Self::Shmipc(reservation) => reservation.commit(flags),
        }
    }

    /// Publishes the message. The caller [wakes the peer](Link::wake_peer) soon.
    #[inline]
    pub(crate) fn commit_quietly(&mut self, stream: StreamId, flags: u16) {
        match self {
            Self::Outbox(reservation) => reservation.commit_quietly(stream, flags),
            Self::Shmipc(reservation) => reservation.commit_quietly(flags),
        }
    }
}

/// Calls a method that both links have.
macro_rules! either {
    ($link:expr, $bound:ident => $call:expr) => {
        match $link {
            Link::Outbox($bound) => $call,
            Link::Shmipc($bound) => $call,
        }
    };
}

impl Link {
    /// Whether it is the same one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.counters(), other.counters())
    }

    /// What is counted.
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        either!(self, link => &link.counters)
    }

    /// Whether something is waiting. One load.
    #[inline]
    pub(crate) fn is_ready(&self, rx: &Rx) -> bool {
        match self {
            Self::Outbox(link) => link.is_ready(rx.outbox()),
            Self::Shmipc(link) => link.is_ready(rx.shmipc()),
        }
    }

    /// Says that we are about to sleep. Returns `false` if something arrived in the meantime; then we must not.
    #[inline]
    pub(crate) fn arm(&self, rx: &mut Rx) -> bool {
        match self {
            Self::Outbox(link) => link.arm(rx.outbox_mut()),
            Self::Shmipc(link) => link.arm(rx.shmipc()),
        }
    }

    /// Says that we are awake.
    #[inline]
    pub(crate) fn disarm(&self, rx: &mut Rx) {
        match self {
            Self::Outbox(link) => link.disarm(rx.outbox_mut()),
            Self::Shmipc(link) => link.disarm(rx.shmipc()),
        }
    }

    /// Takes the next arrival, if there is one.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol. The session must end then.
    #[inline]
    pub(crate) fn take(&self, rx: &mut Rx) -> Result<Option<Arrival>, PeerMisbehaved> {
        match self {
            Self::Outbox(link) => link.take(rx.outbox_mut()),
            Self::Shmipc(link) => link.take(rx.shmipc_mut()),
        }
    }

    /// Takes what has come over the socket. Returns whether it is still open.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol.
    pub(crate) fn receive_regions(&self, rx: &mut Rx) -> Result<bool, PeerMisbehaved> {
        match self {
            Self::Outbox(link) => link.receive_regions(rx.outbox_mut()),
            Self::Shmipc(link) => link.receive_frames(rx.shmipc_mut()),
        }
    }

    /// Whether the last look at the socket has found what arrives there.
    pub(crate) fn has_read(&self, rx: &Rx) -> bool {
        self.delivers_from_socket() && rx.shmipc().has_read()
    }

    /// The most arrivals that there can be at once.
    pub(crate) fn records_max(&self) -> usize {
        either!(self, link => link.records_max())
    }

    /// Locks the sending half.
    #[inline]
    pub(crate) fn tx(&self) -> TxGuard<'_> {
        match self {
            Self::Outbox(link) => TxGuard::Outbox(link.tx()),
            Self::Shmipc(link) => TxGuard::Shmipc(link.tx()),
        }
    }

    /// Finds a place for a message of `len` bytes, or says that there is none now.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    #[inline]
    pub(crate) fn reserve(
        &self,
        tx: &mut TxGuard<'_>,
        len: u32,
        stream: StreamId,
    ) -> Result<Option<Reservation<'_>>, PeerMisbehaved> {
        Ok(match self {
            Self::Outbox(link) => link.reserve(tx.outbox(), len)?.map(Reservation::Outbox),
            Self::Shmipc(link) => link
                .reserve(tx.shmipc(), len, stream)?
                .map(Reservation::Shmipc),
        })
    }

    /// Finds a place for a composed message, to be [written](Reservation::compose) next, or says that there is none now; then
    /// `message` can be passed again.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    #[inline]
    pub(crate) fn reserve_for(
        &self,
        tx: &mut TxGuard<'_>,
        message: &mut Outgoing,
        stream: StreamId,
    ) -> Result<Option<Reservation<'_>>, PeerMisbehaved> {
        Ok(match self {
            Self::Outbox(link) => link
                .reserve_for(tx.outbox(), message)?
                .map(Reservation::Outbox),
            Self::Shmipc(link) => link
                .compose(tx.shmipc(), message, stream)?
                .map(Reservation::Shmipc),
        })
    }

    /// Makes a message ready to be composed.
    ///
    /// # Errors
    ///
    /// Returns why memory that it needs could not be had.
    pub(crate) fn prepare(&self, message: &mut Outgoing) -> Result<(), AllocFailure> {
        match self {
            Self::Outbox(link) => message.unspill(link),
            // What has no shared memory goes over the socket.
            Self::Shmipc(_) => Ok(()),
        }
    }

    /// Sends a control record, now or as soon as there is room.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible, or if it has long stopped consuming.
    pub(crate) fn control(&self, control: Control) -> Result<(), PeerMisbehaved> {
        either!(self, link => link.control(control))
    }

    /// Wakes the peer if it sleeps and something has been published.
    #[inline]
    pub(crate) fn wake_peer(&self) {
        either!(self, link => link.wake_peer());
    }

    /// Has `waker` called when the peer has made progress, or memory has come back. What the caller lacks it may have got meanwhile.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn wait_for_space(
        &self,
        ticket: Ticket,
        waker: &Waker,
    ) -> Result<(), PeerMisbehaved> {
        match self {
            Self::Outbox(link) => link.wait_for_space(ticket, waker)?,
            Self::Shmipc(link) => link.wait_for_space(ticket, waker),
        }
        Ok(())
    }

    /// This one waits no more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        either!(self, link => link.forget(ticket));
    }

    /// Whether there is room in the queue, so that who waits for a place lacks something else. Of our own link, it is not known.
    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.has_room(),
        }
    }

    /// Looks for progress of the peer's on behalf of those who wait for it.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    #[inline]
    pub(crate) fn relieve(&self) -> Result<(), PeerMisbehaved> {
        either!(self, link => link.relieve())
    }

    /// After which time to look although nobody calls, if at all.
    pub(crate) fn tick(&self) -> Option<Duration> {
        match self {
            Self::Outbox(_) => None,
            Self::Shmipc(link) => link.tick(),
        }
    }

    /// Whether nobody wakes anybody, so that such a time is what both sides sleep for.
    pub(crate) fn is_polled(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.is_polled(),
        }
    }

    /// Does what is to be done after such a time.
    ///
    /// # Errors
    ///
    /// As for [`relieve`](Self::relieve).
    pub(crate) fn ticked(&self) -> Result<(), PeerMisbehaved> {
        match self {
            Self::Outbox(_) => Ok(()),
            Self::Shmipc(link) => link.ticked(),
        }
    }

    /// Whether the peer may forget to wake us: see [`ShmipcLink::may_miss_wakes`].
    pub(crate) fn may_miss_wakes(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.may_miss_wakes(),
        }
    }

    /// Whether nothing is taken from the socket at the moment, because so much waits to be received.
    pub(crate) fn is_paused(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.is_paused(),
        }
    }

    /// Takes from now on what the peer has left, which is gone, however much waits to be received.
    pub(crate) fn hear_out(&self) {
        if let Self::Shmipc(link) = self {
            link.hear_out();
        }
    }

    /// Whether arrivals come over the socket, too.
    pub(crate) fn delivers_from_socket(&self) -> bool {
        matches!(self, Self::Shmipc(_))
    }

    /// Whether bytes wait until the socket takes them.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.has_unsent(),
        }
    }

    /// Sends what the socket takes.
    pub(crate) fn send_unsent(&self) {
        if let Self::Shmipc(link) = self {
            link.send_unsent();
        }
    }

    /// Whether the peer has not taken everything that was sent, and might lose it if the socket were closed now.
    pub(crate) fn lingers(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.lingers(),
        }
    }

    /// Whether the peer knows of sessions and streams no more than shmipc does: see [`ShmipcLink::is_native`].
    pub(crate) fn is_native(&self) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.is_native(),
        }
    }

    /// Tells the client, in shmipc's own words, that its server restarts. Returns `false` if it does not know them.
    pub(crate) fn tell_restart(&self, epoch: u64) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.tell_restart(epoch),
        }
    }

    /// Tells the server, in shmipc's own words, that we have moved, behind all that opens streams.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible.
    pub(crate) fn acknowledge_restart(&self, epoch: u64) -> Result<(), PeerMisbehaved> {
        match self {
            Self::Outbox(_) => Ok(()),
            Self::Shmipc(link) => link.acknowledge_restart(epoch),
        }
    }

    /// Whether messages of the stream go over the socket, for as long as it lasts.
    pub(crate) fn has_fallen(&self, stream: StreamId) -> bool {
        match self {
            Self::Outbox(_) => false,
            Self::Shmipc(link) => link.has_fallen(stream),
        }
    }

    /// A message was dropped, since its stream is not open.
    pub(crate) fn dropped(&self, stream: StreamId) {
        if let Self::Shmipc(link) = self {
            link.dropped(stream);
        }
    }

    /// Forgets what is kept for a stream that is over.
    #[inline]
    pub(crate) fn stream_over(&self, stream: StreamId) {
        if let Self::Shmipc(link) = self {
            link.stream_over(stream);
        }
    }

    /// The longest message there can be.
    pub(crate) fn message_max(&self) -> usize {
        either!(self, link => link.message_max())
    }

    /// What the link holds now.
    ///
    /// Costs short locks, and a look at each record that waits to be received and at each lease.
    pub(crate) fn figures(&self) -> LinkFigures {
        either!(self, link => link.figures())
    }

    /// Has `waker` called whenever there is something for whoever looks after the session.
    pub(crate) fn watch_growth(&self, waker: &Waker) {
        either!(self, link => link.watch_growth(waker));
    }

    /// Ends the link: nobody is woken any more but those who wait here.
    pub(crate) fn sever(&self) {
        either!(self, link => link.sever());
    }
}
