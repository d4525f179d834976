//! Calls and handlers that block, among each other and with those that do not.

#[path = "../common/mod.rs"]
mod common;
mod drain;
mod lab;
mod lifecycle;
mod limits;
mod links;
mod streaming;
mod threads;
mod unary;
