//! Where a server listens.

use std::{
    fmt,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use nix::{errno::Errno, sys::socket::UnixAddr};

use crate::error::InvalidAddress;

/// Where a server listens, or is to be found.
///
/// Text that begins with `@` is an abstract name, text that begins with `tcp://` a TCP address, any other text a path:
///
/// ```
/// use shmipc_transport::Address;
///
/// assert!(matches!(Address::from("/run/route.sock"), Address::Path(_)));
/// assert!(matches!(Address::from("@route"), Address::Abstract(name) if name == "route"));
/// assert!(matches!(Address::from("tcp://127.0.0.1:4000"), Address::Tcp(at) if at.port() == 4000));
/// ```
///
/// An address is only looked at when it is used: one that no socket can have, such as a path of more than 107 bytes, or what is
/// no address behind `tcp://`, is an error of [`Listener::bind`](crate::Listener::bind) and [`Session::connect`](crate::Session::connect).
/// [`str::parse`] tells at once.
///
/// Addresses are equal if they are written alike, or are the same descriptor. Different ones may lead to one socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Address {
    /// A socket in the file system. Its permissions and those of its directory decide who can reach it.
    Path(PathBuf),
    /// A name, without the `@`, in the abstract namespace of the network namespace.
    ///
    /// It disappears with the server and has no permissions: anybody may connect, and anybody may take the name first.
    /// Who is admitted is for `authorize` alone to say, on both sides.
    Abstract(String),
    /// A port of the loopback interface, for [links](crate::ConfigBuilder::links) of shmipc's own; ours needs a Unix socket. A listener
    /// at port 0 is given a free one, which its `local_address` tells.
    ///
    /// *Any user of this host may connect, anybody may take the port first, and the kernel does not say who it was*: the credentials of
    /// a [`Peer`](crate::Peer) are unknown. Memory is passed as files whatever the [mapping](crate::Shmipc::mapping), and only those
    /// of our own user are taken. See `SECURITY.md` before you listen there; where you can choose, use a Unix socket.
    Tcp(SocketAddr),
    /// A Unix stream socket that this process was given: a listening one for a listener, a connected one for a session.
    ///
    /// It becomes non-blocking. A connected socket serves one session; do not use it a second time.
    Fd(Arc<OwnedFd>),
}

/// What text begins with that is a TCP address.
const TCP: &str = "tcp://";

impl Address {
    /// Returns where to connect or listen over TCP, if that is the way.
    pub(crate) fn to_tcp(&self) -> Result<Option<SocketAddr>, InvalidAddress> {
        let Self::Tcp(tcp) = self else {
            return Ok(None);
        };
        if !tcp.ip().to_canonical().is_loopback() {
            let address = self.to_string();
            return Err(InvalidAddress::NotLoopback { address });
        }
        Ok(Some(*tcp))
    }

    /// Whether descriptors can be passed over connections to it.
    pub(crate) const fn passes_descriptors(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// Returns the form that system calls take, of an address of a Unix socket that has one.
    pub(crate) fn to_unix(&self) -> Result<Option<UnixAddr>, InvalidAddress> {
        let (bytes, address) = match self {
            Self::Path(path) => (path.as_os_str().as_bytes(), UnixAddr::new(path)),
            Self::Abstract(name) => (name.as_bytes(), UnixAddr::new_abstract(name.as_bytes())),
            Self::Tcp(_) | Self::Fd(_) => return Ok(None),
        };
        if bytes.is_empty() {
            return Err(InvalidAddress::Empty);
        }
        if matches!(self, Self::Path(_)) && bytes.starts_with(TCP.as_bytes()) {
            let address = self.to_string();
            return Err(InvalidAddress::Tcp { address });
        }
        address.map(Some).map_err(|errno| match errno {
            // What nix says of a NUL byte within a path.
            Errno::EINVAL => InvalidAddress::Nul {
                address: self.to_string(),
            },
            _ => InvalidAddress::TooLong {
                address: self.to_string(),
                len: bytes.len(),
                max: NAME_LEN_MAX,
            },
        })
    }
}

/// `sun_path` has 108 bytes; one of them ends a path and begins an abstract name.
const NAME_LEN_MAX: usize = 107;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::Tcp(tcp) => write!(f, "{TCP}{tcp}"),
            Self::Fd(fd) => write!(f, "inherited descriptor {}", fd.as_raw_fd()),
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(one), Self::Path(other)) => one.as_os_str() == other.as_os_str(),
            (Self::Abstract(one), Self::Abstract(other)) => one == other,
            (Self::Tcp(one), Self::Tcp(other)) => one == other,
            // Both are open, so they have one number if they are one descriptor.
            (Self::Fd(one), Self::Fd(other)) => one.as_raw_fd() == other.as_raw_fd(),
            (Self::Path(_) | Self::Abstract(_) | Self::Tcp(_) | Self::Fd(_), _) => false,
        }
    }
}

