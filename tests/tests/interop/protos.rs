//! What is generated of `proto/grpc/testing`.
#![allow(
    clippy::allow_attributes_without_reason,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "generated, and not all of it is used"
)]

shmipc_rpc::include_proto!("grpc.testing");

/// Clients and servers that tonic generated, for the same messages.
pub mod tonic {
    include!(concat!(env!("OUT_DIR"), "/interop_tonic/grpc.testing.rs"));
}
