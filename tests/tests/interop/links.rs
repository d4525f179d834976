//! Ways from a client to a server.

use std::{
    task::{Context, Poll},
    thread,
};

use shmipc_rpc::{
    Channel, Code, Config, Endpoint, Server,
    blocking::{self, Shutdown},
    client::{ChannelBuilder, MethodConfig, RetryPolicy, ServiceConfig},
    server::{ServerHandle, Service},
    tls::{ClientTls, ServerTls},
};
use shmipc_transport::LinkKind;
use tempfile::TempDir;

use crate::{
    client::{Ours, Tonic},
    client_of_threads::Threads,
    echo::{Echoing, Handlers},
    our_service::OurService,
    protos::{
        test_service_blocking, test_service_server::TestServiceServer,
        tonic::test_service_server::TestServiceServer as TonicTestServiceServer,
    },
    service_of_threads::ServiceOfThreads,
    tonic_service::TonicService,
};

/// A client, and what its server is doing.
pub(crate) struct Link<C> {
    pub(crate) client: C,
    pub(crate) handlers: Handlers,
    /// Runs for as long as the link exists.
    _server: Option<(Running, TempDir)>,
}

/// A server, which comes to its end when this is dropped.
enum Running {
    Tasks(#[expect(dead_code, reason = "is kept")] ServerHandle),
    Threads(Shutdown),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Threads(shutdown) = self {
            shutdown.begin();
        }
    }
}

/// Where servers listen.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    SharedMemory,
    /// Over shmipc's own link, in one version.
    Shmipc(LinkKind),
    Http2,
    Http2Unix,
    Tls,
}

impl Place {
    fn config(self) -> Config {
        match self {
            Self::Shmipc(link) => {
                let config = Config::builder().links([link]);
                config.build().expect("it is valid")
            }
            Self::SharedMemory | Self::Http2 | Self::Http2Unix | Self::Tls => Config::default(),
        }
    }
}

/// Starts a server, and connects to it.
pub(crate) async fn start<C>(
    place: Place,
    server: impl FnOnce(Handlers) -> Server,
    client: impl FnOnce(Channel) -> C,
) -> Link<C> {
    start_with(place, server, |channel| channel, client).await
}

/// The same with a channel that is `set` up.
async fn start_with<C>(
    place: Place,
    server: impl FnOnce(Handlers) -> Server,
    set: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
    client: impl FnOnce(Channel) -> C,
) -> Link<C> {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("interop.sock");
    let endpoint: Endpoint = match place {
        Place::SharedMemory | Place::Shmipc(_) => path.into(),
        Place::Http2 => "http://127.0.0.1:0".into(),
        Place::Http2Unix => format!("unix:{}", path.display()).into(),
        Place::Tls => "https://localhost:0".into(),
    };
    let handlers = Handlers::default();
    let config = place.config();
    let mut server = server(handlers.clone()).config(config.clone());
    let mut tls = ClientTls::new();
    if let Place::Tls = place {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("it is an ordinary name");
        let certificate = made.cert.pem();
        let own = ServerTls::new(&certificate, made.signing_key.serialize_pem());
        server = server.tls(own.expect("they belong together"));
        tls = tls.ca_certificate(&certificate).expect("it is one");
    }
    let server = server
        .start(endpoint)
        .await
        .expect("nobody else listens there");
    let channel = Channel::builder(server.endpoints()[0].clone()).config(config);
    let channel = set(channel.tls(tls)).connect().await;
    Link {
        client: client(channel.expect("the server listens")),
        handlers,
        _server: Some((Running::Tasks(server), directory)),
    }
}

/// Calls are made by a service config, over one of two sessions.
fn managed(channel: ChannelBuilder) -> ChannelBuilder {
    let retry = RetryPolicy::new([Code::Unavailable]).even_if_not_idempotent();
    let config = ServiceConfig::builder().default_method(MethodConfig::new().retry(retry));
    let config = config.build().expect("it is valid");
    channel.service_config(config).sessions(2)
}

fn our_server(handlers: Handlers) -> Server {
    Server::builder().add_service(TestServiceServer::new(OurService { handlers }))
}

fn tonic_server_of(handlers: Handlers) -> Server {
    let service = TonicTestServiceServer::new(TonicService { handlers });
    Server::builder().add_tonic_service(Echoing(service))
}

pub(crate) async fn shared_memory() -> Link<Ours<Channel>> {
    start(Place::SharedMemory, our_server, Ours::new).await
}

/// Calls pass through `http` and tower on their way.
pub(crate) async fn shared_memory_behind_a_layer() -> Link<Ours<Layered>> {
    let client = |channel| Ours::new(Layered(channel));
    start(Place::SharedMemory, our_server, client).await
}

pub(crate) async fn shmipc_v4() -> Link<Ours<Channel>> {
    start(Place::Shmipc(LinkKind::ShmipcV4), our_server, Ours::new).await
}

/// There is no end of one direction, no credit, and no code of a reset.
pub(crate) async fn shmipc_v3() -> Link<Ours<Channel>> {
    start(Place::Shmipc(LinkKind::ShmipcV3), our_server, Ours::new).await
}

