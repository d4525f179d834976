//! One stream's state, shared by its halves, its watchers and whoever drains the ring.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Buf;

use super::{Abandoned, RecvBuf};
use crate::{
    core::{
        num::StreamId,
        streams::{RecvCredit, SendCredit},
        sync::{AtomicBool, AtomicU64, Ordering, lock},
    },
    dump::StreamDump,
    error::{PeerMisbehaved, RecvError, SendError, SessionLost},
    link::Control,
    session::Shared,
};

/// A stream, whoever opened it.
#[derive(Debug)]
pub(crate) struct StreamShared {
    /// Zero until the peer has been told, because ids must reach it in order.
    id: AtomicU64,
    /// Whether the last that we send is, or is about to be, where the peer finds it.
    is_ending: AtomicBool,
    /// Whether both sides are through with it and everything was taken, so that no handle needs the lock to let go of it.
    is_settled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The oldest message that was not taken. Apart from the others, so that a stream of one message needs no queue.
    first: Option<RecvBuf>,
    more: VecDeque<RecvBuf>,
    recv_credit: RecvCredit,
    send_credit: SendCredit,
    /// Whether the peer hears of the stream, whatever happens. Until then nothing may be said of it.
    is_announced: bool,
    /// The peer sends no more.
    recv_ended: bool,
    /// We send no more, and the peer is told.
    send_ended: bool,
    /// Nobody will take what arrives.
    discards: bool,
    /// Nobody will send any more.
    sender_gone: bool,
    over: Option<Over>,
    recv_waker: Option<Waker>,
    /// Whether the receiver counts as [engaged](Shared::count_engaged).
    is_engaged: bool,
    send_waker: Option<Waker>,
    watchers: Vec<Waker>,
}

/// Why a stream ended before both sides were through with it.
#[derive(Clone, Debug)]
enum Over {
    ByPeer(u32),
    Here(u32),
    Lost(SessionLost),
}

