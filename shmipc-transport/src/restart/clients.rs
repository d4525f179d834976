//! The sessions of a listener, and their restart.

use std::{
    mem,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::Restart;
use crate::{
    Session,
    core::{
        restart::{Fate, RollCall},
        sync::lock,
    },
    error::RestartError,
    session::{Owner, Shared},
};

/// The live sessions that a [`Listener`](crate::Listener) has accepted. All clones are of the same listener.
///
/// Keeps none of them open, and stays useful when the listener is closed: then it has those, too, that the
/// [leftover](crate::Leftover) yields.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    pub(super) registry: Arc<Registry>,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// Told of sessions that come while a restart is under way.
    pub(super) arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    clients: Vec<Client>,
    accepted: u64,
    /// How many there may be before those that are over are looked for.
    sweep_at: usize,
    /// The epoch of the latest restart.
    epoch: Option<u64>,
    /// Whether somebody waits for what comes of it.
    is_restarting: bool,
}

#[derive(Debug)]
struct Client {
    number: u64,
    session: Weak<Owner>,
    /// The latest restart of which it was told, or could not be.
    told: Option<u64>,
}

/// A restart under way. Dropped, it makes room for another.
pub(super) struct UnderWay<'r> {
    pub(super) registry: &'r Registry,
    pub(super) epoch: u64,
}

/// A session that was told.
pub(super) struct Told {
    number: u64,
    pub(super) session: Arc<Shared>,
    understands: bool,
}

/// Fewer sessions are not worth a look.
const SWEEP_MIN: usize = 32;

impl Client {
    /// The session, unless it is over.
    fn live(&self) -> Option<Arc<Shared>> {
        let owner = self.session.upgrade()?;
        (owner.shared.lost().is_none()).then(|| Arc::clone(&owner.shared))
    }
}

impl Registry {
    /// Takes up a session. One that comes behind a restart is told of it at once (H62).
    fn register(&self, session: &Session) {
        let is_told_here = {
            let state = &mut *lock(&self.state);
            if state.sweep_at <= state.clients.len() {
                state.clients.retain(|client| client.live().is_some());
                state.sweep_at = SWEEP_MIN.max(2 * state.clients.len());
            }
            state.accepted += 1;
            state.clients.push(Client {
                number: state.accepted,
                session: session.weak_owner(),
                told: None,
            });
            state.epoch.is_some() && !state.is_restarting
        };
        self.arrived.notify_waiters();
        if is_told_here {
            self.tell();
        }
    }

    pub(super) fn live(&self) -> Vec<Arc<Shared>> {
        let state = lock(&self.state);
        state.clients.iter().filter_map(Client::live).collect()
    }

    pub(super) fn begin(&self, epoch: u64) -> Result<UnderWay<'_>, RestartError> {
        let state = &mut *lock(&self.state);
        match state.epoch {
            Some(under_way) if state.is_restarting => {
                Err(RestartError::UnderWay { epoch: under_way })
            }
            last if epoch == 0 || last == Some(epoch) => Err(RestartError::Epoch { epoch }),
            _ => {
                state.epoch = Some(epoch);
                state.is_restarting = true;
                Ok(UnderWay {
                    registry: self,
                    epoch,
                })
            }
        }
    }

    /// Tells all who do not know of the latest restart.
    fn tell(&self) -> Vec<Told> {
        let (epoch, unaware) = {
            let state = &mut *lock(&self.state);
            let Some(epoch) = state.epoch else {
                return Vec::new();
            };
            let unaware = state.clients.iter_mut().filter_map(|client| {
                let is_news = client.told.replace(epoch) != Some(epoch);
                is_news.then(|| Some((client.number, client.live()?)))?
            });
            (epoch, unaware.collect::<Vec<_>>())
        };
        let told = unaware.into_iter().map(|(number, session)| Told {
            number,
            understands: session.tell_restart(epoch),
            session,
        });
        told.collect()
    }
}

