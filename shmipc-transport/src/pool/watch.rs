//! What is seen of the sessions of a pool.

use std::sync::Arc;

use super::{line::Line, state::Event};
use crate::session::Shared;

/// What there is to see of a session, and what of it is known. Does not keep it open.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) number: u64,
    shared: Arc<Shared>,
    epoch: Option<u64>,
    goes_away: bool,
}

impl Watch {
    pub(super) fn of(line: &Line) -> Self {
        Self {
            number: line.number,
            shared: line.session.share(),
            epoch: None,
            goes_away: false,
        }
    }

    /// Takes note of what the peer has said or done, in a session for threads, if nobody else does.
    pub(super) fn attend(&self) {
        if let Some(lead) = self.shared.lead() {
            self.shared.attend(lead);
        }
    }

    /// Waits until there is news, and returns itself.
    pub(super) async fn changes(self) -> Self {
        let Self {
            epoch, goes_away, ..
        } = self;
        let is_known = |shared: &Shared| {
            shared.lost().is_none()
                && shared.restart_epoch() == epoch
                && shared.peer_goes_away() == goes_away
        };
        let shared = &self.shared;
        shared
            .until(|shared| (!is_known(shared)).then_some(()))
            .await;
        self
    }

    /// Takes note of the next thing that is news.
    pub(super) fn news(&mut self) -> Option<Event> {
        let shared = &self.shared;
        if shared.lost().is_some() {
            return Some(Event::Lost);
        }
        if shared.peer_goes_away() && !self.goes_away {
            self.goes_away = true;
            return Some(Event::GoesAway);
        }
        let epoch = shared
            .restart_epoch()
            .filter(|_| shared.restart_epoch() != self.epoch);
        self.epoch = epoch.or(self.epoch);
        epoch.map(Event::Restarts)
    }
}
