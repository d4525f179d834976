//! gRPC over HTTP/2, beside shared memory: our clients and servers, those of tonic, and those of a third party.

mod compression;
mod details;
mod drain;
mod ending;
mod frames;
mod giving_up;
mod grpcio;
mod keepalive;
mod mixed;
mod oddities;
mod our_client;
mod our_server;
mod protos;
mod settings;
mod strangers;
mod their_client;
mod their_server;
mod tls;
mod tonic_adapter;

use std::{path::Path, sync::Arc};

use shmipc_rpc::{
    Channel, Endpoint, ServeError, Server,
    server::BoundServer,
    tls::{ClientTls, ServerTls},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

use crate::protos::{Hanging, ours::probe_server::ProbeServer, theirs};

/// A server of ours, at work.
#[derive(Debug)]
struct Running {
    endpoints: Vec<Endpoint>,
    hanging: Hanging,
    stop: Arc<Notify>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// Lets a server that has been bound work.
    fn start(server: BoundServer, hanging: Hanging) -> Self {
        let endpoints = server.endpoints().to_vec();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let server = server.serve_with_shutdown(async move { stopped.notified().await });
        Self {
            endpoints,
            hanging,
            stop,
            server: tokio::spawn(server),
        }
    }

    /// Waits for the server to end well.
    async fn ended(self) {
        self.stop.notify_one();
        let ended = tests::in_time("the server ends", self.server).await;
        ended.expect("no panic").expect("it ends well");
    }
}

/// Our probe on a server of ours.
fn probe() -> (Server, Hanging) {
    let probe = our_server::Probe::default();
    let hanging = probe.hanging.clone();
    (
        Server::builder().add_service(ProbeServer::new(probe)),
        hanging,
    )
}

/// What gRPC calls a Unix socket.
fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn our_uid() -> u32 {
    nix::unistd::Uid::effective().as_raw()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_is_reached_in_every_way() {
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (certificate, key) = tls::self_signed();
    let (server, hanging) = probe();
    let tls = ServerTls::new(&certificate, &key).expect("they belong together");
    let server = server
        .tls(tls)
        .bind(directory.path().join("shm.sock"))
        .await;
    let server = server
        .expect("the path is free")
        .bind("http://127.0.0.1:0")
        .await;
    let server = server
        .expect("a port is free")
        .bind("https://localhost:0")
        .await;
    let server = server.expect("a port is free");
    let server = server.bind(unix(&directory.path().join("grpc.sock"))).await;
    let server = server.expect("the path is free");
    let name = format!("unix-abstract:{}", directory.path().display());
    let server = server.bind(name).await.expect("the name is free");
    let running = Running::start(server, hanging);

    let trusting = ClientTls::new().ca_certificate(&certificate);
    let trusting = trusting.expect("it is a certificate");
    for endpoint in &running.endpoints {
        let channel = Channel::builder(endpoint.clone()).tls(trusting.clone());
        let channel = channel.connect().await.expect("the server is there");
        let is_tcp = endpoint.to_string().starts_with("http");
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            has_trailers: true,
            uid: (!is_tcp).then(our_uid),
            ..our_client::Server::default()
        };
        our_client::examine(channel, server).await;
    }
    running.ended().await;
}

/// tonic's probe on tonic's own server, at a port and a path.
async fn tonic_server(path: &Path) -> (u16, Hanging) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let unix = tokio::net::UnixListener::bind(path).expect("the path is free");
    let probe = their_server::Probe::default();
    let hanging = probe.hanging.clone();
    let service = theirs::probe_server::ProbeServer::new(probe);
    let router = || tonic::transport::Server::builder().add_service(service.clone());
    tokio::spawn(router().serve_with_incoming(TcpListenerStream::new(listener)));
    tokio::spawn(router().serve_with_incoming(UnixListenerStream::new(unix)));
    (port, hanging)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_speaks_with_a_server_of_tonic() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("tonic.sock");
    let (port, hanging) = tonic_server(&path).await;
    for endpoint in [format!("http://127.0.0.1:{port}"), unix(&path)] {
        let channel = Channel::connect(endpoint)
            .await
            .expect("the server is there");
        let server = our_client::Server {
            hanging: Some(hanging.clone()),
            ..our_client::Server::default()
        };
        our_client::examine(channel, server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_server_is_understood_by_a_client_of_tonic() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("grpc.sock");
    let (server, hanging) = probe();
    let server = server
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    let server = server.bind(unix(&path)).await.expect("the path is free");
    let running = Running::start(server, hanging);
    for (endpoint, uid) in [
        (running.endpoints[0].to_string(), None),
        (format!("unix://{}", path.display()), Some(our_uid())),
    ] {
        let endpoint = tonic::transport::Endpoint::from_shared(endpoint);
        let channel = endpoint.expect("it is a URI").connect().await;
        let server = our_client::Server {
            hanging: Some(running.hanging.clone()),
            keeps_conversations: true,
            uid,
            ..our_client::Server::default()
        };
        their_client::examine(channel.expect("the server is there"), server).await;
    }
    running.ended().await;
}
