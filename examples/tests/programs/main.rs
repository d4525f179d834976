//! The examples, run as the programs that they are.

mod blocking;
mod digest;
mod greeter;
mod grpc_gateway;
mod hot_restart;
mod idl;
mod pipeline;
mod plugin_host;
mod process;
mod route_guide;
mod tonic_migration;
mod tower_stack;
