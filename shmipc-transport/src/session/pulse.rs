//! Finding out whether a peer that says nothing is still there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::shared::Shared;
use crate::{Keepalive, error::SessionLost};

/// A session's keepalive: quiet for as long as there are no streams, or something is heard now and then.
#[derive(Debug)]
pub(super) struct Pulse {
    keepalive: Keepalive,
    timer: Option<Pin<Box<Sleep>>>,
    /// What [`Shared::heard`] was when the timer was set.
    heard: u64,
    /// The ping that the timer runs for.
    asked: Option<u64>,
    /// Whether there is no timer until there is a stream.
    is_dormant: bool,
}

impl Pulse {
    pub(super) fn new(keepalive: Keepalive) -> Self {
        Self {
            keepalive,
            timer: None,
            heard: 0,
            asked: None,
            is_dormant: false,
        }
    }

    /// Polls the keepalive. Ready with the reason if the session must end.
    ///
    /// `catch_up` takes what the peer has left in its ring.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        mut catch_up: impl FnMut(),
    ) -> Poll<SessionLost> {
        loop {
            let Some(timer) = &mut self.timer else {
                // Once there was a stream, the timer runs for an interval at least, whether or not it is still there. So calls
                // that follow each other wake this task once in an interval, and not once each.
                self.is_dormant = if self.is_dormant {
                    shared.awaits_streams()
                } else {
                    !self.keepalive.pings_while_idle() && shared.await_streams()
                };
                if self.is_dormant {
                    return Poll::Pending;
                }
                self.wait(shared, None);
                continue;
            };
            ready!(timer.as_mut().poll(cx));
            let late = timer.deadline().elapsed();
            self.timer = None;
            // This task may not have run for a while, and the ring not have been looked at.
            catch_up();
            let was_heard = shared.heard() != self.heard;
            let timeout = self.keepalive.timeout();
            let while_idle = self.keepalive.pings_while_idle();
            match self.asked.take() {
                // What to do next depends on whether there are streams, and is decided above.
                None if was_heard || !while_idle && shared.is_idle() => {}
                None => self.wait(shared, Some(shared.ping())),
                Some(_) if was_heard => {}
                // If we were stopped, so may the peer have been, and it has not had its time.
                Some(_) if timeout / 2 < late => self.wait(shared, Some(shared.ping())),
                Some(_) => return Poll::Ready(SessionLost::Unresponsive { timeout }),
            }
        }
    }

    /// Sets the timer: for the answer to a ping, or for something to be heard.
    fn wait(&mut self, shared: &Shared, asked: Option<u64>) {
        let time = match asked {
            Some(_) => self.keepalive.timeout(),
            None => self.keepalive.interval(),
        };
        self.asked = asked;
        self.heard = shared.heard();
        // Beyond what a timer can do, there is none to speak of.
        let due = Instant::now()
            .checked_add(time)
            .unwrap_or_else(|| Instant::now() + FAR);
        self.timer = Some(Box::pin(sleep_until(due)));
    }
}

/// Thirty years.
const FAR: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 24 * 3600);
