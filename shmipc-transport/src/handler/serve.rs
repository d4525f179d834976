//! Handlers for all streams of a session, and all sessions of a listener.

use std::sync::Arc;

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use tracing::error;

use super::{StreamHandler, conversation::converse};
use crate::{
    Listener, Session,
    error::{AcceptError, SessionLost},
};

/// Serves all streams that peers open in sessions with `listener`, until the listening socket fails. Returns why.
///
/// `handlers` makes a [`StreamHandler`] for each. There is a task for each session and one for each stream; how many streams a
/// peer may have is for [`streams_max`](crate::ConfigBuilder::streams_max) to say.
///
/// # Panics
///
/// As [`Listener::accept`].
///
/// # Cancel safety
///
/// Dropping the future ends all sessions that it serves.
pub async fn serve<F, H>(listener: &Listener, handlers: F) -> AcceptError
where
    F: Fn(&Session) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    // Kept until the end, so that nobody is told to stop.
    let (_go_on, stop) = watch::channel(());
    let mut sessions = JoinSet::new();
    accept(listener, &Arc::new(handlers), &stop, &mut sessions).await
}

/// Serves as [`serve`] does, until `shutdown` is ready. Then it stops listening, asks all peers to open no more streams, and
/// returns when those that are open, or on their way, are over.
///
/// Waits for streams without end: set a limit with [`tokio::time::timeout`].
///
/// # Errors
///
/// Returns [`AcceptError`] if the listening socket does not work any more. Then all sessions are ended.
///
/// # Panics
///
/// As [`Listener::accept`].
///
/// # Cancel safety
///
/// Dropping the future ends all sessions that it serves.
pub async fn serve_with_shutdown<F, H>(
    listener: Listener,
    handlers: F,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AcceptError>
where
    F: Fn(&Session) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    let handlers = Arc::new(handlers);
    let (go_on, stop) = watch::channel(());
    let mut sessions = JoinSet::new();
    tokio::select! {
        failed = accept(&listener, &handlers, &stop, &mut sessions) => return Err(failed),
        () = shutdown => {}
    }
    drop(go_on);
    let mut leftover = listener.close();
    while let Some(session) = leftover.next().await {
        sessions.spawn(attend(session, Arc::clone(&handlers), stop.clone()));
    }
    while let Some(ended) = sessions.join_next().await {
        report(ended.map(drop));
    }
    Ok(())
}

/// Serves all streams that the peer opens in `session`, in a task for each, and returns why the session ended. Both sides of a session
/// may do so.
///
/// # Panics
///
/// Outside of a tokio runtime.
///
/// # Cancel safety
///
/// Dropping the future cuts off all handlers. The session goes on if there are other handles.
pub async fn serve_session<F, H>(session: Session, handlers: F) -> SessionLost
where
    F: Fn(&Session) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    let (_go_on, stop) = watch::channel(());
    attend(session, Arc::new(handlers), stop).await
}

/// Accepts sessions until that fails. Each is served by a task of its own.
async fn accept<F, H>(
    listener: &Listener,
    handlers: &Arc<F>,
    stop: &watch::Receiver<()>,
    sessions: &mut JoinSet<SessionLost>,
) -> AcceptError
where
    F: Fn(&Session) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(session) => {
                    sessions.spawn(attend(session, Arc::clone(handlers), stop.clone()));
                }
                Err(failed) => return failed,
            },
            Some(ended) = sessions.join_next() => report(ended.map(drop)),
        }
    }
}

/// Serves a session until it ends. It is drained when the sender of `stop` is gone.
async fn attend<F, H>(
    session: Session,
    handlers: Arc<F>,
    mut stop: watch::Receiver<()>,
) -> SessionLost
where
    F: Fn(&Session) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    let mut streams = JoinSet::new();
    let mut is_draining = false;
    let lost = loop {
        tokio::select! {
            accepted = session.accept_stream() => match accepted {
                Ok(stream) => {
                    let (session, handlers) = (session.clone(), Arc::clone(&handlers));
                    streams.spawn(async move {
                        // Here, where a panic does no harm to others.
                        let handler = handlers(&session);
                        drop(session);
                        converse(handler, stream.into_bytes()).await;
                    });
                }
                Err(lost) => break lost,
            },
            Some(ended) = streams.join_next() => report(ended),
            _ = stop.changed(), if !is_draining => {
                is_draining = true;
                let session = session.clone();
                streams.spawn(async move { session.drain().await });
            }
        }
    };
    while let Some(ended) = streams.join_next().await {
        report(ended);
    }
    lost
}

fn report(ended: Result<(), JoinError>) {
    if let Err(failed) = ended
        && failed.is_panic()
    {
        error!(%failed, "a stream's handler panicked");
    }
}
