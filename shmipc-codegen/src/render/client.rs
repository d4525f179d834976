//! The client of a service.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, deprecated, doc, ident, method_doc, methods, service_doc};
use crate::model::{Method, MethodKind, Service};

/// Renders the module of the client.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.client_module);
    let module_docs = doc([format!("The client of `{}`.", service.full_name)]);
    let module_attributes = options
        .attributes
        .client_module
        .matching(&service.full_name);
    let allow = allow(service);
    let definition = definition(service, options);
    let connect = connect(service, options);
    let calls = calls(service, options);
    quote! {
        #module_docs
        #(#module_attributes)*
        #allow
        pub mod #module {
            #definition
            #connect
            #calls
        }
    }
}

fn definition(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let client = ident(&service.names.client);
    let docs = service_doc(
        service,
        options,
        &format!("Calls the methods of `{}`.", service.full_name),
    );
    let deprecated = deprecated(service.deprecated);
    let attributes = options.attributes.client.matching(&service.full_name);
    quote! {
        #docs
        #deprecated
        #(#attributes)*
        #[derive(Clone, Debug)]
        pub struct #client<S = #runtime::Channel> {
            caller: #runtime::client::Caller<S>,
        }
    }
}

fn connect(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let client = ident(&service.names.client);
    quote! {
        impl #client<#runtime::Channel> {
            /// Connects to the server at `address`.
            ///
            /// # Errors
            ///
            /// Returns why no connection could be made.
            ///
            /// # Panics
            ///
            /// Outside of a tokio runtime with I/O and time enabled.
            ///
            /// # Cancel safety
            ///
            /// Cancel safe: a connection that is only half made is given up.
            pub async fn connect(
                address: impl Into<#runtime::Endpoint>,
            ) -> Result<Self, #runtime::ConnectError> {
                #runtime::Channel::connect(address).await.map(Self::new)
            }
        }
    }
}

fn calls(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let client = ident(&service.names.client);
    let methods = service
        .methods
        .iter()
        .map(|method| call(service, method, options));
    quote! {
        impl<S: #runtime::client::CallService> #client<S> {
            /// Makes a client that calls over `service`: a channel, or one wrapped in layers.
            pub fn new(service: S) -> Self {
                Self { caller: #runtime::client::Caller::new(service) }
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

            /// Compresses requests by `encoding` where they travel over HTTP/2. Default: they are not compressed.
            ///
            /// The server must take that, or the call fails with `Code::Unimplemented`. Through shared memory nothing is
            /// compressed.
            #[must_use]
            pub fn send_compressed(self, encoding: #runtime::codec::CompressionEncoding) -> Self {
                Self { caller: self.caller.send_compressed(encoding) }
            }

            /// Takes responses that are compressed by `encoding`, among others, and tells the server so. Default: none.
            #[must_use]
            pub fn accept_compressed(self, encoding: #runtime::codec::CompressionEncoding) -> Self {
                Self { caller: self.caller.accept_compressed(encoding) }
            }

            #(#methods)*
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
    let cancel_safety = doc(["", "# Cancel safety", "", cancel_safety(method.kind)]);
    let deprecated = deprecated(method.deprecated);
    let descriptor = methods::path(service, method);
    let kind = ident(methods::kind(method.kind));
    let message = &method.request;
    let (takes, into) = match method.kind.client_streams() {
        true => ("IntoStreamingRequest", "into_streaming_request"),
        false => ("IntoRequest", "into_request"),
    };
    let (takes, into) = (ident(takes), ident(into));
    let gives = method.responses(&quote! { #runtime::Streaming });
    quote! {
        #docs
        #errors
        #cancel_safety
        #deprecated
        pub async fn #function(
            &self,
            request: impl #runtime::#takes<#message>,
        ) -> Result<#runtime::Response<#gives>, #runtime::Status> {
            self.caller.#kind(&#descriptor, request.#into()).await
        }
    }
}

/// What is said of the errors of a call.
pub(super) fn errors(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Unary => {
            "Returns what the server answered, if that is no response, or why there was no answer."
        }
        MethodKind::ClientStreaming => {
            "Returns what the server answered, if that is no response, or why there was no answer. An answer may come \
             before the last request is sent."
        }
        MethodKind::ServerStreaming | MethodKind::BidiStreaming => {
            "Returns what the server answered, if that is no response, or why there was no answer. What goes wrong later, \
             the stream reports."
        }
    }
}

/// What is said of calls that are no longer waited for.
fn cancel_safety(kind: MethodKind) -> &'static str {
    match kind.server_streams() {
        false => {
            "A future that is dropped gives the call up, which may have had its effect all the same."
        }
        true => "A future, or a stream, that is dropped gives the call up.",
    }
}
