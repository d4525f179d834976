//! Where a server is, and how it is spoken to.

#[cfg(feature = "grpc")]
use std::net::SocketAddr;
use std::{
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::FromStr,
};

use http::uri::Authority;
use shmipc_transport::Address;

/// Where a server is to be found, or listens; which also says how it is spoken to.
///
/// | text | way |
/// |---|---|
/// | `/run/route.sock`, or any other path | shared memory, through the socket at this path |
/// | `@route` | shared memory, through the abstract socket of this name |
/// | `tcp://127.0.0.1:port` | shared memory, through this port of the loopback interface; see [`Address::Tcp`] |
/// | `http://host:port` | gRPC over HTTP/2, not encrypted; port 80 unless there is one |
/// | `https://host:port` | gRPC over HTTP/2 and TLS; port 443 unless there is one |
/// | `unix:/run/grpc.sock`, `unix:///run/grpc.sock` | gRPC over HTTP/2, through the socket at this path |
/// | `unix-abstract:route` | gRPC over HTTP/2, through the abstract socket of this name |
///
/// The last two are gRPC's own names, which other implementations understand as well; there, as with shared memory, only processes of our own
/// user and root are talked to, unless [`authorize`](crate::ConfigBuilder::authorize) says otherwise. At ports nobody is known. HTTP/2 takes the feature `grpc`. A [`Path`],
/// a [`PathBuf`] and an [`Address`] are always shared memory. A server that systemd starts listens at [`Address::from_systemd`].
///
/// An endpoint is only looked at when it is used: text that is none is an error of
/// [`Channel::connect`](crate::Channel::connect) and [`Server::serve`](crate::Server::serve). [`Endpoint::parse`] tells at
/// once.
///
/// There is no conversion from a [`std::net::SocketAddr`], which does not say what is spoken there: write
/// `format!("http://{addr}")` for HTTP/2, and `Address::from(addr)` for shared memory.
///
/// Endpoints are equal if they are [shown](fmt::Display) alike and spoken to in one way, as `unix:/a` and `unix:///a` are.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::Endpoint;
///
/// assert!(Endpoint::from("/run/route.sock").is_shared_memory());
/// assert!(!Endpoint::from("http://localhost:50051").is_shared_memory());
/// let error = Endpoint::parse("localhost:50051").unwrap_err();
/// assert_eq!(error.to_string(), r#""localhost:50051" has no scheme: did you mean "http://localhost:50051"?"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Way);

/// How a server is spoken to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    SharedMemory(Address),
    Http2(Http2Address),
    /// Reported when it is used.
    Invalid(InvalidEndpoint),
}

/// Where gRPC is spoken over HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Http2Address {
    pub(crate) place: Place,
    /// Whether there is TLS.
    pub(crate) tls: bool,
    /// Whom the server is addressed as.
    pub(crate) authority: Authority,
}

/// A socket that is reached in the usual ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        port: u16,
    },
    Unix(Address),
}

/// Why text is not an [`Endpoint`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// The scheme is not one that is spoken here.
    #[error(
        "{endpoint:?} has the scheme {scheme:?}, which is unknown: there are tcp, http, https, unix and unix-abstract, and paths and @names"
    )]
    UnknownScheme {
        /// The text in question.
        endpoint: String,
        /// What it begins with.
        scheme: String,
    },
    /// It looks like a host with a port, and would be a path.
    #[error("{endpoint:?} has no scheme: did you mean \"http://{endpoint}\"?")]
    NoScheme {
        /// The text in question.
        endpoint: String,
    },
    /// What follows `http://` or `https://` is not a host with an optional port.
    #[error("{endpoint:?} does not name a host and a port: {problem}")]
    Authority {
        /// The text in question.
        endpoint: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// What follows `unix:` or `unix-abstract:` is not the name of a socket.
    #[error("{endpoint:?} does not name a socket: {problem}")]
    Socket {
        /// The text in question.
        endpoint: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Endpoint {
    /// Reads text, by the table above.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidEndpoint`] for text that is none. Whether a path can be that of a socket is not looked at.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        parse(text).map(Self)
    }

    /// Tells whether the server is spoken to through shared memory.
    #[must_use]
    pub fn is_shared_memory(&self) -> bool {
        matches!(self.0, Way::SharedMemory(_))
    }

    /// Returns the address of a server that is spoken to through shared memory.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match &self.0 {
            Way::SharedMemory(address) => Some(address),
            Way::Http2(_) | Way::Invalid(_) => None,
        }
    }

    pub(crate) fn way(&self) -> &Way {
        &self.0
    }

    #[cfg(feature = "grpc")]
    pub(crate) fn http2(address: Http2Address) -> Self {
        Self(Way::Http2(address))
    }
}

