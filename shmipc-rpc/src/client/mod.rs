//! Making calls.
//!
//! A generated client is a [`Caller`] with a method per method of the service. It works over any [`CallService`]: a
//! [`Channel`], or a tower stack with one at its bottom.

mod answer;
mod backoff;
mod call_service;
mod caller;
mod channel;
mod connection;
mod sent;

pub use self::{
    call_service::CallService,
    caller::Caller,
    channel::{Channel, ChannelBuilder, ResponseFuture},
};
