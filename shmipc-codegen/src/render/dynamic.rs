//! The twin of the trait that can be made an object: its futures and streams are boxed.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, deprecated, doc, handler, ident, receiver, type_parameter};
use crate::model::{Method, Service};

/// Renders the twin, with what leads from the trait to it and back.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let name = ident(&service.names.service);
    let twin = ident(&service.names.twin);
    let parameter = type_parameter(service);
    let deprecated = deprecated(service.deprecated);
    let docs = doc([
        format!("[`{name}`] with boxed futures and streams, so that there can be a `dyn {twin}`."),
        String::new(),
        format!(
            "Whatever implements [`{name}`] implements this too, and an `Arc<dyn {twin}>` implements [`{name}`]."
        ),
    ]);
    let declared = service.methods.iter().map(|method| {
        let docs = handler::method_docs(service, method, options);
        let deprecated = super::deprecated(method.deprecated);
        let signature = signature(method, options);
        quote! { #docs #deprecated #signature; }
    });
    let boxed = service
        .methods
        .iter()
        .map(|method| boxed(service, method, options));
    let owners = owners(options).into_iter().map(|owner| {
        let methods = service
            .methods
            .iter()
            .map(|method| delegate(service, method, options));
        quote! {
            impl #name for #owner<dyn #twin> {
                #(#methods)*
            }
        }
    });
    quote! {
        #docs
        #deprecated
        pub trait #twin: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#declared)*
        }

        impl<#parameter: #name> #twin for #parameter {
            #(#boxed)*
        }

        #(#owners)*
    }
}

/// What may own an object. From a `Box` there is no way to the `Arc` that methods may ask for.
fn owners(options: &Options) -> Vec<TokenStream> {
    let arc = quote! { ::std::sync::Arc };
    match options.arc_self {
        true => vec![arc],
        false => vec![arc, quote! { ::std::boxed::Box }],
    }
}

/// The signature of a method of the twin.
fn signature(method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let function = ident(&method.names.function);
    let takes = method.requests(&quote! { #runtime::Streaming });
    let gives = method.responses(&quote! { #runtime::dynamic::BoxResponseStream });
    let (receiver, lifetime) = match options.arc_self {
        true => (quote! { self: ::std::sync::Arc<Self> }, quote! { 'static }),
        false => (quote! { &self }, quote! { '_ }),
    };
    quote! {
        fn #function(
            #receiver,
            request: #runtime::Request<#takes>,
        ) -> #runtime::dynamic::BoxFuture<
            #lifetime,
            ::core::result::Result<#runtime::Response<#gives>, #runtime::Status>,
        >
    }
}

/// A method of the twin, by that of the trait.
fn boxed(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let name = ident(&service.names.service);
    let parameter = type_parameter(service);
    let function = ident(&method.names.function);
    let signature = signature(method, options);
    let call = quote! { <#parameter as #name>::#function(self, request) };
    let future = match method.kind.server_streams() {
        true => quote! { async move { #runtime::dynamic::boxed(#call.await) } },
        false => call,
    };
    quote! {
        #signature {
            ::std::boxed::Box::pin(#future)
        }
    }
}

/// A method of the trait, by that of the twin.
fn delegate(service: &Service, method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let twin = ident(&service.names.twin);
    let function = ident(&method.names.function);
    let receiver = receiver(options);
    let takes = method.requests(&quote! { #runtime::Streaming });
    let gives = method.responses(&quote! { impl #runtime::ResponseStream });
    // The object itself, past the implementation of the twin for its owner.
    let object = match options.arc_self {
        true => quote! { ::std::sync::Arc::clone(&self) },
        false => quote! { &**self },
    };
    quote! {
        async fn #function(
            #receiver,
            request: #runtime::Request<#takes>,
        ) -> ::core::result::Result<#runtime::Response<#gives>, #runtime::Status> {
            <dyn #twin as #twin>::#function(#object, request).await
        }
    }
}
