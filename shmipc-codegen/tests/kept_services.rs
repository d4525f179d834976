//! The services that `shmipc-rpc` brings along are what the code generator makes of their `.proto` files. The test lies here because the
//! library need not compile for it.

use std::{collections::BTreeMap, fs, path::Path};

/// Set it to write the files instead of comparing them.
const BLESS: &str = "SHMIPC_BLESS";

/// Generates a package, and compares it with what is kept in `folder`, so that the library has no build script.
fn compare(folder: &str, protos: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = tempfile::tempdir().expect("a folder for the output");
    let include = root.join("proto");
    let protos: Vec<_> = protos.iter().map(|proto| include.join(proto)).collect();
    shmipc_codegen::configure()
        .out_dir(out.path())
        .runtime_path("crate")
        .prost_path("::prost")
        .prost_types_path("::prost_types")
        .embed_descriptor_set(true)
        .blocking(true)
        .extern_path(".grpc.reflection.v1alpha", "crate::reflection::v1")
        .emit_rerun_if_changed(false)
        .compile_protos(&protos, &[include])
        .expect("the files are valid");
    let generated = files(out.path());
    let kept = root.join(folder);
    if std::env::var_os(BLESS).is_some() {
        for (name, content) in &generated {
            fs::write(kept.join(name), content).expect("the file can be written");
        }
    }
    assert!(
        files(&kept) == generated,
        "{folder} is out of date: run this test with {BLESS}=1"
    );
}

/// Returns the files of a folder by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("the folder can be read");
        let content = fs::read(entry.path()).expect("the file can be read");
        (entry.file_name().to_string_lossy().into_owned(), content)
    };
    entries.map(file).collect()
}

#[test]
fn the_health_service_is_that_of_its_proto_file() {
    compare(
        "shmipc-rpc/src/health/generated",
        &["grpc/health/v1/health.proto"],
    );
}

#[test]
fn the_reflection_services_are_those_of_their_proto_files() {
    compare(
        "shmipc-rpc/src/reflection/generated",
        &[
            "grpc/reflection/v1/reflection.proto",
            "grpc/reflection/v1alpha/reflection.proto",
        ],
    );
}
