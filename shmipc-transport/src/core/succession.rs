//! Who leads next.
//!
//! Of the threads that wait for the same peer, one *leads*: it holds a lock, looks at shared memory for all, and sleeps in
//! the kernel. The others follow: they sleep until the leader has something for them, or leaves. What must never happen is
//! that somebody sleeps and nobody leads. Two looks make sure of that, with a fence before each:
//!
//! ```text
//! follower                        leader
//! ────────                        ──────
//! enlist                          let go of the lock
//! fence(SeqCst)                   fence(SeqCst)
//! try the lock; taken → sleep     anybody enlisted? → call one
//! ```
//!
//! At least one of them sees the other. Whoever was called owes it to the rest to try the lock, or to call the next.

use std::collections::VecDeque;

use super::sync::{AtomicU32, ModelMutex, Ordering, fence};

/// Those who follow, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Succession<F> {
    /// How many there are, for a look without the lock.
    count: AtomicU32,
    followers: ModelMutex<VecDeque<F>>,
}

impl<F> Succession<F> {
    pub(crate) fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            followers: ModelMutex::new(VecDeque::new()),
        }
    }

    /// Adds a follower, which must try for the lead once more before it sleeps.
    pub(crate) fn enlist(&self, follower: F) {
        self.change(|followers| followers.push_back(follower));
        // SeqCst, pairs with the fence in `next`: a store before a load on both sides.
        fence(Ordering::SeqCst);
    }

    /// Takes a follower off the list. Returns `false` if it is not there, because it was called.
    pub(crate) fn withdraw(&self, is_it: impl Fn(&F) -> bool) -> bool {
        self.change(|followers| {
            let found = followers.iter().position(is_it);
            found.and_then(|index| followers.remove(index)).is_some()
        })
    }

    /// Takes the next follower off the list, to be called. Only after the lead was given up.
    pub(crate) fn next(&self) -> Option<F> {
        // SeqCst, pairs with the fence in `enlist`.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.change(VecDeque::pop_front)
    }

    fn change<R>(&self, change: impl FnOnce(&mut VecDeque<F>) -> R) -> R {
        let lock = self.followers.lock();
        let mut followers = lock.unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = change(&mut followers);
        let count = u32::try_from(followers.len()).unwrap_or(u32::MAX);
        self.count.store(count, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::sync::{model, thread};

    /// What threads of a session share, reduced to who leads and who sleeps.
    struct Scene {
        succession: Succession<usize>,
        /// 0 while nobody leads.
        led: AtomicU32,
        beds: [Bed; 2],
    }

    /// Where a thread sleeps until it is called. Loom reports if that is for ever.
    #[derive(Default)]
    struct Bed {
        called: thread::Mutex<bool>,
        changed: thread::Condvar,
    }

    impl Bed {
        fn sleep(&self) {
            let mut called = self.called.lock().unwrap();
            while !*called {
                called = self.changed.wait(called).unwrap();
            }
            *called = false;
        }

        fn call(&self) {
            *self.called.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    impl Scene {
        fn try_lead(&self) -> bool {
            let taken = self
                .led
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
            taken.is_ok()
        }

        fn leave(&self) {
            self.led.store(0, Ordering::Release);
            if let Some(next) = self.succession.next() {
                self.beds[next].call();
            }
        }

        /// Leads once, however long it takes until that is possible.
        fn take_part(&self, me: usize) {
            loop {
                if self.try_lead() {
                    return self.leave();
                }
                self.succession.enlist(me);
                if self.try_lead() {
                    self.succession.withdraw(|&follower| follower == me);
                    return self.leave();
                }
                self.beds[me].sleep();
            }
        }

        /// Leads if nobody else does, and otherwise gives up waiting at once, as at a deadline.
        fn take_part_in_passing(&self, me: usize) {
            if self.try_lead() {
                return self.leave();
            }
            self.succession.enlist(me);
            if !self.succession.withdraw(|&follower| follower == me)
                && let Some(next) = self.succession.next()
            {
                self.beds[next].call();
            }
        }
    }

    fn run(second: impl Fn(&Scene) + Send + Sync + Copy + 'static) {
        model(move || {
            let scene = Arc::new(Scene {
                succession: Succession::new(),
                led: AtomicU32::new(0),
                beds: Default::default(),
            });
            let other = {
                let scene = Arc::clone(&scene);
                thread::spawn(move || second(&scene))
            };
            scene.take_part(0);
            other.join().unwrap();
            assert_eq!(scene.led.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn nobody_sleeps_while_nobody_leads() {
        run(|scene| scene.take_part(1));
    }

    #[test]
    fn who_leaves_early_leaves_no_gap() {
        run(|scene| scene.take_part_in_passing(1));
    }

    #[test]
    fn followers_are_called_in_their_order_and_may_withdraw() {
        model(|| {
            let succession = Succession::new();
            (0..3).for_each(|follower| succession.enlist(follower));
            assert!(succession.withdraw(|&follower| follower == 1));
            assert!(!succession.withdraw(|&follower| follower == 1));
            assert_eq!(succession.next(), Some(0));
            assert_eq!(succession.next(), Some(2));
            assert_eq!(succession.next(), None);
        });
    }
}
