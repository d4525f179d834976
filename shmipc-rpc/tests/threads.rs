//! What users hold may be moved to other threads, and shared between them.

mod common;

use std::{fs, path::Path};

use shmipc_rpc::{
    Body, Channel, Method, blocking, client, dynamic, http, interceptor, metadata, mock, server,
};

use crate::common::{Lab, Packet};

/// Asserts that types are `Send` and `Sync`, and returns what they are called.
macro_rules! shared {
    ($($type:ty),* $(,)?) => {{
        fn assert<T: Send + Sync>() -> &'static str {
            std::any::type_name::<T>()
        }
        [$(assert::<$type>()),*].map(name_of)
    }};
}

/// Returns the name of a type without its path and parameters.
fn name_of(path: &str) -> String {
    let path = path.split('<').next().unwrap_or_default();
    let (_, name) = path.rsplit_once("::").unwrap_or(("", path));
    name.to_owned()
}

/// A function, or a closure, of which only the type counts.
type Hook = fn(&mut interceptor::Call) -> Result<(), shmipc_rpc::Status>;

fn of_calls() -> Vec<String> {
    let names = shared![
        Body,
        shmipc_rpc::CancelReason,
        shmipc_rpc::Cancellation,
        shmipc_rpc::Code,
        shmipc_rpc::Idempotency,
        Method,
        shmipc_rpc::MethodKind,
        shmipc_rpc::Request<Packet>,
        shmipc_rpc::RequestSink<Packet>,
        shmipc_rpc::Response<Packet>,
        shmipc_rpc::ResponseSink<Packet>,
        shmipc_rpc::Sender<Packet>,
        shmipc_rpc::Status,
        shmipc_rpc::Streaming<Packet>,
        shmipc_rpc::codec::CompressionEncoding,
        shmipc_rpc::codec::SingleMessageCompressionOverride,
        http::Request<Body>,
        http::Response<Body>,
        metadata::InvalidMetadata,
    ];
    names.into()
}

fn of_clients() -> Vec<String> {
    let names = shared![
        Channel,
        shmipc_rpc::BoxError,
        shmipc_rpc::ConnectError,
        shmipc_rpc::Endpoint,
        shmipc_rpc::InvalidEndpoint,
        client::Caller,
        client::ChannelBuilder,
        client::InvalidServiceConfig,
        client::MethodConfig,
        client::ResponseFuture,
        client::RetryPolicy,
        client::ServiceConfig,
        client::ServiceConfigBuilder,
        mock::Answer<Packet, Packet>,
        mock::Answer<Packet, dynamic::BoxResponseStream<Packet>>,
        mock::Call,
        mock::Calls,
    ];
    names.into()
}

fn of_servers() -> Vec<String> {
    let names = shared![
        shmipc_rpc::ServeError,
        shmipc_rpc::Server,
        server::BoundServer,
        server::Compression,
        server::ConnectedPeer,
        server::CutOff,
        server::Draining,
        server::DrainReport,
        server::MessageLimits,
        server::Named<Lab, Lab>,
        server::ResponseFuture,
        server::Router,
        server::ServerHandle,
        server::ServerService,
        server::Streamed,
        interceptor::Answer,
        interceptor::Call,
        interceptor::End,
        interceptor::Intercepted<Lab, interceptor::OnRequest<Hook>>,
        interceptor::InterceptedFuture<server::ResponseFuture>,
        interceptor::InterceptorLayer<interceptor::OnRequest<Hook>>,
        interceptor::Next,
        interceptor::OnRequest<Hook>,
    ];
    names.into()
}

/// A service whose handlers block, of which only the type counts.
struct Waiting;

impl blocking::Service for Waiting {
    const NAME: &'static str = "lab.v1.Waiting";
    const METHODS: &'static [Method] = &[];

    fn call(&self, call: blocking::Call) {
        blocking::serve::unimplemented(call);
    }
}

fn of_threads() -> Vec<String> {
    let names = shared![
        blocking::Call,
        blocking::Caller,
        blocking::Channel,
        blocking::ChannelBuilder,
        blocking::Duplex<Packet, Packet>,
        blocking::DuplexReceiver<Packet>,
        blocking::DuplexSender<Packet>,
        blocking::Server,
        blocking::Shutdown,
        blocking::Streaming<Packet>,
        // Its `Next` alone is not: it stays in the thread of its call, and so may what that iterates over.
        blocking::interceptor::Intercepted<Waiting>,
        blocking::interceptor::InterceptorLayer,
    ];
    names.into()
}

#[cfg(feature = "error-details")]
fn of_details() -> Vec<String> {
    shared![shmipc_rpc::error_details::ErrorDetails].into()
}

#[cfg(feature = "health")]
fn of_health() -> Vec<String> {
    use shmipc_rpc::health;

    shared![health::HealthReporter, health::HealthService].into()
}

#[cfg(feature = "metrics")]
fn of_metrics() -> Vec<String> {
    use shmipc_rpc::metrics;

    shared![metrics::CallMetric, metrics::CallMetrics].into()
}

