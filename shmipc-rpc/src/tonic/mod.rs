//! Clients and servers that tonic generated, over this crate (feature `tonic`).
//!
//! A [`Channel`](crate::Channel) is what a tonic-generated client wants, as it is; a tonic-generated server is added with
//! [`Server::add_tonic_service`](crate::Server::add_tonic_service). Everything else stays what it was, so that an existing tonic
//! service moves to shared memory by changing two lines:
//!
//! ```ignore
//! // tonic::transport::Server::builder().add_service(GreeterServer::new(greeter)).serve(address).await?;
//! shmipc_rpc::Server::builder().add_tonic_service(GreeterServer::new(greeter)).serve("/run/greeter.sock").await?;
//!
//! // let channel = tonic::transport::Channel::from_static("http://[::1]:50051").connect().await?;
//! let channel = shmipc_rpc::Channel::connect("/run/greeter.sock").await?;
//! let client = GreeterClient::new(channel);
//! ```
//!
//! What tonic-health and tonic-reflection make are such services, too.
//!
//! # What handlers see
//!
//! A tonic handler finds the calling process, as the kernel knows it, in the extensions of its request, as a
//! [`Peer`](crate::Peer); over TCP the [address](crate::server::RemoteAddr) of the caller (feature `grpc`). Over HTTP/2 there is also
//! what tonic's own server has there: `TcpConnectInfo`, `TlsConnectInfo` and `UdsConnectInfo`, so that `remote_addr` and `peer_certs` of
//! its `Request` answer. A session has none of these: no address of its own, and tonic's `UdsConnectInfo` cannot be filled without a
//! socket of tokio. The time that is left until the deadline is in the metadata, as
//! `grpc-timeout`; when it has passed, the handler's future is dropped, and calls that it makes over a `Channel` end with it.
//!
//! What tonic compresses, by its `send_compressed`, goes over HTTP/2 as it is. Before it goes through shared memory it is decompressed, for
//! which the feature of that encoding must be enabled here as well ([`codec`](crate::codec)); servers are not asked to compress there.
//! tonic's limits on the size of messages hold as well as those of this crate.
//!
//! # Conversions
//!
//! [`Status`](crate::Status) and `tonic::Status` convert into each other, and so do codes, requests and responses. Metadata is
//! an [`http::HeaderMap`] here, which is what `MetadataMap::from_headers` takes and `MetadataMap::into_headers` returns.

mod convert;
mod service;

pub use self::service::{RequestBody, TonicService};
