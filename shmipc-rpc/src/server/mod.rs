//! Serving calls.
//!
//! A generated server is a [`tower` service](Service) over `http::Request<Body>`. [`Server`] runs several of them, behind
//! layers if wanted, at an [endpoint](crate::Endpoint) or several.

mod bound;
mod builder;
mod call;
mod dispatch;
mod drain;
mod handle;
#[cfg(feature = "grpc")]
mod http2;
mod incoming;
mod limits;
mod named;
pub(crate) mod pace;
pub(crate) mod panic;
mod reply;
mod router;
mod running;
mod serve;
mod served;
mod service;
mod session;
mod stream_reply;
mod whole;

pub use tower_layer::Layer;
pub use tower_service::Service;

pub use crate::codec::Compression;

pub(crate) use self::{
    drain::Drain,
    limits::{Exceptions, LimitTable, Limits},
    running::CallPermit,
    serve::SessionServices,
    served::Served,
};

pub use self::{
    bound::BoundServer,
    builder::Server,
    drain::{CutOff, DrainReport, Draining},
    handle::ServerHandle,
    limits::MessageLimits,
    named::{Named, named_layer},
    router::Router,
    served::ConnectedPeer,
    service::{
        NamedService, ResponseFuture, Streamed, bidi_streaming, client_streaming, server_streaming,
        streamed, unary, unimplemented,
    },
    whole::ServerService,
};

#[cfg(feature = "grpc")]
pub use self::http2::{ClientCertificates, Http2BindError, RemoteAddr};
