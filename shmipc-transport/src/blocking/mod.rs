//! Sessions for threads: without a runtime, and without a thread of their own.
//!
//! The same sessions as those of the crate's root, with the same peers: each side chooses for itself whether its users are
//! tasks or threads. Here a call waits in the calling thread. Any number of threads may share a session; of those that
//! wait, one looks after the session for all and the others sleep until it has something for them, or leaves.
//!
//! ```no_run
//! use bytes::BufMut;
//! use shmipc_transport::{Flush, blocking::{Listener, Session}};
//!
//! # fn server() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind("/run/echo.sock")?;
//! let session = listener.accept()?;
//! while let Ok(mut stream) = session.accept_stream() {
//!     if let Some(message) = stream.recv()? {
//!         let mut reply = stream.buffer(message.len());
//!         reply.put(message);
//!         stream.send(reply, Flush::End)?;
//!     }
//! }
//! # Ok(()) }
//! # fn client() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::connect("/run/echo.sock")?;
//! let mut stream = session.open_stream()?;
//! let mut request = stream.buffer(5);
//! request.put_slice(b"hello");
//! stream.send(request, Flush::End)?;
//! let reply = stream.recv()?;
//! # Ok(()) }
//! ```
//!
//! # While nobody waits
//!
//! A session is looked after only while a thread waits on it, or begins to use it. In between,
//!
//! - what the peer sends waits: messages within the stream's [window](crate::ConfigBuilder::stream_window) and the ring,
//!   and then the peer's senders. Payloads of ours that the peer has returned are taken back when memory is next needed;
//!   payloads of the peer's are returned at once, whenever their last `Bytes` is dropped;
//! - the peer's end, or its wish that we go elsewhere, is noticed when a stream is next opened or somebody next waits, and no
//!   earlier. A stream that is opened within 10 ms of the last look at the socket may meet a peer that has been killed since;
//!   it then ends as it would have, had the peer been killed a moment later;
//! - over shmipc's own link, a peer whose end or reset could not be told at once, because its queue was full, is told with the next use;
//! - pings are not answered: a peer that pings should only do so while it knows that somebody waits here;
//! - memory that lies idle is not given back; that happens with the next use.
//!
//! A [`SessionPool`] learns of nothing while nobody [uses or attends](SessionPool#while-nobody-calls) it. A [`Listener`] takes no connection while no thread accepts.
//!
//! The setting [`keepalive`](crate::ConfigBuilder::keepalive) has no effect here: a deadline limits what a thread waits for.
//!
//! The peer makes no system call on our behalf meanwhile, and an idle session costs no CPU time here.

mod byte_stream;
mod parker;
mod session;
mod stream;
mod together;

pub use self::{
    byte_stream::{ByteReader, ByteStream, ByteWriter},
    session::Session,
    stream::{RecvHalf, SendHalf, Stream},
};
pub(crate) use self::{
    parker::{Parker, Signal},
    together::{Together, Woken, pause},
};
pub use crate::{
    listener::blocking::{HandOver, Leftover, Listener, Stopper},
    pool::blocking::{PooledStream, SessionPool},
    restart::blocking::Clients,
};
