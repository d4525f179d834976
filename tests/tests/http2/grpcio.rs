//! A third party: grpcio, the implementation of gRPC in C++, by way of Python.
//!
//! Skipped where Python or grpcio are not installed, unless `SHMIPC_GRPCIO` is set: to the interpreter that has them.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use shmipc_rpc::{Channel, Server, codec::CompressionEncoding};
use tests::in_time;

use crate::{
    Running, our_client, our_server,
    protos::{
        self,
        ours::{probe_client::ProbeClient, probe_server::ProbeServer},
    },
    unix,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http2/grpcio_peer.py");

/// Returns an interpreter with grpcio, or says why the test is skipped.
fn python() -> Option<PathBuf> {
    let (python, required) = match env::var_os("SHMIPC_GRPCIO") {
        Some(python) => (PathBuf::from(python), true),
        None => (PathBuf::from("python3"), false),
    };
    let check = Command::new(&python)
        .args(["-c", "import grpc, google.protobuf"])
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

fn peer(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(SCRIPT).args(arguments).arg(protos::DESCRIPTORS);
    // Nothing of the environment is to come between the two.
    for variable in ["http_proxy", "https_proxy", "grpc_proxy"] {
        command
            .env_remove(variable)
            .env_remove(variable.to_uppercase());
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_understands_our_server() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("grpc.sock");
    let probe = our_server::Probe::default();
    let hanging = probe.hanging.clone();
    let probe = ProbeServer::new(probe)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip);
    let server = Server::builder().add_service(probe);
    let server = server
        .bind("http://127.0.0.1:0")
        .await
        .expect("a port is free");
    let server = server.bind(unix(&path)).await.expect("the path is free");
    let running = Running::start(server, hanging);
    let tcp = running.endpoints[0].to_string().replace("http://", "");
    for target in [tcp, unix(&path)] {
        let mut command = peer(&python, &["client", &target]);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = in_time("the third party", output).await;
        let output = output.expect("no panic").expect("it can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "at {target}:\n{said}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("all is well\n"));
    }
    running.ended().await;
}

/// Ends a process with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the server of a third party, which listens at `path`. Returns where it does besides.
async fn serve(python: &Path, role: &str, path: &Path) -> (Killed, String) {
    let mut command = peer(python, &[role, &unix(path)]);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = Killed(child.expect("it can be run"));
    let mut stdout = BufReader::new(child.0.stdout.take().expect("it is piped"));
    let port = tokio::task::spawn_blocking(move || {
        let mut port = String::new();
        stdout.read_line(&mut port).map(|_| port)
    });
    let port = in_time("the port", port)
        .await
        .expect("no panic")
        .expect("it says so");
    (child, format!("http://127.0.0.1:{}", port.trim()))
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_understands_the_server_of_a_third_party() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("grpc.sock");
    let (_server, tcp) = serve(&python, "server", &path).await;
    for endpoint in [tcp, unix(&path)] {
        let channel = Channel::connect(endpoint)
            .await
            .expect("the server is there");
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
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("grpc.sock");
    let (_server, tcp) = serve(&python, "compressing_server", &path).await;
    let channel = Channel::connect(tcp).await.expect("the server is there");
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