impl UnderWay<'_> {
    /// Tells everybody, and waits until all have moved, or time is over.
    async fn run(&self, timeout: Duration) -> Restart {
        let began = Instant::now();
        let mut call = RollCall::new(Duration::ZERO, timeout);
        let mut moving = JoinSet::new();
        loop {
            // Before the look at who has come.
            let arrived = self.registry.arrived.notified();
            for told in self.muster(&mut call) {
                moving.spawn(self.follow(told, sleep));
            }
            if call.is_over(began.elapsed()) {
                return Restart::new(self.epoch, call.tally());
            }
            tokio::select! {
                Some(done) = moving.join_next() => {
                    // They end with an answer, or with the runtime.
                    if let Ok((session, fate)) = done {
                        call.answer(session, fate);
                    }
                }
                () = arrived => {}
                () = sleep(call.deadline().saturating_sub(began.elapsed())) => {}
            }
        }
    }

    /// Tells all who do not know yet, and returns those who are to be waited for.
    pub(super) fn muster(&self, call: &mut RollCall) -> Vec<Told> {
        let mut told = self.registry.tell();
        told.retain(|told| {
            if told.understands {
                call.tell(told.number);
            } else {
                call.skip();
            }
            told.understands
        });
        told
    }

    /// Waits for what becomes of one session. `pause` is how time is waited for.
    pub(super) fn follow<W, P>(
        &self,
        told: Told,
        pause: W,
    ) -> impl Future<Output = (u64, Fate)> + Send + use<W, P>
    where
        W: FnOnce(Duration) -> P + Send,
        P: Future<Output = ()> + Send,
    {
        let epoch = self.epoch;
        async move {
            let fate = if told.session.has_client_moved(epoch, pause).await {
                Fate::Moved
            } else {
                Fate::Ended
            };
            (told.number, fate)
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.registry.state).is_restarting = false;
        // Whoever has come since the last look has been told by nobody.
        self.registry.tell();
    }
}

impl Clients {
    pub(crate) fn register(&self, session: &Session) {
        self.registry.register(session);
    }

    /// Tells the clients of all sessions to move to the process that has taken the place of this one, waits until they have, and
    /// says what has come of it. Sessions that are accepted later are told at once, also when this has returned.
    ///
    /// The successor listens at the same address by then, because it has [taken it over](crate::Listener::take_over_with) or was
    /// [passed the socket](crate::Listener::hand_over). Sessions are served as before: go on
    /// accepting streams, and sessions, meanwhile. What clients do is a matter of the link:
    ///
    /// - *Among ourselves* they open no more streams here, and end the session with its last stream. Then they have moved, and nothing
    ///   is left to be done.
    /// - *With shmipc's own protocol, versions 2 and 3,* they open new sessions, and say so, with `epoch`; streams that are open go on. Then
    ///   [drain](Self::drain) what is left, or close it. All streams are known by the time that a client of ours says so.
    /// - The crate `shmipc` hangs up when it is told, and comes back after a while. In version 4 it is told nothing.
    ///
    /// `epoch` is a number of your choice that tells restarts apart: not 0, which shmipc's clients mistake for none, and another one each
    /// time. Clients of shmipc's give up after 2 s, so `timeout` is best longer than that.
    ///
    /// # Errors
    ///
    /// See [`RestartError`]. Nobody was told.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime, or if that was built without timers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the clients move all the same, and nobody learns what came of it.
    pub async fn hot_restart(
        &self,
        epoch: u64,
        timeout: Duration,
    ) -> Result<Restart, RestartError> {
        let under_way = self.registry.begin(epoch)?;
        Ok(under_way.run(timeout).await)
    }

    /// [Drains](Session::drain) all sessions side by side, and those that are accepted meanwhile. Returns when all are over.
    ///
    /// Waits for streams without end: set a limit with [`tokio::time::timeout`], and [`close`](Self::close) what is left.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sessions go on, and their peers open no more streams all the same.
    pub async fn drain(&self) {
        loop {
            let arrived = self.registry.arrived.notified();
            let mut draining = JoinSet::new();
            for session in self.registry.live() {
                draining.spawn(async move { session.wind_down().await });
            }
            if draining.is_empty() {
                return;
            }
            // Those who drain twice do so at no harm.
            tokio::select! {
                _ = mem::take(&mut draining).join_all() => {}
                () = arrived => {}
            }
        }
    }

    /// [Closes](Session::close) all sessions.
    pub fn close(&self) {
        for session in self.registry.live() {
            session.close();
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry.live().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
