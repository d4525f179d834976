//! Telling one thread that something has happened, without a lock.
//!
//! The thread lowers the flag, looks for what it waits for, and goes to sleep if the flag is down after that. Whoever has something for it
//! provides it, and raises the flag. Either the look finds it, or the flag is up afterwards.

use crate::core::sync::{AtomicU32, Ordering};

/// A flag that many may raise and one lowers.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicU32);

const DOWN: u32 = 0;
const UP: u32 = 1;

impl Flag {
    /// Raises it. Returns whether it was down.
    pub(crate) fn raise(&self) -> bool {
        // Release: pairs with `lower` and `is_up`, so that what was provided before is seen by whoever sees the flag.
        self.0.swap(UP, Ordering::AcqRel) == DOWN
    }

    /// Lowers it, before a look for what it may have been raised for.
    pub(crate) fn lower(&self) {
        // A swap, not a store, which the looks that follow could overtake: then it would lower a flag that was raised for what they
        // have missed. AcqRel: a flag that was up is one whose reason the looks see.
        self.0.swap(DOWN, Ordering::AcqRel);
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == UP
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::sync::{model, thread};

    #[test]
    fn what_is_provided_is_found_or_told() {
        model(|| {
            let flag = Arc::new(Flag::default());
            let provided = Arc::new(AtomicU32::new(0));
            let provider = {
                let (flag, provided) = (Arc::clone(&flag), Arc::clone(&provided));
                thread::spawn(move || {
                    provided.store(1, Ordering::Relaxed);
                    flag.raise();
                })
            };
            flag.lower();
            let found = provided.load(Ordering::Relaxed) == 1;
            provider.join().unwrap();
            assert!(found || flag.is_up(), "asleep for ever");
        });
    }

    #[test]
    fn of_those_who_raise_it_one_hears_that_it_was_down() {
        model(|| {
            let flag = Flag::default();
            assert!(flag.raise());
            assert!(!flag.raise());
            assert!(flag.is_up());
            flag.lower();
            assert!(!flag.is_up());
            assert!(flag.raise());
        });
    }
}
