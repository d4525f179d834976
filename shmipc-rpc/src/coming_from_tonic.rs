//! What replaces tonic's transport here: `tonic::transport::{Channel, Endpoint, Server}`, method by method.
//!
//! Code that tonic generated runs as it is, with the feature `tonic`: only the two lines that make the channel and the server change.
//! This page is for those lines, and for the settings at them. What is different in generated code, and in build scripts, is listed in the
//! documentation of `shmipc-codegen`.
//!
//! A setting of HTTP/2 holds for endpoints like `http://host:port` and `unix:/path`. Through shared memory there are no frames,
//! windows of bytes and headers; what is to be set there is in [`Config`](crate::Config), and mostly there is no need.
//!
//! # Channels
//!
//! | there | here |
//! |---|---|
//! | `Endpoint::from_static`, `from_shared`, `Channel::builder` | [`Channel::builder`], with any [`Endpoint`]; [`Endpoint::parse`] for what is wrong with one at once |
//! | `connect`, `connect_lazy` | [`ChannelBuilder::connect`], [`ChannelBuilder::connect_lazy`]; or [`Channel::connect`] |
//! | `Channel::balance_list` | [`Channel::balanced`], which prefers shared memory, and leaves out who cannot be reached or [is not healthy](ChannelBuilder#method.health_check) |
//! | `Channel::balance_channel` | missing: the servers of a channel are those that it was made with. For others, make another channel |
//! | `connect_with_connector`, `connect_with_connector_lazy` | [`ChannelBuilder::http2_connector`]; Unix sockets need none |
//! | `local_address` | [`ChannelBuilder::http2_connector`], whose example is that |
//! | `connect_timeout` | [`ChannelBuilder::http2_connect_timeout`]; for sessions, [`handshake_timeout`](shmipc_transport::ConfigBuilder::handshake_timeout) |
//! | `timeout` | [`MethodConfig::timeout`], for all methods by [`default_method`](ServiceConfigBuilder::default_method), or for some. What a call [asks for](crate::Request::set_timeout), and what it inherits, holds if that is earlier |
//! | `user_agent` | [`ChannelBuilder::user_agent`] |
//! | `origin` | [`ChannelBuilder::origin`] |
//! | `tls_config` | [`ChannelBuilder::tls`], with a [`ClientTls`]. Without it, `https` servers are known by the authorities of the system |
//! | `ClientTlsConfig::domain_name`, `ca_certificate`, `ca_certificates`, `identity` | [`ClientTls::server_name`], [`ClientTls::ca_certificate`] (for each), [`ClientTls::identity`] |
//! | `ClientTlsConfig::trust_anchor`, `trust_anchors`, `with_native_roots`, `with_webpki_roots`, `with_enabled_roots` | the authorities of the system, unless [`ClientTls::ca_certificate`] names others |
//! | `ClientTlsConfig::timeout` | [`ChannelBuilder::http2_connect_timeout`], which is for all of it |
//! | `ClientTlsConfig::assume_http2` | always so, if the server says nothing of ALPN |
//! | `ClientTlsConfig::use_key_log`, `tls_config_with_verifier` | missing: who is trusted is decided by authorities alone |
//! | `initial_stream_window_size`, `initial_connection_window_size`, `http2_adaptive_window`, `max_frame_size`, `http2_header_table_size`, `http2_max_header_list_size` | [`ChannelBuilder::http2`], with [`Settings`] of nearly the same names |
//! | `tcp_nodelay`, `tcp_keepalive`, `tcp_keepalive_interval`, `tcp_keepalive_retries` | the same [`Settings`] |
//! | `http2_keep_alive_interval`, `keep_alive_timeout`, `keep_alive_while_idle` | [`ChannelBuilder::keepalive`], with a [`Keepalive`]; for sessions as well |
//! | `http2_max_concurrent_reset_streams`, `http2_reset_stream_duration`, `http2_max_local_error_reset_streams` | missing: hyper's own limits hold, which keep a peer from making the connection work for nothing |
//! | `concurrency_limit` | tower's `ConcurrencyLimitLayer` around the channel: [below](#limits-at-the-caller) |
//! | `rate_limit` | tower's `RateLimitLayer` and a buffer around the channel: [below](#limits-at-the-caller) |
//! | `buffer_size` | nothing: a channel is shared by its clones, and has no queue in front of it |
//! | `executor` | nothing: tokio is what all of it runs on |
//! | `uri` | [`Channel::endpoint`] |
//!
//! # Servers
//!
//! | there | here |
//! |---|---|
//! | `add_service` | [`Server::add_service`]; `add_tonic_service` for what tonic generated (feature `tonic`) |
//! | `add_optional_service` | [`Server::add_optional_service`] |
//! | `add_routes`, `into_router` | nothing: a [`Server`] has services of gRPC alone. As a tower service, within a process, it is [`Server::into_service`] |
//! | `layer` | [`Server::layer`]; the first sees a request first, as there. For one service, [`named_layer`](crate::server::named_layer) |
//! | `serve`, `serve_with_shutdown` | [`Server::serve`], [`Server::serve_with_shutdown`], which take an [`Endpoint`]: `http://[::1]:50051` for an address. For several, [`Server::bind`]; in a task, [`Server::start`] |
//! | `serve_with_incoming`, `serve_with_incoming_shutdown`, `TcpIncoming` | [`Server::bind_http`], [`Server::bind_https`] for a port that is listened at already; paths are [bound](Server::bind) by their name. To learn which port was chosen for `http://host:0`, ask [`BoundServer::endpoints`]. Streams of other connections: missing |
//! | `tls_config` | [`Server::tls`], with a [`ServerTls`], for endpoints that begin with `https` |
//! | `ServerTlsConfig::client_ca_root`, `client_auth_optional` | [`ServerTls::client_ca`], [`ServerTls::optional_client_ca`] |
//! | `ServerTlsConfig::timeout` | [`handshake_timeout`](shmipc_transport::ConfigBuilder::handshake_timeout), which holds until the client has begun with HTTP/2 |
//! | `ServerTlsConfig::ignore_client_order`, `use_key_log` | missing |
//! | `concurrency_limit_per_connection` | [`Server::concurrent_calls_per_session`], which clients over HTTP/2 are told, so that they hold calls back. For all connections together, tower's `ConcurrencyLimitLayer` |
//! | `load_shed` | tower's `LoadShedLayer` before the layer that is to refuse: [below](#limits-at-the-server) |
//! | `timeout` | tower's `TimeoutLayer`: [below](#limits-at-the-server) |
//! | `max_concurrent_streams` | [`SettingsBuilder::max_concurrent_streams`] |
//! | `max_connection_age`, `max_connection_age_grace` | [`SettingsBuilder::max_connection_age`], [`SettingsBuilder::max_connection_age_grace`]. Sessions have none: nothing stands between two processes of one host that could be balanced anew |
//! | `initial_stream_window_size`, `initial_connection_window_size`, `http2_adaptive_window`, `max_frame_size`, `http2_max_header_list_size`, `tcp_nodelay`, `tcp_keepalive` and what goes with it | [`Server::http2`], with [`Settings`] |
//! | `http2_keepalive_interval`, `http2_keepalive_timeout` | [`Server::keepalive`], with a [`Keepalive`]; for sessions as well |
//! | `http2_max_pending_accept_reset_streams`, `http2_max_local_error_reset_streams` | missing: hyper's own limits hold, as for channels |
//! | `accept_http1` | nothing: gRPC-Web takes a proxy |
//! | `trace_fn` | each call has a span, by the target `shmipc_rpc::server`. For one of your own, tower-http's `TraceLayer` by [`Server::layer`], or an [interceptor](crate::interceptor) |
//! | `Request::remote_addr`, `peer_certs` | in the [extensions](crate::Request::extensions) of a request: [`RemoteAddr`], [`ClientCertificates`]; for a process of this host, [`Request::peer`](crate::Request::peer) |
//!
//! # Metadata and messages
//!
//! | there | here |
//! |---|---|
//! | `MetadataMap` | [`http::HeaderMap`] |
//! | `insert_bin`, `get_bin`, `get_all_bin` | [`metadata::insert_bin`], [`metadata::get_bin`], [`metadata::get_all_bin`] |
//! | `Request::into_parts`, `from_parts`, and those of `Response` | the same: [`Request::into_parts`](crate::Request::into_parts), [`Response::into_parts`](crate::Response::into_parts) |
//!
//! # Limits at the caller
//!
//! A channel is a tower service that can be cloned, and so must be what is put around it. tower's limit on the rate cannot, without
//! tower's buffer around it:
//!
//! ```no_run
//! # async fn run() -> Result<(), shmipc_rpc::ConnectError> {
//! use std::time::Duration;
//!
//! use shmipc_rpc::{Body, Channel, client::Caller, http};
//! use tower::{ServiceBuilder, buffer::BufferLayer, limit::{ConcurrencyLimitLayer, RateLimitLayer}};
//!
//! let channel = Channel::connect("/run/greeter.sock").await?;
//! let limited = ServiceBuilder::new()
//!     .layer(ConcurrencyLimitLayer::new(16))
//!     .layer(BufferLayer::<http::Request<Body>>::new(1024))
//!     .layer(RateLimitLayer::new(100, Duration::from_secs(1)))
//!     .service(channel);
//! let caller = Caller::new(limited); // Or a generated client.
//! # let _ = caller; Ok(())
//! # }
//! ```
//!
//! # Limits at the server
//!
//! Who comes too late gets [`Code::DeadlineExceeded`], who is too many [`Code::ResourceExhausted`]. A layer of tower's counts for all
//! connections of the server:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use shmipc_rpc::Server;
//! use tower::{limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer};
//!
//! let server = Server::builder()
//!     .layer(TimeoutLayer::new(Duration::from_secs(5)))
//!     .layer(LoadShedLayer::new())
//!     .layer(ConcurrencyLimitLayer::new(64));
//! # let _ = server.into_service();
//! ```

#[cfg(doc)]
use crate::{
    Channel, Code, Endpoint, Keepalive, Server,
    client::{ChannelBuilder, MethodConfig, ServiceConfigBuilder},
    http,
    http2::{Settings, SettingsBuilder},
    metadata,
    server::{BoundServer, ClientCertificates, RemoteAddr},
    tls::{ClientTls, ServerTls},
};
