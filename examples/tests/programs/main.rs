//! The examples, run as the programs that they are.

mod digest;
mod greeter;
mod plugin_host;
mod process;
mod route_guide;
mod tower_stack;
