//! Calling and serving without a runtime: calls and handlers block their thread.
//!
//! The same wire, the same semantics and the same generated messages as in the rest of the crate, so that blocking and
//! asynchronous programs call each other. With one call in flight, a blocking client is the fastest way to call there is:
//! between the arrival of the answer and the caller lies nothing.
//!
//! # Calling
//!
//! A [`Channel`] is a connection to a server that mends itself; any number of threads may share it, and it makes no thread
//! of its own: of those that wait for answers, one looks after the session for all. Generated clients wrap a [`Caller`].
//! While no call is under way, nobody looks after the session; see
//! [`shmipc_transport::blocking`](shmipc_transport::blocking#while-nobody-waits) for what that means. In particular, a
//! server's [keepalive](shmipc_transport::ConfigBuilder::keepalive) takes a client for stuck that holds a [`Streaming`] or
//! [`Duplex`] and does not wait on it.
//!
//! Dropping a [`Streaming`] or a [`Duplex`] gives the call up. A call within a handler inherits the handler's deadline.
//!
//! A channel may have a [service config](ChannelBuilder::service_config): timeouts, limits, waiting and retries by method.
//!
//! # Serving
//!
//! A [`Server`] has a thread for each session and a bounded pool of threads for handlers. Quick unary handlers run in the
//! session's thread, so that no thread is woken for them; see [`Server`] for the details. Handlers cannot be interrupted: one
//! whose caller has gone goes on until it looks at its [`cancellation`](crate::Request::cancellation), receives, or sends.
//!
//! With the features `health` and `reflection`, it tells how its services are (`HealthReporter::blocking_service`), and what they
//! consist of (`Server::add_reflection`).
//!
//! # In between
//!
//! [Interceptors](interceptor) see the heads and the ends of calls, around a channel, around one service or around all services of a server.
//! There are no other layers.
//!
//! ```no_run
//! use shmipc_rpc::{Method, Request, Response, Status, blocking::{Call, Caller, Channel, Server, Service, serve}};
//!
//! const DOUBLE: Method = Method::unary("math.Math", "Double", "/math.Math/Double");
//!
//! struct Math;
//!
//! impl Service for Math {
//!     const NAME: &'static str = "math.Math";
//!     const METHODS: &'static [Method] = &[DOUBLE];
//!
//!     fn call(&self, call: Call) {
//!         match call.path() {
//!             "/math.Math/Double" => serve::unary(call, |request: Request<u64>| {
//!                 Ok(Response::new(2 * request.into_inner()))
//!             }),
//!             _ => serve::unimplemented(call),
//!         }
//!     }
//! }
//!
//! # fn server() -> Result<(), shmipc_rpc::ServeError> {
//! Server::builder().add_service(Math).serve("/run/math.sock")?;
//! # Ok(()) }
//! # fn client() -> Result<(), Box<dyn std::error::Error>> {
//! let caller = Caller::new(Channel::connect("/run/math.sock")?);
//! let doubled: Response<u64> = caller.unary(&DOUBLE, Request::new(21u64))?;
//! # Ok(()) }
//! ```

mod caller;
mod channel;
mod connection;
mod duplex;
mod in_process;
pub mod interceptor;
mod managed;
mod out;
mod request;
mod seen;
pub mod serve;
mod server;
mod streaming;
#[cfg(feature = "health")]
pub(crate) mod waiting;

pub use shmipc_transport::blocking::{Clients, HandOver, Leftover, Listener, Stopper};

pub use self::{
    caller::Caller,
    channel::{Channel, ChannelBuilder},
    duplex::{Duplex, DuplexReceiver, DuplexSender},
    request::IntoIterRequest,
    server::{Call, Server, Service, Shutdown},
    streaming::Streaming,
};
