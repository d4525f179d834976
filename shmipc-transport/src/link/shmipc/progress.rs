//! Control records, and who waits for the peer's progress.

use std::{mem, task::Waker};

use super::{
    Asked, ShmipcLink, ShmipcTx,
    record::{element_of, frame_of, wire_id},
};
use crate::{
    core::{
        shmipc::{Element, InvalidShmipc, frames::Frame, state},
        sync::{Ordering, lock},
        waiters::Ticket,
    },
    error::PeerMisbehaved,
    link::Control,
};

/// More control records than ever wait for a peer that consumes at all.
const CONTROL_MAX: usize = 1 << 17;

impl ShmipcLink {
    /// Sends a control record, now or as soon as there is room.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible, or if it has long stopped consuming.
    pub(crate) fn control(&self, control: Control) -> Result<(), PeerMisbehaved> {
        if !self.speaks_records {
            match control {
                Control::Reset { .. } => {}
                Control::Ping { nonce } => {
                    self.ask(nonce);
                    return Ok(());
                }
                // There is no such thing.
                _ => return Ok(()),
            }
        }
        {
            let mut tx = self.tx();
            if tx.severed {
                return Ok(());
            }
            if CONTROL_MAX <= tx.control.len() {
                return Err(PeerMisbehaved::NotConsuming {
                    waiting: CONTROL_MAX,
                });
            }
            tx.control.push_back(control);
            if !self.flush_control(&mut tx)? {
                self.starve();
            }
        }
        self.wake_peer();
        Ok(())
    }

    /// Notes a ping that the peer does not know: it is answered by what the peer takes.
    fn ask(&self, nonce: u64) {
        let mut pings = lock(&self.pings);
        let (published, pushed) = {
            let tx = self.tx();
            (tx.producer.published(), tx.unsent.pushed())
        };
        pings.push_back(Asked {
            nonce,
            published,
            pushed,
        });
        drop(pings);
        self.wake_keeper();
    }

    /// Tells the client that its server restarts. Returns `false` if the peer is not one that knows what that is.
    pub(crate) fn tell_restart(&self, epoch: u64) -> bool {
        if !self.knows_restarts || self.is_client {
            return false;
        }
        let mut tx = self.tx();
        if !tx.severed {
            self.say(&mut tx, &Frame::HotRestart { epoch });
        }
        true
    }

    /// Tells the server that we have moved, once it can see all streams that were opened before. The caller has seen to it that
    /// no more of them are.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursor is impossible.
    pub(crate) fn acknowledge_restart(&self, epoch: u64) -> Result<(), PeerMisbehaved> {
        // Said to anybody else, it may be the end of the peer's process (H27).
        if !self.knows_restarts || !self.is_client {
            return Ok(());
        }
        let mut tx = self.tx();
        if tx.severed {
            return Ok(());
        }
        tx.acknowledging = Some(epoch);
        if !self.flush_control(&mut tx)? {
            self.starve();
        }
        drop(tx);
        self.wake_peer();
        Ok(())
    }

