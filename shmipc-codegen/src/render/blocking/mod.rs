//! The twins that block: a client, a trait and its server, for programs without a runtime.
//!
//! All of them share a module, so that everything is named by an absolute path there.

mod client;
mod server;

use proc_macro2::TokenStream;
use quote::quote;

use super::{Options, allow, doc, ident};
use crate::model::Service;

/// Renders the module of what blocks.
pub(super) fn render(service: &Service, options: &Options) -> TokenStream {
    let module = ident(&service.names.blocking_module);
    let docs = doc([format!(
        "`{}` without a runtime: calls and handlers block.",
        service.full_name
    )]);
    let attributes = options
        .attributes
        .blocking_module
        .matching(&service.full_name);
    let allow = allow(service);
    let client = options.client.then(|| client::render(service, options));
    let server = options.server.then(|| server::render(service, options));
    quote! {
        #docs
        #(#attributes)*
        #allow
        pub mod #module {
            #client
            #server
        }
    }
}