/// Nor is the client told when its server has mapped its memory.
pub(crate) async fn shmipc_v2() -> Link<Ours<Channel>> {
    start(Place::Shmipc(LinkKind::ShmipcV2), our_server, Ours::new).await
}

pub(crate) async fn http2() -> Link<Ours<Channel>> {
    start(Place::Http2, our_server, Ours::new).await
}

pub(crate) async fn http2_over_a_unix_socket() -> Link<Ours<Channel>> {
    start(Place::Http2Unix, our_server, Ours::new).await
}

pub(crate) async fn tls() -> Link<Ours<Channel>> {
    start(Place::Tls, our_server, Ours::new).await
}

pub(crate) async fn managed_shared_memory() -> Link<Ours<Channel>> {
    start_with(Place::SharedMemory, our_server, managed, Ours::new).await
}

pub(crate) async fn managed_http2() -> Link<Ours<Channel>> {
    start_with(Place::Http2, our_server, managed, Ours::new).await
}

pub(crate) async fn managed_tonic_client() -> Link<Tonic> {
    start_with(Place::SharedMemory, our_server, managed, Tonic::new).await
}

/// Threads call, and tasks serve.
async fn start_client_of_threads(place: Place) -> Link<Threads> {
    let client = |channel: Channel| {
        let address = channel.address().expect("it has one").clone();
        let channel = blocking::Channel::builder(address).config(place.config());
        Threads::new(channel.connect_lazy())
    };
    start(place, our_server, client).await
}

pub(crate) async fn client_of_threads_over_shared_memory() -> Link<Threads> {
    start_client_of_threads(Place::SharedMemory).await
}

pub(crate) async fn client_of_threads_over_shmipc_v4() -> Link<Threads> {
    start_client_of_threads(Place::Shmipc(LinkKind::ShmipcV4)).await
}

pub(crate) async fn client_of_threads_over_shmipc_v3() -> Link<Threads> {
    start_client_of_threads(Place::Shmipc(LinkKind::ShmipcV3)).await
}

pub(crate) async fn client_of_threads_over_shmipc_v2() -> Link<Threads> {
    start_client_of_threads(Place::Shmipc(LinkKind::ShmipcV2)).await
}

/// Tasks call, and threads serve.
async fn start_server_of_threads(place: Place) -> Link<Ours<Channel>> {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("interop.sock");
    let listener = shmipc_transport::blocking::Listener::bind_with(path.as_path(), place.config());
    let listener = listener.expect("nobody else listens there");
    let handlers = Handlers::default();
    let service = ServiceOfThreads {
        handlers: handlers.clone(),
    };
    let service = test_service_blocking::TestServiceServer::new(service);
    let server = blocking::Server::builder().add_service(service);
    let shutdown = Shutdown::new();
    let begun = shutdown.clone();
    thread::spawn(move || server.serve_with_listener_and_shutdown(listener, &begun));
    let channel = Channel::builder(path)
        .config(place.config())
        .connect()
        .await;
    Link {
        client: Ours::new(channel.expect("the server listens")),
        handlers,
        _server: Some((Running::Threads(shutdown), directory)),
    }
}

pub(crate) async fn server_of_threads_over_shared_memory() -> Link<Ours<Channel>> {
    start_server_of_threads(Place::SharedMemory).await
}

pub(crate) async fn server_of_threads_over_shmipc_v4() -> Link<Ours<Channel>> {
    start_server_of_threads(Place::Shmipc(LinkKind::ShmipcV4)).await
}

pub(crate) async fn server_of_threads_over_shmipc_v3() -> Link<Ours<Channel>> {
    start_server_of_threads(Place::Shmipc(LinkKind::ShmipcV3)).await
}

pub(crate) async fn server_of_threads_over_shmipc_v2() -> Link<Ours<Channel>> {
    start_server_of_threads(Place::Shmipc(LinkKind::ShmipcV2)).await
}

pub(crate) async fn in_process() -> Link<Ours<Channel>> {
    let handlers = Handlers::default();
    let service = OurService {
        handlers: handlers.clone(),
    };
    let channel = Channel::in_process(TestServiceServer::new(service));
    Link {
        client: Ours::new(channel),
        handlers,
        _server: None,
    }
}

pub(crate) async fn tonic_client() -> Link<Tonic> {
    start(Place::SharedMemory, our_server, Tonic::new).await
}

pub(crate) async fn tonic_server() -> Link<Ours<Channel>> {
    start(Place::SharedMemory, tonic_server_of, Ours::new).await
}

pub(crate) async fn tonic_on_both_sides() -> Link<Tonic> {
    start(Place::SharedMemory, tonic_server_of, Tonic::new).await
}

pub(crate) async fn tonic_client_over_http2() -> Link<Tonic> {
    start(Place::Http2, our_server, Tonic::new).await
}

pub(crate) async fn tonic_server_over_http2() -> Link<Ours<Channel>> {
    start(Place::Http2, tonic_server_of, Ours::new).await
}

/// A tower service that adds nothing, but is not a channel.
#[derive(Clone, Debug)]
pub(crate) struct Layered(Channel);

impl<R> Service<R> for Layered
where
    Channel: Service<R>,
{
    type Response = <Channel as Service<R>>::Response;
    type Error = <Channel as Service<R>>::Error;
    type Future = <Channel as Service<R>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<R>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(request)
    }
}
