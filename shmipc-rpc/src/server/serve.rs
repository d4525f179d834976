//! Accepts sessions, and lets them go.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use shmipc_transport::{Listener, Session};
use tokio::task::{Id, JoinError, JoinSet};

use super::{
    Limits, Router,
    dispatch::Dispatch,
    router::Routes,
    session::{CallCount, SessionTask, Shared},
};
use crate::ServeError;

/// Splits a server into what sessions share and what layers wrap.
pub(super) fn share(routes: Routes, limits: Limits) -> (Arc<Shared>, Router) {
    let routes = Arc::new(routes);
    (
        Arc::new(Shared {
            routes: Arc::clone(&routes),
            limits,
        }),
        Router::new(routes),
    )
}

/// Serves until `shutdown` is ready, and drains.
pub(super) async fn serve(
    listener: Listener,
    shared: Arc<Shared>,
    dispatch: Box<dyn Dispatch>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut sessions = Sessions::default();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = sessions.tasks.join_next_with_id() => sessions.forget(&ended),
            accepted = listener.accept() => {
                let session = accepted?;
                sessions.begin(session, &shared, &*dispatch);
            }
        }
    }
    drop(listener);
    sessions.drain().await;
    Ok(())
}

/// The sessions of a server. Dropping it ends them.
#[derive(Default)]
struct Sessions {
    tasks: JoinSet<()>,
    live: HashMap<Id, Live>,
}

/// What can be done about a session from outside of its task.
struct Live {
    session: Session,
    calls: CallCount,
}

/// How long an idle client may take to hang up once it was told that the server goes away. Our own do so at once.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);

impl Sessions {
    fn begin(&mut self, session: Session, shared: &Arc<Shared>, dispatch: &dyn Dispatch) {
        let peer = session.peer();
        tracing::debug!(target: "shmipc_rpc::server", pid = peer.pid(), uid = peer.uid(), "session began");
        let calls = CallCount::default();
        let task = SessionTask::new(
            session.clone(),
            Arc::clone(shared),
            dispatch.boxed_clone(),
            calls.clone(),
        );
        let handle = self.tasks.spawn(async move {
            let lost = task.run().await;
            tracing::debug!(target: "shmipc_rpc::server", reason = %lost, "session ended");
        });
        self.live.insert(handle.id(), Live { session, calls });
    }

    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.live.remove(&id);
    }

    /// Lets the calls that run come to their end (R10).
    async fn drain(mut self) {
        for live in self.live.values() {
            live.session.go_away();
        }
        for live in self.live.values() {
            live.drain().await;
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Live {
    /// Waits until the client has hung up, as it does when its last call is done. A client that does not, although none of
    /// its calls runs, is hung up on.
    async fn drain(&self) {
        while tokio::time::timeout(HANG_UP_TIMEOUT, self.session.closed())
            .await
            .is_err()
        {
            if self.calls.get() == 0 {
                self.session.close();
            }
        }
    }
}
