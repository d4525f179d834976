//! A third party: grpcio, the implementation of gRPC in C++, by way of Python.
//!
//! Skipped where Python or grpcio are not installed, unless `SHMIPC_GRPCIO` is set: to the interpreter that has them.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use shmipc_rpc::{
    Channel, Code, Endpoint, Server,
    codec::CompressionEncoding,
    health::{HealthCheckRequest, HealthClient, HealthReporter, ServingStatus},
    reflection::{
        self,
        v1::{
            ServerReflectionRequest, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        },
        v1alpha::server_reflection_client::ServerReflectionClient,
    },
    tls::{ClientTls, ServerTls},
};
use tempfile::TempDir;
use tests::in_time;

use crate::{
    Running, details, our_client, our_server,
    protos::{
        self, Hanging,
        ours::{Question, probe_client::ProbeClient, probe_server::ProbeServer},
    },
    tls, unix,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http2/grpcio_peer.py");

/// What the script needs.
const MODULES: &str = "import grpc, google.protobuf, grpc_health, grpc_reflection, grpc_status";

/// Returns an interpreter with grpcio and what belongs to it, or says why the test is skipped.
fn python() -> Option<PathBuf> {
    let (python, required) = match env::var_os("SHMIPC_GRPCIO") {
        Some(python) => (PathBuf::from(python), true),
        None => (PathBuf::from("python3"), false),
    };
    let check = Command::new(&python)
        .args(["-c", MODULES])
        .stderr(Stdio::piped())
        .output();
    let problem = match check {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let problem = problem.lines().last().unwrap_or_default();
    assert!(!required, "SHMIPC_GRPCIO has no grpcio: {problem}");
    eprintln!("skipped: {} has no grpcio ({problem})", python.display());
    None
}

fn peer(python: &Path, role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.args([SCRIPT, role, protos::DESCRIPTORS]);
    command.args(arguments);
    // Nothing of the environment is to come between the two.
    for variable in ["http_proxy", "https_proxy", "grpc_proxy"] {
        command
            .env_remove(variable)
            .env_remove(variable.to_uppercase());
    }
    command
}

/// A certificate for `localhost`, and files with it and with its key.
struct Identity {
    certificate: String,
    key: String,
    certificate_file: String,
    key_file: String,
}

impl Identity {
    fn new(directory: &TempDir) -> Self {
        let (certificate, key) = tls::self_signed();
        let write = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).expect("the file can be written");
            path.display().to_string()
        };
        Self {
            certificate_file: write("certificate.pem", &certificate),
            key_file: write("key.pem", &key),
            certificate,
            key,
        }
    }

    /// Trusts it.
    fn trusting(&self) -> ClientTls {
        let tls = ClientTls::new().ca_certificate(&self.certificate);
        tls.expect("it is a certificate")
    }
}