#[cfg(feature = "grpc")]
impl Http2Address {
    /// The address of a socket that is bound.
    pub(crate) fn tcp(bound: SocketAddr, tls: bool) -> Self {
        // Without what only this host makes of it, the index of an interface.
        let name = SocketAddr::new(bound.ip(), bound.port()).to_string();
        Self {
            place: Place::Tcp {
                host: bound.ip().to_string(),
                port: bound.port(),
            },
            tls,
            // It cannot fail: brackets and all, it is how authorities are written.
            authority: name
                .parse()
                .unwrap_or_else(|_| Authority::from_static("localhost")),
        }
    }
}

fn parse(text: &str) -> Result<Way, InvalidEndpoint> {
    let endpoint = || text.to_owned();
    let Some((scheme, rest)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        return Ok(Way::SharedMemory(text.into()));
    };
    match (scheme, rest.strip_prefix("//")) {
        ("http", Some(rest)) => tcp(text, rest, false),
        ("https", Some(rest)) => tcp(text, rest, true),
        ("unix", Some(path)) if !path.starts_with('/') => Err(InvalidEndpoint::Socket {
            endpoint: endpoint(),
            problem: "behind unix:// the path must be absolute",
        }),
        ("unix", path) => unix(text, Address::Path(path.unwrap_or(rest).into())),
        // A session that begins over TCP, which is the transport's to judge.
        ("tcp", Some(_)) => Ok(Way::SharedMemory(text.into())),
        ("unix-abstract", None) => unix(text, Address::Abstract(rest.to_owned())),
        (scheme, Some(_)) => Err(InvalidEndpoint::UnknownScheme {
            endpoint: endpoint(),
            scheme: scheme.to_owned(),
        }),
        ("http" | "https", None) => Err(InvalidEndpoint::Authority {
            endpoint: endpoint(),
            problem: "the scheme is followed by two slashes",
        }),
        (_, None) if rest.parse::<u16>().is_ok() => Err(InvalidEndpoint::NoScheme {
            endpoint: endpoint(),
        }),
        // A path may well have a colon in it.
        (_, None) => Ok(Way::SharedMemory(text.into())),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.'))
}

fn tcp(text: &str, rest: &str, tls: bool) -> Result<Way, InvalidEndpoint> {
    let failed = |problem| InvalidEndpoint::Authority {
        endpoint: text.to_owned(),
        problem,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(failed("nothing may follow them"));
    }
    if rest.contains('@') {
        return Err(failed("a user has no place there"));
    }
    let authority: Authority = rest
        .parse()
        .map_err(|_| failed("it is empty or has characters that no host has"))?;
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() {
        return Err(failed("there is no host"));
    }
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if authority.as_str().ends_with(authority.host()) => {
            if tls {
                443
            } else {
                80
            }
        }
        None => return Err(failed("the port is not a number below 65,536")),
    };
    let place = Place::Tcp {
        host: host.to_owned(),
        port,
    };
    Ok(Way::Http2(Http2Address {
        place,
        tls,
        authority,
    }))
}

fn unix(text: &str, address: Address) -> Result<Way, InvalidEndpoint> {
    let is_empty = match &address {
        Address::Path(path) => path.as_os_str().is_empty(),
        Address::Abstract(name) => name.is_empty(),
        _ => false,
    };
    if is_empty {
        return Err(InvalidEndpoint::Socket {
            endpoint: text.to_owned(),
            problem: "it is empty",
        });
    }
    Ok(Way::Http2(Http2Address {
        place: Place::Unix(address),
        tls: false,
        // What gRPC's other implementations say.
        authority: Authority::from_static("localhost"),
    }))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Way::SharedMemory(address) => address.fmt(f),
            Way::Http2(address) => address.fmt(f),
            Way::Invalid(
                InvalidEndpoint::UnknownScheme { endpoint, .. }
                | InvalidEndpoint::NoScheme { endpoint }
                | InvalidEndpoint::Authority { endpoint, .. }
                | InvalidEndpoint::Socket { endpoint, .. },
            ) => f.write_str(endpoint),
        }
    }
}

impl fmt::Display for Http2Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { .. } if self.tls => write!(f, "https://{}", self.authority),
            Place::Tcp { .. } => write!(f, "http://{}", self.authority),
            Place::Unix(Address::Abstract(name)) => write!(f, "unix-abstract:{name}"),
            Place::Unix(address) => write!(f, "unix:{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        Self::parse(text)
    }
}

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        Self(parse(text).unwrap_or_else(Way::Invalid))
    }
}

