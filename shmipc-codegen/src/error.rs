//! Why no code could be generated.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::diagnostic::Diagnostics;

/// Why no code could be generated.
///
/// Its [`Debug`](fmt::Debug) form is the readable text too, with its causes: that is what Cargo shows when the `main`
/// of a build script returns the error.
#[non_exhaustive]
#[derive(thiserror::Error)]
pub enum Error {
    /// The `.proto` files are at fault: they cannot be read, are not protobuf, or ask for what Rust cannot express.
    #[error("{0}")]
    Idl(Diagnostics),
    /// `protoc`, or the descriptor set it was to write, could not be used. Only with
    /// [`Builder::use_protoc`](crate::Builder::use_protoc) and
    /// [`Builder::skip_protoc_run`](crate::Builder::skip_protoc_run).
    #[error("could not obtain a descriptor set")]
    DescriptorSet(#[source] io::Error),
    /// An option of the [`Builder`](crate::Builder) is not the Rust code that it has to be.
    #[error("`{option}` was given `{value}`, which is not {expected}")]
    InvalidOption {
        /// The method of the builder.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it has to be.
        expected: &'static str,
        /// What the parser says.
        source: syn::Error,
    },
    /// prost-build refused an option.
    #[error("prost-build refused an option")]
    Prost(#[source] io::Error),
    /// The code generated for a package is not Rust. Look at the attributes and paths that were given to the
    /// [`Builder`](crate::Builder) for it.
    #[error(
        "the code generated for `{file}` is not Rust; is one of the attributes or paths given to the builder wrong?"
    )]
    NotRust {
        /// The name of the file that was to be written.
        file: String,
        /// What the parser says.
        source: syn::Error,
    },
    /// Files are missing, or are not what would be generated now. Only with [`Builder::check`](crate::Builder::check).
    #[error("{}", outdated(files))]
    Outdated {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// There is nowhere to write to: this is no build script, and [`Builder::out_dir`](crate::Builder::out_dir) was
    /// not called.
    #[error("OUT_DIR is not set; outside of a build script, say where to write with `out_dir`")]
    OutDirUnset,
    /// A file could not be written.
    #[error("could not write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

fn outdated(files: &[PathBuf]) -> String {
    let names: Vec<String> = files
        .iter()
        .map(|file| format!("`{}`", file.display()))
        .collect();
    match names.as_slice() {
        [name] => format!("{name} is out of date; generate it again"),
        names => format!("{} are out of date; generate them again", names.join(", ")),
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_form_is_readable_and_names_the_cause() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
        let error = Error::Write {
            path: "out/a.rs".into(),
            source,
        };
        assert_eq!(
            format!("{error:?}"),
            "could not write `out/a.rs`: permission denied"
        );
        assert_eq!(error.to_string(), "could not write `out/a.rs`");
    }
}
