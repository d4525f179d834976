//! A stand-in for an implementation of the trait, for tests.

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, deprecated, doc, ident, methods, receiver};
use crate::model::{Method, Service};

/// Renders the module of the mock.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.mock_module);
    let module_docs = doc([format!(
        "A stand-in for `{}`, for tests.",
        service.full_name
    )]);
    let module_attributes = options.attributes.mock_module.matching(&service.full_name);
    let allow = allow(service);
    let definition = definition(service, options);
    let client = options.client.then(|| client(service, options));
    let setters = service.methods.iter().map(|method| setter(method, options));
    let implementation = implementation(service, options);
    let runtime = &options.runtime;
    let mock = ident(&service.names.mock);
    quote! {
        #module_docs
        #(#module_attributes)*
        #allow
        pub mod #module {
            #definition

            impl #mock {
                /// Makes a mock that knows no answer.
                #[must_use]
                pub fn new() -> Self {
                    Self::default()
                }

                /// The calls that have been made, in their order.
                #[must_use]
                pub fn calls(&self) -> &#runtime::mock::Calls {
                    &self.calls
                }

                #client
                #(#setters)*
            }

            #implementation
        }
    }
}

fn definition(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let mock = ident(&service.names.mock);
    let docs = doc([
        format!("Answers the calls to `{}` as a test tells it to.", service.full_name),
        String::new(),
        "What a test says nothing of is answered with `UNIMPLEMENTED`. Clones share what they were told, and the calls they \
         have seen."
            .to_owned(),
        "The requests of a stream are seen as the handler takes them.".to_owned(),
    ]);
    let deprecated = deprecated(service.deprecated);
    let fields = service.methods.iter().map(|method| {
        let field = ident(&method.names.setter);
        let takes = method.requests(&quote! { #runtime::Streaming });
        let gives = method.responses(&quote! { #runtime::dynamic::BoxResponseStream });
        quote! { #field: #runtime::mock::Answer<#takes, #gives> }
    });
    quote! {
        #docs
        #deprecated
        #[derive(Clone, Debug, Default)]
        pub struct #mock {
            calls: #runtime::mock::Calls,
            #(#fields,)*
        }
    }
}

/// The shortcut to a client.
fn client(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let (client_module, client) = (
        ident(&service.names.client_module),
        ident(&service.names.client),
    );
    let (server_module, server) = (
        ident(&service.names.server_module),
        ident(&service.names.server),
    );
    quote! {
        /// Makes a client that calls the mock, in this process.
        #[must_use]
        pub fn client(&self) -> super::#client_module::#client<#runtime::Channel> {
            let server = super::#server_module::#server::new(self.clone());
            super::#client_module::#client::new(#runtime::Channel::in_process(server))
        }
    }
}

/// How a test tells what a method answers.
fn setter(method: &Method, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let setter = ident(&method.names.setter);
    let deprecated = deprecated(method.deprecated);
    let docs = doc([format!(
        "Has `{}` answered by `handler` from now on.",
        method.proto_name
    )]);
    let takes = method.requests(&quote! { #runtime::Streaming });
    let message = &method.response;
    let (gives, stream, set) = match method.kind.server_streams() {
        true => (
            quote! { R },
            Some(quote! { R: #runtime::ResponseStream<#message>, }),
            ident("set_streamed"),
        ),
        false => (quote! { #message }, None, ident("set")),
    };
    let stream_parameter = stream.as_ref().map(|_| quote! { , R });
    quote! {
        #docs
        #deprecated
        pub fn #setter<F, A #stream_parameter>(&self, handler: F) -> &Self
        where
            F: Fn(#runtime::Request<#takes>) -> A + Send + Sync + 'static,
            A: ::core::future::Future<Output = Result<#runtime::Response<#gives>, #runtime::Status>> + Send + 'static,
            #stream
        {
            self.#setter.#set(handler);
            self
        }
    }
}

/// The trait, by the answers.
fn implementation(service: &Service, options: &Options) -> TokenStream {
    let runtime = &options.runtime;
    let mock = ident(&service.names.mock);
    let (server_module, name) = (
        ident(&service.names.server_module),
        ident(&service.names.service),
    );
    let methods = service.methods.iter().map(|method| {
        let function = ident(&method.names.function);
        let receiver = receiver(options);
        let setter = ident(&method.names.setter);
        let descriptor = methods::path(service, method);
        let takes = method.requests(&quote! { #runtime::Streaming });
        let gives = method.responses(&quote! { impl #runtime::ResponseStream });
        let give = ident(match method.kind.client_streams() {
            true => "give_streaming",
            false => "give",
        });
        quote! {
            async fn #function(
                #receiver,
                request: #runtime::Request<#takes>,
            ) -> Result<#runtime::Response<#gives>, #runtime::Status> {
                self.#setter.#give(&self.calls, &#descriptor, request).await
            }
        }
    });
    quote! {
        impl super::#server_module::#name for #mock {
            #(#methods)*
        }
    }
}
