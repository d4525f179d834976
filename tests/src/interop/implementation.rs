//! What the program needs of an implementation of the protocol.

use std::net::SocketAddr;

use super::{message::HEAD_LEN, setting::Setting};

/// Why a stream goes no further.
#[derive(Debug)]
pub enum Ended {
    /// The other side closed it.
    Finished,
    /// Its session is over, and why, or it was closed on this side.
    Lost(String),
    /// Something that must not happen.
    Failed(String),
}

/// An implementation of the protocol.
pub trait Implementation: 'static {
    /// Its streams.
    type Stream: Stream;
    /// Its servers.
    type Server: Server<Stream = Self::Stream>;
    /// Its clients.
    type Client: Client<Stream = Self::Stream>;

    /// Listens for clients of every version that it knows.
    fn listen(setting: &Setting) -> impl Future<Output = Result<Self::Server, String>> + Send;

    /// Opens all sessions of a client.
    fn connect(setting: &Setting) -> impl Future<Output = Result<Self::Client, String>> + Send;
}

/// A server.
pub trait Server: Send + 'static {
    /// Its streams.
    type Stream;

    /// Where it listens, if it does so over TCP.
    fn port(&self) -> Option<SocketAddr>;

    /// Waits for the next stream that a client has opened. Must be cancel safe.
    fn accept(&mut self) -> impl Future<Output = Result<Self::Stream, String>> + Send;

    /// Tells the clients that a new server listens at the same path, and waits until they have gone there. The streams that they still have
    /// are served meanwhile.
    fn restart(
        &mut self,
        epoch: u64,
    ) -> impl Future<Output = Result<(), String>> + Send + use<Self>;

    /// Closes all sessions.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A client with its sessions.
pub trait Client: Send + Sync + 'static {
    /// Its streams.
    type Stream;

    /// Takes a stream from the pool, or opens one.
    fn get(&self) -> impl Future<Output = Result<Self::Stream, String>> + Send;

    /// Puts a stream back into the pool.
    fn put_back(&self, stream: Self::Stream) -> impl Future<Output = ()> + Send;

    /// Messages that went over the socket, both ways, because memory was short.
    fn fallbacks(&self) -> u64;

    /// Closes all sessions.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A stream.
pub trait Stream: Send + 'static {
    /// Sends one message: the head into memory that was reserved for it, and the payload in calls of `piece` bytes (0 is all).
    fn send(
        &mut self,
        head: &[u8; HEAD_LEN],
        payload: &[u8],
        piece: usize,
    ) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Waits until there is something to read, and leaves it there.
    fn readable(&mut self) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Reads so many bytes.
    fn read(&mut self, len: usize) -> impl Future<Output = Result<Vec<u8>, Ended>> + Send;

    /// Gives back the memory of what was read.
    fn release(&mut self);

    /// Closes the stream.
    fn close(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}
