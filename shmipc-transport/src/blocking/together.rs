//! Many things that one thread waits for at once, each of them in a session of its own.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::Signal;
use crate::session::Shared;

/// Futures about sessions for threads, which come to `T`.
///
/// Whoever waits for them looks after those sessions, now and then, that nobody else looks after.
pub(crate) struct Together<T> {
    parts: Vec<Part<T>>,
}

struct Part<T> {
    session: Arc<Shared>,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

/// Why a wait is over.
pub(crate) enum Woken<T> {
    /// Some of the futures are done.
    Done(Vec<T>),
    /// What was waited for besides has happened.
    Other,
    /// Time is over.
    Late,
}

/// How often sessions are looked after. What the futures wait for otherwise wakes them at once.
const TICK: Duration = Duration::from_millis(10);

impl<T> Together<T> {
    pub(crate) const fn new() -> Self {
        Self { parts: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        session: Arc<Shared>,
        future: impl Future<Output = T> + Send + 'static,
    ) {
        let future = Box::pin(future);
        self.parts.push(Part { session, future });
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Waits in this thread for some of them, for `other`, or until `deadline`.
    pub(crate) fn wait(
        &mut self,
        deadline: Option<Instant>,
        mut other: Pin<&mut impl Future<Output = ()>>,
    ) -> Woken<T> {
        Signal::with(|signal, waker| {
            let context = &mut Context::from_waker(waker);
            let woken = loop {
                signal.clear();
                let done = self.poll(context);
                if !done.is_empty() {
                    break Woken::Done(done);
                }
                if other.as_mut().poll(context).is_ready() {
                    break Woken::Other;
                }
                let now = Instant::now();
                if deadline.is_some_and(|deadline| deadline <= now) {
                    break Woken::Late;
                }
                let tick = now + TICK;
                let until = deadline.map_or(tick, |deadline| deadline.min(tick));
                // If it is too late, that shows above.
                let _ = signal.wait(Some(until));
            };
            // Whoever waits with this thread as well, further out, may have been woken meanwhile.
            signal.set();
            woken
        })
    }

    /// Goes on with all, and returns what some have come to.
    fn poll(&mut self, context: &mut Context<'_>) -> Vec<T> {
        let mut done = Vec::new();
        self.parts.retain_mut(|Part { session, future }| {
            if let Some(lead) = session.lead() {
                session.attend(lead);
            }
            match future.as_mut().poll(context) {
                Poll::Ready(outcome) => {
                    done.push(outcome);
                    false
                }
                Poll::Pending => true,
            }
        });
        done
    }
}

/// Waits for a while, as one of [several futures](Together): no more than a tick longer.
pub(crate) fn pause(duration: Duration) -> impl Future<Output = ()> + Send {
    let until = Instant::now() + duration;
    std::future::poll_fn(move |_| {
        if until <= Instant::now() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use super::*;

    #[test]
    fn who_waits_further_out_does_not_miss_what_came_meanwhile() {
        Signal::with(|signal, waker| {
            signal.clear();
            waker.wake_by_ref();
            let woken = Together::<()>::new().wait(Some(Instant::now()), pin!(pending()));
            assert!(matches!(woken, Woken::Late));
            assert!(signal.is_set());
        });
    }
}
