//! Sockets that gRPC over HTTP/2 is served at.

use std::{io, net::SocketAddr, sync::Arc};

use http::Extensions;
use shmipc_transport::{BindError, plain::PlainListener};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer};
#[cfg(feature = "tonic")]
use tonic::transport::server::Connected as _; // What tonic's handlers ask for.

use super::preface::Prefaced;
use crate::{
    Config, Endpoint,
    endpoint::{Http2Address, Place},
    http2::Settings,
    server::drain::Origin,
    socket::Socket,
    tls::{ServerTls, TlsError},
};

/// Where a call over TCP came from. Handlers find it in the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteAddr(pub SocketAddr);

/// The certificates that the client of a call over TLS has shown: its own and those of authorities below the one that is
/// trusted, in DER. Handlers find them in the request's extensions.
#[derive(Clone, Debug)]
pub struct ClientCertificates(Arc<[CertificateDer<'static>]>);

impl ClientCertificates {
    /// Returns the certificates in DER. The client's own is the first.
    pub fn der(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// Why gRPC over HTTP/2 cannot be served at an endpoint.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Http2BindError {
    /// The host and port cannot be listened at.
    #[error("could not listen at {endpoint}")]
    Tcp {
        /// The endpoint in question.
        endpoint: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The Unix socket cannot be listened at.
    #[error("could not listen at {endpoint}")]
    Unix {
        /// The endpoint in question.
        endpoint: String,
        /// What is wrong.
        source: BindError,
    },
    /// The endpoint begins with `https`, and the server has no certificate. Give it one with
    /// [`Server::tls`](crate::Server::tls).
    #[error("{endpoint} takes a certificate, which the server does not have")]
    NoCertificate {
        /// The endpoint in question.
        endpoint: String,
    },
    /// The settings of TLS cannot be used.
    #[error("the settings of TLS cannot be used")]
    Tls(#[source] TlsError),
}

/// A socket that listens.
pub(crate) struct Http2Listener {
    socket: Listening,
    tls: Option<TlsAcceptor>,
    endpoint: Endpoint,
}

enum Listening {
    Tcp(TcpListener),
    Unix(PlainListener),
}

/// A connection that nothing was said over.
pub(super) struct Accepted {
    socket: Accepting,
    /// What handlers may know of the client.
    client: Extensions,
}

enum Accepting {
    Plain(Socket),
    Tls(Box<(TcpStream, TlsAcceptor)>),
}

impl Http2Listener {
    pub(crate) async fn bind(
        address: &Http2Address,
        tls: Option<&ServerTls>,
        takes_over: bool,
    ) -> Result<Self, Http2BindError> {
        let tls = acceptor(address, tls)?;
        match &address.place {
            Place::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port)).await;
                let listener = listener.map_err(failed(address))?;
                let bound = listener.local_addr().map_err(failed(address))?;
                let endpoint = endpoint_at(address, bound);
                Ok(Self {
                    socket: Listening::Tcp(listener),
                    tls,
                    endpoint,
                })
            }
            Place::Unix(path) => {
                let listener = if takes_over {
                    PlainListener::take_over(path.clone())
                } else {
                    PlainListener::bind(path.clone())
                };
                let listener = listener.map_err(|source| Http2BindError::Unix {
                    endpoint: address.to_string(),
                    source,
                })?;
                Ok(Self {
                    socket: Listening::Unix(listener),
                    tls,
                    endpoint: Endpoint::http2(address.clone()),
                })
            }
        }
    }

    /// Goes on with a socket that listens already.
    pub(crate) fn of(
        listener: std::net::TcpListener,
        tls: Option<&ServerTls>,
        is_encrypted: bool,
    ) -> Result<Self, Http2BindError> {
        let unnamed = |source| Http2BindError::Tcp {
            endpoint: "a socket without an address".to_owned(),
            source,
        };
        let bound = listener.local_addr().map_err(unnamed)?;
        let address = Http2Address::tcp(bound, is_encrypted);
        let tls = acceptor(&address, tls)?;
        listener.set_nonblocking(true).map_err(failed(&address))?;
        let listener = TcpListener::from_std(listener).map_err(failed(&address))?;
        Ok(Self {
            socket: Listening::Tcp(listener),
            tls,
            endpoint: Endpoint::http2(address),
        })
    }

    /// Returns where it listens, with the port that the system has chosen if it was to choose.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Accepts a connection.
    ///
    /// # Errors
    ///
    /// Returns what the operating system said, and [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) if the client is not
    /// admitted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection that was not returned is left for the next call.
    pub(super) async fn accept(
        &self,
        settings: &Settings,
        config: &Config,
    ) -> io::Result<Accepted> {
        let mut client = Extensions::new();
        let socket = match &self.socket {
            Listening::Unix(listener) => {
                let (stream, peer) = listener.accept().await?;
                if !config.admits(&peer) {
                    tracing::debug!(target: "shmipc_rpc::server", %peer, "a client is not admitted");
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                client.insert(peer);
                #[cfg(feature = "tonic")]
                client.insert(stream.connect_info());
                Accepting::Plain(Box::new(stream))
            }
            Listening::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                client.insert(RemoteAddr(address));
                // Should it fail, the connection is broken anyway.
                let _ = settings.set_up(&stream);
                match &self.tls {
                    None => {
                        #[cfg(feature = "tonic")]
                        client.insert(stream.connect_info());
                        Accepting::Plain(Box::new(stream))
                    }
                    Some(tls) => Accepting::Tls(Box::new((stream, tls.clone()))),
                }
            }
        };
        Ok(Accepted { socket, client })
    }
}

impl Accepted {
    /// Returns where it comes from.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            peer: self.client.get().copied(),
            address: self.client.get().map(|&RemoteAddr(address)| address),
        }
    }

    /// Agrees on TLS, if need be, and waits for the client to say something. Returns the socket, and what handlers may know of the
    /// client.
    pub(super) async fn establish(self) -> io::Result<(Socket, Extensions)> {
        let Self { socket, mut client } = self;
        let (stream, acceptor) = match socket {
            Accepting::Plain(socket) => return Ok((Prefaced::read(socket).await?, client)),
            Accepting::Tls(parts) => *parts,
        };
        let stream = acceptor.accept(stream).await?;
        if let Some(certificates) = stream.get_ref().1.peer_certificates() {
            let certificates = certificates
                .iter()
                .map(|certificate| certificate.clone().into_owned());
            client.insert(ClientCertificates(certificates.collect()));
        }
        #[cfg(feature = "tonic")]
        client.insert(stream.connect_info());
        Ok((Prefaced::read(Box::new(stream)).await?, client))
    }
}

