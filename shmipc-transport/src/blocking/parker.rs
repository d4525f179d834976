//! How a thread sleeps, and is woken wherever it does.

use std::{
    sync::{Arc, Mutex},
    task::{Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use crate::{
    core::{flag::Flag, sync::lock},
    session::Elapsed,
    sys::watch::Interrupt,
};

/// A thread that waits for one thing at a time.
#[derive(Debug)]
pub(crate) struct Parker {
    thread: Thread,
    /// Whether it was woken since it last [began](Self::reset) to wait.
    woken: Flag,
    /// What interrupts its sleep, while that is one in the kernel and for a session. Otherwise it is parked.
    bed: Mutex<Option<Arc<Interrupt>>>,
}

/// Remembers that something a thread polls has called it, whatever its parker is used for meanwhile.
#[derive(Debug)]
pub(crate) struct Signal {
    is_set: Flag,
    /// That of the same thread.
    parker: Arc<Parker>,
}

/// What a thread waits with: made once, since it waits often, and for one thing at a time.
struct Own {
    parker: Arc<Parker>,
    waker: Waker,
    signal: Arc<Signal>,
    signal_waker: Waker,
}

thread_local! {
    static OWN: Own = Own::new();
}

impl Own {
    fn new() -> Self {
        let parker = Arc::new(Parker {
            thread: thread::current(),
            woken: Flag::default(),
            bed: Mutex::new(None),
        });
        let waker = Waker::from(Arc::clone(&parker));
        let signal = Arc::new(Signal {
            is_set: Flag::default(),
            parker: Arc::clone(&parker),
        });
        Self {
            signal_waker: Waker::from(Arc::clone(&signal)),
            parker,
            waker,
            signal,
        }
    }

    /// Lends that of the current thread.
    fn with<R>(run: impl FnOnce(&Self) -> R) -> R {
        let mut run = Some(run);
        let mut call = |own: &Self| {
            let run = run.take().expect("called once");
            run(own)
        };
        match OWN.try_with(&mut call) {
            Ok(result) => result,
            // The thread ends, and a destructor waits.
            Err(_) => call(&Self::new()),
        }
    }
}

impl Parker {
    /// Lends the current thread's parker, and the waker that wakes it.
    pub(crate) fn with<R>(run: impl FnOnce(&Arc<Self>, &Waker) -> R) -> R {
        Own::with(|own| run(&own.parker, &own.waker))
    }

    /// Begins to wait anew. What wakes from now on counts.
    pub(crate) fn reset(&self) {
        self.woken.lower();
    }

    /// Whether it was woken since.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.is_up()
    }

    /// Parks until it is woken (`true`) or `deadline` has passed. Only for the thread itself.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        while !self.is_woken() {
            match deadline {
                None => thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return self.is_woken();
                    }
                    thread::park_timeout(left);
                }
            }
        }
        true
    }

    /// Runs `sleep`, which `interrupt` ends, unless it was woken already. Only for the thread itself.
    pub(crate) fn sleep<R>(
        &self,
        interrupt: &Arc<Interrupt>,
        sleep: impl FnOnce() -> R,
    ) -> Option<R> {
        *lock(&self.bed) = Some(Arc::clone(interrupt));
        // Who wakes sets the flag before it looks at the bed: it has seen the interrupt, or we see the flag.
        let result = (!self.is_woken()).then(sleep);
        *lock(&self.bed) = None;
        result
    }
}

impl Signal {
    /// Lends the current thread's signal, and the waker that sets it and wakes the thread.
    pub(crate) fn with<R>(run: impl FnOnce(&Self, &Waker) -> R) -> R {
        Own::with(|own| run(&own.signal, &own.signal_waker))
    }

    pub(crate) fn clear(&self) {
        self.is_set.lower();
    }

    /// Sets it, for the thread itself.
    pub(crate) fn set(&self) {
        self.is_set.raise();
    }

    /// Parks until it is set, or `deadline` has passed. Only for the thread itself.
    ///
    /// # Errors
    ///
    /// Returns [`Elapsed`] if the deadline has passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<(), Elapsed> {
        loop {
            self.parker.reset();
            if self.is_set() {
                return Ok(());
            }
            if !self.parker.park(deadline) {
                return Err(Elapsed);
            }
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.is_up()
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.raise();
        self.parker.wake_by_ref();
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.raise() {
            return;
        }
        match &*lock(&self.bed) {
            Some(interrupt) => interrupt.raise(),
            None => self.thread.unpark(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_parked_thread_is_woken_and_a_wake_before_counts() {
        for before in [true, false] {
            let (send, receive) = std::sync::mpsc::channel();
            let sleeper = thread::spawn(move || {
                Parker::with(|parker, waker| {
                    parker.reset();
                    send.send(waker.clone()).unwrap();
                    if before {
                        while !parker.is_woken() {
                            thread::yield_now();
                        }
                    }
                    assert!(parker.park(None));
                });
            });
            receive.recv().unwrap().wake();
            sleeper.join().unwrap();
        }
    }

    /// Waits when the thread's own means of waiting are gone.
    struct Late(Option<std::sync::mpsc::Sender<()>>);

    impl Drop for Late {
        fn drop(&mut self) {
            Signal::with(|signal, waker| {
                signal.clear();
                let waker = waker.clone();
                let other = thread::spawn(move || waker.wake());
                signal.wait(None).unwrap();
                other.join().unwrap();
            });
            self.0.take().unwrap().send(()).unwrap();
        }
    }

    #[test]
    fn a_thread_that_ends_may_wait_once_more() {
        thread_local!(static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) });
        for own_first in [true, false] {
            let (send, receive) = std::sync::mpsc::channel();
            thread::spawn(move || {
                // In either order: one of the two goes first.
                if own_first {
                    Parker::with(|parker, _| parker.reset());
                }
                LATE.with_borrow_mut(|late| *late = Some(Late(Some(send))));
                Parker::with(|parker, _| parker.reset());
            });
            receive.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn nobody_sleeps_beyond_a_deadline() {
        Parker::with(|parker, _| {
            parker.reset();
            assert!(!parker.park(Some(Instant::now() + Duration::from_millis(1))));
        });
    }
}
