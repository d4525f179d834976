//! The module of method descriptors, which client and server share.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, deprecated, doc, ident};
use crate::model::{Method, MethodKind, Service};

/// Renders the module of method descriptors.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.methods_module);
    let docs = doc([format!(
        "The methods of `{}`, as they are named on the wire.",
        service.full_name
    )]);
    let allow = allow(service);
    let descriptors = service
        .methods
        .iter()
        .map(|method| descriptor(service, method, options));
    quote! {
        #docs
        #allow
        pub mod #module {
            #(#descriptors)*
        }
    }
}

/// The path of a descriptor from a neighbouring module.
pub(super) fn path(service: &Service, method: &Method) -> TokenStream {
    let module = ident(&service.names.methods_module);
    let constant = ident(&method.names.constant);
    quote! { super::#module::#constant }
}

fn descriptor(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let constant = ident(&method.names.constant);
    let constructor = ident(constructor(method.kind));
    let (service_name, method_name) = (&service.full_name, &method.proto_name);
    let path = service.method_path(method);
    let docs = doc([format!("`{method_name}`.")]);
    let deprecated = deprecated(method.deprecated);
    quote! {
        #docs
        #deprecated
        pub const #constant: #runtime::Method = #runtime::Method::#constructor(#service_name, #method_name, #path);
    }
}

/// The function of the runtime that describes a method of this kind.
fn constructor(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Unary => "unary",
        MethodKind::ServerStreaming => "server_streaming",
        MethodKind::ClientStreaming => "client_streaming",
        MethodKind::BidiStreaming => "bidi_streaming",
    }
}
