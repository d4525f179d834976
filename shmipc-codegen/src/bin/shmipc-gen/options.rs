//! The options of the builder, as flags.

use std::path::PathBuf;

use shmipc_codegen::Builder;

/// An option of the builder.
pub(crate) struct Opt {
    /// Without the dashes.
    pub(crate) name: &'static str,
    pub(crate) setting: Setting,
    pub(crate) meaning: &'static str,
}

/// What an option takes, and what it does.
pub(crate) enum Setting {
    Flag(fn(Builder) -> Builder),
    /// Given once. The first field names the value.
    Text(&'static str, fn(Builder, String) -> Builder),
    /// A place in the file system.
    File(&'static str, fn(Builder, PathBuf) -> Builder),
    /// `KEY=VALUE`. May be repeated.
    Pair(&'static str, fn(Builder, String, String) -> Builder),
    /// May be repeated. The builder wants all at once.
    Paths(fn(Builder, Vec<String>) -> Builder),
}

impl Setting {
    /// The value, as help shows it.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::Flag(_) => String::new(),
            Self::Text(value, _) | Self::File(value, _) | Self::Pair(value, _) => {
                format!(" {value}")
            }
            Self::Paths(_) => " PATH".to_owned(),
        }
    }
}

const fn opt(name: &'static str, setting: Setting, meaning: &'static str) -> Opt {
    Opt {
        name,
        setting,
        meaning,
    }
}

const ATTRIBUTE: &str = "PATH=ATTRIBUTE";

pub(crate) const OPTIONS: &[Opt] = &[
    // Services.
    opt(
        "no-client",
        Setting::Flag(|builder| builder.build_client(false)),
        "generate no clients",
    ),
    opt(
        "no-server",
        Setting::Flag(|builder| builder.build_server(false)),
        "generate no traits and servers",
    ),
    opt(
        "blocking",
        Setting::Flag(|builder| builder.blocking(true)),
        "generate what needs no runtime, too",
    ),
    opt(
        "dyn-traits",
        Setting::Flag(|builder| builder.dyn_traits(true)),
        "generate twins of the traits that can be made objects",
    ),
    opt(
        "mocks",
        Setting::Flag(|builder| builder.mocks(true)),
        "generate stand-ins for implementations, for tests",
    ),
    opt(
        "use-arc-self",
        Setting::Flag(|builder| builder.use_arc_self(true)),
        "let methods of traits take `self: Arc<Self>`",
    ),
    opt(
        "generate-default-stubs",
        Setting::Flag(|builder| builder.generate_default_stubs(true)),
        "let methods that are not implemented answer UNIMPLEMENTED",
    ),
    opt(
        "runtime-path",
        Setting::Text("RUST", |builder, path| builder.runtime_path(path)),
        "where generated code finds the runtime. Default: ::shmipc_rpc",
    ),
    opt(
        "client-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.client_attribute(path, text)
        }),
        "add attributes to clients",
    ),
    opt(
        "client-mod-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.client_mod_attribute(path, text)
        }),
        "add attributes to modules of clients",
    ),
    opt(
        "server-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.server_attribute(path, text)
        }),
        "add attributes to servers",
    ),
    opt(
        "server-mod-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.server_mod_attribute(path, text)
        }),
        "add attributes to modules of servers",
    ),
    opt(
        "trait-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.trait_attribute(path, text)
        }),
        "add attributes to traits",
    ),
    opt(
        "blocking-mod-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.blocking_mod_attribute(path, text)
        }),
        "add attributes to modules of what blocks",
    ),
    opt(
        "mock-mod-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.mock_mod_attribute(path, text)
        }),
        "add attributes to modules of stand-ins",
    ),
    // Messages.
    opt(
        "type-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.type_attribute(path, text)
        }),
        "add attributes to messages, enums and oneofs",
    ),
    opt(
        "message-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.message_attribute(path, text)
        }),
        "add attributes to messages",
    ),
    opt(
        "enum-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.enum_attribute(path, text)
        }),
        "add attributes to enums and oneofs",
    ),
    opt(
        "field-attribute",
        Setting::Pair(ATTRIBUTE, |builder, path, text| {
            builder.field_attribute(path, text)
        }),
        "add attributes to fields",
    ),
    opt(
        "bytes",
        Setting::Paths(|builder, paths| builder.bytes(paths)),
        "generate `Bytes` for these `bytes` fields only. Default: all of them",
    ),
    opt(
        "bytes-as-vec",
        Setting::Flag(Builder::bytes_as_vec),
        "generate `Vec<u8>` for all `bytes` fields",
    ),
    opt(
        "btree-map",
        Setting::Paths(|builder, paths| builder.btree_map(paths)),
        "generate `BTreeMap` for these `map` fields",
    ),
    opt(
        "boxed",
        Setting::Text("PATH", |builder, path| builder.boxed(path)),
        "put these fields into a `Box`; may be repeated",
    ),
    opt(
        "extern-path",
        Setting::Pair("PROTO=RUST", |builder, proto, rust| {
            builder.extern_path(proto, rust)
        }),
        "generate nothing for what lies at PROTO, but use RUST for it",
    ),
    opt(
        "compile-well-known-types",
        Setting::Flag(Builder::compile_well_known_types),
        "generate google.protobuf like any other package",
    ),
    opt(
        "skip-debug",
        Setting::Paths(|builder, paths| builder.skip_debug(paths)),
        "derive no `Debug` for these types",
    ),
    opt(
        "retain-enum-prefix",
        Setting::Flag(Builder::retain_enum_prefix),
        "keep the name of an enum at the start of its variants",
    ),
    opt(
        "enable-type-names",
        Setting::Flag(Builder::enable_type_names),
        "implement prost's `Name` for messages",
    ),
    opt(
        "type-name-domain",
        Setting::Pair("PATH=DOMAIN", |builder, path, domain| {
            builder.type_name_domain([path], domain)
        }),
        "the domain in type URLs; with --enable-type-names",
    ),
    opt(
        "prost-path",
        Setting::Text("RUST", |builder, path| builder.prost_path(path)),
        "where generated code finds prost. Default: in the runtime",
    ),
    opt(
        "prost-types-path",
        Setting::Text("RUST", |builder, path| builder.prost_types_path(path)),
        "where generated code finds prost-types. Default: in the runtime",
    ),
    // Comments.
    opt(
        "disable-comments",
        Setting::Paths(|builder, paths| builder.disable_comments(paths)),
        "leave out the comments of these",
    ),
    opt(
        "skip-source-info",
        Setting::Flag(Builder::skip_source_info),
        "leave out all comments",
    ),
    // Files.
    opt(
        "embed-descriptor-set",
        Setting::Flag(|builder| builder.embed_descriptor_set(true)),
        "add a constant FILE_DESCRIPTOR_SET to each package",
    ),
    opt(
        "descriptor-set-out",
        Setting::File("FILE", |builder, path| {
            builder.file_descriptor_set_path(path)
        }),
        "write a descriptor set, too",
    ),
    opt(
        "include-file",
        Setting::File("FILE", |builder, path| builder.include_file(path)),
        "write a file, within --out, that includes all others",
    ),
    opt(
        "default-package-filename",
        Setting::Text("NAME", |builder, name| {
            builder.default_package_filename(name)
        }),
        "the file for what is in no package. Default: _",
    ),
    opt(
        "no-format",
        Setting::Flag(|builder| builder.format(false)),
        "do not format what is generated",
    ),
    // `protoc`.
    opt(
        "use-protoc",
        Setting::Flag(Builder::use_protoc),
        "let `protoc` read the .proto files",
    ),
    opt(
        "protoc-executable",
        Setting::File("FILE", |builder, path| builder.protoc_executable(path)),
        "let this `protoc` read the .proto files",
    ),
    opt(
        "protoc-arg",
        Setting::Text("ARG", |builder, argument| builder.protoc_arg(argument)),
        "an argument for `protoc`; may be repeated",
    ),
];
