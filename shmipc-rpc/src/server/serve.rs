//! Accepts sessions, and lets them go.

use std::{collections::HashMap, pin::pin, sync::Arc};

use shmipc_transport::{Listener, Session};
use tokio::task::{Id, JoinSet};

use super::{
    Limits, Router,
    dispatch::Dispatch,
    router::Routes,
    session::{SessionTask, Shared},
};
use crate::ServeError;

/// Splits a server into what sessions share and what layers wrap.
pub(super) fn share(routes: Routes, limits: Limits) -> (Arc<Shared>, Router) {
    let routes = Arc::new(routes);
    (Arc::new(Shared { routes: Arc::clone(&routes), limits }), Router::new(routes))
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
    live: HashMap<Id, Session>,
}

impl Sessions {
    fn begin(&mut self, session: Session, shared: &Arc<Shared>, dispatch: &dyn Dispatch) {
        let task = SessionTask::new(session.clone(), Arc::clone(shared), dispatch.boxed_clone());
        let peer = session.peer();
        tracing::debug!(target: "shmipc_rpc::server", pid = peer.pid(), uid = peer.uid(), "session began");
        let handle = self.tasks.spawn(async move {
            let lost = task.run().await;
            tracing::debug!(target: "shmipc_rpc::server", %lost, "session ended");
        });
        self.live.insert(handle.id(), session);
    }

    fn forget(&mut self, ended: &Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.live.remove(&id);
    }

    /// Lets the calls that run come to their end, and closes the sessions.
    async fn drain(mut self) {
        for session in self.live.values() {
            session.go_away();
        }
        for session in self.live.values() {
            tokio::select! {
                () = session.drained() => session.close(),
                _ = session.closed() => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }
}