/// Lets the third party be a client, in a role, of a server of ours: in the clear at a port and at a Unix socket, and over TLS.
async fn visit(python: &Path, role: &str, server: Server, hanging: Hanging) {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let identity = Identity::new(&directory);
    let tls = ServerTls::new(&identity.certificate, &identity.key);
    let mut server = server
        .tls(tls.expect("they belong together"))
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    let path = unix(&directory.path().join("grpc.sock"));
    for endpoint in [&path, "https://localhost:0"] {
        server = server.bind(endpoint).await.expect("it is free");
    }
    let running = Running::start(server, hanging);
    let targets = running.endpoints.iter().map(ToString::to_string);
    for target in targets.collect::<Vec<_>>() {
        let mut command = match target.strip_prefix("https://") {
            Some(secure) => peer(python, role, &[secure, &identity.certificate_file]),
            None => peer(python, role, &[target.trim_start_matches("http://")]),
        };
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = in_time("the third party", output).await;
        let output = output.expect("no panic").expect("it can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "at {target}:\n{said}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("all is well\n"));
    }
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_understands_our_server() {
    let Some(python) = python() else { return };
    let probe = our_server::Probe::default();
    let hanging = probe.hanging.clone();
    let probe = ProbeServer::new(probe)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip);
    let server = Server::builder().add_service(probe);
    visit(&python, "client", server, hanging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_a_third_party_find_out_about_our_server() {
    let Some(python) = python() else { return };
    let descriptors = fs::read(protos::DESCRIPTORS).expect("they were generated");
    let reflection = reflection::Builder::new()
        .register_encoded_file_descriptor_set(descriptors)
        .build()
        .expect("they are descriptors");
    let health = HealthReporter::new();
    health.set_serving("probe.v1.Probe");
    let server = Server::builder()
        .add_service(ProbeServer::new(details::Failing))
        .add_service(health.service())
        .add_reflection(reflection);
    visit(&python, "tools", server, Hanging::default()).await;
}

/// Ends a process with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of the third party.
struct Theirs {
    /// In the clear at a port and at a Unix socket, and over TLS.
    endpoints: [Endpoint; 3],
    identity: Identity,
    _process: Killed,
    _directory: TempDir,
}

impl Theirs {
    async fn start(python: &Path, role: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let identity = Identity::new(&directory);
        let path = unix(&directory.path().join("grpc.sock"));
        let arguments = [&path, &identity.certificate_file, &identity.key_file];
        let mut command = peer(python, role, &arguments.map(String::as_str));
        let child = command.stdout(Stdio::piped()).spawn();
        let mut child = Killed(child.expect("it can be run"));
        let mut stdout = BufReader::new(child.0.stdout.take().expect("it is piped"));
        let ports = tokio::task::spawn_blocking(move || {
            let mut ports = String::new();
            stdout.read_line(&mut ports).map(|_| ports)
        });
        let ports = in_time("the ports", ports).await.expect("no panic");
        let ports = ports.expect("it says so");
        let (port, secure) = ports.trim().split_once(' ').expect("there are two");
        Self {
            endpoints: [
                format!("http://127.0.0.1:{port}").into(),
                path.into(),
                format!("https://localhost:{secure}").into(),
            ],
            identity,
            _process: child,
            _directory: directory,
        }
    }

    async fn channels(&self) -> Vec<Channel> {
        let mut channels = Vec::new();
        for endpoint in &self.endpoints {
            let channel = Channel::builder(endpoint.clone()).tls(self.identity.trusting());
            channels.push(channel.connect().await.expect("the server is there"));
        }
        channels
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_understands_the_server_of_a_third_party() {
    let Some(python) = python() else { return };
    let theirs = Theirs::start(&python, "server").await;
    for channel in theirs.channels().await {
        let server = our_client::Server {
            has_trailers: true,
            ..our_client::Server::default()
        };
        our_client::examine(channel, server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_understands_what_a_third_party_compresses() {
    let Some(python) = python() else { return };
    let theirs = Theirs::start(&python, "compressing_server").await;
    let channel = Channel::connect(theirs.endpoints[0].clone()).await;
    let channel = channel.expect("the server is there");
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let server = our_client::Server {
            has_trailers: true,
            ..our_client::Server::default()
        };
        let client = ProbeClient::new(channel.clone())
            .send_compressed(encoding)
            .accept_compressed(CompressionEncoding::Gzip);
        our_client::examine_by(client, channel.clone(), server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_finds_out_about_the_server_of_a_third_party() {
    let Some(python) = python() else { return };
    let theirs = Theirs::start(&python, "server").await;
    for channel in theirs.channels().await {
        let question = Question {
            text: "all details".to_owned(),
            ..Question::default()
        };
        let client = ProbeClient::new(channel.clone());
        let status = in_time("the call", client.unary(question)).await;
        details::check(&status.expect_err("it fails"));
        in_time("its health", examine_health(channel.clone())).await;
        in_time("its services", examine_services(channel)).await;
    }
}

async fn examine_health(channel: Channel) {
    let client = HealthClient::new(channel);
    let named = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client.check(named("probe.v1.Probe")).await;
    let status = answer.expect("it answers").into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    let status = client.check(named("nothing")).await;
    assert_eq!(status.expect_err("there is none").code(), Code::NotFound);
    let watch = client.watch(named("nothing")).await;
    let mut states = watch.expect("it answers").into_inner();
    let state = states.message().await.expect("it answers");
    let status = state.expect("there is one").status();
    assert_eq!(status, ServingStatus::ServiceUnknown);
}

async fn examine_services(channel: Channel) {
    let client = ServerReflectionClient::new(channel);
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("probe.v1.Probe".to_owned()),
        MessageRequest::FileContainingSymbol("probe.v1.Nothing".to_owned()),
    ];
    let questions = questions.map(|question| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    });
    let answers = client
        .server_reflection_info(tokio_stream::iter(questions))
        .await;
    let mut answers = answers.expect("it answers").into_inner();
    let mut next = async || {
        let answer = answers.message().await.expect("it answers");
        answer.expect("there is one").message_response
    };
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else {
        panic!("these are no services")
    };
    let mut names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
    names.sort_unstable();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "probe.v1.Probe",
    ];
    assert_eq!(names, expected);
    let Some(MessageResponse::FileDescriptorResponse(files)) = next().await else {
        panic!("this is no file")
    };
    assert_eq!(files.file_descriptor_proto.len(), 1);
    let Some(MessageResponse::ErrorResponse(error)) = next().await else {
        panic!("there is no such thing")
    };
    assert_eq!(error.error_code, Code::NotFound as i32);
}
