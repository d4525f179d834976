//! Going to sleep without missing a wake-up.
//!
//! A side that is about to sleep stores an odd value, fences, and looks once more; a side that has published something
//! fences and reads the other's word. The two fences make sure that at least one of them sees the other:
//!
//! ```text
//! sleeper                         waker
//! ───────                         ─────
//! sleep ← odd                     publish a record
//! fence(SeqCst)                   fence(SeqCst)
//! look for records                read sleep; odd → ring the doorbell
//! ```
//!
//! The value counts up with every sleep, so that the waker rings once per sleep and not once per message. The word
//! `starved` works in the same way for those who wait for *space*: they store an odd value before they look again at the
//! cursors that would give them space, and the peer looks at the word after it has moved those cursors.

use crate::core::sync::{AtomicU32, LastTold, Ordering, fence};

/// The sleeping side's use of one of its words.
#[derive(Debug, Default)]
pub(crate) struct SleepWord {
    value: u32,
}

impl SleepWord {
    /// Whether the word says "asleep".
    pub(crate) fn is_armed(&self) -> bool {
        self.value & 1 == 1
    }

    /// Announces that we are about to sleep. The caller must look once more before it does.
    pub(crate) fn arm(&mut self, word: &AtomicU32) {
        if !self.is_armed() {
            self.value = self.value.wrapping_add(1);
            word.store(self.value, Ordering::Relaxed);
        }
        // SeqCst, pairs with the fence in `Bell::fence`: a store before a load on both sides is the one pattern
        // that Acquire and Release do not order.
        fence(Ordering::SeqCst);
    }

    /// Announces that we are awake.
    pub(crate) fn disarm(&mut self, word: &AtomicU32) {
        if self.is_armed() {
            self.value = self.value.wrapping_add(1);
            // Relaxed: a waker that still sees the odd value rings once for nothing.
            word.store(self.value, Ordering::Relaxed);
        }
    }
}

/// The waking side's memory of the sleep it last rang for.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// Never odd-and-current at the start: the first sleep has the value 1.
    rung: LastTold,
}

impl Bell {
    /// Orders what was published before the looks at the peer's words that follow.
    pub(crate) fn fence() {
        // SeqCst, pairs with the fence in `SleepWord::arm`.
        fence(Ordering::SeqCst);
    }

    /// Whether the doorbell must be rung for a word that reads `value`. Call [`fence`](Self::fence) first.
    pub(crate) fn must_ring(&self, value: u32) -> bool {
        // Two threads may ask for the same value; one of them rings.
        value & 1 == 1 && self.rung.is_news(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::sync::{model, thread};

    #[test]
    fn no_message_is_slept_through() {
        model(|| {
            let word = Arc::new(AtomicU32::new(0));
            let message = Arc::new(AtomicU32::new(0));
            let doorbell = Arc::new(AtomicU32::new(0));
            let waker = {
                let (word, message, doorbell) = (
                    Arc::clone(&word),
                    Arc::clone(&message),
                    Arc::clone(&doorbell),
                );
                thread::spawn(move || {
                    message.store(1, Ordering::Relaxed);
                    Bell::fence();
                    if Bell::default().must_ring(word.load(Ordering::Relaxed)) {
                        doorbell.store(1, Ordering::Relaxed);
                    }
                })
            };
            let mut sleep = SleepWord::default();
            sleep.arm(&word);
            let seen = message.load(Ordering::Relaxed) == 1;
            waker.join().unwrap();
            assert!(
                seen || doorbell.load(Ordering::Relaxed) == 1,
                "asleep, with a message and no bell"
            );
        });
    }

    #[test]
    fn one_sleep_is_rung_for_once() {
        model(|| {
            let word = AtomicU32::new(0);
            let (mut sleep, bell) = (SleepWord::default(), Bell::default());
            let look = || word.load(Ordering::Relaxed);
            assert!(!bell.must_ring(look()), "awake");
            sleep.arm(&word);
            assert!(bell.must_ring(look()));
            assert!(!bell.must_ring(look()), "rung for this sleep already");
            sleep.disarm(&word);
            assert!(!bell.must_ring(look()));
            sleep.arm(&word);
            assert!(bell.must_ring(look()), "another sleep");
        });
    }
}
