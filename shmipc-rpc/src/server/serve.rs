//! Accepts sessions, and lets them go.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shmipc_transport::{Listener, Session};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};

#[cfg(feature = "grpc")]
use super::limits::LimitTable;
use super::{
    dispatch::Dispatch,
    drain::{Drain, NEWS_TIMEOUT},
    panic::guarded,
    served::{ConnectedPeer, Served},
    session::{SessionTask, Shared},
};
use crate::ServeError;

/// Called for each session.
pub(super) type OnSession = Arc<dyn Fn(ConnectedPeer) + Send + Sync>;

/// Services, ready to be served in sessions.
pub(crate) struct SessionServices {
    shared: Arc<Shared>,
    /// Only cloned, but not all that can be cloned can be shared.
    dispatch: Mutex<Box<dyn Dispatch>>,
    on_session: Option<OnSession>,
}

impl SessionServices {
    pub(super) fn new(
        shared: Shared,
        dispatch: Box<dyn Dispatch>,
        on_session: Option<OnSession>,
    ) -> Self {
        Self {
            shared: Arc::new(shared),
            dispatch: Mutex::new(dispatch),
            on_session,
        }
    }

    /// Returns what callers are allowed.
    #[cfg(feature = "grpc")]
    pub(super) fn limits(&self) -> LimitTable {
        self.shared.limits.clone()
    }

    /// Returns the way out of service.
    pub(super) fn drain(&self) -> Arc<Drain> {
        Arc::clone(&self.shared.drain)
    }

    /// Begins to serve in a session, in a future that ends with it, or ends it when it is dropped. The session goes on for as
    /// long as somebody else has a handle to it.
    pub(crate) fn serve(&self, session: &Session) -> impl Future<Output = ()> + Send + use<> {
        let (_, task) = self.begin(session);
        task
    }

    fn begin(&self, session: &Session) -> (Arc<Served>, impl Future<Output = ()> + Send + use<>) {
        let peer = session.peer();
        let serves = self.shared.serves;
        if serves {
            tracing::debug!(target: "shmipc_rpc::server", pid = peer.pid(), uid = peer.uid(), "session began");
        }
        let served = Arc::new(Served::new(session, &self.shared.drain));
        let dispatch = {
            // Whatever happened to another clone of it does not matter to this one.
            let dispatch = self.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
            dispatch.boxed_clone()
        };
        let task = SessionTask::new(Arc::clone(&served), Arc::clone(&self.shared), dispatch);
        if let Some(on_session) = &self.on_session {
            // If it panics, the panic was reported, and the session is served all the same.
            let _ = guarded(|| on_session(ConnectedPeer::new(session.clone())));
        }
        (served, async move {
            let lost = task.run().await;
            if serves {
                tracing::debug!(target: "shmipc_rpc::server", reason = %lost, "session ended");
            }
        })
    }
}

impl fmt::Debug for SessionServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.routes.fmt(f)
    }
}

/// Serves until the server is told to drain, and drains.
pub(super) async fn serve(
    listener: Listener,
    services: Arc<SessionServices>,
) -> Result<(), ServeError> {
    let mut sessions = Sessions::default();
    let drain = services.drain();
    {
        let mut told = pin!(drain.begun());
        loop {
            tokio::select! {
                biased;
                () = &mut told => break,
                Some(ended) = sessions.tasks.join_next_with_id() => sessions.forget(&ended),
                accepted = listener.accept() => drop(sessions.begin(accepted?, &services)),
            }
        }
    }
    sessions.drain(listener, &services).await;
    Ok(())
}

/// The sessions of a server. Dropping it ends them.
#[derive(Default)]
struct Sessions {
    tasks: JoinSet<()>,
    live: HashMap<Id, Live>,
}

/// What can be done about a session from outside of its task.
#[derive(Clone)]
struct Live {
    session: Session,
    served: Arc<Served>,
}

/// How long a client is waited for that may be stuck: that does not answer although it is told that the server goes away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Sessions {
    fn begin(&mut self, session: Session, services: &SessionServices) -> Live {
        let (served, task) = services.begin(&session);
        let handle = self.tasks.spawn(task);
        let live = Live { session, served };
        self.live.insert(handle.id(), live.clone());
        live
    }

    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.live.remove(&id);
    }

    /// Lets the calls that run come to their end, within the time that there is (R10).
    async fn drain(mut self, listener: Listener, services: &SessionServices) {
        let drain = &services.shared.drain;
        let mut leaving = JoinSet::new();
        for live in self.live.values() {
            leaving.spawn(live.leave());
        }
        // Those who have connected before the listener closed are served, and told to go away at once.
        let mut leftover = listener.close();
        let mut has_leftover = true;
        let mut time_is_up = pin!(drain.time_is_up());
        while has_leftover || !leaving.is_empty() {
            tokio::select! {
                biased;
                () = &mut time_is_up => break,
                session = leftover.next(), if has_leftover => match session {
                    Some(session) => {
                        leaving.spawn(self.begin(session, services).leave());
                    }
                    None => has_leftover = false,
                },
                Some(_) = leaving.join_next() => {}
            }
        }
        if !leaving.is_empty() {
            drain.end();
            self.live.values().for_each(|live| live.served.calls.wake());
            // Calls that have been told are over, and then so are the sessions.
            let told = async { while leaving.join_next().await.is_some() {} };
            let _ = timeout(NEWS_TIMEOUT, told).await;
        }
        for Live { session, served } in self.live.values() {
            // A session that has ended has no calls, though some may not have noticed yet.
            if !session.is_closed() {
                served.calls.report();
                session.close();
            }
        }
        // A handler that blocks its thread cannot be ended by anybody.
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(NEWS_TIMEOUT, ended).await;
    }
}

impl Live {
    /// Tells the client to go elsewhere, and waits until it has hung up, as it does when its last call is done.
    fn leave(&self) -> impl Future<Output = ()> + Send + use<> {
        let Self { session, served } = self.clone();
        session.go_away();
        async move {
            if timeout(ANSWER_TIMEOUT, session.ping()).await.is_ok() {
                return session.drain().await;
            }
            // It is stuck, and not waited for on its own account.
            while served.calls.count() != 0
                && timeout(ANSWER_TIMEOUT, session.closed()).await.is_err()
            {}
            session.close();
        }
    }
}
