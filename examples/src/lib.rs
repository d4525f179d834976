//! What the examples have in common: the services that `build.rs` generates from the `.proto` files, and a [`second`] process.
//!
//! - `digest` computes SHA-256 of files, in a second process. Its services are in [`digest`].
//! - `tower_stack` calls a service through layers on both sides. Its services are in [`vault`].
//! - `route_guide` makes the four kinds of call, about places on a map. Its service is in [`route`].
//! - `plugin_host` and its plug-in call each other over one session. Their services are in [`plugin`].
//! - `pipeline` passes large frames on through three processes. Its service is in [`pipeline`].
//! - `greeter_server` and `greeter_client` say hello. Their service is in [`helloworld`].
//! - `blocking` calls and serves without a runtime. Its service is in [`primes`].
//! - `grpc_gateway` serves the same through shared memory and over HTTP/2.
//! - `idl` encodes in shared memory by hand, over either link.
//! - `tonic_migration` moves a service of tonic to shared memory.
//! - `hot_restart` replaces a server twenty times under load.

pub mod second;

/// `proto/digest/v1/digest.proto`.
pub mod digest {
    shmipc_rpc::include_proto!("digest.v1");
}

/// `proto/helloworld/v1/helloworld.proto`.
pub mod helloworld {
    shmipc_rpc::include_proto!("helloworld.v1");
}

/// `proto/route/v1/route.proto`.
pub mod route {
    shmipc_rpc::include_proto!("route.v1");
}

/// `proto/pipeline/v1/pipeline.proto`.
pub mod pipeline {
    shmipc_rpc::include_proto!("pipeline.v1");
}

/// `proto/plugin/v1/plugin.proto`.
pub mod plugin {
    shmipc_rpc::include_proto!("plugin.v1");
}

/// `proto/primes/v1/primes.proto`.
pub mod primes {
    shmipc_rpc::include_proto!("primes.v1");
}

/// `proto/vault/v1/vault.proto`.
pub mod vault {
    shmipc_rpc::include_proto!("vault.v1");
}

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
