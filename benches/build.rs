//! Generates the service of `proto/bench/v1/echo.proto` for each RPC peer.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const PROTO: &str = "../proto/bench/v1/echo.proto";
const INCLUDES: &str = "../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rustc-env=BENCHES_RUSTC={}", compiler()?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    shmipc_codegen::configure()
        .blocking(true)
        .compile_protos(&[PROTO], &[INCLUDES])?;
    generate_for_tonic(out.join("tonic"))
}

/// Generates messages, client and server for tonic into a folder of their own.
fn generate_for_tonic(folder: PathBuf) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&folder)?;
    let descriptors = protox::compile([PROTO], [INCLUDES])?;
    let mut messages = prost_build::Config::new();
    messages.bytes(["."]);
    tonic_prost_build::configure()
        .out_dir(folder)
        .compile_fds_with_config(descriptors, messages)?;
    Ok(())
}

/// The compiler's name and version, for the report.
fn compiler() -> Result<String, Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").ok_or("cargo sets RUSTC")?;
    let output = Command::new(rustc).arg("--version").output()?;
    let version = String::from_utf8(output.stdout)?;
    Ok(version
        .split(" (")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}