impl StreamShared {
    fn new(id: u64, session: &Shared) -> Self {
        let state = State {
            first: None,
            more: VecDeque::new(),
            recv_credit: RecvCredit::new(session.windows),
            send_credit: SendCredit::new(session.peer_windows),
            is_announced: id != 0,
            recv_ended: false,
            send_ended: false,
            discards: false,
            sender_gone: false,
            over: None,
            recv_waker: None,
            is_engaged: false,
            send_waker: None,
            watchers: Vec::new(),
        };
        Self {
            id: AtomicU64::new(id),
            is_ending: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// A stream of ours, of which the peer has not heard yet.
    pub(super) fn unopened(session: &Shared) -> Self {
        Self::new(0, session)
    }

    /// A stream that the peer opens.
    pub(crate) fn opened_by_peer(id: StreamId, session: &Shared) -> Self {
        Self::new(id.0, session)
    }

    /// The stream's id, once it has one: from when the record is reserved by which the peer is told of it.
    pub(crate) fn id(&self) -> Option<StreamId> {
        match self.id.load(Ordering::Relaxed) {
            0 => None,
            id => Some(StreamId(id)),
        }
    }

    /// Sets the id, under the sender's lock.
    pub(super) fn set_id(&self, id: Option<StreamId>) {
        self.id.store(id.map_or(0, |id| id.0), Ordering::Relaxed);
    }

    /// The state of the stream now.
    pub(crate) fn dump(&self) -> StreamDump {
        let state = self.state();
        let queued = || state.first.iter().chain(&state.more);
        StreamDump {
            id: self.id.load(Ordering::Relaxed),
            send_credit: state.send_credit.left(),
            recv_credit: state.recv_credit.left(),
            messages_queued: queued().count(),
            bytes_queued: queued().map(Buf::remaining).sum(),
            ended: (state.send_ended, state.recv_ended),
            is_over: state.over.is_some(),
            sender_waits: state.send_waker.is_some(),
            receiver_waits: state.recv_waker.is_some(),
        }
    }

    fn settle(&self, state: &State) {
        if state.is_settled() {
            // Release, pairs with the Acquire in `is_settled`: who sees it has also seen what led to it.
            self.is_settled.store(true, Ordering::Release);
        }
    }

    fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes the next message, or says how the stream ended; `None` if there is nothing yet.
    pub(crate) fn take(&self, session: &Shared) -> Option<Result<Option<RecvBuf>, RecvError>> {
        let mut state = self.state();
        if let Some(message) = state.first.take() {
            state.first = state.more.pop_front();
            state.disengage(session);
            let grant = if state.recv_ended {
                self.settle(&state);
                None
            } else {
                state.recv_credit.consume(message.len())
            };
            drop(state);
            self.grant(session, grant);
            return Some(match message.is_guarded() {
                false => Ok(Some(message)),
                true => copied(session, message).map(Some),
            });
        }
        if state.recv_ended || state.over.is_some() {
            state.disengage(session);
        }
        if state.recv_ended {
            return Some(Ok(None));
        }
        let over = state.over.as_ref().map(|over| match over {
            Over::ByPeer(code) => RecvError::Reset(*code),
            Over::Here(_) => RecvError::Abandoned,
            Over::Lost(lost) => RecvError::SessionLost(lost.clone()),
        });
        // Before the peer has heard of it, it is in no table, and nobody tells it that the session is lost.
        let lost = || session.lost().filter(|_| self.id().is_none());
        let lost = || lost().cloned().map(RecvError::SessionLost);
        over.or_else(lost).map(Err)
    }

    /// Whether the stream has ended before both sides were through with it.
    pub(crate) fn is_over(&self) -> bool {
        self.state().over.is_some()
    }

    /// Whether it is open both ways, and nothing waits to be received.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = self.state();
        let has_ended = state.recv_ended || state.send_ended || state.over.is_some();
        !has_ended && state.first.is_none()
    }

    /// Has `waker` called when [`take`](Self::take) has something.
    pub(crate) fn wait_to_recv(&self, session: &Shared, waker: &Waker) {
        let mut state = self.state();
        set_waker(session, &mut state.recv_waker, waker);
        if !state.is_engaged {
            state.is_engaged = true;
            session.count_engaged(true);
        }
    }

    /// Takes credit for a message of `len` bytes, if there is one. `false` if there is no credit.
    pub(super) fn clear_to_send(&self, len: Option<u32>) -> Result<bool, SendError> {
        let mut state = self.state();
        match &state.over {
            Some(Over::ByPeer(code)) => return Err(SendError::Reset(*code)),
            Some(Over::Lost(lost)) => return Err(SendError::SessionLost(lost.clone())),
            Some(Over::Here(_)) => return Err(SendError::Finished),
            None if state.send_ended => return Err(SendError::Finished),
            None => {}
        }
        if let Some(len) = len {
            if !state.send_credit.is_open() {
                return Ok(false);
            }
            state.send_credit.spend(len);
        }
        Ok(true)
    }

    /// Undoes [`clear_to_send`](Self::clear_to_send), because there was no room after all.
    pub(super) fn refund(&self, len: Option<u32>) {
        if let Some(len) = len {
            self.state().send_credit.refund(len);
        }
    }

    /// The peer is about to find the last that we send.
    pub(super) fn begin_to_end(&self) {
        // Relaxed: what is published by a later store. Not a lock, because the peer reads what was written before it: we would have to
        // wait until we have that for ourselves.
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether it is over, as far as the peer may know, although that was not noted yet: both sides have ended, or it was given up.
    pub(crate) fn is_closing(&self) -> bool {
        let state = self.state();
        self.is_ending.load(Ordering::Relaxed) && state.recv_ended || state.over.is_some()
    }

    /// The peer can find a record by which it hears of the stream, or the last that we send, or both. Both ends together close the stream.
    ///
    /// Returns the code of a reset that could not be said before: the receiving half has given the stream up.
    #[must_use]
    pub(super) fn announce(&self, session: &Shared, ends: bool) -> Option<u32> {
        let (closes, watchers, reset) = {
            let mut state = self.state();
            let is_news = !mem::replace(&mut state.is_announced, true);
            let reset = match &state.over {
                Some(Over::Here(code)) if is_news => Some(*code),
                _ => None,
            };
            state.send_ended = ends;
            self.settle(&state);
            let closes = ends && state.recv_ended;
            let watchers = if closes {
                mem::take(&mut state.watchers)
            } else {
                Vec::new()
            };
            (closes, watchers, reset)
        };
        if closes {
            session.close_stream(StreamId(self.id.load(Ordering::Relaxed)));
        }
        watchers.into_iter().for_each(Waker::wake);
        reset
    }

    /// Whether somebody waits for a message.
    pub(super) fn is_awaited(&self) -> bool {
        self.state().recv_waker.is_some()
    }

    /// Has `waker` called when there is credit, or the stream has ended, unless that is so already.
    pub(super) fn wait_for_credit(&self, session: &Shared, waker: &Waker) {
        let mut state = self.state();
        if !state.send_credit.is_open() && state.over.is_none() {
            set_waker(session, &mut state.send_waker, waker);
        }
    }

    /// Gives the stream up on this side. If the session is lost already, that is why the stream is over, although it may not have
    /// been told yet.
    pub(super) fn reset(&self, session: &Shared, code: u32) {
        if self.is_settled() {
            return;
        }
        let Some((wakers, is_announced)) = self.give_up(session, code) else {
            return;
        };
        // If it is not, whoever sends the first message says so, or there is none.
        if is_announced && let Some(id) = self.id() {
            session.control(Control::Reset { stream: id, code });
            // Only now: whoever opens a stream in its place must not be heard before.
            session.close_stream(id);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The stream is over, unless it was before. Returns who is to be woken, and whether the peer has heard of it.
    pub(super) fn give_up(&self, session: &Shared, code: u32) -> Option<(Vec<Waker>, bool)> {
        let over = match session.lost() {
            Some(lost) => Over::Lost(lost.clone()),
            None => Over::Here(code),
        };
        let mut state = self.state();
        if state.over.is_some() || state.recv_ended && state.send_ended {
            return None;
        }
        state.over = Some(over);
        Some((state.drain_wakers(session), state.is_announced))
    }

    /// Nobody reads any more: what arrives is dropped, and credit for it granted, so that the peer is not held up.
    /// Returns whether nobody has any interest in the stream, although it has not ended.
    #[must_use]
    pub(super) fn stop_receiving(&self, session: &Shared) -> bool {
        if self.is_settled() {
            return false;
        }
        let (dropped, grant, is_abandoned) = {
            let mut state = self.state();
            state.discards = true;
            clear_waker(session, &mut state.recv_waker);
            state.disengage(session);
            if state.first.is_none() {
                return state.sender_gone && !state.recv_ended && state.over.is_none();
            }
            let mut dropped: Vec<_> = state.first.take().into_iter().collect();
            dropped.extend(mem::take(&mut state.more));
            let grants = dropped
                .iter()
                .filter_map(|message| state.recv_credit.consume(message.len()));
            let sum = grants.fold((0, 0u32), |sum, grant| {
                (sum.0 + grant.0, sum.1.saturating_add(grant.1))
            });
            let goes_on = !state.recv_ended && state.over.is_none();
            (
                dropped,
                (sum.0 != 0 && goes_on).then_some(sum),
                state.sender_gone && goes_on,
            )
        };
        drop(dropped);
        if !is_abandoned {
            self.grant(session, grant);
        }
        is_abandoned
    }

    /// Nobody sends any more. Returns whether the peer would wait for an end in vain, or sends to nobody.
    #[must_use]
    pub(super) fn stop_sending(&self, session: &Shared) -> bool {
        if self.is_settled() {
            return false;
        }
        let mut state = self.state();
        state.sender_gone = true;
        clear_waker(session, &mut state.send_waker);
        state.over.is_none() && (!state.send_ended || state.discards && !state.recv_ended)
    }

    /// Says how the stream ended, once it has.
    pub(super) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<Abandoned> {
        let mut state = self.state();
        match &state.over {
            Some(Over::ByPeer(code)) => Poll::Ready(Abandoned::Reset(*code)),
            Some(Over::Lost(lost)) => Poll::Ready(Abandoned::SessionLost(lost.clone())),
            Some(Over::Here(_)) => Poll::Ready(Abandoned::Closed),
            None if state.recv_ended && state.send_ended => Poll::Ready(Abandoned::Closed),
            None => {
                if !state
                    .watchers
                    .iter()
                    .any(|known| known.will_wake(cx.waker()))
                {
                    state.watchers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// A message has arrived, or the peer's end, or both.
    pub(crate) fn receive(
        &self,
        session: &Shared,
        message: Option<RecvBuf>,
        end: bool,
    ) -> Result<(), PeerMisbehaved> {
        let stream = self.id.load(Ordering::Relaxed);
        let mut state = self.state();
        if state.over.is_some() {
            return Ok(()); // It has crossed our reset.
        }
        if state.recv_ended {
            return Err(PeerMisbehaved::SentAfterEnd { stream });
        }
        let mut grant = None;
        let mut discarded = None;
        if let Some(message) = message {
            if !state.recv_credit.arrive(message.len()) {
                return Err(PeerMisbehaved::CreditExceeded { stream });
            }
            if state.discards {
                grant = state.recv_credit.consume(message.len());
                discarded = Some(message);
            } else if state.first.is_none() {
                state.first = Some(message);
            } else {
                state.more.push_back(message);
            }
        }
        state.recv_ended = end;
        let is_over = end && state.send_ended;
        let waker = clear_waker(session, &mut state.recv_waker);
        let watchers = if is_over {
            mem::take(&mut state.watchers)
        } else {
            Vec::new()
        };
        drop(state);
        drop(discarded);
        if is_over {
            session.close_stream(StreamId(stream));
        }
        if !end {
            self.grant(session, grant);
        }
        waker.into_iter().chain(watchers).for_each(Waker::wake);
        Ok(())
    }

    /// The peer has given the stream up.
    pub(crate) fn reset_by_peer(&self, session: &Shared, code: u32) {
        self.end(session, Over::ByPeer(code));
        session.close_stream(StreamId(self.id.load(Ordering::Relaxed)));
    }

    /// The peer has closed the stream: what has arrived may still be taken, and nothing can be sent.
    pub(crate) fn closed_by_peer(&self, session: &Shared) {
        self.state().recv_ended = true;
        self.end(session, Over::ByPeer(super::ABANDONED));
        session.close_stream(StreamId(self.id.load(Ordering::Relaxed)));
    }

    /// The session is over.
    pub(crate) fn lose(&self, session: &Shared, reason: &SessionLost) {
        self.end(session, Over::Lost(reason.clone()));
    }

    /// The peer grants credit.
    pub(crate) fn granted(
        &self,
        session: &Shared,
        messages: u32,
        bytes: u32,
    ) -> Result<(), PeerMisbehaved> {
        let waker = {
            let mut state = self.state();
            if !state.send_credit.grant(messages, bytes) {
                return Err(PeerMisbehaved::CreditOverflow {
                    stream: self.id.load(Ordering::Relaxed),
                });
            }
            clear_waker(session, &mut state.send_waker)
        };
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn end(&self, session: &Shared, over: Over) {
        let wakers = {
            let mut state = self.state();
            if state.over.is_none() {
                state.over = Some(over);
            }
            state.drain_wakers(session)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn grant(&self, session: &Shared, grant: Option<(u32, u32)>) {
        if let (Some((messages, bytes)), Some(stream)) = (grant, self.id()) {
            session.control(Control::Credit {
                stream,
                messages,
                bytes,
            });
        }
    }
}

impl State {
    /// Whether nothing is left to be done, by anybody.
    fn is_settled(&self) -> bool {
        let has_ended = self.recv_ended && self.send_ended;
        let waits = self.recv_waker.is_some() || self.send_waker.is_some() || self.is_engaged;
        has_ended && self.first.is_none() && self.over.is_none() && !waits
    }

    fn disengage(&mut self, session: &Shared) {
        if self.is_engaged {
            self.is_engaged = false;
            session.count_engaged(false);
        }
    }

    fn drain_wakers(&mut self, session: &Shared) -> Vec<Waker> {
        let mut wakers = mem::take(&mut self.watchers);
        wakers.extend(clear_waker(session, &mut self.recv_waker));
        wakers.extend(clear_waker(session, &mut self.send_waker));
        wakers
    }
}

/// The stream's shared state behind an `Arc`.
pub(crate) type StreamRef = Arc<StreamShared>;

fn set_waker(session: &Shared, slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) => known.clone_from(waker),
        None => {
            *slot = Some(waker.clone());
            session.count_waiting(true);
        }
    }
}

fn clear_waker(session: &Shared, slot: &mut Option<Waker>) -> Option<Waker> {
    let waker = slot.take();
    if waker.is_some() {
        session.count_waiting(false);
    }
    waker
}

/// Copies a message out of the peer's memory, before anybody looks at it.
fn copied(session: &Shared, message: RecvBuf) -> Result<RecvBuf, RecvError> {
    let len = message.len() as u64;
    message.into_received().ok_or_else(|| {
        // How long it is was the peer's decision, and is no reason to end more than its session.
        RecvError::SessionLost(session.blame(PeerMisbehaved::MessageLength { len }))
    })
}
