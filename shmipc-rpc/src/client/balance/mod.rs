//! Several sessions, or several servers, behind one channel.
//!
//! Each member is a connection that mends itself. One that is not connected is left out; it is told to connect whenever a call
//! would have gone to it, and pauses between its attempts, so that there is no timer while nobody calls.
//!
//! Members over HTTP/2 are used, and connect, only while those through shared memory have all failed to. Each call looks at these
//! first, so that they try again, and have the calls as soon as one of them is back.
//!
//! If health is checked, a member that does not serve, or does not say so, is like one that cannot be reached; one that has not
//! answered yet is like one that is being connected to.

#[cfg(feature = "health")]
mod health;
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

#[cfg(feature = "health")]
use self::health::{Health, Verdict};
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
    /// Whether it is asked how it is, and what it says.
    #[cfg(feature = "health")]
    health: Option<Health>,
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
    /// Spreads calls among `members`; if `health_check` names a service, among those that say that they serve it.
    pub(super) fn new(mut members: Vec<Member>, health_check: Option<Arc<str>>) -> Self {
        #[cfg(not(feature = "health"))]
        let _ = health_check;
        members.sort_by_key(Member::is_second_choice);
        let preferred = members.partition_point(|member| !member.is_second_choice());
        let picker = Picker::new([preferred, members.len() - preferred]);
        let counted = members.into_iter().map(|member| Counted {
            member,
            pending: Arc::default(),
            #[cfg(feature = "health")]
            health: health_check.clone().map(Health::new),
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

    /// Chooses a member that takes calls. The others that are looked at begin to connect, and are asked how they are.
    pub(super) fn try_pick(&self) -> Option<(&Member, Pending)> {
        let ready = |member: usize| {
            (member < self.preferred || self.has_fallen()) && self.members[member].is_ready()
        };
        let load = |member: usize| self.members[member].pending.load(Ordering::Relaxed);
        let Counted {
            member, pending, ..
        } = &self.members[self.picker.pick(ready, load)?];
        Some((member, Pending::new(pending)))
    }

    /// Whether all members of the first tier have failed, so that those of the second are used.
    fn has_fallen(&self) -> bool {
        let mut preferred = self.members.iter().take(self.preferred);
        preferred.all(Counted::has_failed)
    }

    /// Chooses a member, and waits for one that takes calls.
    ///
    /// Fails when each member has failed; or goes on, if `wait_for_ready`.
    pub(super) async fn pick(&self, wait_for_ready: bool) -> Result<(&Member, Pending), Status> {
        if self.members.is_empty() {
            return Err(Status::unavailable("there is no server to call").unsent());
        }
        let mut failed = vec![false; self.members.len()];
        loop {
            // Listen first, look afterwards: what happens in between is noticed.
            let changes = self.members.iter().flat_map(Counted::changes);
            let mut changes: Vec<Pin<Box<Notified<'_>>>> = changes.map(Box::pin).collect();
            for change in &mut changes {
                change.as_mut().enable();
            }
            if let Some(picked) = self.try_pick() {
                return Ok(picked);
            }
            let seen = self.look(&mut failed);
            if seen.found {
                continue;
            }
            if let Some(last) = seen.last
                && !wait_for_ready
                && failed.iter().all(|&failed| failed)
            {
                return Err(self.unavailable(last, seen.unhealthy));
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
            let _ = deadline::within(seen.next, changed).await;
        }
    }

    /// Looks at all members that may be used, none of which took calls just now, and notes which have `failed`.
    fn look(&self, failed: &mut [bool]) -> Seen {
        let mut seen = Seen::default();
        for (index, (counted, failed)) in self.members.iter().zip(failed).enumerate() {
            if index == self.preferred && !self.has_fallen() {
                break;
            }
            match counted.prospect() {
                (Prospect::Ready, _) => seen.found = true,
                (Prospect::Connecting, _) => {}
                (Prospect::Down { status, until }, is_unhealthy) => {
                    *failed = true;
                    seen.next = deadline::earlier(seen.next, until);
                    seen.last = Some(status);
                    seen.unhealthy += usize::from(is_unhealthy);
                }
            }
        }
        seen
    }

    /// The status of a call for which there is no member; `unhealthy` of them can be reached.
    fn unavailable(&self, last: Status, unhealthy: usize) -> Status {
        let message = match (self.members.len(), unhealthy) {
            (0 | 1, _) => return last,
            (count, 0) => format!("none of {count} servers can be reached"),
            (count, unhealthy) if count == unhealthy => {
                format!("none of {count} servers is healthy")
            }
            (count, _) => format!("none of {count} servers can be reached and is healthy"),
        };
        Status::unavailable(message).with_source(last).unsent()
    }

    /// The sessions that are open now.
    pub(super) fn sessions(&self) -> Vec<Session> {
        self.members().filter_map(Member::session).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|counted| &counted.member)
    }
}

/// What there was to be seen of members, none of which takes calls.
#[derive(Default)]
struct Seen {
    /// One of them takes calls after all.
    found: bool,
    /// Why the last one does not, of those that have failed.
    last: Option<Status>,
    /// How many have failed that can be reached.
    unhealthy: usize,
    /// When the next attempt to connect may begin.
    next: Option<Instant>,
}

impl Counted {
    /// Whether it takes calls. Begins to connect if it does not, and an attempt is due.
    fn is_ready(&self) -> bool {
        if !self.member.is_ready() {
            return false;
        }
        #[cfg(feature = "health")]
        if let Some(health) = &self.health {
            return health.serves(&self.member);
        }
        true
    }

    /// Whether it was tried, and took no calls. It may be tried again just now.
    fn has_failed(&self) -> bool {
        #[cfg(feature = "health")]
        if let Some(health) = &self.health {
            return health.has_failed(&self.member);
        }
        self.member.has_failed()
    }

    /// Tells what may be expected, and, if it is down, whether it can be reached all the same. Begins to connect if an
    /// attempt is due.
    fn prospect(&self) -> (Prospect, bool) {
        let prospect = self.member.prospect();
        #[cfg(feature = "health")]
        if let (Prospect::Ready, Some(health)) = (&prospect, &self.health) {
            return match health.verdict(&self.member) {
                // If it was lost, it is to be looked at again, which makes it connect.
                Verdict::Serves | Verdict::Lost => (Prospect::Ready, false),
                Verdict::Unknown => (Prospect::Connecting, false),
                Verdict::Unhealthy(status) => {
                    let until = None;
                    (Prospect::Down { status, until }, true)
                }
            };
        }
        (prospect, false)
    }

    /// Waits for the end of an attempt, and for something to be known of its health.
    fn changes(&self) -> impl Iterator<Item = Notified<'_>> {
        #[cfg(feature = "health")]
        let health = self.health.as_ref().map(Health::changed);
        #[cfg(not(feature = "health"))]
        let health = None;
        std::iter::once(self.member.changed()).chain(health)
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
