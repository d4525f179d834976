//! A server in the process of its callers.

use std::{
    hash::{BuildHasher as _, RandomState},
    process, thread,
};

use shmipc_transport::{Address, BindError, blocking::Listener};

use super::{Server, Shutdown};
use crate::ServeError;

/// How many names are tried, each of which somebody else would have to have chosen from 2^64.
const ATTEMPTS: u32 = 4;

/// A server that serves for as long as this exists.
#[derive(Debug)]
pub(super) struct InProcess {
    shutdown: Shutdown,
}

impl InProcess {
    /// Has `server` serve in threads of its own. Returns where.
    pub(super) fn start(server: Server) -> Result<(Self, Address), ServeError> {
        let (listener, address) = listen(&server)?;
        let shutdown = Shutdown::new();
        let until = shutdown.clone();
        let serving = thread::Builder::new().name("shmipc-in-process".to_owned());
        let serving = serving.spawn(move || {
            if let Err(error) = server.serve_with_listener_and_shutdown(listener, &until) {
                tracing::warn!(target: "shmipc_rpc::server", %error, "a server in this process has ended");
            }
        });
        serving.map_err(|source| {
            ServeError::Bind(BindError::Io {
                action: "make a thread for the server",
                address: address.clone(),
                source,
            })
        })?;
        Ok((Self { shutdown }, address))
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// Listens under a name that nobody else has.
fn listen(server: &Server) -> Result<(Listener, Address), ServeError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // The standard library seeds its hashers randomly, which is random enough to be alone.
        let random = RandomState::new().hash_one(attempts);
        let name = format!("@shmipc-rpc/{}/{random:016x}", process::id());
        let address = Address::from(name.as_str());
        match server.listen(address.clone()) {
            Ok(listener) => return Ok((listener, address)),
            Err(BindError::InUse { .. }) if attempts < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}
