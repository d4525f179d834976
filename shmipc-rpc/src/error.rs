use std::error::Error;

use shmipc_transport::{AcceptError, BindError};

use crate::InvalidEndpoint;

/// Any error, as tower passes it on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a server stopped, or did not start.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be listened at. Nothing was started.
    #[error("could not listen")]
    Bind(#[from] BindError),
    /// The text is no endpoint. Nothing was started.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// The endpoint takes HTTP/2, and the program was built without it. Nothing was started.
    #[error(
        "{endpoint} takes the feature `grpc` of shmipc-rpc, without which this program was built"
    )]
    NoHttp2 {
        /// The endpoint in question.
        endpoint: String,
    },
    /// HTTP/2 could not be listened for. Nothing was started.
    #[cfg(feature = "grpc")]
    #[error(transparent)]
    Http2Bind(#[from] crate::server::Http2BindError),
    /// No more connections can be accepted. Those that existed were closed.
    #[error("could not accept connections any longer")]
    Accept(#[from] AcceptError),
    /// No more connections for HTTP/2 can be accepted. Those that existed were closed.
    #[cfg(feature = "grpc")]
    #[error("could not accept connections any longer")]
    Http2Accept(#[source] std::io::Error),
}
