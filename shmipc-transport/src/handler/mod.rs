//! Streams served by callbacks: what arrives calls a handler.

mod conversation;
mod serve;

use std::io;

pub use self::serve::{serve, serve_session, serve_with_shutdown};
use crate::{ByteStream, RecvError};

/// What is done about one stream, from its first bytes to its end. Served by [`serve()`] and its siblings, in a task of its own
/// for each stream.
///
/// ```
/// use std::io;
/// use shmipc_transport::{ByteStream, Listener, StreamHandler};
///
/// /// Says back what it hears.
/// struct Echo;
///
/// impl StreamHandler for Echo {
///     async fn on_data(&mut self, stream: &mut ByteStream) -> io::Result<()> {
///         let (reader, writer) = stream.halves_mut();
///         let bytes = reader.read_bytes(reader.buffered()).await?;
///         writer.put(bytes).await // By reference, if there are many.
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = Listener::bind("/run/echo.sock")?;
/// Err(shmipc_transport::serve(&listener, |_session| Echo).await)?
/// # }
/// ```
///
/// A handler that panics is dropped, its stream reset, and nothing else affected. While a handler waits or computes, its
/// own stream's peer is held up once the [window](crate::ConfigBuilder::stream_window) is full, and no other.
pub trait StreamHandler: Send + 'static {
    /// Bytes have arrived that were not read yet.
    ///
    /// It may read and write as it likes, and wait for more bytes than there are. If it reads some of the bytes and leaves others, it
    /// is called again for those; if it reads none, when there are more. What it has written is flushed when it returns.
    ///
    /// An error ends the stream, which is reset with [`ABANDONED`](crate::ABANDONED).
    fn on_data(&mut self, stream: &mut ByteStream) -> impl Future<Output = io::Result<()>> + Send;

    /// The peer sends no more. Called at most once, after all bytes were shown to [`on_data`](Self::on_data); those that it did
    /// not read can still be read.
    ///
    /// After [`RemoteClose::Finished`], our direction is open: what is written here still reaches the peer, before its end. Not so
    /// where a close ends both directions ([`SendHalf::tells_end`](crate::SendHalf::tells_end)): there nothing is heard any more, and
    /// a stream to which something is written ends as [`LocalClose::Failed`]. By default, nothing is done.
    fn on_remote_close(
        &mut self,
        stream: &mut ByteStream,
        how: RemoteClose,
    ) -> impl Future<Output = io::Result<()>> + Send {
        let _ = (stream, how);
        async { Ok(()) }
    }

    /// The stream is over on this side, too, and has been given back. The last that is called, unless a handler panics or
    /// is cut off with the future that serves it; `Drop` is for what must be done in any case. By default, nothing is done.
    fn on_local_close(&mut self, why: LocalClose) -> impl Future<Output = ()> + Send {
        let _ = why;
        async {}
    }
}

/// How the peer's direction of a stream ended.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum RemoteClose {
    /// In good order, or given up where [that is not told apart](crate::RecvHalf::hears_end).
    Finished,
    /// The peer gave the stream up, or the session is over. Nothing reaches it any more.
    Lost(RecvError),
}

/// Why a stream is over on this side.
#[non_exhaustive]
#[derive(Debug)]
pub enum LocalClose {
    /// Both sides have sent their end, or the peer has closed both directions, and we had nothing more to say.
    Finished,
    /// A handler returned this error, or the stream was lost: then its source is a [`RecvError`] or a
    /// [`SendError`](crate::SendError).
    Failed(io::Error),
}
