//! Generates the services of the examples.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    shmipc_codegen::configure().compile_protos(
        &[
            "../proto/digest/v1/digest.proto",
            "../proto/helloworld/v1/helloworld.proto",
            "../proto/plugin/v1/plugin.proto",
            "../proto/route/v1/route.proto",
            "../proto/vault/v1/vault.proto",
        ],
        &["../proto"],
    )?;
    Ok(())
}
