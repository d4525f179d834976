//! An existing tonic service moves to shared memory, by two lines: the one that serves and the one that connects.
//!
//! ```diff
//! -    tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener).await
//! +    shmipc_rpc::Server::builder().add_tonic_service(service).serve_with_listener(listener).await
//! ```
//! ```diff
//! -    let channel = tonic::transport::Endpoint::from_shared(address)?.connect().await?;
//! +    let channel = shmipc_rpc::Channel::connect(address).await?;
//! ```
//!
//! The address is another one, of course: the name of a socket instead of a host and a port.
//!
//! `greeter.rs` is what was there before: a service and a client, as tonic generated them. Neither knows what carries the calls.
//! `before.rs` and `after.rs` hold the lines.
//!
//! ```text
//! $ cargo run --bin tonic_migration -- Ada
//! before: Hello, Ada!
//! after: Hello, Ada! (process 4711 of user 1000 calls)
//! ```

mod after;
mod before;
mod greeter;

use std::{env, error::Error};

/// What can go wrong.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let name = env::args().nth(1).unwrap_or_else(|| "Ada".to_owned());
    println!("before: {}", before::run(&name).await?);
    println!("after: {}", after::run(&name).await?);
    Ok(())
}
