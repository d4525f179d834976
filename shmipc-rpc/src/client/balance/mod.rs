//! Several sessions, or several servers, behind one channel.
//!
//! Each member is a connection that mends itself. One that is not connected is left out; it is told to connect whenever a call
//! would have gone to it, and pauses between its attempts, so that there is no timer while nobody calls.
//!
//! Members over HTTP/2 are used, and connect, only while those through shared memory have all failed to. Each call looks at these
//! first, so that they try again, and have the calls as soon as one of them is back.

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

use shmipc_transport::{Address, Session};
use tokio::{sync::futures::Notified, task::JoinSet};

use self::pick::Picker;
use super::member::{Member, Prospect};
use crate::{ConnectError, Endpoint, Status, deadline};

/// Connections among which calls are spread.
#[derive(Debug)]
pub(super) struct Balanced {
    /// Those of the first tier come first.
    members: Box<[Counted]>,
    /// How many members are in the first tier.
    preferred: usize,
    picker: Picker,
}

#[derive(Debug)]
struct Counted {
    member: Member,
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
    pub(super) fn new(mut members: Vec<Member>) -> Self {
        members.sort_by_key(Member::is_second_choice);
        let preferred = members.partition_point(|member| !member.is_second_choice());
        let picker = Picker::new([preferred, members.len() - preferred]);
        let counted = members.into_iter().map(|member| Counted {
            member,
            pending: Arc::default(),
        });
        Self {
            members: counted.collect(),
            preferred,
            picker,
        }
    }

    /// Returns the address, if all members have the same.
    pub(super) fn address(&self) -> Option<&Address> {
        let mut addresses = self.members().map(Member::address);
        let first = addresses.next()??;
        // An address may be a descriptor, which cannot be compared; as text it can.
        let text = first.to_string();
        addresses
            .all(|address| address.is_some_and(|address| address.to_string() == text))
            .then_some(first)
    }

    /// Returns the endpoint, if all members have the same.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        let mut endpoints = self.members().map(Member::endpoint);
        let first = endpoints.next()??;
        let text = first.to_string();
        endpoints
            .all(|endpoint| endpoint.is_some_and(|endpoint| endpoint.to_string() == text))
            .then_some(first)
    }

    /// Connects all members of the first tier, as far as that can be done; if none can be, those of the second.
    ///
    /// Fails if none could be connected, with the first error.
    pub(super) async fn connect(&self) -> Result<(), ConnectError> {
        let (preferred, others) = self.members.split_at(self.preferred);
        match connect_any(preferred).await {
            Tried::Connected => Ok(()),
            Tried::Failed(error) => match connect_any(others).await {
                Tried::Connected => Ok(()),
                Tried::Failed(other) => error.or(other).map_or(Ok(()), Err),
            },
        }
    }

    /// Chooses a member that is connected. The others that are looked at begin to connect.
    pub(super) fn try_pick(&self) -> Option<(&Member, Pending)> {
        let ready = |member: usize| {
            (member < self.preferred || self.has_fallen()) && self.members[member].member.is_ready()
        };
        let load = |member: usize| self.members[member].pending.load(Ordering::Relaxed);
        let Counted { member, pending } = &self.members[self.picker.pick(ready, load)?];
        Some((member, Pending::new(pending)))
    }

    /// Whether all members of the first tier have failed to connect, so that those of the second are used.
    fn has_fallen(&self) -> bool {
        let mut preferred = self.members().take(self.preferred);
        preferred.all(Member::has_failed)
    }

    /// Chooses a member, and waits for one that is connected.
    ///
    /// Fails when each member has failed to connect; or goes on, if `wait_for_ready`.
    pub(super) async fn pick(&self, wait_for_ready: bool) -> Result<(&Member, Pending), Status> {
        if self.members.is_empty() {
            return Err(Status::unavailable("there is no server to call").unsent());
        }
        let mut failed = vec![false; self.members.len()];
        loop {
            // Listen first, look afterwards: what happens in between is noticed.
            let mut changes: Vec<Pin<Box<Notified<'_>>>> = self
                .members()
                .map(|member| Box::pin(member.changed()))
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
            for (index, (member, failed)) in self.members().zip(&mut failed).enumerate() {
                if index == self.preferred && !self.has_fallen() {
                    break;
                }
                match member.prospect() {
                    Prospect::Ready => found = true,
                    Prospect::Connecting => {}
                    Prospect::Down { status, until } => {
                        *failed = true;
                        next = deadline::earlier(next, until);
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
            let _ = deadline::within(next, changed).await;
        }
    }

    /// The status of a call for which no member is connected.
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
        self.members().filter_map(Member::session).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|counted| &counted.member)
    }
}

/// What trying to connect several members came to.
enum Tried {
    /// At least one is connected.
    Connected,
    /// None is, for this reason if there was any.
    Failed(Option<ConnectError>),
}

/// Connects all members, as far as that can be done.
async fn connect_any(members: &[Counted]) -> Tried {
    let mut attempts = JoinSet::new();
    for counted in members {
        let member = counted.member.clone();
        attempts.spawn(async move { member.connect().await });
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
    if connected {
        Tried::Connected
    } else {
        Tried::Failed(first)
    }
}
