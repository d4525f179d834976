//! From a service to Rust source. Pure: no files, no environment.
//!
//! Next to the trait everything is named by an absolute path, for a service may be called `Result`, `Send` or
//! `Future`.

mod blocking;
mod client;
mod dynamic;
mod handler;
mod methods;
mod mock;
mod server;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::model::{Method, Service};
use crate::patterns::Patterns;

/// What to render, and what to add to it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) client: bool,
    pub(crate) server: bool,
    /// Whether there are to be twins that block, of whatever else there is.
    pub(crate) blocking: bool,
    /// Whether there is to be a twin of the trait that can be made an object.
    pub(crate) dyn_traits: bool,
    pub(crate) mocks: bool,
    /// Whether the methods of the trait take an `Arc<Self>`.
    pub(crate) arc_self: bool,
    /// Whether the methods of the trait need not be implemented.
    pub(crate) default_stubs: bool,
    /// The path of the runtime crate.
    pub(crate) runtime: TokenStream,
    pub(crate) attributes: Attributes,
    /// The services and methods whose comments are left out.
    pub(crate) no_comments: Patterns<()>,
}

/// Attributes for the generated items of services, by full name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) client_module: Patterns<TokenStream>,
    pub(crate) client: Patterns<TokenStream>,
    pub(crate) server_module: Patterns<TokenStream>,
    pub(crate) server: Patterns<TokenStream>,
    pub(crate) service: Patterns<TokenStream>,
    pub(crate) blocking_module: Patterns<TokenStream>,
    pub(crate) mock_module: Patterns<TokenStream>,
}

impl Options {
    /// Whether there is anything to render for a service.
    pub(crate) fn any(&self) -> bool {
        self.client || self.server
    }

    /// Whether there is to be a module of what blocks.
    pub(crate) fn blocking_module(&self) -> bool {
        self.blocking && self.any()
    }

    /// Whether there is to be a module with a mock: it stands in for an implementation of the trait.
    pub(crate) fn mock_module(&self) -> bool {
        self.mocks && self.server
    }
}

/// Renders the modules of one service.
pub(crate) fn render(service: &Service, options: &Options) -> TokenStream {
    let methods = options.any().then(|| methods::render(service, options));
    let client = options.client.then(|| client::render(service, options));
    let server = options.server.then(|| server::render(service, options));
    let blocking = options
        .blocking_module()
        .then(|| blocking::render(service, options));
    let mock = options
        .mock_module()
        .then(|| mock::render(service, options));
    quote! {
        #methods
        #client
        #server
        #blocking
        #mock
    }
}

/// Renders the descriptor set of a package, which lies in a file beside.
pub(crate) fn descriptor_set(file: &str) -> TokenStream {
    quote! {
        /// The descriptors of this package's files and of all that they import, for reflection: an encoded
        /// `google.protobuf.FileDescriptorSet`.
        #[allow(dead_code, reason = "a program may need only one side of a service")]
        pub const FILE_DESCRIPTOR_SET: &[u8] = ::core::include_bytes!(#file);
    }
}

impl Method {
    /// What a request carries to the server: a message, or several as `streaming`.
    fn requests(&self, streaming: &TokenStream) -> TokenStream {
        let message = &self.request;
        match self.kind.client_streams() {
            true => quote! { #streaming<#message> },
            false => quote! { #message },
        }
    }

    /// What a response carries: a message, or several as `streaming`.
    fn responses(&self, streaming: &TokenStream) -> TokenStream {
        let message = &self.response;
        match self.kind.server_streams() {
            true => quote! { #streaming<#message> },
            false => quote! { #message },
        }
    }
}

/// An identifier out of a name that has been checked to be one.
fn ident(name: &str) -> Ident {
    format_ident!("{}", name)
}

/// Doc attributes, one for each line.
fn doc<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> TokenStream {
    let lines = lines.into_iter().map(|line| match line.as_ref() {
        "" => String::new(),
        line => format!(" {line}"),
    });
    quote! { #(#[doc = #lines])* }
}

/// The docs of a service: what its author wrote, or `otherwise`.
fn service_doc(service: &Service, options: &Options, otherwise: &str) -> TokenStream {
    if service.docs.is_empty() || options.no_comments.any(&service.full_name) {
        doc([otherwise])
    } else {
        doc(&service.docs)
    }
}

/// The docs of a method: what its author wrote, or `otherwise`.
fn method_doc(
    service: &Service,
    method: &Method,
    options: &Options,
    otherwise: &str,
) -> TokenStream {
    if method.docs.is_empty() || options.no_comments.any(&service.method_full_name(method)) {
        doc([otherwise])
    } else {
        doc(&method.docs)
    }
}

fn deprecated(deprecated: bool) -> Option<TokenStream> {
    deprecated.then(|| quote! { #[deprecated] })
}

/// What a module of generated code must be excused from.
fn allow(service: &Service) -> TokenStream {
    let unused =
        quote! { #[allow(dead_code, reason = "a program may need only one side of a service")] };
    let uses_deprecated =
        service.deprecated || service.methods.iter().any(|method| method.deprecated);
    let deprecated = uses_deprecated
        .then(|| quote! { #[allow(deprecated, reason = "what is deprecated is still served")] });
    let mut functions = service
        .methods
        .iter()
        .map(|method| method.names.function.as_str());
    let unconventional = functions
        .any(|name| name.starts_with("from_") || name.starts_with("into_"))
        .then(|| quote! { #[allow(clippy::wrong_self_convention, reason = "names are those of the .proto file")] });
    quote! { #unused #deprecated #unconventional }
}

/// The parameter for the implementation of the trait: `T`, unless the trait itself is called so.
fn type_parameter(service: &Service) -> Ident {
    match service.names.service.as_str() {
        "T" => ident("Implementation"),
        _ => ident("T"),
    }
}

/// The receiver of the methods of the trait.
fn receiver(options: &Options) -> TokenStream {
    match options.arc_self {
        true => quote! { self: ::std::sync::Arc<Self> },
        false => quote! { &self },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doc_lines_begin_with_a_space_unless_empty() {
        let expected = quote! { #[doc = " One."] #[doc = ""] #[doc = " Two."] };
        assert_eq!(doc(["One.", "", "Two."]).to_string(), expected.to_string());
    }
}
