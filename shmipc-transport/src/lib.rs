//! Sessions and streams between processes of one host, over shared memory.
//!
//! Each process writes only memory that it owns, and the other maps that memory read-only: a peer can neither corrupt our
//! queues nor our payloads, and its death leaves nothing to repair. Messages are encoded straight into shared memory
//! ([`SendBuf`]) and read in place ([`RecvBuf`]); `Bytes` of the session's own memory travel by reference.
//!
//! ```no_run
//! use bytes::BufMut;
//! use shmipc_transport::{Flush, Listener, Session};
//!
//! # async fn server() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind("/run/echo.sock")?;
//! let session = listener.accept().await?;
//! while let Ok(mut stream) = session.accept_stream().await {
//!     if let Some(message) = stream.recv().await? {
//!         let mut reply = stream.buffer(message.len());
//!         reply.put(message); // By reference, if it is long.
//!         stream.send(reply, Flush::End).await?;
//!     }
//! }
//! # Ok(()) }
//! # async fn client() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::connect("/run/echo.sock").await?;
//! let mut stream = session.open_stream()?;
//! let mut request = stream.buffer(5);
//! request.put_slice(b"hello");
//! stream.send(request, Flush::End).await?;
//! let reply = stream.recv().await?;
//! # Ok(()) }
//! ```
//!
//! Sessions of the root are driven by tasks of a tokio runtime; those of [`blocking`] by the threads that use them, without
//! one. A [`SessionPool`] keeps several to one address, and follows a server that [restarts](Clients::hot_restart); threads have both
//! as well.
//!
//! Sessions also speak shmipc's own protocol, with shmipc-go and the crate `shmipc`; [`ConfigBuilder::links`] says which are used. The
//! feature `metrics` has sessions report through the `metrics` crate.
//!
//! `docs/protocol.md` describes the bytes, `ARCHITECTURE.md` the code, `SECURITY.md` what a hostile peer can and cannot do.

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "shmipc needs Linux on x86_64 or aarch64: it rests on sealed memory files, eventfds and a 64-bit address space"
);

mod address;
mod backoff;
pub mod blocking;
mod byte_stream;
mod config;
mod core;
mod dump;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod keepalive;
mod link;
mod listener;
#[cfg(feature = "metrics")]
pub mod metrics;
mod peer;
pub mod plain;
mod pool;
mod restart;
mod session;
mod shmipc;
mod stats;
mod stream;
mod sys;
pub mod systemd;
mod wait;

pub use address::Address;
pub use backoff::Backoff;
pub use byte_stream::{ByteReader, ByteStream, ByteWriter};
pub use config::{Config, ConfigBuilder, InvalidConfig, Payloads, Wait};
pub use core::{
    mem::OutOfRegion,
    outbox::{HeadOverrun, InvalidGeometry, InvalidRecord, ReturnsOverrun},
    shmipc::{InvalidShmipc, ListEnd},
    wire::InvalidMessage,
};
pub use dump::{
    DriverDump, FlightDump, LeaseDump, ListDump, RegionDump, RingDump, SessionDump, StreamDump,
};
pub use error::*;
pub use handler::{
    LocalClose, RemoteClose, StreamHandler, serve, serve_session, serve_with_shutdown,
};
pub use keepalive::Keepalive;
pub use link::LinkInfo;
pub use listener::{HandOver, Leftover, Listener};
pub use peer::Peer;
pub use pool::{
    PoolConfig, PoolConfigBuilder, PoolStats, PooledStream, Selection, SessionPool, SlotState,
    SlotStats,
};
pub use restart::{Clients, Restart};
pub use session::{Lent, Session, WeakSession};
pub use shmipc::{LinkKind, Shmipc, ShmipcMapping, ShmipcWakes};
pub use stats::Stats;
pub use stream::{
    ABANDONED, Abandoned, Flush, RecvBuf, RecvHalf, Reserved, SendBuf, SendHalf, Stream,
    StreamWatch,
};
