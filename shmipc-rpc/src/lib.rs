//! gRPC semantics over shared memory, between the processes of one host.
//!
//! Services are declared in `.proto` files; `shmipc-codegen` generates typed clients and server traits that stand on this
//! crate. A request is encoded straight into memory that the other process reads, and decoded there, so that a
//! `bytes` field reaches the handler without being copied.
//!
//! # Calling
//!
//! A [`Channel`] is a connection to a server; clones share it. A generated client wraps one, or any tower stack around
//! one (see [`client`]). Calls carry [metadata], [deadlines](Request::set_timeout) and end with a [`Response`] or a
//! [`Status`]. Dropping the future of a call cancels its handler.
//!
//! # Serving
//!
//! A [`Server`] runs services, behind tower layers if wanted, at an [`Endpoint`] (see [`server`]). A handler is an `async fn`
//! that takes a [`Request`]. Its future is dropped when the caller gives up, its deadline passes or its process ends.
//! Calls that it makes get no more time than it has itself.
//!
//! # Runtime
//!
//! Channels and servers work in tasks of a tokio runtime with I/O and time enabled. Outside of one they panic; but a server that begins to
//! listen at a path or a name fails, with [`BindError::NoRuntime`]. What is in [`blocking`] needs none.
//!
//! # The envelope
//!
//! Between clients, servers and layers, a call is an `http::Request<Body>` and an `http::Response<Body>`, as in gRPC over
//! HTTP/2, so that middleware for tower and tower-http fits unchanged. [`Body`] keeps the message typed for as long as
//! nobody asks for its bytes. An [`interceptor`] is middleware that deals with the heads of calls only, and is easier to write.
//!
//! # Beyond one host
//!
//! An [`Endpoint`] says by its form how a server is spoken to. A path or an `@abstract` name is shared memory; with the feature `grpc`,
//! `http://host:port`, `https://host:port` and `unix:/path` are gRPC over HTTP/2, for a server in the same program
//! ([`Server::bind`]) as for a [`Channel`]. Stubs, handlers, layers, metadata, deadlines, statuses and limits are the same. What is
//! different: a caller over TCP is no process ([`Request::peer`]), no memory can be lent ([`Request::alloc`]), and handlers cannot call
//! back. Messages can be [compressed](codec) there. A channel to [several](Channel::balanced)
//! endpoints of both kinds uses HTTP/2 while no server can be reached through shared memory.
//!
//! Some clients name a Unix socket's path as the authority of their requests, which HTTP/2 here refuses as malformed. For those of
//! gRPC's C core, such as Python's, set the channel argument `grpc.default_authority` to `localhost`.
//!
//! # Features
//!
//! - `deflate`, `gzip`, `zstd`: compressed messages, by each of these; see [`codec`].
//! - `error-details`: the customary details of errors, `google.rpc.ErrorInfo` and others, in and out of a [`Status`].
//! - `health`: a service that tells whether the others can be called, by gRPC's health checking protocol.
//! - `metrics`: reports of calls and sessions through the metrics crate; see the module `metrics`.
//! - `reflection`: services that describe the others, by gRPC's server reflection protocol.
//! - `service-config-json`: reads a [`ServiceConfig`](client::ServiceConfig) from the JSON form that gRPC has for it.
//! - `grpc`: gRPC over HTTP/2, see above; set up by the modules `http2` and `tls`.
//! - `tonic`: what tonic generated runs here; see the module `tonic`. What replaces tonic's transport is listed in `coming_from_tonic`, with the feature `grpc`.
//!
//! # Observing
//!
//! Each call has a `tracing` span at level `DEBUG`, with the targets `shmipc_rpc::client` and `shmipc_rpc::server`. It names the
//! method, the peer and, at the end, the status.

pub mod blocking;
pub mod client;
pub mod codec;
#[cfg(feature = "grpc")]
pub mod coming_from_tonic;
pub mod dynamic;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "grpc")]
pub mod http2;
pub mod interceptor;
pub mod metadata;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod mock;
#[cfg(feature = "reflection")]
pub mod reflection;
pub mod server;
#[cfg(feature = "grpc")]
pub mod tls;
#[cfg(feature = "tonic")]
pub mod tonic;

mod body;
mod cancel;
mod context;
mod deadline;
mod endpoint;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc_headers;
mod method;
mod request;
mod response;
#[cfg(feature = "grpc")]
mod socket;
mod status;
mod stream;

pub use http;
pub use prost;
pub use prost_types;
/// The crate beneath, with all that is not named here: [sessions](transport::Session) and their streams,
/// [pools](transport::SessionPool), and the parts of a [`SessionDump`].
pub use shmipc_transport as transport;
pub use shmipc_transport::{
    AcceptError, Address, BindError, Clients, Config, ConfigBuilder,
    ConnectError as SessionConnectError, HandOver, HandOverError, HandshakeStep, InheritError,
    InvalidAddress, InvalidConfig, Keepalive, Leftover, Lent, LinkKind, Listener, Payloads, Peer,
    PeerMisbehaved, Refusal, RefusalCode, Restart, RestartError, SessionDump, SessionLost, Shmipc,
    ShmipcMapping, ShmipcWakes, Stats, Wait, systemd::ActivationError,
};

pub use self::{
    body::Body,
    cancel::{CancelReason, Cancellation},
    client::Channel,
    endpoint::{Endpoint, InvalidEndpoint},
    error::{BoxError, ConnectError, ServeError},
    method::{Idempotency, Method, MethodKind},
    request::{IntoRequest, Request},
    response::Response,
    server::Server,
    status::{Code, Status},
    stream::{IntoStreamingRequest, RequestSink, ResponseSink, ResponseStream, Sender, Streaming},
};

#[cfg(feature = "error-details")]
pub use self::status::details as error_details;

/// Includes what `shmipc-codegen` generated for a package, by its name in the `.proto` file.
///
/// ```ignore
/// pub mod helloworld {
///     shmipc_rpc::include_proto!("helloworld");
/// }
/// ```
#[macro_export]
macro_rules! include_proto {
    ($package:tt) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
