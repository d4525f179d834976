//! The message types of error details in `shmipc-rpc` are what the code generator makes of `proto/google/rpc`.

use std::{fs, path::Path};

/// Where the generated types are kept, so that the library has no build script.
const KEPT: &str = "shmipc-rpc/src/status/details/google_rpc.rs";

/// Set it to write the file instead of comparing it.
const BLESS: &str = "SHMIPC_BLESS";

#[test]
fn the_types_of_error_details_are_those_of_their_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = tempfile::tempdir().expect("a folder for the output");
    let proto = root.join("proto");
    let files =
        ["status.proto", "error_details.proto"].map(|name| proto.join("google/rpc").join(name));
    shmipc_codegen::configure()
        .out_dir(out.path())
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .prost_path("::prost")
        .prost_types_path("::prost_types")
        .emit_rerun_if_changed(false)
        .compile_protos(&files, &[proto])
        .expect("the files are valid");
    let generated = fs::read_to_string(out.path().join("google.rpc.rs")).expect("the output");
    let kept = root.join(KEPT);
    if std::env::var_os(BLESS).is_some() {
        fs::write(&kept, &generated).expect("the file can be written");
    }
    let found = fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        found == generated,
        "{KEPT} is out of date: run this test with {BLESS}=1"
    );
}
