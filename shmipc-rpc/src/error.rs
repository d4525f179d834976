use std::{error::Error, sync::Arc};

use shmipc_transport::{AcceptError, BindError, ConnectError as SessionConnectError};

use crate::InvalidEndpoint;

/// Any error, as tower passes it on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error that several calls fail with.
pub(crate) type SharedError = Arc<dyn Error + Send + Sync>;

/// Why a channel could not be connected.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text is no endpoint. Nothing was tried.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// The endpoint takes HTTP/2, and the program was built without it. Nothing was tried.
    #[error(
        "{endpoint} takes the feature `grpc` of shmipc-rpc, without which this program was built"
    )]
    NoHttp2 {
        /// The endpoint in question.
        endpoint: String,
    },
    /// The channel was to serve its server, for which HTTP/2 has no way back. Nothing was tried.
    #[cfg(feature = "grpc")]
    #[error("services cannot be served to {endpoint}: that takes shared memory")]
    OneWay {
        /// The endpoint in question.
        endpoint: String,
    },
    /// The [origin](crate::client::ChannelBuilder::origin) of the channel is none. Nothing was tried.
    #[cfg(feature = "grpc")]
    #[error("{origin:?} cannot be the origin of requests: {problem}")]
    Origin {
        /// The origin in question.
        origin: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// There is no session.
    #[error(transparent)]
    Session(#[from] SessionConnectError),
    /// There is no connection over HTTP/2.
    #[cfg(feature = "grpc")]
    #[error(transparent)]
    Http2(#[from] crate::client::Http2ConnectError),
}

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
    /// The task that served has panicked, because a layer or service did while it was cloned for a connection; or its runtime has ended.
    /// All connections were closed.
    #[error("the task that served has panicked, or its runtime has ended")]
    Broken,
}
