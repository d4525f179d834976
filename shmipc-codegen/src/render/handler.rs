//! The trait that a server implements.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, deprecated, ident, method_doc, receiver, service_doc};
use crate::model::{Method, Service};

/// Renders the trait.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let name = ident(&service.names.service);
    let docs = docs(service, options);
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

/// The docs of the trait.
pub(super) fn docs(service: &Service, options: &Options) -> TokenStream {
    let otherwise = format!("Handles the calls to `{}`.", service.full_name);
    service_doc(service, options, &otherwise)
}

/// The docs of a method of the trait.
pub(super) fn method_docs(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let otherwise = format!("Handles `{}`.", method.proto_name);
    method_doc(service, method, options, &otherwise)
}

/// A method of the trait.
fn handle(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let function = ident(&method.names.function);
    let docs = method_docs(service, method, options);
    let deprecated = deprecated(method.deprecated);
    let receiver = receiver(options);
    let takes = method.requests(&quote! { #runtime::Streaming });
    let gives = method.responses(&quote! { impl #runtime::ResponseStream });
    let stub = options.default_stubs.then(|| {
        // `impl ResponseStream` has to be some type, although there is no stream.
        let gives = method.responses(&quote! { #runtime::Streaming });
        let unimplemented = unimplemented(service, method, options);
        quote! {
            {
                let _ = request;
                ::core::future::ready(
                    ::core::result::Result::<#runtime::Response<#gives>, #runtime::Status>::Err(#unimplemented),
                )
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
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<#runtime::Response<#gives>, #runtime::Status>,
        > + ::core::marker::Send #end
    }
}

/// The status of a method that was left to its default.
pub(super) fn unimplemented(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let message = format!(
        "`{}` is not implemented by this server",
        service.method_full_name(method)
    );
    quote! { #runtime::Status::unimplemented(#message) }
}
