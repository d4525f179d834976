//! How a server tells whether it can do its work: gRPC's health checking protocol (feature `health`).
//!
//! A [`HealthReporter`] is told by the program how its services are, and makes the service that tells others. These are load
//! balancers, probes of an orchestrator, or a [client](HealthClient) like any other. A channel of this crate watches its servers if it is
//! [told to](crate::client::ChannelBuilder::health_check).
//!
//! A [server with threads](crate::blocking::Server) serves it by [`HealthReporter::blocking_service`], and [`health_blocking`] has a client
//! that blocks.
//!
//! # Examples
//!
//! ```no_run
//! use shmipc_rpc::{
//!     Channel, Server,
//!     health::{HealthCheckRequest, HealthClient, HealthReporter, ServingStatus},
//! };
//!
//! # async fn serve() -> Result<(), shmipc_rpc::ServeError> {
//! let health = HealthReporter::new();
//! health.set_not_serving("search.v1.Search"); // Until its index is there.
//! let server = Server::builder().add_service(health.service());
//! tokio::spawn(async move {
//!     // …
//!     health.set_serving("search.v1.Search");
//! });
//! server.serve("/run/search.sock").await
//! # }
//!
//! # async fn check() -> Result<(), Box<dyn std::error::Error>> {
//! let client = HealthClient::new(Channel::connect("/run/search.sock").await?);
//! let service = "search.v1.Search".to_owned();
//! let mut changes = client.watch(HealthCheckRequest { service }).await?.into_inner();
//! while let Some(change) = changes.message().await? {
//!     if change.status() == ServingStatus::Serving {
//!         break;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod board;
mod of_threads;
mod reporter;
mod service;

/// What `shmipc-codegen` makes of `proto/grpc/health`; a test of the workspace compares it.
mod generated {
    include!("generated/grpc.health.v1.rs");
}

pub use self::{
    generated::{
        FILE_DESCRIPTOR_SET, HealthCheckRequest, HealthCheckResponse, HealthListRequest,
        HealthListResponse, health_blocking, health_check_response,
        health_check_response::ServingStatus, health_client, health_client::HealthClient,
        health_methods, health_server, health_server::HealthServer,
    },
    reporter::HealthReporter,
    service::HealthService,
};
