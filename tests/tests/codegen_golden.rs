//! Every file that shmipc-codegen is known to generate compiles against this shmipc-rpc.
//!
//! What the files look like is the business of shmipc-codegen's own tests. Whether they compile can only be said here,
//! because it depends on neither shmipc-rpc nor its users.

use std::{fs, path::Path};

/// Where `runtime_path.rs` was told to find shmipc-rpc.
mod rpc {
    pub(crate) use ::shmipc_rpc::*;
}

macro_rules! golden {
    ($($module:ident: $($file:literal),+;)*) => {
        $(
            #[allow(dead_code, unexpected_cfgs, unnameable_types, unreachable_pub, reason = "nobody uses this, within or without the crate")]
            mod $module {
                $(include!(concat!("../../shmipc-codegen/tests/golden/", $file));)+
            }
        )*

        /// The files that are included by the macro.
        const INCLUDED: &[&str] = &[$($($file),+),*];
    };
}

golden! {
    all_options: "all_options/all_options.rs";
    arc_self: "arc_self/arc_self.rs";
    attributes: "attributes/attributes.rs";
    clashes: "clashes/clashes.rs";
    client_only: "client_only/client_only.rs";
    comments: "comments/comments.rs";
    deprecated: "deprecated/deprecated.rs";
    helloworld: "helloworld/helloworld.rs";
    keywords: "keywords/type.async.rs";
    messages: "messages/messages.rs";
    nested_packages: "nested_packages/mod.rs";
    no_package: "no_package/root.rs";
    no_services: "no_services/no.services.rs";
    runtime_path: "runtime_path/runtime_path.rs";
    same_name: "same_name/same_name.echo.rs";
    server_only: "server_only/server_only.rs";
    streaming: "streaming/streaming.rs";
    two_services: "two_services/two.services.rs";
    undocumented: "undocumented/undocumented.rs";
    well_known: "well_known/well_known.rs";
    well_known_vec: "well_known_vec/well_known_vec.rs";
}

/// Packages that refer to each other, laid out as their names are nested.
#[allow(
    dead_code,
    unreachable_pub,
    reason = "nobody uses this, within or without the crate"
)]
mod services_only {
    pub mod messages {
        include!("../../shmipc-codegen/tests/golden/services_only/app.messages.rs");
    }

    pub mod services {
        include!("../../shmipc-codegen/tests/golden/services_only/app.services.rs");
    }
}

#[test]
fn no_case_is_forgotten() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shmipc-codegen/tests/golden");
    for case in fs::read_dir(golden).unwrap() {
        let case = case.unwrap().file_name().into_string().unwrap();
        assert!(
            case == "services_only"
                || INCLUDED
                    .iter()
                    .any(|file| file.split('/').next() == Some(&case)),
            "{case} is not compiled here"
        );
    }
}
