//! Services as plain data, ready to be rendered.

use proc_macro2::TokenStream;
use prost_types::method_options::IdempotencyLevel;

use crate::docs;
use crate::names::{MethodNames, ServiceNames};

/// A service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// `helloworld.Greeter`, or `Greeter` if its file names no package.
    pub(crate) full_name: String,
    pub(crate) names: ServiceNames,
    /// What its author wrote about it. May be empty.
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
}

/// A method of a service.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    /// `SayHello`.
    pub(crate) proto_name: String,
    pub(crate) names: MethodNames,
    pub(crate) kind: MethodKind,
    pub(crate) idempotency: Idempotency,
    /// The full names of the messages: `helloworld.HelloRequest`.
    pub(crate) request_message: String,
    pub(crate) response_message: String,
    /// The Rust type of a request, as seen from a module of its package's.
    pub(crate) request: TokenStream,
    /// The Rust type of a response, as seen from a module of its package's.
    pub(crate) response: TokenStream,
    /// What its author wrote about it. May be empty.
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
}

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MethodKind {
    Unary,
    ServerStreaming,
    ClientStreaming,
    BidiStreaming,
}

/// What becomes of a call that is made more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idempotency {
    Unknown,
    NoSideEffects,
    Idempotent,
}

/// Why a type that prost-build names cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct InvalidType {
    /// The full name of the method.
    pub(crate) method: String,
    /// What prost-build calls its request or its response.
    pub(crate) rust_type: String,
}

impl Service {
    /// Takes a service as prost-build gives it.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidType`] if the user's `extern_path` is no Rust.
    pub(crate) fn from_prost(service: prost_build::Service) -> Result<Self, InvalidType> {
        let full_name = match service.package.as_str() {
            "" => service.proto_name.clone(),
            package => format!("{package}.{}", service.proto_name),
        };
        let methods = service
            .methods
            .into_iter()
            .map(|method| Method::from_prost(method, &full_name))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            names: ServiceNames::new(&service.proto_name, &service.name),
            docs: doc_lines(&service.comments),
            deprecated: service.options.deprecated.unwrap_or(false),
            full_name,
            methods,
        })
    }

    /// The full name of one of its methods: `helloworld.Greeter.SayHello`.
    pub(crate) fn method_full_name(&self, method: &Method) -> String {
        format!("{}.{}", self.full_name, method.proto_name)
    }

    /// What one of its methods is called on the wire: `/helloworld.Greeter/SayHello`.
    pub(crate) fn method_path(&self, method: &Method) -> String {
        format!("/{}/{}", self.full_name, method.proto_name)
    }
}

impl Method {
    fn from_prost(method: prost_build::Method, service: &str) -> Result<Self, InvalidType> {
        let seen_from_module = |rust_type: &str| {
            type_in_module(rust_type).ok_or_else(|| InvalidType {
                method: format!("{service}.{}", method.proto_name),
                rust_type: rust_type.to_owned(),
            })
        };
        Ok(Self {
            request: seen_from_module(&method.input_type)?,
            response: seen_from_module(&method.output_type)?,
            names: MethodNames::new(&method.name),
            kind: MethodKind::new(method.client_streaming, method.server_streaming),
            idempotency: method.options.idempotency_level().into(),
            request_message: full_name(&method.input_proto_type),
            response_message: full_name(&method.output_proto_type),
            docs: doc_lines(&method.comments),
            deprecated: method.options.deprecated.unwrap_or(false),
            proto_name: method.proto_name,
        })
    }
}

impl MethodKind {
    fn new(client_streaming: bool, server_streaming: bool) -> Self {
        match (client_streaming, server_streaming) {
            (false, false) => Self::Unary,
            (false, true) => Self::ServerStreaming,
            (true, false) => Self::ClientStreaming,
            (true, true) => Self::BidiStreaming,
        }
    }

    pub(crate) fn client_streams(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::BidiStreaming)
    }

    pub(crate) fn server_streams(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::BidiStreaming)
    }
}

impl From<IdempotencyLevel> for Idempotency {
    fn from(level: IdempotencyLevel) -> Self {
        match level {
            IdempotencyLevel::IdempotencyUnknown => Self::Unknown,
            IdempotencyLevel::NoSideEffects => Self::NoSideEffects,
            IdempotencyLevel::Idempotent => Self::Idempotent,
        }
    }
}

/// A name as descriptors write it, `.helloworld.HelloRequest`, without its mark of being absolute.
fn full_name(proto_type: &str) -> String {
    proto_type
        .strip_prefix('.')
        .unwrap_or(proto_type)
        .to_owned()
}

fn doc_lines(comments: &prost_build::Comments) -> Vec<String> {
    let leading = comments.leading.join("\n");
    let trailing = comments.trailing.join("\n");
    let (mut lines, trailing) = (docs::lines(&leading), docs::lines(&trailing));
    if !lines.is_empty() && !trailing.is_empty() {
        lines.push(String::new());
    }
    lines.extend(trailing);
    lines
}

/// The type that prost-build calls `rust_type` in the module of a package, as seen from a module within.
fn type_in_module(rust_type: &str) -> Option<TokenStream> {
    // What prost-build makes of the wrappers and of `Empty`.
    const BUILT_IN: [&str; 8] = ["()", "bool", "f32", "f64", "i32", "i64", "u32", "u64"];
    let absolute = rust_type.starts_with("::")
        || rust_type.starts_with("crate::")
        || BUILT_IN.contains(&rust_type);
    let rust_type = if absolute {
        rust_type.to_owned()
    } else {
        format!("super::{rust_type}")
    };
    syn::parse_str::<syn::Type>(&rust_type)
        .ok()
        .map(|parsed| quote::quote!(#parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_from_within_a_module() {
        let named = |rust_type: &str| {
            type_in_module(rust_type).map(|tokens| tokens.to_string().replace(' ', ""))
        };
        assert_eq!(named("Point").as_deref(), Some("super::Point"));
        assert_eq!(
            named("super::geo::Point").as_deref(),
            Some("super::super::geo::Point")
        );
        assert_eq!(
            named("r#type::Point").as_deref(),
            Some("super::r#type::Point")
        );
        assert_eq!(named("::geo::Point").as_deref(), Some("::geo::Point"));
        assert_eq!(
            named("crate::geo::Point").as_deref(),
            Some("crate::geo::Point")
        );
        assert_eq!(named("()").as_deref(), Some("()"));
        assert_eq!(named("bool").as_deref(), Some("bool"));
        assert_eq!(named("::geo::Po int"), None);
    }

    #[test]
    fn kinds_follow_from_who_streams() {
        assert_eq!(MethodKind::new(false, false), MethodKind::Unary);
        assert_eq!(MethodKind::new(false, true), MethodKind::ServerStreaming);
        assert_eq!(MethodKind::new(true, false), MethodKind::ClientStreaming);
        assert_eq!(MethodKind::new(true, true), MethodKind::BidiStreaming);
        for (client, server) in [(false, false), (false, true), (true, false), (true, true)] {
            let kind = MethodKind::new(client, server);
            assert_eq!(
                (kind.client_streams(), kind.server_streams()),
                (client, server)
            );
        }
    }

    #[test]
    fn messages_are_named_in_full_without_the_dot() {
        assert_eq!(full_name(".a.b.Point"), "a.b.Point");
        assert_eq!(full_name(".Point"), "Point");
    }
}
