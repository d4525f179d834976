//! Making calls.
//!
//! A generated client is a [`Caller`] with a method per method of the service. It works over any [`CallService`]: a
//! [`Channel`], or a tower stack with one at its bottom.

mod balance;
mod builder;
mod call_service;
mod caller;
pub(crate) mod channel;
mod connection;
mod direct;
#[cfg(feature = "grpc")]
mod http2;
mod in_process;
pub(crate) mod managed;
mod member;
pub(crate) mod policy;
#[cfg(feature = "grpc")]
mod reconnect;
pub(crate) mod response;
pub(crate) mod retry;

#[cfg(feature = "grpc")]
pub use self::http2::Http2ConnectError;
pub use self::{
    builder::ChannelBuilder,
    call_service::CallService,
    caller::Caller,
    channel::{Channel, ResponseFuture},
    policy::{
        InvalidServiceConfig, MethodConfig, RetryPolicy, ServiceConfig, ServiceConfigBuilder,
    },
};
