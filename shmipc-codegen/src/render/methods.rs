//! The module of method descriptors, which client and server share.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, deprecated, doc, ident};
use crate::model::{Idempotency, Method, MethodKind, Service};

/// Renders the module of method descriptors.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.methods_module);
    let docs = doc([format!(
        "What there is to know of the methods of `{}`.",
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
    let constructor = ident(kind(method.kind));
    let (service_name, method_name) = (&service.full_name, &method.proto_name);
    let path = service.method_path(method);
    let docs = doc([format!("`{method_name}`.")]);
    let deprecated = deprecated(method.deprecated);
    let idempotency = idempotency(method.idempotency).map(|level| {
        let level = ident(level);
        quote! { .with_idempotency(#runtime::Idempotency::#level) }
    });
    let (request, response) = (&method.request_message, &method.response_message);
    quote! {
        #docs
        #deprecated
        pub const #constant: #runtime::Method =
            #runtime::Method::#constructor(#service_name, #method_name, #path)
                #idempotency
                .with_messages(#request, #response);
    }
}

/// What the runtime calls a level of idempotency, if there is anything to be said.
fn idempotency(level: Idempotency) -> Option<&'static str> {
    match level {
        Idempotency::Unknown => None,
        Idempotency::NoSideEffects => Some("NoSideEffects"),
        Idempotency::Idempotent => Some("Idempotent"),
    }
}

/// What the runtime calls this kind of method: the function that describes one, those that call one, and those that
/// serve one.
pub(super) fn kind(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Unary => "unary",
        MethodKind::ServerStreaming => "server_streaming",
        MethodKind::ClientStreaming => "client_streaming",
        MethodKind::BidiStreaming => "bidi_streaming",
    }
}
