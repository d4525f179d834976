//! Generates `proto/probe/v1/probe.proto` for both sides of a comparison: this project and tonic.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "../proto/probe/v1/probe.proto";
const INCLUDES: &str = "../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    shmipc_codegen::configure()
        .file_descriptor_set_path(out.join("probe.bin"))
        .compile_protos(&[PROTO], &[INCLUDES])?;

    let tonic = out.join("tonic");
    fs::create_dir_all(&tonic)?;
    let mut messages = prost_build::Config::new();
    messages.bytes(["."]);
    let descriptors = protox::compile([PROTO], [INCLUDES])?;
    tonic_prost_build::configure()
        .out_dir(tonic)
        .compile_fds_with_config(descriptors, messages)?;
    Ok(())
}
