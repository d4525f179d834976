//! The service that calls an implementation of the trait.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, doc, dynamic, handler, ident, methods, type_parameter};
use crate::model::{Method, Service};

/// Renders the module of the server.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.server_module);
    let module_docs = doc([format!("The server of `{}`.", service.full_name)]);
    let module_attributes = options
        .attributes
        .server_module
        .matching(&service.full_name);
    let allow = allow(service);
    let handler = handler::render(service, options);
    let dynamic = options
        .dyn_traits
        .then(|| dynamic::render(service, options));
    let definition = definition(service, options, Wire::Any);
    let serving = serving(service, options);
    let naming = naming(service, options);
    quote! {
        #module_docs
        #(#module_attributes)*
        #allow
        pub mod #module {
            #handler
            #dynamic
            #definition
            #serving
            #naming
        }
    }
}

/// How calls come to a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Through shared memory alone, where nothing is compressed.
    SharedMemory,
    /// Over HTTP/2 as well.
    Any,
}

/// The service around an implementation of the trait, with the limits of messages.
pub(super) fn definition(service: &Service, options: &Options, wire: Wire) -> TokenStream {
    let server = ident(&service.names.server);
    let parameter = type_parameter(service);
    let wrapper = wrapper(service, options, wire);
    let compression = (wire == Wire::Any).then(|| compression(options));
    quote! {
        #wrapper

        impl<#parameter> #server<#parameter> {
            /// Refuses requests with a message of more than `bytes`. Default: what the server that this is added to allows.
            ///
            /// That server can say otherwise, by `limits_for_service` and `limits_for_method`.
            #[must_use]
            pub fn max_request_size(mut self, bytes: usize) -> Self {
                self.limits = self.limits.max_request_size(bytes);
                self
            }

            /// Refuses to send a message of more than `bytes` in a response: the call fails. Default: what the server that this
            /// is added to allows.
            ///
            /// That server can say otherwise, by `limits_for_service` and `limits_for_method`.
            #[must_use]
            pub fn max_response_size(mut self, bytes: usize) -> Self {
                self.limits = self.limits.max_response_size(bytes);
                self
            }

            #compression
        }
    }
}

/// What the messages of a service may be compressed by.
fn compression(options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    quote! {
        /// Takes requests that are compressed by `encoding`, among others. Default: none.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: #runtime::codec::CompressionEncoding) -> Self {
            self.compression = self.compression.accept_compressed(encoding);
            self
        }

        /// Compresses responses by `encoding` for callers that take it. Default: they are not compressed. Through shared memory
        /// nothing is.
        #[must_use]
        pub fn send_compressed(mut self, encoding: #runtime::codec::CompressionEncoding) -> Self {
            self.compression = self.compression.send_compressed(encoding);
            self
        }
    }
}

/// The service around an implementation of the trait.
fn wrapper(service: &Service, options: &Options, wire: Wire) -> TokenStream {
    let runtime = &options.runtime;
    let limits = quote! { #runtime::server::MessageLimits };
    let compression = quote! { #runtime::server::Compression };
    let [field, begin, copy] = match wire {
        Wire::SharedMemory => [quote! {}, quote! {}, quote! {}],
        Wire::Any => [
            quote! { compression: #compression, },
            quote! { compression: #compression::new(), },
            quote! { compression: self.compression, },
        ],
    };
    let name = ident(&service.names.service);
    let server = ident(&service.names.server);
    let parameter = type_parameter(service);
    let docs = doc([format!(
        "Serves `{}` by an implementation of [`{name}`].",
        service.full_name
    )]);
    let attributes = options.attributes.server.matching(&service.full_name);
    quote! {
        #docs
        #(#attributes)*
        #[derive(Debug)]
        pub struct #server<#parameter> {
            service: ::std::sync::Arc<#parameter>,
            limits: #limits,
            #field
        }

        impl<#parameter: #name> #server<#parameter> {
            /// Serves `service`.
            pub fn new(service: #parameter) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// Serves `service`, which may be in use elsewhere too.
            pub fn from_arc(service: ::std::sync::Arc<#parameter>) -> Self {
                Self { service, limits: #limits::new(), #begin }
            }
        }

        impl<#parameter> ::core::clone::Clone for #server<#parameter> {
            fn clone(&self) -> Self {
                Self { service: ::std::sync::Arc::clone(&self.service), limits: self.limits, #copy }
            }
        }
    }
}

/// The dispatch from paths to methods of the trait.
fn serving(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let name = ident(&service.names.service);
    let server = ident(&service.names.server);
    let parameter = type_parameter(service);
    let unimplemented = quote! { #runtime::server::unimplemented(request) };
    let (takes, dispatch) = if service.methods.is_empty() {
        (quote! { request }, unimplemented)
    } else {
        let arms = service
            .methods
            .iter()
            .map(|method| arm(service, method, options));
        let dispatch = quote! {
            self.compression.apply(&mut request);
            match request.uri().path() {
                #(#arms)*
                _ => #unimplemented,
            }
        };
        (quote! { mut request }, dispatch)
    };
    quote! {
        impl<#parameter> #runtime::server::Service<#runtime::http::Request<#runtime::Body>> for #server<#parameter>
        where
            #parameter: #name,
        {
            type Response = #runtime::http::Response<#runtime::Body>;
            type Error = ::core::convert::Infallible;
            type Future = #runtime::server::ResponseFuture;

            fn poll_ready(
                &mut self,
                _: &mut ::core::task::Context<'_>,
            ) -> ::core::task::Poll<::core::result::Result<(), Self::Error>> {
                ::core::task::Poll::Ready(::core::result::Result::Ok(()))
            }

            fn call(&mut self, #takes: #runtime::http::Request<#runtime::Body>) -> Self::Future {
                #dispatch
            }
        }
    }
}

/// One path. The method is called by its full name, for it may be called `clone`.
fn arm(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let name = ident(&service.names.service);
    let parameter = type_parameter(service);
    let function = ident(&method.names.function);
    let path = service.method_path(method);
    let kind = ident(methods::kind(method.kind));
    let receiver = match options.arc_self {
        true => quote! { service },
        false => quote! { &service },
    };
    let call = quote! { <#parameter as #name>::#function(#receiver, request).await };
    // The type of the stream names the lifetime of the borrowed service, though the stream itself is `'static`: it cannot
    // leave the block before its type is erased.
    let answer = if method.kind.server_streams() {
        quote! { #runtime::server::streamed(#call) }
    } else {
        call
    };
    quote! {
        #path => #runtime::server::#kind(
            ::std::sync::Arc::clone(&self.service),
            request,
            |service, request| async move { #answer },
        ),
    }
}

/// What a server needs to know to route calls.
fn naming(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let server = ident(&service.names.server);
    let parameter = type_parameter(service);
    let full_name = &service.full_name;
    let descriptors = service
        .methods
        .iter()
        .map(|method| methods::path(service, method));
    quote! {
        impl<#parameter> #runtime::server::NamedService for #server<#parameter> {
            const NAME: &'static str = #full_name;
            const METHODS: &'static [#runtime::Method] = &[#(#descriptors),*];

            fn message_limits(&self) -> #runtime::server::MessageLimits {
                self.limits
            }
        }
    }
}
