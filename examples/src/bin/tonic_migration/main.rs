//! An existing tonic service moves to shared memory, by two lines: the one that serves and the one that connects.
//!
//! ```diff
//! -    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(address)?));
//! +    let server = shmipc_rpc::Server::builder().add_tonic_service(service).serve_with_listener(shmipc_rpc::Listener::bind(address)?);
//! ```
//! ```diff
//! -    let channel = tonic::transport::Endpoint::new(format!("unix://{address}"))?.connect().await?;
//! +    let channel = shmipc_rpc::Channel::connect(address).await?;
//! ```
//!
//! `greeter.rs` is what was there before: a service and a client, as tonic generated them. Neither knows what carries the calls.
//! `before.rs` and `after.rs` differ by these lines, and by nothing else.
//!
//! ```text
//! $ cargo run --bin tonic_migration -- Ada
//! before: Hello, Ada!
//! after: Hello, Ada! (process 4711 of user 1000 calls)
//! ```

/// Through shared memory.
mod after;
/// Over a Unix socket, with tonic's own transport.
mod before;
mod greeter;

use std::{env, error::Error};

/// What can go wrong.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let name = env::args().nth(1).unwrap_or_else(|| "Ada".to_owned());
    let directory = tempfile::tempdir()?;
    let address = |file: &str| directory.path().join(file).display().to_string();
    println!(
        "before: {}",
        before::run(&address("before.sock"), &name).await?
    );
    println!(
        "after: {}",
        after::run(&address("after.sock"), &name).await?
    );
    Ok(())
}
