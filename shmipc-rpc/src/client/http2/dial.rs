//! Making an HTTP/2 connection: socket, TLS, handshake.

use std::{fmt, io, pin::Pin, sync::Arc, time::Duration};

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::{Identity, SentBody};
use crate::{
    Config, Endpoint, Keepalive,
    client::reconnect::Dial,
    endpoint::{Http2Address, Place},
    error::BoxError,
    http2::{Settings, tasks::Tasks},
    socket::Socket,
    tls::{ClientTls, TlsError},
};

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct DialSettings {
    pub(crate) tls: ClientTls,
    pub(crate) http2: Settings,
    pub(crate) identity: Identity,
    /// What makes the sockets, if not this crate.
    pub(crate) connector: Option<Connector>,
    /// How long making a connection may take.
    pub(crate) connect_timeout: Duration,
    /// Which servers at Unix sockets are talked to.
    pub(crate) admission: Config,
    /// How often a server that is silent is pinged while calls run, and how long it may take to answer.
    pub(crate) keepalive: Option<Keepalive>,
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            tls: ClientTls::new(),
            http2: Settings::default(),
            identity: Identity::default(),
            connector: None,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            admission: Config::default(),
            keepalive: None,
        }
    }
}

/// Makes sockets by a user's code.
#[derive(Clone)]
pub(crate) struct Connector(Arc<dyn Fn(Endpoint) -> Connecting + Send + Sync>);

type Connecting = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>>;

