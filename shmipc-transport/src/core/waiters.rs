//! Those who wait until something can be had again.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    task::Waker,
};

/// Names somebody who waits. The lower, the earlier it was given out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket(pub(crate) u64);

/// Those who wait for the same thing. Each has one place, however often it asks, and can give it up.
#[derive(Debug, Default)]
pub(crate) struct Waiters(BTreeMap<Ticket, Waker>);

impl Waiters {
    /// Has `waker` woken on behalf of this ticket, and none that was given for it before: that is to be dropped without a lock.
    #[must_use = "it may be the last of what others have written"]
    pub(crate) fn add(&mut self, ticket: Ticket, waker: &Waker) -> Option<Waker> {
        match self.0.entry(ticket) {
            Entry::Occupied(known) if known.get().will_wake(waker) => None,
            Entry::Occupied(mut known) => Some(known.insert(waker.clone())),
            Entry::Vacant(place) => {
                place.insert(waker.clone());
                None
            }
        }
    }

    /// This one waits no more. What it left is to be dropped without a lock.
    pub(crate) fn forget(&mut self, ticket: Ticket) -> Option<Waker> {
        self.0.remove(&ticket)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Wakes all. Without a lock, since that runs what others have written.
    pub(crate) fn wake(self) {
        self.0.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        task::Wake,
    };

    use super::*;
    use crate::core::sync::lock;

    /// Notes that it was woken, by its name.
    struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            lock(&self.1).push(self.0);
        }
    }

    #[test]
    fn each_is_woken_once_in_the_order_of_tickets_and_those_who_have_left_are_not() {
        let woken = Arc::new(Mutex::default());
        let waker = |name| Waker::from(Arc::new(Named(name, Arc::clone(&woken))));
        let mut waiters = Waiters::default();
        let third = waker("third");
        assert!(waiters.add(Ticket(3), &third).is_none());
        assert!(waiters.add(Ticket(3), &third).is_none());
        assert!(waiters.add(Ticket(1), &waker("as it was before")).is_none());
        assert!(waiters.add(Ticket(2), &waker("has left")).is_none());
        assert!(waiters.add(Ticket(1), &waker("first")).is_some());
        assert_eq!(waiters.count(), 3);
        assert!(waiters.forget(Ticket(2)).is_some());
        assert!(waiters.forget(Ticket(2)).is_none());
        waiters.wake();
        assert_eq!(*lock(&woken), ["first", "third"]);
    }
}
