//! Handshakes that go on in the thread that accepts.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollTimeout, poll},
};
use tracing::{debug, warn};

use super::super::acceptor::Chain;
use crate::{
    Config,
    blocking::{Clients, Session},
    session::{Joining, Strangers},
    sys::{endpoint::Connection, watch::millis},
};

/// Handshakes under way. They go on while somebody accepts.
#[derive(Debug, Default)]
pub(super) struct Front {
    pub(super) joining: Vec<Joining>,
    /// Those of them whose clients are not admitted. They take no place of others.
    strangers: Strangers,
    /// Since when nobody accepts, and so nobody looks after them.
    left: Option<Instant>,
    /// No connection is taken before this time, because the system lacked something.
    pub(super) paused_until: Option<Instant>,
}

impl Front {
    /// Goes on where it was left. What clients have said meanwhile is still there, and that nobody has listened is not their fault.
    pub(super) fn come_back(&mut self) {
        if let Some(left) = self.left.take() {
            let away = left.elapsed();
            self.joining
                .iter_mut()
                .for_each(|joining| joining.forgive(away));
        }
    }

    pub(super) fn leave(&mut self) {
        self.left = Some(Instant::now());
    }

    /// Whether one more client may shake hands.
    pub(super) fn has_room(&self, config: &Config) -> bool {
        self.joining.len() < config.handshakes_max() + self.strangers.count()
    }

    /// Begins a handshake.
    pub(super) fn begin(&mut self, connection: Connection, config: &Config) {
        match Joining::begin(connection, config, &self.strangers) {
            Ok(joining) => self.joining.push(joining),
            Err(error) => debug!(error = %Chain(&error), "a client failed to shake hands"),
        }
    }

    /// Waits for `timeout` at most, until one of `fds` is ready, which says so, or a handshake may go on.
    pub(super) fn wait<'a>(
        &'a self,
        fds: &mut Vec<PollFd<'a>>,
        mut timeout: Option<Duration>,
    ) -> io::Result<()> {
        for joining in &self.joining {
            let (fd, left) = joining.wants();
            fds.push(fd);
            timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(millis(timeout)).unwrap_or(PollTimeout::MAX)
        });
        match poll(fds, timeout) {
            Ok(_) => Ok(()),
            // Nothing is ready, then.
            Err(Errno::EINTR) => {
                fds.clear();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Goes on with all handshakes, and returns a session if one of them is done, which is one of `clients` from then on.
    pub(super) fn advance(&mut self, config: &Config, clients: &Clients) -> Option<Session> {
        let mut index = 0;
        while index < self.joining.len() {
            match self.joining.swap_remove(index).advance(config) {
                Ok(Ok(session)) => {
                    clients.register(&session);
                    return Some(Session::new(session));
                }
                Ok(Err(joining)) => {
                    self.joining.push(joining);
                    let last = self.joining.len() - 1;
                    self.joining.swap(index, last);
                    index += 1;
                }
                Err(error) => debug!(error = %Chain(&error), "a client failed to shake hands"),
            }
        }
        None
    }

    /// Returns the next session of clients that wait to shake hands, or are doing so.
    pub(super) fn next(
        &mut self,
        waiting: &mut VecDeque<Connection>,
        config: &Config,
        clients: &Clients,
    ) -> Option<Session> {
        loop {
            while self.has_room(config)
                && let Some(connection) = waiting.pop_front()
            {
                self.begin(connection, config);
            }
            if let Some(session) = self.advance(config, clients) {
                return Some(session);
            }
            if self.joining.is_empty() && waiting.is_empty() {
                return None;
            }
            if let Err(error) = self.wait(&mut Vec::new(), None) {
                warn!(%error, "cannot wait for clients");
                return None;
            }
        }
    }
}