impl From<String> for Endpoint {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for Endpoint {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self(Way::SharedMemory(address))
    }
}

impl From<&Address> for Endpoint {
    fn from(address: &Address) -> Self {
        Self::from(address.clone())
    }
}

impl From<&Path> for Endpoint {
    fn from(path: &Path) -> Self {
        Self::from(Address::from(path))
    }
}

impl From<&PathBuf> for Endpoint {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&Self> for Endpoint {
    fn from(endpoint: &Self) -> Self {
        endpoint.clone()
    }
}

impl From<PathBuf> for Endpoint {
    fn from(path: PathBuf) -> Self {
        Self::from(Address::from(path))
    }
}

impl From<OwnedFd> for Endpoint {
    fn from(fd: OwnedFd) -> Self {
        Self::from(Address::from(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_how_a_server_is_spoken_to() {
        for path in [
            "/run/a.sock",
            "@a",
            "a.sock",
            "./http://x",
            "a:b",
            "C:/a",
            "7:8",
        ] {
            let endpoint = Endpoint::parse(path).expect("it is a path or a name");
            assert!(endpoint.is_shared_memory(), "{path}");
            assert_eq!(endpoint.to_string(), path);
        }
        for (text, shown) in [
            ("http://host:1", "http://host:1"),
            ("http://host", "http://host"),
            ("https://[::1]:2/", "https://[::1]:2"),
            ("unix:a.sock", "unix:a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("unix-abstract:a", "unix-abstract:a"),
        ] {
            let endpoint = Endpoint::parse(text).expect("it is well-formed");
            assert!(!endpoint.is_shared_memory(), "{text}");
            assert_eq!(endpoint.to_string(), shown);
        }
        assert!(Endpoint::from(Path::new("http://host:1")).is_shared_memory());
    }

    #[test]
    fn whatever_names_an_endpoint_is_one() {
        let text = "/run/a.sock".to_owned();
        let (path, address) = (PathBuf::from(&text), Address::from(&text));
        let expected = Endpoint::from(text.as_str());
        for endpoint in [
            Endpoint::from(&text),
            Endpoint::from(path.as_path()),
            Endpoint::from(&path),
            Endpoint::from(&address),
            Endpoint::from(&expected),
            text.parse().unwrap(),
        ] {
            assert_eq!(endpoint, expected);
        }
        let equal = |one: &str, other: &str| Endpoint::from(one) == Endpoint::from(other);
        assert!(equal("http://host:1", "http://host:1/"));
        assert!(equal("unix:/run/a.sock", "unix:///run/a.sock"));
        assert!(!equal("http://host:1", "https://host:1"));
        assert!(!equal("unix:/run/a.sock", &text));
        assert!(equal("ftp://host", "ftp://host"), "although it is none");
    }

    #[test]
    fn hosts_and_ports_are_found() {
        let shared = Endpoint::parse("tcp://127.0.0.1:4000").unwrap();
        assert!(shared.is_shared_memory());
        assert_eq!(shared.to_string(), "tcp://127.0.0.1:4000");
        let tcp = |text| match Endpoint::parse(text).map(|endpoint| endpoint.0) {
            Ok(Way::Http2(Http2Address {
                place: Place::Tcp { host, port },
                tls,
                ..
            })) => (host, port, tls),
            other => panic!("{text} is {other:?}"),
        };
        assert_eq!(tcp("http://host:1"), ("host".to_owned(), 1, false));
        assert_eq!(tcp("http://host"), ("host".to_owned(), 80, false));
        assert_eq!(tcp("https://[::1]"), ("::1".to_owned(), 443, true));
        assert_eq!(tcp("https://[::1]:7"), ("::1".to_owned(), 7, true));
    }

    #[test]
    fn what_is_no_endpoint_is_named() {
        let error = |text: &str| {
            let error = Endpoint::parse(text).expect_err(text);
            assert_eq!(Endpoint::from(text).to_string(), text);
            error.to_string()
        };
        assert!(error("ftp://host").contains("\"ftp\", which is unknown"));
        assert!(error("localhost:50051").contains("did you mean \"http://localhost:50051\"?"));
        assert!(error("http:host").contains("two slashes"));
        assert!(error("http://").contains("empty"));
        assert!(error("http://:80").contains("no host"));
        assert!(error("http://host:99999").contains("65,536"));
        assert!(error("http://host:").contains("65,536"));
        assert!(error("http://host:1/path").contains("nothing may follow"));
        assert!(error("http://me@host").contains("user"));
        assert!(error("unix:").contains("empty"));
        assert!(error("unix://run/a.sock").contains("absolute"));
        assert!(error("unix-abstract:").contains("empty"));
    }
}