impl Eq for Address {}

/// As [`From<&str>`](#impl-From%3C%26str%3E-for-Address), and tells at once what no socket can have.
impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let address = Self::from(text);
        address.to_tcp()?;
        address.to_unix()?;
        Ok(address)
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        if let Some(name) = text.strip_prefix('@') {
            return Self::Abstract(name.to_owned());
        }
        match text.strip_prefix(TCP).map(str::parse) {
            Some(Ok(tcp)) => Self::Tcp(tcp),
            // What is no address behind the scheme is no path either, as is said when it is used.
            Some(Err(_)) | None => Self::Path(text.into()),
        }
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

/// [`Address::Tcp`], whatever listens there.
impl From<SocketAddr> for Address {
    fn from(tcp: SocketAddr) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<OwnedFd> for Address {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(Arc::new(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_path_or_an_abstract_name() {
        assert_eq!(Address::from("/run/a.sock").to_string(), "/run/a.sock");
        assert_eq!(Address::from("@a/b".to_owned()).to_string(), "@a/b");
        assert!(
            matches!(Address::from(Path::new("@a")), Address::Path(_)),
            "a path is taken by its word"
        );
        assert!(matches!(Address::from("a@b"), Address::Path(_)));
    }

    #[test]
    fn whatever_names_an_address_is_one() {
        let text = "/run/a.sock".to_owned();
        let path = PathBuf::from(&text);
        let expected = Address::Path(path.clone());
        for address in [
            Address::from(text.as_str()),
            Address::from(&text),
            Address::from(path.as_path()),
            Address::from(&path),
            Address::from(&expected),
            text.parse().unwrap(),
        ] {
            assert_eq!(address, expected);
        }
        assert_ne!(Address::from("@a"), Address::from("a"));
        assert_ne!(Address::from("/run//a.sock"), expected, "written otherwise");
        let tcp = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(Address::from(tcp), Address::from("tcp://127.0.0.1:80"));
        let fd = || Address::from(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let (one, other) = (fd(), fd());
        assert_eq!(one.clone(), one);
        assert_ne!(one, other);
    }

    #[test]
    fn parsing_tells_at_once() {
        let refused = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(refused(""), InvalidAddress::Empty);
        assert!(matches!(
            refused("tcp://host:1"),
            InvalidAddress::Tcp { .. }
        ));
        assert!(matches!(
            refused("tcp://10.0.0.1:1"),
            InvalidAddress::NotLoopback { .. }
        ));
        assert!(matches!(
            refused(&"x".repeat(108)),
            InvalidAddress::TooLong { .. }
        ));
    }

    #[test]
    fn addresses_that_no_socket_can_have_are_named() {
        let invalid = |address: Address| address.to_unix().unwrap_err();
        assert_eq!(invalid("".into()), InvalidAddress::Empty);
        assert_eq!(invalid("@".into()), InvalidAddress::Empty);
        let long = "x".repeat(108);
        assert_eq!(
            invalid(long.as_str().into()),
            InvalidAddress::TooLong {
                address: long.clone(),
                len: 108,
                max: 107
            }
        );
        assert_eq!(
            invalid(Address::Abstract(long.clone())),
            InvalidAddress::TooLong {
                address: format!("@{long}"),
                len: 108,
                max: 107
            }
        );
        assert!(matches!(invalid("a\0b".into()), InvalidAddress::Nul { .. }));
        assert!(Address::from("x".repeat(107)).to_unix().unwrap().is_some());
        assert!(
            Address::Abstract("x".repeat(107))
                .to_unix()
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn tcp_is_for_this_host_alone() {
        for text in ["tcp://127.0.0.1:80", "tcp://127.1.2.3:0", "tcp://[::1]:9"] {
            let address = Address::from(text);
            assert!(address.to_tcp().unwrap().is_some(), "{text}");
            assert!(address.to_unix().unwrap().is_none());
            assert_eq!(address.to_string(), text);
        }
        for text in ["tcp://10.0.0.1:80", "tcp://0.0.0.0:80", "tcp://[::]:80"] {
            let refused = Address::from(text).to_tcp();
            let not_loopback = InvalidAddress::NotLoopback {
                address: text.to_owned(),
            };
            assert_eq!(refused, Err(not_loopback));
        }
        assert!(
            Address::from("tcp://[::ffff:127.0.0.1]:80")
                .to_tcp()
                .is_ok()
        );
        for text in [
            "tcp://localhost:80",
            "tcp://127.0.0.1",
            "tcp://",
            "tcp://:1",
        ] {
            let refused = Address::from(text).to_unix().unwrap_err();
            assert!(matches!(refused, InvalidAddress::Tcp { address } if address == text));
        }
        assert!(Address::from("tcp:/file").to_unix().unwrap().is_some());
    }
}