/// Says where TCP cannot be listened at.
fn failed(address: &Http2Address) -> impl Fn(io::Error) -> Http2BindError {
    let endpoint = address.to_string();
    move |source| Http2BindError::Tcp {
        endpoint: endpoint.clone(),
        source,
    }
}

/// Returns what agrees on TLS, if that is wanted at an address.
fn acceptor(
    address: &Http2Address,
    tls: Option<&ServerTls>,
) -> Result<Option<TlsAcceptor>, Http2BindError> {
    match (address.tls, tls) {
        (false, _) => Ok(None),
        (true, None) => Err(Http2BindError::NoCertificate {
            endpoint: address.to_string(),
        }),
        (true, Some(tls)) => {
            let tls = tls.build().map_err(Http2BindError::Tls)?;
            Ok(Some(TlsAcceptor::from(tls)))
        }
    }
}

fn endpoint_at(address: &Http2Address, bound: SocketAddr) -> Endpoint {
    let host = address.authority.host();
    // The host that was asked for is what clients know the server by; the port may be another one.
    let authority = format!("{host}:{}", bound.port()).parse();
    let mut address = address.clone();
    if let (Ok(authority), Place::Tcp { port, .. }) = (authority, &mut address.place) {
        *port = bound.port();
        address.authority = authority;
    }
    Endpoint::http2(address)
}
