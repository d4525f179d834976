//! What is generated, compared with what was reviewed.
//!
//! Run with `UPDATE_GOLDEN=1` to accept what is generated now, then review the difference.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use shmipc_codegen::{Builder, configure};

/// Generates the code of a case with `options`, and compares.
#[track_caller]
fn check(case: &str, options: impl FnOnce(Builder) -> Builder) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case);
    let out = tempfile::tempdir().unwrap();
    let builder = configure().out_dir(out.path()).emit_rerun_if_changed(false);
    options(builder)
        .compile_protos(&files(&directory, "proto"), &[&directory])
        .unwrap();

    let generated = written(out.path());
    for path in files(out.path(), "rs") {
        let code = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
        assert_documented(&code.items);
    }
    if env::var_os("UPDATE_GOLDEN").is_some() {
        for stale in written(&directory) {
            fs::remove_file(stale).unwrap();
        }
        for path in &generated {
            fs::copy(path, directory.join(path.file_name().unwrap())).unwrap();
        }
    }
    let expected = written(&directory);
    assert_eq!(
        names(&expected),
        names(&generated),
        "other files are generated than before"
    );
    for (expected, generated) in expected.iter().zip(&generated) {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let (before, now) = (read(expected), read(generated));
        assert!(
            before == now,
            "{} has changed from:\n{before}\nto:\n{now}\nIf that is meant, run with UPDATE_GOLDEN=1.",
            expected.display(),
        );
    }
}

/// What was generated into `directory`: code, then descriptor sets.
fn written(directory: &Path) -> Vec<PathBuf> {
    [files(directory, "rs"), files(directory, "fds")].concat()
}

/// The files in `directory` with this extension, sorted.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn names(files: &[PathBuf]) -> BTreeSet<OsString> {
    files
        .iter()
        .map(|file| file.file_name().unwrap().to_owned())
        .collect()
}

macro_rules! golden {
    ($($case:ident $(= $options:expr)?;)*) => {
        $(
            #[test]
            fn $case() {
                #[allow(unused_variables, reason = "the last one wins")]
                let options = |builder: Builder| builder;
                $(let options = $options;)?
                check(stringify!($case), options);
            }
        )*

        #[test]
        fn every_case_is_checked() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            let present: BTreeSet<OsString> =
                fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            let checked: BTreeSet<OsString> = [$(stringify!($case)),*].map(OsString::from).into();
            assert_eq!(present, checked);
        }
    };
}

#[test]
fn nothing_is_boxed_unless_it_is_asked_for() {
    for case in ["helloworld/helloworld.rs", "streaming/streaming.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(case);
        let generated = fs::read_to_string(path).unwrap();
        assert!(
            !generated.contains("Box") && !generated.contains("Pin<"),
            "{case}"
        );
    }
}

/// The sections that the docs of a generated function must have.
fn sections(signature: &syn::Signature) -> &'static [&'static str] {
    let is_result = |path: &syn::TypePath| {
        let last = path.path.segments.last();
        last.is_some_and(|last| last.ident == "Result")
    };
    match &signature.output {
        _ if signature.asyncness.is_some() => &["# Errors", "# Cancel safety"],
        syn::ReturnType::Type(_, output) if matches!(&**output, syn::Type::Path(path) if is_result(path)) => {
            &["# Errors"]
        }
        _ => &[],
    }
}

/// Whether `attribute` is a line of docs that says `text`.
fn is_doc(attribute: &syn::Attribute, text: &str) -> bool {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return false;
    };
    matches!(&pair.value, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(line), .. })
        if pair.path.is_ident("doc") && line.value().trim() == text)
}

/// Asserts that the functions among `items` that fail, or wait, say so.
#[track_caller]
fn assert_documented(items: &[syn::Item]) {
    for item in items {
        match item {
            syn::Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    assert_documented(items);
                }
            }
            syn::Item::Impl(block) if block.trait_.is_none() => {
                for item in &block.items {
                    let syn::ImplItem::Fn(function) = item else {
                        continue;
                    };
                    for section in sections(&function.sig) {
                        let has = function.attrs.iter().any(|line| is_doc(line, section));
                        assert!(has, "{} has no {section}", function.sig.ident);
                    }
                }
            }
            _ => {}
        }
    }
}

golden! {
    all_options = |builder: Builder| builder
        .blocking(true)
        .dyn_traits(true)
        .mocks(true)
        .embed_descriptor_set(true)
        .generate_default_stubs(true);
    arc_self = |builder: Builder| builder
        .use_arc_self(true)
        .blocking(true)
        .dyn_traits(true)
        .mocks(true)
        .generate_default_stubs(true);
    attributes = |builder: Builder| builder
        .client_mod_attribute("Greeter", "#[cfg(feature = \"client\")]")
        .client_attribute(".attributes", "#[doc(alias = \"hello\")] #[non_exhaustive]")
        .server_mod_attribute("attributes.Greeter", "#[cfg(feature = \"server\")]")
        .server_attribute("Greeter", "#[doc(hidden)]")
        .trait_attribute("Greeter", "#[diagnostic::on_unimplemented(message = \"no greeter\")]")
        .client_attribute("Other", "#[never]")
        .blocking(true)
        .blocking_mod_attribute("Greeter", "#[cfg(feature = \"blocking\")]")
        .mocks(true)
        .mock_mod_attribute("Greeter", "#[cfg(all(feature = \"client\", feature = \"server\"))]")
        .type_attribute("HelloReply", "#[derive(PartialOrd, Ord)]");
    clashes = |builder: Builder| builder.blocking(true).dyn_traits(true).mocks(true);
    client_only = |builder: Builder| builder.build_server(false).blocking(true);
    comments;
    deprecated = |builder: Builder| builder.blocking(true).dyn_traits(true).mocks(true);
    helloworld;
    keywords = |builder: Builder| builder.blocking(true).dyn_traits(true).mocks(true);
    messages = |builder: Builder| builder
        .boxed("Pen.cap")
        .bytes(["Cap.engraving"])
        .enable_type_names()
        .enum_attribute(".messages", "#[doc(alias = \"for enums and oneofs\")]")
        .field_attribute("Cap.grams", "#[doc(alias = \"for a field\")]")
        .message_attribute(".messages", "#[doc(alias = \"for messages\")]")
        .retain_enum_prefix()
        .skip_debug(["Secret"])
        .type_name_domain(["Cap"], "example.com");
    nested_packages = |builder: Builder| builder.include_file("mod.rs");
    no_package = |builder: Builder| builder
        .default_package_filename("root")
        .embed_descriptor_set(true);
    no_services;
    runtime_path = |builder: Builder| builder.runtime_path("crate::rpc");
    same_name;
    server_only = |builder: Builder| builder.build_client(false).blocking(true).mocks(true);
    services_only;
    streaming;
    two_services;
    undocumented = |builder: Builder| builder.disable_comments(["."]).bytes_as_vec().btree_map(["."]);
    well_known;
    well_known_vec = |builder: Builder| builder.bytes_as_vec();
}
