/// Describes a method of a service: what it is called, and what may be known of its calls beforehand.
///
/// Generated code has a constant for each method; both the client and the server refer to it.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Idempotency, Method, MethodKind};
///
/// const SAY_HELLO: Method = Method::unary("helloworld.Greeter", "SayHello", "/helloworld.Greeter/SayHello")
///     .with_idempotency(Idempotency::NoSideEffects)
///     .with_messages("helloworld.HelloRequest", "helloworld.HelloReply");
/// assert_eq!(SAY_HELLO.name(), "SayHello");
/// assert_eq!(SAY_HELLO.kind(), MethodKind::Unary);
/// assert_eq!(SAY_HELLO.response_message(), Some("helloworld.HelloReply"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    service: &'static str,
    name: &'static str,
    path: &'static str,
    kind: MethodKind,
    idempotency: Idempotency,
    request_message: Option<&'static str>,
    response_message: Option<&'static str>,
}

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// Both sides stream.
    BidiStreaming,
    /// A stream of requests, one response.
    ClientStreaming,
    /// One request, a stream of responses.
    ServerStreaming,
    /// One request, one response.
    Unary,
}

/// What becomes of the effect of a call that is made more than once: the option `idempotency_level` in the `.proto`
/// file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// Two calls have the effect of one.
    Idempotent,
    /// There is no effect.
    NoSideEffects,
    /// Nothing is said. A second call may have a second effect.
    #[default]
    Unknown,
}

impl Method {
    /// Makes the descriptor of a unary method: one request, one response.
    ///
    /// `service` is the full name of the service, `name` that of the method, and `path` is
    /// `/<service>/<name>`.
    ///
    /// # Panics
    ///
    /// Panics, at compile time if used in a constant, if `path` does not begin with a slash.
    #[must_use]
    pub const fn unary(service: &'static str, name: &'static str, path: &'static str) -> Self {
        Self::new(MethodKind::Unary, service, name, path)
    }

    /// Makes the descriptor of a method with one request and a stream of responses.
    ///
    /// The arguments are those of [`unary`](Self::unary).
    ///
    /// # Panics
    ///
    /// Panics, at compile time if used in a constant, if `path` does not begin with a slash.
    #[must_use]
    pub const fn server_streaming(
        service: &'static str,
        name: &'static str,
        path: &'static str,
    ) -> Self {
        Self::new(MethodKind::ServerStreaming, service, name, path)
    }

    /// Makes the descriptor of a method with a stream of requests and one response.
    ///
    /// The arguments are those of [`unary`](Self::unary).
    ///
    /// # Panics
    ///
    /// Panics, at compile time if used in a constant, if `path` does not begin with a slash.
    #[must_use]
    pub const fn client_streaming(
        service: &'static str,
        name: &'static str,
        path: &'static str,
    ) -> Self {
        Self::new(MethodKind::ClientStreaming, service, name, path)
    }

    /// Makes the descriptor of a method with a stream of requests and one of responses.
    ///
    /// The arguments are those of [`unary`](Self::unary).
    ///
    /// # Panics
    ///
    /// Panics, at compile time if used in a constant, if `path` does not begin with a slash.
    #[must_use]
    pub const fn bidi_streaming(
        service: &'static str,
        name: &'static str,
        path: &'static str,
    ) -> Self {
        Self::new(MethodKind::BidiStreaming, service, name, path)
    }

    const fn new(
        kind: MethodKind,
        service: &'static str,
        name: &'static str,
        path: &'static str,
    ) -> Self {
        assert!(
            !path.is_empty() && path.as_bytes()[0] == b'/',
            "a path begins with a slash"
        );
        Self {
            service,
            name,
            path,
            kind,
            idempotency: Idempotency::Unknown,
            request_message: None,
            response_message: None,
        }
    }

    /// Says what becomes of calls that are made more than once. Default: [`Idempotency::Unknown`].
    #[must_use]
    pub const fn with_idempotency(mut self, idempotency: Idempotency) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// Names the messages, in full: `helloworld.HelloRequest`. Default: they are not known.
    #[must_use]
    pub const fn with_messages(mut self, request: &'static str, response: &'static str) -> Self {
        self.request_message = Some(request);
        self.response_message = Some(response);
        self
    }

    /// Returns the full name of the service, such as `helloworld.Greeter`.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Returns the name of the method within its service, such as `SayHello`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the path, as it is sent: `/helloworld.Greeter/SayHello`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// Returns how many messages go each way.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }

    /// Returns what becomes of calls that are made more than once.
    #[must_use]
    pub const fn idempotency(&self) -> Idempotency {
        self.idempotency
    }

    /// Returns the full name of the message that a request consists of, such as `helloworld.HelloRequest`, if it is
    /// known.
    #[must_use]
    pub const fn request_message(&self) -> Option<&'static str> {
        self.request_message
    }

    /// Returns the full name of the message that a response consists of, such as `helloworld.HelloReply`, if it is
    /// known.
    #[must_use]
    pub const fn response_message(&self) -> Option<&'static str> {
        self.response_message
    }
}

impl MethodKind {
    /// Returns whether the client may send any number of requests, rather than one.
    #[must_use]
    pub const fn client_streams(self) -> bool {
        matches!(self, Self::BidiStreaming | Self::ClientStreaming)
    }

    /// Returns whether the server may send any number of responses, rather than one.
    #[must_use]
    pub const fn server_streams(self) -> bool {
        matches!(self, Self::BidiStreaming | Self::ServerStreaming)
    }
}

impl Idempotency {
    /// Returns whether a call may be made again without a second effect.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        matches!(self, Self::Idempotent | Self::NoSideEffects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_it_was_told() {
        let kinds = [
            (
                Method::unary as fn(_, _, _) -> _,
                MethodKind::Unary,
                (false, false),
            ),
            (
                Method::server_streaming,
                MethodKind::ServerStreaming,
                (false, true),
            ),
            (
                Method::client_streaming,
                MethodKind::ClientStreaming,
                (true, false),
            ),
            (
                Method::bidi_streaming,
                MethodKind::BidiStreaming,
                (true, true),
            ),
        ];
        for (make, kind, streams) in kinds {
            let bare = make("a.B", "C", "/a.B/C");
            assert_eq!(
                (bare.service(), bare.name(), bare.path()),
                ("a.B", "C", "/a.B/C")
            );
            assert_eq!(bare.kind(), kind);
            assert_eq!((kind.client_streams(), kind.server_streams()), streams);
            assert_eq!(bare.idempotency(), Idempotency::Unknown);
            assert_eq!(
                (bare.request_message(), bare.response_message()),
                (None, None)
            );

            let told = bare
                .with_idempotency(Idempotency::Idempotent)
                .with_messages("a.Request", "a.Response");
            assert_eq!(told.idempotency(), Idempotency::Idempotent);
            assert_eq!(told.request_message(), Some("a.Request"));
            assert_eq!(told.response_message(), Some("a.Response"));
            assert_eq!(told.kind(), kind);
        }
    }

    #[test]
    fn only_what_is_said_to_be_repeatable_is() {
        assert!(Idempotency::Idempotent.is_repeatable());
        assert!(Idempotency::NoSideEffects.is_repeatable());
        assert!(!Idempotency::default().is_repeatable());
    }

    #[test]
    #[should_panic(expected = "a path begins with a slash")]
    fn a_path_without_a_slash_is_refused() {
        let _ = Method::bidi_streaming("a.B", "C", "a.B/C");
    }
}
