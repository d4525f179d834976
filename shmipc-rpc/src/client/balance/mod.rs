//! Several sessions, or several servers, behind one channel.
//!
//! Each member is a connection that mends itself. One that has no session is left out; it is told to connect whenever a call
//! would have gone to it, and pauses between its attempts, so that there is no timer while nobody calls.

mod pick;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Instant,
};

use shmipc_transport::{Address, ConnectError, Session};
use tokio::{sync::futures::Notified, task::JoinSet};

use self::pick::Picker;
use super::{
    connection::{Connection, Outlook},
    direct::Direct,
};
use crate::Status;

/// Connections among which calls are spread.
#[derive(Debug)]
pub(super) struct Balanced {
    members: Box<[Member]>,
    picker: Picker,
}

#[derive(Debug)]
struct Member {
    direct: Direct,
    // `Relaxed` throughout: the number is all that is communicated.
    pending: Arc<AtomicUsize>,
}

/// Counts a call as pending for as long as it exists.
#[derive(Debug)]
pub(super) struct Pending(Arc<AtomicUsize>);

impl Pending {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Balanced {
    /// Spreads calls among `members`.
    pub(super) fn new(members: impl IntoIterator<Item = Direct>) -> Self {
        let members: Box<[_]> = members
            .into_iter()
            .map(|direct| Member {
                direct,
                pending: Arc::default(),
            })
            .collect();
        let picker = Picker::new([members.len()]);
        Self { members, picker }
    }

    /// Returns the address, if all members have the same.
    pub(super) fn address(&self) -> Option<&Address> {
        let mut addresses = self.connections().map(|connection| connection.address());
        let first = addresses.next()??;
        // An address may be a descriptor, which cannot be compared; as text it can.
        let text = first.to_string();
        addresses
            .all(|address| address.is_some_and(|address| address.to_string() == text))
            .then_some(first)
    }

    /// Connects all members, as far as that can be done.
    ///
    /// Fails if none could be connected, with the first error.
    pub(super) async fn connect(&self) -> Result<(), ConnectError> {
        let mut attempts = JoinSet::new();
        for connection in self.connections() {
            let connection = Arc::clone(connection);
            attempts.spawn(async move { connection.connect().await });
        }
        let (mut connected, mut first) = (false, None);
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(())) => connected = true,
                Ok(Err(error)) => first = first.or(Some(error)),
                // Nobody aborts them but this future, when it is dropped, or the runtime.
                Err(_) => {}
            }
        }
        match first {
            Some(error) if !connected => Err(error),
            _ => Ok(()),
        }
    }

    /// Chooses a member that has a session. The others that are looked at begin to connect.
    pub(super) fn try_pick(&self) -> Option<(&Direct, Pending)> {
        let ready = |member: usize| self.members[member].is_ready();
        let load = |member: usize| self.members[member].pending.load(Ordering::Relaxed);
        let Member { direct, pending } = &self.members[self.picker.pick(ready, load)?];
        Some((direct, Pending::new(pending)))
    }

    /// Chooses a member, and waits for one that has a session.
    ///
    /// Fails when each member has failed to connect; or goes on, if `wait_for_ready`.
    pub(super) async fn pick(&self, wait_for_ready: bool) -> Result<(&Direct, Pending), Status> {
        if self.members.is_empty() {
            return Err(Status::unavailable("there is no server to call").unsent());
        }
        let mut failed = vec![false; self.members.len()];
        loop {
            // Listen first, look afterwards: what happens in between is noticed.
            let mut changes: Vec<Pin<Box<Notified<'_>>>> = self
                .connections()
                .map(|connection| Box::pin(connection.changed()))
                .collect();
            for change in &mut changes {
                change.as_mut().enable();
            }
            if let Some(picked) = self.try_pick() {
                return Ok(picked);
            }
            let mut next: Option<Instant> = None;
            let mut last = None;
            let mut found = false;
            for (connection, failed) in self.connections().zip(&mut failed) {
                match connection.outlook() {
                    Outlook::Ready => found = true,
                    Outlook::Connecting => {}
                    Outlook::Failed { error, until } => {
                        *failed = true;
                        next = Some(next.map_or(until, |next| next.min(until)));
                        last = Some(connection.unreachable(error));
                    }
                    Outlook::Over(status) => {
                        *failed = true;
                        last = Some(status);
                    }
                }
            }
            if found {
                continue;
            }
            if let Some(last) = last
                && !wait_for_ready
                && failed.iter().all(|&failed| failed)
            {
                return Err(self.unreachable(last));
            }
            let changed = poll_fn(|cx| {
                let mut changes = changes.iter_mut();
                if changes.any(|change| change.as_mut().poll(cx).is_ready()) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            // Whether something happened or an attempt is due: look again.
            let _ = crate::deadline::within(next, changed).await;
        }
    }

    /// The status of a call for which no member has a session.
    fn unreachable(&self, last: Status) -> Status {
        match self.members.len() {
            0 | 1 => last,
            count => Status::unavailable(format!("none of {count} servers can be reached"))
                .with_source(Arc::new(last) as Arc<_>)
                .unsent(),
        }
    }

    /// The sessions that are open now.
    pub(super) fn sessions(&self) -> Vec<Session> {
        self.connections()
            .filter_map(|connection| connection.session())
            .collect()
    }

    fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.members.iter().map(|member| &member.direct.connection)
    }
}

impl Member {
    fn is_ready(&self) -> bool {
        let connection = &self.direct.connection;
        connection.is_ready() || matches!(connection.outlook(), Outlook::Ready)
    }
}