    /// Publishes waiting control records. Returns whether none is left.
    pub(super) fn flush_control(&self, tx: &mut ShmipcTx) -> Result<bool, InvalidShmipc> {
        if let Some(epoch) = tx.acknowledging {
            if tx.reserved != 0 {
                return Ok(false);
            }
            self.say(tx, &Frame::HotRestartAck { epoch });
            tx.acknowledging = None;
        }
        while let Some(&control) = tx.control.front() {
            if let Control::Reset { stream, code } = control
                && tx.fallen.remove(wire_id(stream))
            {
                // Behind what went over the socket (H49).
                if self.speaks_records {
                    self.say_control(tx, Control::Reset { stream, code });
                } else {
                    let stream = wire_id(stream);
                    self.say(tx, &Frame::Close { stream });
                }
                tx.control.pop_front();
                continue;
            }
            // Whoever hears the answer to a ping takes it that streams that were opened before have been heard of.
            let is_pong = matches!(control, Control::Pong { .. });
            if is_pong && tx.reserved != 0 {
                return Ok(false);
            }
            // So it follows what went over the socket, as the goodbye does.
            let follows = is_pong || matches!(control, Control::Bye);
            if follows && self.speaks_records && tx.has_fallen_back {
                // A peer may ask without end, and read nothing. But what comes before a goodbye holds it up for no longer.
                let is_last = matches!(tx.control.back(), Some(Control::Bye));
                if tx.unsent.is_full() && !is_last {
                    return Ok(false);
                }
                self.say_control(tx, control);
                tx.control.pop_front();
                continue;
            }
            if !tx.has_room()? {
                return Ok(false);
            }
            tx.control.pop_front();
            if self.speaks_records {
                if let Some((element, rest)) = element_of(control) {
                    self.publish(tx, element);
                    rest.into_iter()
                        .for_each(|rest| tx.control.push_front(rest));
                }
            } else if let Control::Reset { stream, .. } = control {
                self.publish(
                    tx,
                    Element {
                        stream: wire_id(stream),
                        offset: 0,
                        status: state::CLOSED,
                    },
                );
            }
        }
        Ok(true)
    }

    /// Says over the socket what would otherwise be in the queue.
    fn say_control(&self, tx: &mut ShmipcTx, control: Control) {
        if let Some((element, _)) = element_of(control) {
            self.say(tx, &frame_of(&element));
        }
    }

    /// Has `waker` called when there may be room.
    pub(crate) fn wait_for_space(&self, ticket: Ticket, waker: &Waker) {
        let replaced = self.tx().waiters.add(ticket, waker);
        drop(replaced);
        // Seldom enough, and when they are.
        self.raise_peaks();
        self.starve();
        // Looking for room may have published what waited for some.
        self.wake_peer();
    }

    /// This one waits no more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        let forgotten = self.tx().waiters.forget(ticket);
        drop(forgotten);
    }

    /// Whether there is room in the queue for one more message, which lacks something else then: a socket that takes it, or a peer that
    /// has handed out what came before.
    pub(crate) fn has_room(&self) -> bool {
        let mut tx = self.tx();
        tx.control.is_empty() && tx.has_room().unwrap_or(false)
    }

    pub(super) fn starve(&self) {
        if !self.starving.swap(true, Ordering::AcqRel) {
            // Nobody tells when there is room, so somebody has to look.
            self.wake_keeper();
        }
    }

    /// Looks for progress of the peer's on behalf of those who wait for it.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved`] if the peer's cursors are impossible.
    pub(crate) fn relieve(&self) -> Result<(), PeerMisbehaved> {
        if self.starving.load(Ordering::Acquire) {
            self.wake_waiters(false)?;
        }
        Ok(())
    }

    /// Looks again for whatever the protocol does not tell.
    ///
    /// # Errors
    ///
    /// As for [`relieve`](Self::relieve).
    pub(crate) fn ticked(&self) -> Result<(), PeerMisbehaved> {
        if self.is_polled() {
            self.quiet.looked(self.counters.messages_received.get());
        }
        if self.starving.load(Ordering::Acquire) {
            self.wake_waiters(true)?;
        }
        Ok(())
    }

    /// Wakes those who wait, if there is progress, or because it is time to see whether slices have come back.
    fn wake_waiters(&self, is_due: bool) -> Result<(), PeerMisbehaved> {
        let waiters = {
            let mut tx = self.tx();
            let seen = (tx.producer.refresh()?, tx.unsent.len());
            if u64::from(seen.0) < tx.producer.published() {
                self.forget_files();
            }
            if !is_due && seen == tx.seen {
                return Ok(());
            }
            tx.seen = seen;
            let is_done = self.flush_control(&mut tx)?;
            let is_to_show = tx.producer.published() != 0 && self.has_files.load(Ordering::Relaxed);
            self.starving
                .store(!is_done || is_to_show, Ordering::Release);
            mem::take(&mut tx.waiters)
        };
        self.wake_peer();
        waiters.wake();
        Ok(())
    }
}
