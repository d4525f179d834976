//! The trait whose methods block, and the service that calls an implementation of it.

use proc_macro2::TokenStream;
use quote::quote;

use super::super::{
    Options, deprecated, handler, ident, methods, receiver, server, type_parameter,
};
use crate::model::{Method, Service};

/// Renders the trait and its server.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let handler = handler(service, options);
    let definition = server::definition(service, options, server::Wire::SharedMemory);
    let serving = serving(service, options);
    quote! {
        #handler
        #definition
        #serving
    }
}

fn handler(service: &Service, options: &Options) -> TokenStream {
    let name = ident(&service.names.service);
    let docs = handler::docs(service, options);
    let deprecated = deprecated(service.deprecated);
    let attributes = options.attributes.service.matching(&service.full_name);
    let methods = service
        .methods
        .iter()
        .map(|method| handle(service, method, options));
    quote! {
        #docs
        #deprecated
        #(#attributes)*
        pub trait #name: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#methods)*
        }
    }
}

fn handle(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let function = ident(&method.names.function);
    let docs = handler::method_docs(service, method, options);
    let deprecated = deprecated(method.deprecated);
    let receiver = receiver(options);
    let takes = method.requests(&quote! { #runtime::blocking::Streaming });
    let response = &method.response;
    let item = quote! { ::core::result::Result<#response, #runtime::Status> };
    let (gives, nothing) = match method.kind.server_streams() {
        true => (
            quote! { impl ::core::iter::Iterator<Item = #item> + ::core::marker::Send + 'static },
            quote! { ::core::iter::Empty<#item> },
        ),
        false => (quote! { #response }, quote! { #response }),
    };
    let stub = options.default_stubs.then(|| {
        let unimplemented = handler::unimplemented(service, method, options);
        quote! {
            {
                let _ = request;
                // A stream has to be of some type, although there is none.
                ::core::result::Result::<#runtime::Response<#nothing>, #runtime::Status>::Err(#unimplemented)
            }
        }
    });
    let end = stub.unwrap_or_else(|| quote! { ; });
    quote! {
        #docs
        #deprecated
        fn #function(
            #receiver,
            request: #runtime::Request<#takes>,
        ) -> ::core::result::Result<#runtime::Response<#gives>, #runtime::Status> #end
    }
}

/// The dispatch from paths to methods of the trait.
fn serving(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let name = ident(&service.names.service);
    let server = ident(&service.names.server);
    let parameter = type_parameter(service);
    let full_name = &service.full_name;
    let descriptors = service
        .methods
        .iter()
        .map(|method| methods::path(service, method));
    let unimplemented = quote! { #runtime::blocking::serve::unimplemented(call) };
    let dispatch = if service.methods.is_empty() {
        unimplemented
    } else {
        let arms = service
            .methods
            .iter()
            .map(|method| arm(service, method, options));
        quote! {
            match call.path() {
                #(#arms)*
                _ => #unimplemented,
            }
        }
    };
    quote! {
        impl<#parameter: #name> #runtime::blocking::Service for #server<#parameter> {
            const NAME: &'static str = #full_name;
            const METHODS: &'static [#runtime::Method] = &[#(#descriptors),*];

            fn message_limits(&self) -> #runtime::server::MessageLimits {
                self.limits
            }

            fn call(&self, call: #runtime::blocking::Call) {
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
        true => quote! { ::std::sync::Arc::clone(&self.service) },
        false => quote! { &self.service },
    };
    quote! {
        #path => #runtime::blocking::serve::#kind(
            call,
            |request| <#parameter as #name>::#function(#receiver, request),
        ),
    }
}
