/// Names a method of a service.
///
/// Generated code has one for each method; both the client and the server refer to it.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::Method;
///
/// const SAY_HELLO: Method = Method::unary("helloworld.Greeter", "SayHello", "/helloworld.Greeter/SayHello");
/// assert_eq!(SAY_HELLO.name(), "SayHello");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    service: &'static str,
    name: &'static str,
    path: &'static str,
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
        assert!(
            !path.is_empty() && path.as_bytes()[0] == b'/',
            "a path begins with a slash"
        );
        Self {
            service,
            name,
            path,
        }
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
}
