//! The same for threads: the one that restarts waits for all sessions at once.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Restart, clients::UnderWay};
use crate::{
    Session,
    blocking::{Together, Woken, pause},
    core::restart::{Fate, RollCall},
    error::RestartError,
};

/// The live sessions that a [`Listener`](crate::blocking::Listener) has accepted. All clones are of the same listener.
///
/// Keeps none of them open, and stays useful when the listener is closed: then it has those, too, that the
/// [leftover](crate::blocking::Leftover) yields.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    inner: super::Clients,
}

impl Clients {
    pub(crate) fn register(&self, session: &Session) {
        self.inner.register(session);
    }

    /// Tells the clients of all sessions to move to the process that has taken the place of this one, waits in this thread until they have, and
    /// says what has come of it; see [`Clients::hot_restart`](crate::Clients::hot_restart), also about `epoch` and `timeout`. Sessions that are
    /// accepted later are told at once, also when this has returned.
    ///
    /// Other threads go on accepting sessions, and serving them, meanwhile. A session that no thread waits on is looked after here, every 10 ms,
    /// but its streams are not accepted.
    ///
    /// # Errors
    ///
    /// See [`RestartError`]. Nobody was told.
    pub fn hot_restart(&self, epoch: u64, timeout: Duration) -> Result<Restart, RestartError> {
        let under_way = self.inner.registry.begin(epoch)?;
        Ok(run(&under_way, timeout))
    }

    /// Drains all sessions side by side, as [`Session::drain`](crate::blocking::Session::drain) does one, and those that are accepted meanwhile.
    /// Returns `true` once all are over, and `false` if that was not so by `deadline`: [`close`](Self::close) what is left, then.
    ///
    /// Other threads go on accepting the streams of the sessions meanwhile. A session that no thread waits on is looked after here, every 10 ms.
    /// See [`Session::close`](crate::blocking::Session::close) about how long the end of one may take.
    #[must_use]
    pub fn drain(&self, deadline: Option<Instant>) -> bool {
        let registry = &self.inner.registry;
        loop {
            let mut arrived = pin!(registry.arrived.notified());
            let mut draining = Together::new();
            for session in registry.live() {
                let drained = Arc::clone(&session);
                draining.add(session, async move {
                    drained.wind_down_with(pause).await;
                    drained.farewell();
                });
            }
            if draining.is_empty() {
                return true;
            }
            while !draining.is_empty() {
                match draining.wait(deadline, arrived.as_mut()) {
                    Woken::Done(_) => {}
                    // Those who drain twice do so at no harm.
                    Woken::Other => break,
                    Woken::Late => return self.is_empty(),
                }
            }
        }
    }

    /// [Closes](crate::blocking::Session::close) all sessions, one after the other.
    pub fn close(&self) {
        self.inner.close();
    }

    /// How many sessions there are, as far as is known: what becomes of one that no thread waits on is not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

/// Tells everybody, and waits until all have moved, or time is over.
fn run(under_way: &UnderWay<'_>, timeout: Duration) -> Restart {
    let began = Instant::now();
    let mut call = RollCall::new(Duration::ZERO, timeout);
    let deadline = began.checked_add(call.deadline());
    let mut moving: Together<(u64, Fate)> = Together::new();
    loop {
        // Before the look at who has come.
        let arrived = pin!(under_way.registry.arrived.notified());
        for told in under_way.muster(&mut call) {
            let session = Arc::clone(&told.session);
            moving.add(session, under_way.follow(told, pause));
        }
        if call.is_over(began.elapsed()) {
            return Restart::new(under_way.epoch, call.tally());
        }
        if let Woken::Done(done) = moving.wait(deadline, arrived) {
            for (session, fate) in done {
                call.answer(session, fate);
            }
        }
    }
}
