//! TLS for gRPC over HTTP/2 (feature `grpc`): certificates and keys, in PEM.
//!
//! Versions 1.2 and 1.3 are spoken, and HTTP/2 is agreed on by ALPN. Everything is read when it is set, so that a mistake
//! shows at once and not when somebody connects.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::error::BoxError;

/// The name of HTTP/2 in ALPN.
pub(crate) const ALPN: &[u8] = b"h2";

/// Why certificates or keys were refused.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM, or has nothing of this kind in it.
    #[error("there is no {what} in the PEM text")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong, if it is not just missing.
        source: Option<BoxError>,
    },
    /// A certificate or key cannot be used: it is malformed, of an unknown kind, or the two do not belong together.
    #[error("the {what} cannot be used")]
    Unusable {
        /// What was looked at.
        what: &'static str,
        /// What is wrong.
        source: BoxError,
    },
    /// The name of the server is neither a host name nor an IP address.
    #[error("{name:?} cannot be the name of a server")]
    ServerName {
        /// The name in question.
        name: String,
    },
    /// The system has no certificates of authorities. Name one with [`ClientTls::ca_certificate`].
    #[error("the system has no certificates of authorities")]
    NoSystemRoots {
        /// What went wrong when they were read, if anything.
        source: Option<BoxError>,
    },
}

/// How a client knows its server, and makes itself known.
///
/// By default the server's certificate must be signed by an authority that the system trusts, and the client has none.
#[derive(Clone, Default)]
pub struct ClientTls {
    roots: Option<RootCertStore>,
    identity: Option<Identity>,
    server_name: Option<ServerName<'static>>,
}

/// How a server makes itself known, and knows its clients.
#[derive(Clone)]
pub struct ServerTls {
    identity: Identity,
    clients: Option<(RootCertStore, bool)>,
}

/// A chain of certificates and the key of the first.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientTls {
    /// Begins with the authorities of the system, and no certificate of the client's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities whose certificates are in `pem`, and no longer those of the system.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError`] if there is none, or one that is malformed.
    pub fn ca_certificate(mut self, pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        let roots = self.roots.get_or_insert_with(RootCertStore::empty);
        add_roots(roots, pem.as_ref())?;
        Ok(self)
    }

    /// Shows the server this chain of certificates, of which the client has the private key. The client's own comes first.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError`] if there is no certificate or key, or they do not belong together.
    pub fn identity(
        mut self,
        chain_pem: impl AsRef<[u8]>,
        key_pem: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        self.identity = Some(Identity::read(chain_pem.as_ref(), key_pem.as_ref())?);
        Ok(self)
    }

    /// Expects this name in the server's certificate. Default: the host of the endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError::ServerName`] if it is no name.
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.server_name = Some(server_name(name)?);
        Ok(self)
    }

    /// Returns what a connection to `host` needs.
    pub(crate) fn build(
        &self,
        host: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            None => system_roots()?,
        };
        let verifier: Arc<dyn ServerCertVerifier> =
            rustls::client::WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots),
                provider(),
            )
            .build()
            .map_err(unusable("certificate of the authority"))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable("cryptography"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity.clone() {
            Some(Identity { chain, key }) => config
                .with_client_auth_cert(chain, key)
                .map_err(unusable("certificate or key"))?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok((Arc::new(config), name))
    }
}

impl ServerTls {
    /// Shows clients this chain of certificates, of which the server has the private key. The server's own comes first.
    ///
    /// # Errors
    ///
    /// Returns [`TlsError`] if there is no certificate or key, or they do not belong together.
    pub fn new(chain_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        Ok(Self {
            identity: Identity::read(chain_pem.as_ref(), key_pem.as_ref())?,
            clients: None,
        })
    }

    /// Admits only clients with a certificate that was signed by an authority whose own is in `pem`.
    ///
    /// Handlers find the certificates in the request's extensions, as
    /// [`ClientCertificates`](crate::server::ClientCertificates).
    ///
    /// # Errors
    ///
    /// Returns [`TlsError`] if there is no certificate in it, or one that is malformed.
    pub fn client_ca(self, pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        self.with_clients(pem.as_ref(), true)
    }

    /// As [`client_ca`](Self::client_ca), but clients without a certificate are admitted as well.
    ///
    /// # Errors
    ///
    /// As for [`client_ca`](Self::client_ca).
    pub fn optional_client_ca(self, pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        self.with_clients(pem.as_ref(), false)
    }

    fn with_clients(mut self, pem: &[u8], required: bool) -> Result<Self, TlsError> {
        let (mut roots, _) = self
            .clients
            .take()
            .unwrap_or((RootCertStore::empty(), true));
        add_roots(&mut roots, pem)?;
        self.clients = Some((roots, required));
        Ok(self)
    }

    /// Returns what connections need.
    pub(crate) fn build(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let clients: Arc<dyn ClientCertVerifier> = match &self.clients {
            Some((roots, required)) => {
                let roots = Arc::new(roots.clone());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = if *required {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                verifier
                    .build()
                    .map_err(unusable("certificate of the clients' authority"))?
            }
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let Identity { chain, key } = self.identity.clone();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable("cryptography"))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(unusable("certificate or key"))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

impl Identity {
    fn read(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| TlsError::Pem {
            what: "private key",
            source: Some(error.into()),
        })?;
        // The one thing that can be wrong later is found out now: whether they belong together.
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider())
            .map_err(unusable("certificate or key"))?;
        Ok(Self { chain, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// The cryptography is chosen here and not by what a process may have installed, so that features of other crates change
/// nothing.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable<E: Into<BoxError>>(what: &'static str) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError::Unusable {
        what,
        source: error.into(),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = |source| TlsError::Pem {
        what: "certificate",
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| missing(Some(error.into())))?;
    if certificates.is_empty() {
        return Err(missing(None));
    }
    Ok(certificates)
}

fn add_roots(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), TlsError> {
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(unusable("certificate of the authority"))?;
    }
    Ok(())
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some certificates that are too odd for rustls. Those are not missed.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let source = loaded.errors.into_iter().next();
        return Err(TlsError::NoSystemRoots {
            source: source.map(Into::into),
        });
    }
    Ok(roots)
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName {
        name: name.to_owned(),
    })
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("system_roots", &self.roots.is_none())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("client_certificates", &self.clients.is_some())
            .finish_non_exhaustive()
    }
}
