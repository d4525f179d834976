//! Both ends of a session in one process, for tests that look inside.

use super::Session;
use crate::{Config, Listener};

/// The client's end, and the server's.
pub(crate) async fn pair() -> (Session, Session) {
    pair_with(Config::default()).await
}

/// As [`pair`], both with these settings.
pub(crate) async fn pair_with(config: Config) -> (Session, Session) {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::bind_with(directory.path().join("socket"), config.clone()).unwrap();
    let connecting = Session::connect_with(listener.local_address().clone(), config);
    let (client, server) = tokio::join!(connecting, listener.accept());
    (client.unwrap(), server.unwrap())
}
