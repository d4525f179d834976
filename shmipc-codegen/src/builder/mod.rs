//! What is generated, from what, and where to.

mod messages;
mod run;
mod services;

use std::fmt;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

use crate::error::Error;
use crate::read::{self, Files};

/// Configures what is generated. Made by [`configure`](crate::configure).
///
/// Every option of prost-build is here under its own name, next to those for clients and servers.
///
/// # Paths
///
/// Options that take paths apply to what these match in the protobuf (not the Rust) namespace, counting whole
/// components: `.` matches everything; a path with a leading dot, such as `.route.v1` or `.route.v1.Point`, what
/// lies at or below it; any other, such as `Point.latitude`, what ends so.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// shmipc_codegen::configure()
///     .build_server(false)
///     .type_attribute(".", "#[derive(serde::Serialize)]")
///     .extern_path(".geo.v1", "::geo_types::v1")
///     .compile_protos(&["proto/route.proto"], &["proto", "third_party"])?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `compile_protos` or `compile_fds` is called"]
pub struct Builder {
    prost: prost_build::Config,
    prost_path: Option<String>,
    prost_types_path: Option<String>,
    /// Kept apart from those in `prost`, because ours for the well-known types must give way to them.
    extern_paths: Vec<(String, String)>,
    well_known_types: WellKnownTypes,
    /// What `Bytes` are generated for.
    bytes: Vec<String>,
    runtime_path: String,
    client: bool,
    server: bool,
    blocking: bool,
    dyn_traits: bool,
    mocks: bool,
    arc_self: bool,
    default_stubs: bool,
    attributes: Vec<Attribute>,
    disable_comments: Vec<String>,
    next: Option<Box<dyn prost_build::ServiceGenerator>>,
    source: Source,
    skip_source_info: bool,
    fds_path: Option<PathBuf>,
    embed_descriptor_set: bool,
    out_dir: Option<PathBuf>,
    include_file: Option<PathBuf>,
    default_package_filename: String,
    format: bool,
    check: bool,
    rerun: bool,
}

/// What turns `.proto` files into a descriptor set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// We do.
    Protox,
    /// The program.
    Protoc,
    /// It has been done: the set lies at the path that was given.
    Ready,
}

/// Where `google.protobuf` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WellKnownTypes {
    ProstTypes,
    Generated,
}

/// An attribute that was asked for.
#[derive(Clone, Debug)]
struct Attribute {
    target: AttributeTarget,
    path: String,
    text: String,
}

/// Which of a service's items gets an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttributeTarget {
    ClientModule,
    Client,
    ServerModule,
    Server,
    Trait,
    BlockingModule,
    MockModule,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            prost: prost_build::Config::new(),
            prost_path: None,
            prost_types_path: None,
            extern_paths: Vec::new(),
            well_known_types: WellKnownTypes::ProstTypes,
            bytes: vec![".".to_owned()],
            runtime_path: "::shmipc_rpc".to_owned(),
            client: true,
            server: true,
            blocking: false,
            dyn_traits: false,
            mocks: false,
            arc_self: false,
            default_stubs: false,
            attributes: Vec::new(),
            disable_comments: Vec::new(),
            next: None,
            source: Source::Protox,
            skip_source_info: false,
            fds_path: None,
            embed_descriptor_set: false,
            out_dir: None,
            include_file: None,
            default_package_filename: "_".to_owned(),
            format: true,
            check: false,
            rerun: true,
        }
    }
}

/// What is read.
impl Builder {
    /// Runs `protoc` instead of reading `.proto` files by ourselves. Default: off.
    ///
    /// The program is that of [`protoc_executable`](Self::protoc_executable), or of the environment variable
    /// `PROTOC`, or the first `protoc` in `PATH`.
    pub fn use_protoc(mut self) -> Self {
        self.source = Source::Protoc;
        self
    }

    /// The `protoc` to run. Implies [`use_protoc`](Self::use_protoc).
    pub fn protoc_executable(mut self, executable: impl Into<PathBuf>) -> Self {
        self.prost.protoc_executable(executable);
        self.use_protoc()
    }

