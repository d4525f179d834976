//! What is generated for services.

use super::{Attribute, AttributeTarget, Builder};

/// What is generated for services.
impl Builder {
    /// Whether to generate clients. Default: `true`.
    pub fn build_client(mut self, enable: bool) -> Self {
        self.client = enable;
        self
    }

    /// Whether to generate the traits that servers implement. Default: `true`.
    pub fn build_server(mut self, enable: bool) -> Self {
        self.server = enable;
        self
    }

    /// Whether to generate what is needed without a runtime, too: for each service a module `…_blocking` with a client whose
    /// methods block, and a trait with its server whose methods do. Default: `false`.
    ///
    /// Follows [`build_client`](Self::build_client) and [`build_server`](Self::build_server).
    pub fn blocking(mut self, enable: bool) -> Self {
        self.blocking = enable;
        self
    }

    /// Whether to generate a twin of each trait that can be made an object, `dyn DynGreeter` for `Greeter`. Default: `false`.
    ///
    /// Its futures and streams are boxed. Whatever implements the trait implements the twin, and an `Arc` or a `Box` of the
    /// object implements the trait: `GreeterServer::new(arc)` serves it. With [`use_arc_self`](Self::use_arc_self), it is only
    /// the `Arc`.
    pub fn dyn_traits(mut self, enable: bool) -> Self {
        self.dyn_traits = enable;
        self
    }

    /// Whether to generate, for each service, a module `…_mock` with an implementation for tests: `MockGreeter` answers by
    /// what the test gave it, notes the calls, and makes clients that call it within the process. Default: `false`.
    ///
    /// Give the module a `#[cfg(test)]` by [`mock_mod_attribute`](Self::mock_mod_attribute) if only this crate's tests use it.
    /// There is none without [`build_server`](Self::build_server). What is compiled only under a condition, by an attribute of
    /// its module, is needed by the mock too.
    pub fn mocks(mut self, enable: bool) -> Self {
        self.mocks = enable;
        self
    }

    /// Whether the methods of the traits take `self: Arc<Self>` rather than `&self`. Default: `false`.
    ///
    /// For streams that need the service for as long as they last.
    pub fn use_arc_self(mut self, enable: bool) -> Self {
        self.arc_self = enable;
        self
    }

    /// Whether the methods of the traits need not be implemented: those that are not answer with `UNIMPLEMENTED`.
    /// Default: `false`.
    ///
    /// A service may then get new methods without breaking whoever implements it.
    pub fn generate_default_stubs(mut self, enable: bool) -> Self {
        self.default_stubs = enable;
        self
    }

    /// The path under which generated code finds the runtime. Default: `::shmipc_rpc`.
    ///
    /// For those who rename the dependency or re-export it from a crate of their own. The paths of prost and
    /// prost-types follow, unless [`prost_path`](Self::prost_path) and [`prost_types_path`](Self::prost_types_path)
    /// say otherwise.
    pub fn runtime_path(mut self, path: impl Into<String>) -> Self {
        self.runtime_path = path.into();
        self
    }

    /// Adds attributes to the module of the client of each service that matches `path`, such as `#[cfg(feature =
    /// "client")]`.
    pub fn client_mod_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(
            AttributeTarget::ClientModule,
            path.as_ref(),
            attribute.as_ref(),
        )
    }

    /// Adds attributes to the client of each service that matches `path`, and to its blocking twin.
    pub fn client_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(AttributeTarget::Client, path.as_ref(), attribute.as_ref())
    }

    /// Adds attributes to the module of the server of each service that matches `path`, such as `#[cfg(feature =
    /// "server")]`.
    pub fn server_mod_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(
            AttributeTarget::ServerModule,
            path.as_ref(),
            attribute.as_ref(),
        )
    }

    /// Adds attributes to the server (the struct around your implementation) of each service that matches `path`, and to
    /// its blocking twin.
    pub fn server_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(AttributeTarget::Server, path.as_ref(), attribute.as_ref())
    }

    /// Adds attributes to the trait of each service that matches `path`, and to its blocking twin.
    pub fn trait_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(AttributeTarget::Trait, path.as_ref(), attribute.as_ref())
    }

    /// Adds attributes to the module of what [blocks](Self::blocking) for each service that matches `path`.
    pub fn blocking_mod_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(
            AttributeTarget::BlockingModule,
            path.as_ref(),
            attribute.as_ref(),
        )
    }

    /// Adds attributes to the module of the [mock](Self::mocks) of each service that matches `path`, such as
    /// `#[cfg(test)]`.
    pub fn mock_mod_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(
            AttributeTarget::MockModule,
            path.as_ref(),
            attribute.as_ref(),
        )
    }

    /// Gives every service to `generator` too, after it has been rendered. Default: no other generator.
    ///
    /// What it writes lands in the same file.
    pub fn also_generate(mut self, generator: Box<dyn prost_build::ServiceGenerator>) -> Self {
        self.next = Some(generator);
        self
    }

    fn attribute(mut self, target: AttributeTarget, path: &str, text: &str) -> Self {
        self.attributes.push(Attribute {
            target,
            path: path.to_owned(),
            text: text.to_owned(),
        });
        self
    }
}
