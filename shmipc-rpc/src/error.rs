use std::error::Error;

use shmipc_transport::{AcceptError, BindError};

/// Any error, as tower passes it on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a server stopped, or did not start.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be listened at. Nothing was started.
    #[error("could not listen")]
    Bind(#[from] BindError),
    /// No more connections can be accepted. Those that existed were closed.
    #[error("could not accept connections any longer")]
    Accept(#[from] AcceptError),
}