#[cfg(feature = "reflection")]
fn of_reflection() -> Vec<String> {
    use shmipc_rpc::reflection;

    let names = shared![
        reflection::Builder,
        reflection::InvalidDescriptors,
        reflection::Reflection,
        reflection::ReflectionService,
    ];
    names.into()
}

#[cfg(feature = "grpc")]
fn of_http2() -> Vec<String> {
    use shmipc_rpc::{http2, tls};

    let names = shared![
        client::Http2ConnectError,
        http2::InvalidSettings,
        http2::Settings,
        http2::SettingsBuilder,
        server::ClientCertificates,
        server::Http2BindError,
        server::RemoteAddr,
        tls::ClientTls,
        tls::ServerTls,
        tls::TlsError,
    ];
    names.into()
}

#[cfg(feature = "tonic")]
fn of_tonic() -> Vec<String> {
    use shmipc_rpc::tonic;

    shared![tonic::RequestBody, tonic::TonicService<Lab>].into()
}

/// Returns the names of all types that are asserted, whatever the features.
fn asserted() -> Vec<String> {
    [
        of_calls(),
        of_clients(),
        of_servers(),
        of_threads(),
        #[cfg(feature = "error-details")]
        of_details(),
        #[cfg(feature = "health")]
        of_health(),
        #[cfg(feature = "metrics")]
        of_metrics(),
        #[cfg(feature = "reflection")]
        of_reflection(),
        #[cfg(feature = "grpc")]
        of_http2(),
        #[cfg(feature = "tonic")]
        of_tonic(),
    ]
    .concat()
}

/// Names the public types in a folder, but those of features that are off.
fn declared(folder: &Path, names: &mut Vec<(String, String)>) {
    const GENERATED: [&str; 2] = ["generated", "google_rpc.rs"];

    let off = [
        (cfg!(feature = "error-details"), "details"),
        (cfg!(feature = "grpc"), "http2"),
        (cfg!(feature = "grpc"), "tls.rs"),
        (cfg!(feature = "health"), "health"),
        (cfg!(feature = "metrics"), "metrics.rs"),
        (cfg!(feature = "reflection"), "reflection"),
        (cfg!(feature = "tonic"), "tonic"),
    ];
    for entry in fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_off = off.iter().any(|(on, what)| !on && *what == name);
        if is_off || GENERATED.contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            declared(&path, names);
            continue;
        }
        let source = fs::read_to_string(&path).expect("it is text");
        for line in source.lines() {
            let line = line.trim_start();
            let declared = ["pub struct ", "pub enum "]
                .iter()
                .find_map(|start| line.strip_prefix(start));
            let is_name = |char: char| char.is_alphanumeric() || char == '_';
            if let Some(declared) = declared {
                let name = declared.split(|char| !is_name(char)).next();
                let place = path.display().to_string();
                names.push((name.unwrap_or_default().to_owned(), place));
            }
        }
    }
}

#[test]
fn every_public_type_can_be_shared_between_threads() {
    let asserted = asserted();
    let mut names = Vec::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    declared(&source, &mut names);
    assert!(50 < names.len(), "{names:?}");
    names.retain(|(name, _)| !asserted.contains(name));
    assert_eq!(names, [], "these are not asserted to be `Send + Sync`");
}

/// Users of this crate alone can name what they get from it.
#[test]
fn what_sessions_are_about_can_be_named_and_shared() {
    let names = shared![
        shmipc_rpc::Address,
        shmipc_rpc::Clients,
        shmipc_rpc::HandshakeStep,
        shmipc_rpc::InvalidAddress,
        shmipc_rpc::Leftover,
        shmipc_rpc::Listener,
        shmipc_rpc::PeerMisbehaved,
        shmipc_rpc::Refusal,
        shmipc_rpc::RefusalCode,
        shmipc_rpc::Restart,
        shmipc_rpc::RestartError,
        shmipc_rpc::SessionConnectError,
        shmipc_rpc::SessionDump,
        shmipc_rpc::transport::RingDump,
        shmipc_rpc::transport::Session,
        shmipc_rpc::transport::SessionPool,
        shmipc_rpc::transport::StreamDump,
        blocking::Clients,
        blocking::Leftover,
        blocking::Listener,
    ];
    assert_eq!(names[0], "Address");
}

#[test]
fn what_clones_share_can_be_cloned() {
    fn cloned<T: Clone>() {}
    cloned::<Channel>();
    cloned::<client::Caller>();
    cloned::<shmipc_rpc::Status>();
    cloned::<shmipc_rpc::Request<Packet>>();
    cloned::<shmipc_rpc::Response<Packet>>();
    cloned::<shmipc_rpc::Cancellation>();
    cloned::<server::Router>();
    cloned::<blocking::Channel>();
}

/// A handler may keep its requests, and a reference to them, while it waits.
fn _futures_that_borrow_a_stream_are_send(streaming: &shmipc_rpc::Streaming<Packet>, body: &Body) {
    fn sent<T: Send>(_: T) {}
    sent(async {
        std::future::ready(()).await;
        format!("{streaming:?} {body:?}")
    });
}