    /// Adds an argument for `protoc`, such as `--experimental_allow_proto3_optional`. Implies
    /// [`use_protoc`](Self::use_protoc).
    pub fn protoc_arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.prost.protoc_arg(arg);
        self.use_protoc()
    }

    /// Reads no `.proto` file at all, but the descriptor set at
    /// [`file_descriptor_set_path`](Self::file_descriptor_set_path), which something else has written. Default: off.
    ///
    /// It must hold everything it imports (`protoc --include_imports`), and source information if there are to be
    /// comments (`--include_source_info`).
    pub fn skip_protoc_run(mut self) -> Self {
        self.source = Source::Ready;
        self
    }

    /// Where to write the descriptor set, for instance for reflection. Default: nowhere.
    ///
    /// With [`skip_protoc_run`](Self::skip_protoc_run), where to read it.
    pub fn file_descriptor_set_path(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.prost.file_descriptor_set_path(path.clone());
        self.fds_path = Some(path);
        self
    }

    /// Leaves all comments out of the generated code. Default: they become docs.
    pub fn skip_source_info(mut self) -> Self {
        self.prost.skip_source_info();
        self.skip_source_info = true;
        self
    }

    /// Whether to tell Cargo, on standard output, to run the build script again once one of the files that were read
    /// has changed. Default: `true`.
    ///
    /// Cargo then runs it again for no other file of the package, unless the build script names it.
    pub fn emit_rerun_if_changed(mut self, enable: bool) -> Self {
        self.rerun = enable;
        self
    }
}

/// What is written.
impl Builder {
    /// The directory to write to. It must exist. Default: that of the environment variable `OUT_DIR`, as Cargo sets
    /// it.
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(path.into());
        self
    }

    /// A file to write that includes all others, each in the module of its package. Default: none.
    ///
    /// Relative to the directory that is written to. With several packages that import one another, this spares you
    /// the nesting of modules.
    pub fn include_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.include_file = Some(path.into());
        self
    }

    /// The name, without `.rs`, of the file for what is in no package. Default: `_`.
    pub fn default_package_filename(mut self, filename: impl Into<String>) -> Self {
        self.default_package_filename = filename.into();
        self
    }

    /// Whether to add a constant `FILE_DESCRIPTOR_SET: &[u8]` to each package, for reflection. Default: `false`.
    ///
    /// It holds the descriptors of the package's files and of all that they import, without comments. The bytes lie in a file
    /// beside the code, called like it but for the extension `.fds`.
    ///
    /// Has no effect on [`into_service_generator`](Self::into_service_generator), which never sees a descriptor set.
    pub fn embed_descriptor_set(mut self, enable: bool) -> Self {
        self.embed_descriptor_set = enable;
        self
    }

    /// Whether to write nothing, but to compare with the files that are there. Default: `false`.
    ///
    /// If they differ, [`Error::Outdated`] is returned. For a test that keeps checked-in code up to date.
    pub fn check(mut self, enable: bool) -> Self {
        self.check = enable;
        self
    }

    /// Whether to format the generated code. Default: `true`.
    pub fn format(mut self, enable: bool) -> Self {
        self.format = enable;
        self
    }
}

/// The end of it.
impl Builder {
    /// Generates code for the `.proto` files at `protos` and what they import.
    ///
    /// Imports are looked for in `includes`, in this order. Each of `protos` must lie in one of them; it is named
    /// relative to the package's directory, or to one of the `includes`.
    ///
    /// # Errors
    ///
    /// Returns [`Error`], which says which file is at fault, and where.
    pub fn compile_protos(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let protos: Vec<PathBuf> = protos
            .iter()
            .map(|proto| proto.as_ref().to_owned())
            .collect();
        let files = Files::new(
            includes
                .iter()
                .map(|include| include.as_ref().to_owned())
                .collect(),
        );
        self.run(&protos, &files)
    }

    /// Generates code for a descriptor set.
    ///
    /// It must hold everything it imports. Comments and places are as good as its source information.
    ///
    /// # Errors
    ///
    /// Returns [`Error`], which says what is at fault.
    pub fn compile_fds(self, fds: FileDescriptorSet) -> Result<(), Error> {
        let input = read::descriptor_set(fds, &Files::default())?;
        self.generate(input, None)
    }

    /// Makes a generator for those who call prost-build themselves. It renders services by the options that concern
    /// them; all others are up to your [`prost_build::Config`].
    ///
    /// Which has to be told where prost is found: the dependency that you have, or that of the runtime (as below).
    /// What cannot be rendered becomes an error when the generated code is compiled.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOption`] if an attribute or path is no Rust.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// prost_build::Config::new()
    ///     .prost_path("::shmipc_rpc::prost")
    ///     .prost_types_path("::shmipc_rpc::prost_types")
    ///     .service_generator(shmipc_codegen::configure().into_service_generator()?)
    ///     .compile_protos(&["proto/route.proto"], &["proto"])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_service_generator(
        mut self,
    ) -> Result<Box<dyn prost_build::ServiceGenerator>, Error> {
        let options = self.options()?;
        Ok(Box::new(
            self.generator(options, read::Locations::default()),
        ))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("prost", &self.prost)
            .field("runtime_path", &self.runtime_path)
            .field("client", &self.client)
            .field("server", &self.server)
            .field("blocking", &self.blocking)
            .field("dyn_traits", &self.dyn_traits)
            .field("mocks", &self.mocks)
            .field("attributes", &self.attributes)
            .field("source", &self.source)
            .field("out_dir", &self.out_dir)
            .finish_non_exhaustive()
    }
}
