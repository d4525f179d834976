//! Who is trusted, and who is not.

use std::error::Error as _;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use shmipc_rpc::{
    Channel, Code, ConnectError, Endpoint, Request, Response, ResponseStream, ServeError, Server,
    Status, Streaming,
    client::Http2ConnectError,
    server::{ClientCertificates, Http2BindError},
    tls::{ClientTls, ServerTls, TlsError},
};
use tests::in_time;

use crate::{
    Running, probe,
    protos::{
        Hanging,
        ours::{
            Answer, Question,
            probe_client::ProbeClient,
            probe_server::{Probe, ProbeServer},
        },
    },
};

/// A certificate for `localhost` that vouches for itself, and its key, in PEM.
pub(crate) fn self_signed() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.expect("it is an ordinary name");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// An authority, and a certificate with its key for a client that it vouches for.
pub(crate) fn client_of_an_authority() -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let mut params = CertificateParams::new(["client".to_owned()]).expect("it is a name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

async fn serve(server: Server, hanging: Hanging) -> (Running, Endpoint) {
    let server = server
        .bind("https://localhost:0")
        .await
        .expect("a port is free");
    let running = Running::start(server, hanging);
    let endpoint = running.endpoints[0].clone();
    (running, endpoint)
}

async fn refusal(endpoint: &Endpoint, tls: ClientTls) -> String {
    let connected = Channel::builder(endpoint.clone()).tls(tls).connect();
    match in_time("the handshake", connected).await {
        Err(ConnectError::Http2(error @ Http2ConnectError::Tls { .. })) => {
            let source = error.source().expect("rustls says why");
            format!("{error}: {source}")
        }
        other => panic!("it was to be refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_server_that_is_vouched_for_is_spoken_to() {
    let (certificate, key) = self_signed();
    let (stranger, _) = self_signed();
    let (server, hanging) = probe();
    let tls = ServerTls::new(&certificate, &key).expect("they belong together");
    let (running, endpoint) = serve(server.tls(tls), hanging).await;
    let trusting = |pem: &str| ClientTls::new().ca_certificate(pem).expect("a certificate");

    let channel = Channel::builder(endpoint.clone()).tls(trusting(&certificate));
    let client = ProbeClient::new(channel.connect().await.expect("it is trusted"));
    in_time("a call", client.unary(Question::default()))
        .await
        .expect("it answers");

    let error = refusal(&endpoint, trusting(&stranger)).await;
    assert!(
        error.contains("could not agree on TLS with https://localhost:"),
        "{error}"
    );
    let other_name = trusting(&certificate).server_name("elsewhere.example");
    let error = refusal(&endpoint, other_name.expect("it is a name")).await;
    assert!(error.contains("elsewhere.example"), "{error}");
    let other_name = trusting(&certificate).server_name("localhost");
    let address = endpoint.to_string().replace("localhost", "127.0.0.1");
    let channel = Channel::builder(address).tls(other_name.expect("it is a name"));
    channel
        .connect()
        .await
        .expect("it has the name that was asked for");

    // Without TLS, the server is not one of HTTP/2.
    let plain = endpoint.to_string().replace("https", "http");
    let client = ProbeClient::new(Channel::builder(plain).connect_lazy());
    let called = in_time("a call", client.unary(Question::default())).await;
    assert_eq!(
        called.expect_err("it is not understood").code(),
        Code::Unavailable
    );
    running.ended().await;
}

/// Answers with the length of the client's certificate.
struct Knowing;

impl Probe for Knowing {
    async fn unary(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let certificates = request.extensions().get::<ClientCertificates>();
        let own = certificates.and_then(|certificates| certificates.der().next());
        let payload = own.map(Bytes::copy_from_slice).unwrap_or_default();
        Ok(Response::new(Answer {
            payload,
            ..Answer::default()
        }))
    }

    async fn download(
        &self,
        _: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn upload(&self, _: Request<Streaming<Question>>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(Answer::default()))
    }

    async fn chat(
        &self,
        _: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_demand_certificates_of_its_clients() {
    let (certificate, key) = self_signed();
    let (authority, client_certificate, client_key) = client_of_an_authority();
    for required in [true, false] {
        let tls = ServerTls::new(&certificate, &key).expect("they belong together");
        let tls = if required {
            tls.client_ca(&authority)
        } else {
            tls.optional_client_ca(&authority)
        };
        let server = Server::builder().add_service(ProbeServer::new(Knowing));
        let server = server.tls(tls.expect("it is an authority"));
        let (running, endpoint) = serve(server, Hanging::default()).await;
        let anonymous = ClientTls::new()
            .ca_certificate(&certificate)
            .expect("a certificate");
        let known = anonymous.clone().identity(&client_certificate, &client_key);

        let call = async |tls: ClientTls| {
            let channel = Channel::builder(endpoint.clone()).tls(tls).connect_lazy();
            let client = ProbeClient::new(channel);
            in_time("a call", client.unary(Question::default())).await
        };
        let answer = call(known.expect("they belong together"))
            .await
            .expect("it is known");
        let der = answer.into_inner().payload;
        let pem = rcgen::KeyPair::from_pem(&client_key).expect("it is a key");
        let public = pem.public_key_raw();
        assert!(
            der.windows(public.len()).any(|part| part == public),
            "it is the client's own"
        );
        match call(anonymous).await {
            Ok(answer) => {
                assert!(!required);
                assert!(answer.into_inner().payload.is_empty());
            }
            Err(status) => {
                assert!(required);
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            }
        }
        running.ended().await;
    }
}

#[tokio::test]
async fn mistakes_are_found_when_they_are_made() {
    let (certificate, key) = self_signed();
    let (_, other_key) = self_signed();
    let wrong = ServerTls::new(&certificate, &other_key).expect_err("they do not belong together");
    assert!(matches!(wrong, TlsError::Unusable { .. }), "{wrong:?}");
    let wrong = ServerTls::new(&key, &key).expect_err("it is no certificate");
    assert_eq!(wrong.to_string(), "there is no certificate in the PEM text");
    let wrong = ServerTls::new(&certificate, &certificate).expect_err("it is no key");
    assert_eq!(wrong.to_string(), "there is no private key in the PEM text");
    let wrong = ClientTls::new()
        .ca_certificate("nothing")
        .expect_err("there is none");
    assert!(matches!(wrong, TlsError::Pem { .. }), "{wrong:?}");
    let wrong = ClientTls::new()
        .server_name("no name!")
        .expect_err("it is no name");
    assert_eq!(
        wrong.to_string(),
        "\"no name!\" cannot be the name of a server"
    );
    let (server, _) = probe();
    let wrong = server
        .bind("https://localhost:0")
        .await
        .expect_err("there is no certificate");
    assert!(
        matches!(
            wrong,
            ServeError::Http2Bind(Http2BindError::NoCertificate { .. })
        ),
        "{wrong:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_listened_at_already_is_served_with_and_without_tls() {
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let (server, _) = probe();
    let error = server.bind_https(listener());
    let error = error.expect_err("there is no certificate");
    let is_it = matches!(
        error,
        ServeError::Http2Bind(Http2BindError::NoCertificate { .. })
    );
    assert!(is_it, "{error:?}");

    let (certificate, key) = self_signed();
    let (server, hanging) = probe();
    let server = server.tls(ServerTls::new(&certificate, &key).expect("they belong together"));
    let (encrypted, open) = (listener(), listener());
    let bound = [&encrypted, &open].map(|socket| socket.local_addr().expect("it is bound"));
    let server = server.bind_https(encrypted).expect("it listens");
    let server = server.bind_http(open).expect("it listens");
    let running = Running::start(server, hanging);
    let trusting = ClientTls::new().ca_certificate(&certificate);
    let trusting = trusting.and_then(|tls| tls.server_name("localhost"));
    let trusting = trusting.expect("it is a certificate, and a name");
    for (scheme, bound, endpoint) in [
        ("https", bound[0], &running.endpoints[0]),
        ("http", bound[1], &running.endpoints[1]),
    ] {
        assert_eq!(endpoint.to_string(), format!("{scheme}://{bound}"));
        let channel = Channel::builder(endpoint.clone()).tls(trusting.clone());
        let channel = in_time("connecting", channel.connect()).await;
        let client = ProbeClient::new(channel.expect("the server is there"));
        let answer = in_time("a call", client.unary(Question::default())).await;
        answer.expect("it answers");
    }
    running.ended().await;
}
