//! Calls and handlers that block, among each other and with those that do not.

mod call_ends;
#[path = "../common/mod.rs"]
mod common;
mod drain;
#[cfg(feature = "health")]
mod health;
mod in_process;
mod interceptor_times;
mod interceptors;
mod lab;
mod lifecycle;
mod limits;
mod links;
mod policy;
#[cfg(feature = "reflection")]
mod reflection;
mod stage;
mod streaming;
mod threads;
mod unary;