impl Connector {
    pub(crate) fn new<C, F, S>(connect: C) -> Self
    where
        C: Fn(Endpoint) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move |endpoint| {
            let socket = connect(endpoint);
            Box::pin(async move { Ok(Box::new(socket.await?) as Socket) })
        }))
    }

    fn connect(&self, endpoint: Endpoint) -> Connecting {
        (self.0)(endpoint)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// As in gRPC's other implementations.
pub(crate) const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// Why there is no HTTP/2 connection to a server.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Http2ConnectError {
    /// The socket could not be connected: nobody listens, the host is unknown or cannot be reached.
    #[error("could not connect to {endpoint}")]
    Socket {
        /// Where the server was looked for.
        endpoint: String,
        /// What the operating system said.
        source: BoxError,
    },
    /// The settings of TLS cannot be used. Nothing was tried.
    #[error("the settings of TLS cannot be used")]
    TlsSettings(#[source] TlsError),
    /// The two sides did not agree on TLS: the certificate is not one to be trusted, for example.
    #[error("could not agree on TLS with {endpoint}")]
    Tls {
        /// Where the server is.
        endpoint: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The server does not speak HTTP/2.
    #[error("{endpoint} does not speak HTTP/2")]
    Handshake {
        /// Where the server is.
        endpoint: String,
        /// What went wrong.
        source: BoxError,
    },
    /// It took too long.
    #[error("{endpoint} did not answer within {timeout:?}")]
    TimedOut {
        /// Where the server was looked for.
        endpoint: String,
        /// The time allowed.
        timeout: Duration,
    },
}

/// What a connection with TLS takes.
type TlsParts = (Arc<ClientConfig>, ServerName<'static>);

/// Connects to one server.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) address: Http2Address,
    pub(super) settings: DialSettings,
    /// `None` without TLS. What is wrong with the settings is told when somebody connects.
    tls: Option<Result<TlsParts, Arc<TlsError>>>,
}

/// A connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) sender: SendRequest<SentBody>,
    pub(super) tasks: Tasks,
}

impl Dialer {
    pub(super) fn new(address: Http2Address, settings: DialSettings) -> Self {
        let tls = match &address.place {
            Place::Tcp { host, .. } if address.tls => {
                Some(settings.tls.build(host).map_err(Arc::new))
            }
            Place::Tcp { .. } | Place::Unix(_) => None,
        };
        Self {
            address,
            settings,
            tls,
        }
    }

    async fn connect(&self) -> Result<Link, Http2ConnectError> {
        let unreachable = |source: BoxError| Http2ConnectError::Socket {
            endpoint: self.address.to_string(),
            source,
        };
        let tls = self.tls()?;
        let socket: Socket = match (&self.settings.connector, &self.address.place) {
            (Some(connector), _) => {
                let socket = connector.connect(Endpoint::http2(self.address.clone()));
                socket.await.map_err(|error| unreachable(error.into()))?
            }
            (None, Place::Tcp { host, port }) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| unreachable(error.into()))?;
                let set_up = self.settings.http2.set_up(&stream);
                set_up.map_err(|error| unreachable(error.into()))?;
                Box::new(stream)
            }
            (None, Place::Unix(address)) => {
                let (config, timeout) = (&self.settings.admission, self.settings.connect_timeout);
                let stream = shmipc_transport::plain::connect(address, config, timeout).await;
                Box::new(stream.map_err(|error| unreachable(error.into()))?)
            }
        };
        match tls {
            None => self.shake(socket).await,
            Some((tls, name)) => self.shake(self.encrypt(tls, name, socket).await?).await,
        }
    }

    fn tls(&self) -> Result<Option<(TlsConnector, ServerName<'static>)>, Http2ConnectError> {
        match &self.tls {
            None => Ok(None),
            Some(Ok((config, name))) => {
                Ok(Some((TlsConnector::from(Arc::clone(config)), name.clone())))
            }
            // Described anew each time, for an error belongs to one attempt.
            Some(Err(error)) => Err(Http2ConnectError::TlsSettings(TlsError::Unusable {
                what: "configuration",
                source: Box::new(Arc::clone(error)),
            })),
        }
    }

    async fn encrypt(
        &self,
        connector: TlsConnector,
        name: ServerName<'static>,
        stream: Socket,
    ) -> Result<Socket, Http2ConnectError> {
        let stream =
            connector
                .connect(name, stream)
                .await
                .map_err(|source| Http2ConnectError::Tls {
                    endpoint: self.address.to_string(),
                    source,
                })?;
        // A server that knows no ALPN may speak HTTP/2 all the same.
        let agreed = stream.get_ref().1.alpn_protocol();
        if agreed.is_some_and(|protocol| protocol != crate::tls::ALPN) {
            return Err(self.not_http2("it agreed on something else in ALPN".into()));
        }
        Ok(Box::new(stream))
    }

    async fn shake(&self, stream: Socket) -> Result<Link, Http2ConnectError> {
        let tasks = Tasks::default();
        let mut builder = self.settings.http2.for_client(tasks.clone());
        builder.timer(TokioTimer::new());
        if let Some(keepalive) = self.settings.keepalive {
            builder
                .keep_alive_interval(keepalive.interval())
                .keep_alive_timeout(keepalive.timeout())
                .keep_alive_while_idle(keepalive.pings_while_idle());
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.not_http2(error.into()))?;
        let endpoint = self.address.to_string();
        // Ends when the server hangs up, or when nobody holds the sender and no call runs.
        tokio::spawn(async move {
            match connection.await {
                Ok(()) => {
                    tracing::debug!(target: "shmipc_rpc::client", endpoint, "connection ended")
                }
                Err(error) => {
                    tracing::debug!(target: "shmipc_rpc::client", endpoint, %error, "connection lost")
                }
            }
        });
        Ok(Link { sender, tasks })
    }

    fn not_http2(&self, source: BoxError) -> Http2ConnectError {
        Http2ConnectError::Handshake {
            endpoint: self.address.to_string(),
            source,
        }
    }
}

impl Dial for Dialer {
    type Link = Link;
    type Error = Http2ConnectError;

    async fn dial(&self) -> Result<Self::Link, Http2ConnectError> {
        let timeout = self.settings.connect_timeout;
        match tokio::time::timeout(timeout, self.connect()).await {
            Ok(result) => result,
            Err(_) => Err(Http2ConnectError::TimedOut {
                endpoint: self.address.to_string(),
                timeout,
            }),
        }
    }

    fn is_usable(link: &Self::Link) -> bool {
        !link.sender.is_closed()
    }
}
