//! Calls and handlers that block, among each other and with those that do not.

mod call_ends;
#[path = "../common/mod.rs"]
mod common;
mod drain;
mod interceptor_times;
mod interceptors;
mod lab;
mod lifecycle;
mod limits;
mod links;
mod policy;
mod stage;
mod streaming;
mod threads;
mod unary;
