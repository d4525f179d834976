//! Generates what the tests speak, for both sides of a comparison: this project and tonic.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const PROBE: &str = "../proto/probe/v1/probe.proto";
const INTEROP: &str = "../proto/grpc/testing/test.proto";
const INCLUDES: &str = "../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROBE}");
    println!("cargo::rerun-if-changed=../proto/grpc/testing");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    probe(&out)?;
    interop(&out)
}

fn probe(out: &Path) -> Result<(), Box<dyn Error>> {
    shmipc_codegen::configure()
        .file_descriptor_set_path(out.join("probe.bin"))
        .compile_protos(&[PROBE], &[INCLUDES])?;

    let tonic = out.join("tonic");
    fs::create_dir_all(&tonic)?;
    let mut messages = prost_build::Config::new();
    messages.bytes(["."]);
    let descriptors = protox::compile([PROBE], [INCLUDES])?;
    tonic_prost_build::configure()
        .out_dir(tonic)
        .compile_fds_with_config(descriptors, messages)?;
    Ok(())
}

/// The services of gRPC's interoperability tests. Both sides have the same messages, so that one suite serves for all.
fn interop(out: &Path) -> Result<(), Box<dyn Error>> {
    shmipc_codegen::configure()
        .generate_default_stubs(true)
        .blocking(true)
        .compile_protos(&[INTEROP], &[INCLUDES])?;

    let tonic = out.join("interop_tonic");
    fs::create_dir_all(&tonic)?;
    tonic_prost_build::configure()
        .out_dir(tonic)
        .generate_default_stubs(true)
        .extern_path(".grpc.testing", "crate::protos")
        .compile_fds(protox::compile([INTEROP], [INCLUDES])?)?;
    Ok(())
}
