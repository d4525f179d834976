//! Generates the services of the examples; for the one that moves away from tonic, as tonic does.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    shmipc_codegen::configure().compile_protos(
        &[
            "../proto/digest/v1/digest.proto",
            "../proto/helloworld/v1/helloworld.proto",
            "../proto/pipeline/v1/pipeline.proto",
            "../proto/plugin/v1/plugin.proto",
            "../proto/route/v1/route.proto",
            "../proto/vault/v1/vault.proto",
        ],
        &["../proto"],
    )?;
    shmipc_codegen::configure()
        .blocking(true)
        .compile_protos(&["../proto/primes/v1/primes.proto"], &["../proto"])?;

    let tonic = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("tonic");
    fs::create_dir_all(&tonic)?;
    let descriptors = protox::compile(["../proto/helloworld/v1/helloworld.proto"], ["../proto"])?;
    tonic_prost_build::configure()
        .out_dir(tonic)
        .compile_fds(descriptors)?;
    Ok(())
}
