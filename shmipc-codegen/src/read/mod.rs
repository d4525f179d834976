//! From `.proto` files to a descriptor set, by whichever way the user chose.

mod embed;
mod explain;
mod files;
mod locations;

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;
use protox::prost_reflect::DescriptorPool;

pub(crate) use self::embed::self_contained;
pub(crate) use self::files::Files;
pub(crate) use self::locations::Locations;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::error::Error;

/// A descriptor set that prost-build can work with, and the files it was made of.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) fds: FileDescriptorSet,
    /// The same, with the custom options that prost-types has no room for, if they were there to be read.
    pub(crate) pool: DescriptorPool,
    /// Where the files of the set lie, in its order.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) locations: Locations,
}

/// Compiles `protos` without any other program.
pub(crate) fn with_protox(protos: &[PathBuf], files: &Files) -> Result<Input, Error> {
    let explained = |error: protox::Error| Error::Idl(explain::protox_error(&error, files));
    let mut compiler = protox::Compiler::new(files.includes()).map_err(explained)?;
    compiler.include_imports(true).include_source_info(true);
    for proto in protos {
        compiler.open_file(proto).map_err(|error| {
            match explain::unusable_file(&error, proto, files) {
                Some(diagnostic) => Error::Idl(diagnostic.into()),
                None => explained(error),
            }
        })?;
    }
    let paths = compiler
        .files()
        .filter_map(|file| file.path())
        .map(Path::to_owned)
        .collect();
    let fds = compiler.file_descriptor_set();
    supported(&fds)?;
    let locations = Locations::of(&fds, files);
    Ok(Input {
        fds,
        pool: compiler.descriptor_pool(),
        paths,
        locations,
    })
}

/// Takes a descriptor set that something else made.
pub(crate) fn descriptor_set(fds: FileDescriptorSet, files: &Files) -> Result<Input, Error> {
    supported(&fds)?;
    // prost-build panics where a set is incomplete or inconsistent.
    let pool = DescriptorPool::from_file_descriptor_set(fds.clone())
        .map_err(|error| Error::Idl(explain::descriptor_error(&error, files)))?;
    let paths = fds
        .file
        .iter()
        .filter_map(|file| files.find(file.name()))
        .collect();
    let locations = Locations::of(&fds, files);
    Ok(Input {
        fds,
        pool,
        paths,
        locations,
    })
}

/// Refuses what prost-build would panic at.
fn supported(fds: &FileDescriptorSet) -> Result<(), Error> {
    let edition = |syntax: &str| !matches!(syntax, "" | "proto2" | "proto3");
    let unsupported = fds.file.iter().filter(|file| edition(file.syntax()));
    let diagnostics = unsupported.map(|file| {
        Diagnostic::new(format!(
            "`{}` has the syntax \"{}\", which is not supported",
            file.name(),
            file.syntax()
        ))
        .with_help("write `syntax = \"proto3\";` or `syntax = \"proto2\";`")
    });
    match Diagnostics::new(diagnostics.collect()) {
        Some(diagnostics) => Err(Error::Idl(diagnostics)),
        None => Ok(()),
    }
}
