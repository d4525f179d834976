use std::{collections::HashMap, sync::Arc};

use http::Uri;

use crate::Method;

/// What a server allows its callers, if nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) request_len_max: usize,
    pub(crate) response_len_max: usize,
    pub(crate) calls_per_session_max: usize,
}

/// How long the messages of a service, or of a method, may be. Begins with nothing set: as long as the
/// [server](super::Server::max_request_size) allows.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Method, Server, server::MessageLimits};
///
/// // Generated code has it.
/// const UPLOAD: Method = Method::client_streaming("files.Store", "Upload", "/files.Store/Upload");
///
/// let server = Server::builder()
///     .max_request_size(1 << 20)
///     .limits_for_service("files.Store", MessageLimits::new().max_response_size(16 << 10))
///     .limits_for_method(&UPLOAD, MessageLimits::new().max_request_size(64 << 20));
/// ```
#[must_use = "it does nothing until a server has it"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageLimits {
    request_len_max: Option<usize>,
    response_len_max: Option<usize>,
}

impl MessageLimits {
    /// Begins with nothing set.
    pub const fn new() -> Self {
        Self {
            request_len_max: None,
            response_len_max: None,
        }
    }

    /// The most bytes that a message of a request may have.
    ///
    /// A larger one is answered with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and not looked at.
    pub const fn max_request_size(mut self, bytes: usize) -> Self {
        self.request_len_max = Some(bytes);
        self
    }

    /// The most bytes that a message of a response may have.
    ///
    /// Instead of a larger one the caller gets [`Code::ResourceExhausted`](crate::Code::ResourceExhausted).
    pub const fn max_response_size(mut self, bytes: usize) -> Self {
        self.response_len_max = Some(bytes);
        self
    }

    /// Replaces what is set here.
    fn lay_over(self, limits: &mut Limits) {
        let Self {
            request_len_max,
            response_len_max,
        } = self;
        if let Some(bytes) = request_len_max {
            limits.request_len_max = bytes;
        }
        if let Some(bytes) = response_len_max {
            limits.response_len_max = bytes;
        }
    }
}

/// Limits by method. The more specific word holds, for each limit by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceptions {
    /// What services say of themselves, by name.
    own: HashMap<&'static str, MessageLimits>,
    /// By name: `files.Store`.
    services: HashMap<String, MessageLimits>,
    /// By path: `/files.Store/Upload`.
    methods: HashMap<String, MessageLimits>,
}

impl Exceptions {
    /// Notes what a service says of itself.
    pub(crate) fn add_own(&mut self, name: &'static str, limits: MessageLimits) {
        if limits != MessageLimits::default() {
            self.own.insert(name, limits);
        }
    }

    pub(crate) fn add_service(&mut self, name: String, limits: MessageLimits) {
        self.services.insert(name, limits);
    }

    pub(crate) fn add_method(&mut self, method: &Method, limits: MessageLimits) {
        self.methods.insert(method.path().to_owned(), limits);
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.services.is_empty() && self.methods.is_empty()
    }
}

/// All limits of a server.
#[derive(Clone, Debug)]
pub(crate) struct LimitTable {
    /// Those that hold for whatever has no others.
    pub(super) server: Limits,
    exceptions: Option<Arc<Exceptions>>,
}

impl LimitTable {
    pub(crate) fn new(server: Limits, exceptions: Exceptions) -> Self {
        Self {
            server,
            exceptions: (!exceptions.is_empty()).then(|| Arc::new(exceptions)),
        }
    }

    /// Returns the limits of the method at `path`.
    pub(crate) fn at(&self, path: &str) -> Limits {
        let mut limits = self.server;
        let Some(exceptions) = &self.exceptions else {
            return limits;
        };
        let name = path
            .strip_prefix('/')
            .and_then(|path| path.rsplit_once('/'));
        let name = name.map_or("", |(name, _)| name);
        let found = [
            exceptions.own.get(name),
            exceptions.services.get(name),
            exceptions.methods.get(path),
        ];
        for exception in found.into_iter().flatten() {
            exception.lay_over(&mut limits);
        }
        limits
    }

    /// Returns how long a message of a response may be. The path is asked for only if it matters.
    pub(super) fn response_at(&self, path: impl FnOnce() -> Uri) -> usize {
        match self.exceptions {
            None => self.server.response_len_max,
            Some(_) => self.at(path().path()).response_len_max,
        }
    }

    /// Returns how long the message of a response may be at most, whatever the method.
    pub(super) fn response_len_max(&self) -> usize {
        let exceptions = self.exceptions.iter().flat_map(|exceptions| {
            let named = exceptions
                .services
                .values()
                .chain(exceptions.methods.values());
            exceptions.own.values().chain(named)
        });
        exceptions
            .filter_map(|limits| limits.response_len_max)
            .fold(self.server.response_len_max, usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLOAD: Method = Method::unary("files.Store", "Upload", "/files.Store/Upload");

    fn server() -> Limits {
        Limits {
            request_len_max: 1,
            response_len_max: 2,
            calls_per_session_max: 3,
        }
    }

    fn at(table: &LimitTable, path: &str) -> (usize, usize) {
        let limits = table.at(path);
        assert_eq!(limits.calls_per_session_max, 3);
        (limits.request_len_max, limits.response_len_max)
    }

    #[test]
    fn the_most_specific_word_holds_for_each_limit() {
        let table = LimitTable::new(server(), Exceptions::default());
        assert_eq!(at(&table, UPLOAD.path()), (1, 2));
        assert_eq!(table.response_len_max(), 2);

        let mut exceptions = Exceptions::default();
        let both = |bytes| {
            MessageLimits::new()
                .max_request_size(bytes)
                .max_response_size(bytes)
        };
        exceptions.add_own("files.Store", both(10));
        exceptions.add_own("other.Store", both(20));
        exceptions.add_own("plain.Store", MessageLimits::new());
        exceptions.add_service(
            "files.Store".to_owned(),
            MessageLimits::new().max_response_size(30),
        );
        exceptions.add_method(&UPLOAD, MessageLimits::new().max_request_size(40));
        let table = LimitTable::new(server(), exceptions);
        assert_eq!(at(&table, UPLOAD.path()), (40, 30));
        assert_eq!(at(&table, "/files.Store/List"), (10, 30));
        assert_eq!(at(&table, "/other.Store/Upload"), (20, 20));
        assert_eq!(at(&table, "/plain.Store/Upload"), (1, 2));
        for none in ["", "/", "files.Store", "/files.Store"] {
            assert_eq!(at(&table, none), (1, 2), "{none}");
        }
        assert_eq!(table.response_len_max(), 30);
    }
}
