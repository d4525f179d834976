//! What HTTP/2 runs over.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connected socket of any kind, encrypted or not. One kind for all, so that HTTP/2 is compiled once.
pub(crate) type Socket = Box<dyn Connected>;

/// What a connected socket can do.
pub(crate) trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connected for S {}
