//! What prost-build does with messages and enums: its options, forwarded.

use super::{Builder, WellKnownTypes};

/// What is generated for messages and enums.
impl Builder {
    /// Generates `BTreeMap` rather than `HashMap` for the `map` fields that match one of `paths`. Replaces earlier
    /// ones. Default: none.
    pub fn btree_map<P: AsRef<str>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.prost.btree_map(paths);
        self
    }

    /// Generates `Bytes` rather than `Vec<u8>` for the `bytes` fields that match one of `paths`. Replaces earlier
    /// ones. Default: `.`, which is all of them.
    ///
    /// A field that is `Bytes` is received without being copied.
    pub fn bytes<P: AsRef<str>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.bytes = paths
            .into_iter()
            .map(|path| path.as_ref().to_owned())
            .collect();
        self
    }

    /// Generates `Vec<u8>` for all `bytes` fields, as prost-build does by itself.
    pub fn bytes_as_vec(self) -> Self {
        self.bytes::<&str>([])
    }

    /// Adds attributes to the fields that match `path`.
    pub fn field_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.field_attribute(path, attribute);
        self
    }

    /// Adds attributes to the messages, enums and oneofs that match `path`.
    pub fn type_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.type_attribute(path, attribute);
        self
    }

    /// Adds attributes to the messages that match `path`.
    pub fn message_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.message_attribute(path, attribute);
        self
    }

    /// Adds attributes to the enums and oneofs that match `path`.
    pub fn enum_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.enum_attribute(path, attribute);
        self
    }

    /// Puts the fields that match `path` into a `Box`. Those that would make a type contain itself are boxed anyway.
    pub fn boxed(mut self, path: impl AsRef<str>) -> Self {
        self.prost.boxed(path);
        self
    }

    /// Uses what lies at `rust_path` for what lies at or below `proto_path`, which begins with a dot, and generates
    /// nothing for it.
    ///
    /// May be given for the well-known types too, as a whole (`.google.protobuf`) or one by one.
    pub fn extern_path(
        mut self,
        proto_path: impl Into<String>,
        rust_path: impl Into<String>,
    ) -> Self {
        self.extern_paths
            .push((proto_path.into(), rust_path.into()));
        self
    }

    /// Generates `google.protobuf` like any other package. Default: its types are those of prost-types, its wrappers
    /// plain Rust types (`StringValue` is `String`), and `Empty` is `()`.
    pub fn compile_well_known_types(mut self) -> Self {
        self.well_known_types = WellKnownTypes::Generated;
        self
    }

    /// Leaves out the comments of what matches one of `paths`: services and methods as well as messages, enums and
    /// their fields. Replaces earlier ones. Default: none.
    pub fn disable_comments<P: AsRef<str>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.disable_comments = paths
            .into_iter()
            .map(|path| path.as_ref().to_owned())
            .collect();
        self
    }

    /// Derives no `Debug` for the messages, enums and oneofs that match one of `paths`. Replaces earlier ones.
    /// Default: none.
    pub fn skip_debug<P: AsRef<str>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.prost.skip_debug(paths);
        self
    }

    /// Keeps the name of an enum at the start of its variants. Default: it is stripped, as in `Color::Red` for
    /// `COLOR_RED`.
    pub fn retain_enum_prefix(mut self) -> Self {
        self.prost.retain_enum_prefix();
        self
    }

    /// Implements prost's `Name` for messages. Default: off.
    pub fn enable_type_names(mut self) -> Self {
        self.prost.enable_type_names();
        self
    }

    /// The domain in the type URLs of the messages that match one of `paths`. Default: none. Only with
    /// [`enable_type_names`](Self::enable_type_names).
    pub fn type_name_domain<P: AsRef<str>>(
        mut self,
        paths: impl IntoIterator<Item = P>,
        domain: impl AsRef<str>,
    ) -> Self {
        self.prost.type_name_domain(paths, domain);
        self
    }

    /// The path under which generated code finds prost. Default: the `prost` that the runtime re-exports, so that
    /// the user needs no dependency but that.
    pub fn prost_path(mut self, path: impl Into<String>) -> Self {
        self.prost_path = Some(path.into());
        self
    }

    /// The path under which generated code finds prost-types. Default: the `prost_types` that the runtime re-exports.
    pub fn prost_types_path(mut self, path: impl Into<String>) -> Self {
        self.prost_types_path = Some(path.into());
        self
    }
}
