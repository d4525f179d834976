//! The client of a service, for those who wait.

use proc_macro2::TokenStream;
use quote::quote;

use super::super::{Options, client, deprecated, doc, ident, method_doc, methods, service_doc};
use crate::model::{Method, MethodKind, Service};

/// Renders the client.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let client = ident(&service.names.client);
    let docs = service_doc(
        service,
        options,
        &format!("Calls the methods of `{}`.", service.full_name),
    );
    let deprecated = deprecated(service.deprecated);
    let attributes = options.attributes.client.matching(&service.full_name);
    let calls = service
        .methods
        .iter()
        .map(|method| call(service, method, options));
    quote! {
        #docs
        #deprecated
        #(#attributes)*
        #[derive(Clone, Debug)]
        pub struct #client {
            caller: #runtime::blocking::Caller,
        }

        impl #client {
            /// Makes a client that calls over `channel`.
            pub fn new(channel: #runtime::blocking::Channel) -> Self {
                Self { caller: #runtime::blocking::Caller::new(channel) }
            }

            /// Connects to the server at `address`.
            ///
            /// # Errors
            ///
            /// Returns why no connection could be made.
            pub fn connect(
                address: impl ::core::convert::Into<#runtime::Address>,
            ) -> ::core::result::Result<Self, #runtime::SessionConnectError> {
                #runtime::blocking::Channel::connect(address).map(Self::new)
            }

            /// Refuses to send requests with a message of more than `bytes` bytes: the call fails with `Code::ResourceExhausted`.
            /// Default: 64 MiB.
            #[must_use]
            pub fn max_request_size(self, bytes: usize) -> Self {
                Self { caller: self.caller.max_request_size(bytes) }
            }

            /// Refuses to take responses with a message of more than `bytes` bytes: the call fails with
            /// `Code::ResourceExhausted`. Default: 64 MiB.
            #[must_use]
            pub fn max_response_size(self, bytes: usize) -> Self {
                Self { caller: self.caller.max_response_size(bytes) }
            }

            #(#calls)*
        }
    }
}

fn call(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let function = ident(&method.names.function);
    let docs = method_doc(
        service,
        method,
        options,
        &format!("Calls `{}`.", method.proto_name),
    );
    let errors = doc(["", "# Errors", "", errors(method.kind)]);
    let deprecated = deprecated(method.deprecated);
    let descriptor = methods::path(service, method);
    let kind = ident(methods::kind(method.kind));
    let (request, response) = (&method.request, &method.response);
    let into_request = ident("into_request");
    let (takes, into, gives) = match method.kind {
        MethodKind::Unary => (
            quote! { #runtime::IntoRequest<#request> },
            into_request,
            quote! { #runtime::Response<#response> },
        ),
        MethodKind::ServerStreaming => (
            quote! { #runtime::IntoRequest<#request> },
            into_request,
            quote! { #runtime::Response<#runtime::blocking::Streaming<#response>> },
        ),
        MethodKind::ClientStreaming => (
            quote! { #runtime::blocking::IntoIterRequest<#request> },
            ident("into_iter_request"),
            quote! { #runtime::Response<#response> },
        ),
        // The messages are sent by what it returns: one thread cannot be in both directions at once.
        MethodKind::BidiStreaming => (
            quote! { #runtime::IntoRequest<()> },
            into_request,
            quote! { #runtime::blocking::Duplex<#request, #response> },
        ),
    };
    quote! {
        #docs
        #errors
        #deprecated
        pub fn #function(
            &self,
            request: impl #takes,
        ) -> ::core::result::Result<#gives, #runtime::Status> {
            self.caller.#kind(&#descriptor, request.#into())
        }
    }
}

/// What is said of the errors of a call.
fn errors(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::BidiStreaming => {
            "Returns why the call could not be begun. What goes wrong later, the `Duplex` reports."
        }
        kind => client::errors(kind),
    }
}
