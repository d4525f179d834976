//! From options and input to files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use proc_macro2::TokenStream;
use prost_build::Module;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::DescriptorPool;
use quote::quote;
use syn::parse::Parser;

use super::{AttributeTarget, Builder, Source, WellKnownTypes};
use crate::diagnostic::Diagnostics;
use crate::error::Error;
use crate::generator::Generator;
use crate::patterns::Patterns;
use crate::read::{self, Files, Input, Locations};
use crate::render::{self, Attributes, Options};
use crate::write::{self, Output, Target};
use crate::{check, docs, format};

impl Builder {
    /// Reads `protos` in the chosen way, then generates.
    pub(super) fn run(mut self, protos: &[PathBuf], files: &Files) -> Result<(), Error> {
        let input = match self.source {
            Source::Protox => read::with_protox(protos, files)?,
            Source::Protoc | Source::Ready => {
                if self.source == Source::Ready {
                    self.prost.skip_protoc_run();
                }
                let fds = self
                    .prost
                    .load_fds(protos, files.includes())
                    .map_err(Error::DescriptorSet)?;
                read::descriptor_set(fds, files)?
            }
        };
        let written_set = match (&self.fds_path, self.source) {
            (Some(path), Source::Protox) => Some(Output {
                path: path.clone(),
                // Encoded by protox, because prost-types has no room for custom options.
                content: input.pool.encode_to_vec(),
            }),
            // `protoc` has written it, or it was there.
            _ => None,
        };
        if self.rerun {
            for instruction in self.rerun_instructions(&input.paths) {
                println!("{instruction}");
            }
        }
        self.generate(input, written_set)
    }

    /// What Cargo is to be told, on standard output, for an input that consists of the files at `paths`.
    fn rerun_instructions(&self, paths: &[PathBuf]) -> Vec<String> {
        let changed = |path: &PathBuf| format!("cargo::rerun-if-changed={}", path.display());
        match self.source {
            Source::Protox => paths.iter().map(changed).collect(),
            Source::Protoc => {
                let environment = ["PROTOC", "PROTOC_INCLUDE"]
                    .map(|name| format!("cargo::rerun-if-env-changed={name}"));
                paths.iter().map(changed).chain(environment).collect()
            }
            Source::Ready => self.fds_path.iter().map(changed).collect(),
        }
    }

    /// Generates, and writes only if there was nothing wrong. `further` is written along with what is generated.
    pub(super) fn generate(mut self, input: Input, further: Option<Output>) -> Result<(), Error> {
        let target = Target::new(self.out_dir.as_deref())?;
        let Input {
            fds,
            pool,
            locations,
            ..
        } = input;
        let options = self.options()?;
        let mut wrong = check::packages(&fds, &locations, &options);
        let has_services = options.any() || self.next.is_some();
        let generator = self.generator(options, locations);
        let found = Rc::clone(&generator.found);
        if has_services {
            self.prost.service_generator(Box::new(generator));
        }
        self.configure_prost();
        let requests = self.requests(fds);
        let mut packages: BTreeMap<Module, Package> = BTreeMap::new();
        for (module, file) in &requests {
            let package = packages.entry(module.clone()).or_default();
            file.package().clone_into(&mut package.name);
            package.sources.push(file.name().to_owned());
        }
        let mut sources = self.prost.generate(requests).map_err(Error::Prost)?;
        wrong.append(&mut found.borrow_mut());
        if let Some(diagnostics) = Diagnostics::new(wrong) {
            return Err(Error::Idl(diagnostics));
        }
        packages.retain(|module, package| {
            sources
                .remove(module)
                .map(|source| package.source = source)
                .is_some()
        });
        let mut outputs = self.outputs(packages, &pool, &target)?;
        outputs.extend(further);
        self.put(&outputs)
    }

    /// Each file of the set with its module, and with comments that suit rustdoc.
    fn requests(&self, fds: FileDescriptorSet) -> Vec<(Module, FileDescriptorProto)> {
        let prepared = fds.file.into_iter().map(|mut file| {
            if self.skip_source_info {
                file.source_code_info = None;
            }
            for location in file
                .source_code_info
                .iter_mut()
                .flat_map(|info| &mut info.location)
            {
                for comment in [
                    &mut location.leading_comments,
                    &mut location.trailing_comments,
                ]
                .into_iter()
                .flatten()
                {
                    *comment = docs::sanitize(comment);
                }
            }
            (Module::from_protobuf_package_name(file.package()), file)
        });
        prepared.collect()
    }

    /// The files that packages become.
    fn outputs(
        &self,
        packages: BTreeMap<Module, Package>,
        pool: &DescriptorPool,
        target: &Target,
    ) -> Result<Vec<Output>, Error> {
        let mut outputs = Vec::new();
        let mut files = BTreeMap::new();
        for (module, mut package) in packages {
            let stem = write::file_stem(&module, &self.default_package_filename);
            if self.embed_descriptor_set {
                let file = format!("{stem}.fds");
                let set = read::self_contained(pool, &package.name)
                    .map_err(|error| Error::DescriptorSet(io::Error::other(error)))?;
                package
                    .source
                    .push_str(&render::descriptor_set(&file).to_string());
                outputs.push(target.output(file, set));
            }
            let file = format!("{stem}.rs");
            outputs.push(target.output(&file, self.text(&file, &package)?));
            files.insert(module, file);
        }
        if let Some(include_file) = &self.include_file {
            outputs.push(target.output(include_file, write::includes(&files, target)));
        }
        Ok(outputs)
    }

    /// Writes files, or compares with those that are there.
    fn put(&self, outputs: &[Output]) -> Result<(), Error> {
        if !self.check {
            return outputs.iter().try_for_each(Output::write);
        }
        let outdated: Vec<PathBuf> = outputs
            .iter()
            .filter(|output| !output.is_present())
            .map(|output| output.path.clone())
            .collect();
        match outdated.is_empty() {
            true => Ok(()),
            false => Err(Error::Outdated { files: outdated }),
        }
    }

    /// The text of a file: who made it and from what, then the code.
    fn text(&self, file: &str, package: &Package) -> Result<String, Error> {
        let protos = package.sources.join(", ");
        let code = if self.format {
            format::format(&package.source).map_err(|error| Error::NotRust {
                file: file.to_owned(),
                source: error,
            })?
        } else {
            package.source.clone()
        };
        Ok(format!(
            "// This file is @generated by shmipc-codegen from {protos}. Do not edit.\n\n{code}"
        ))
    }

    /// Tells prost-build what it is not told by the forwarded options.
    fn configure_prost(&mut self) {
        let runtime = &self.runtime_path;
        let prost = self
            .prost_path
            .clone()
            .unwrap_or_else(|| format!("{runtime}::prost"));
        let prost_types = self
            .prost_types_path
            .clone()
            .unwrap_or_else(|| format!("{runtime}::prost_types"));
        let mut extern_paths = self.extern_paths.clone();
        if self.well_known_types == WellKnownTypes::ProstTypes {
            let bytes: Patterns<()> = self.bytes.iter().map(|path| (path.clone(), ())).collect();
            let bytes = bytes.any("google.protobuf.BytesValue.value");
            for (proto_path, rust_path) in well_known_types(&prost, &prost_types, bytes) {
                if !self
                    .extern_paths
                    .iter()
                    .any(|(given, _)| covers(given, &proto_path))
                {
                    extern_paths.push((proto_path, rust_path));
                }
            }
        }
        // Its own table would have `BytesValue` copied, and could not be overridden.
        self.prost.compile_well_known_types();
        for (proto_path, rust_path) in extern_paths {
            self.prost.extern_path(proto_path, rust_path);
        }
        self.prost.prost_path(prost).prost_types_path(prost_types);
        self.prost
            .bytes(&self.bytes)
            .disable_comments(&self.disable_comments);
    }

    /// Makes the generator for services. Takes with it the one that is to follow.
    pub(super) fn generator(&mut self, options: Options, locations: Locations) -> Generator {
        Generator {
            options,
            locations,
            found: Rc::new(RefCell::new(Vec::new())),
            next: self.next.take(),
        }
    }

    /// The options for services, parsed.
    pub(super) fn options(&self) -> Result<Options, Error> {
        let runtime = syn::parse_str::<syn::Path>(&self.runtime_path).map_err(|source| {
            Error::InvalidOption {
                option: "runtime_path",
                value: self.runtime_path.clone(),
                expected: "a path",
                source,
            }
        })?;
        let mut attributes = Attributes::default();
        for attribute in &self.attributes {
            let target = match attribute.target {
                AttributeTarget::ClientModule => &mut attributes.client_module,
                AttributeTarget::Client => &mut attributes.client,
                AttributeTarget::ServerModule => &mut attributes.server_module,
                AttributeTarget::Server => &mut attributes.server,
                AttributeTarget::Trait => &mut attributes.service,
                AttributeTarget::BlockingModule => &mut attributes.blocking_module,
                AttributeTarget::MockModule => &mut attributes.mock_module,
            };
            let tokens = parse_attributes(attribute.target.option(), &attribute.text)?;
            target.push(&attribute.path, tokens);
        }
        Ok(Options {
            client: self.client,
            server: self.server,
            blocking: self.blocking,
            dyn_traits: self.dyn_traits,
            mocks: self.mocks,
            arc_self: self.arc_self,
            default_stubs: self.default_stubs,
            runtime: quote! { #runtime },
            attributes,
            no_comments: self
                .disable_comments
                .iter()
                .map(|path| (path.clone(), ()))
                .collect(),
        })
    }
}

/// What becomes one file.
#[derive(Debug, Default)]
struct Package {
    /// As it is called in protobuf.
    name: String,
    /// The `.proto` files.
    sources: Vec<String>,
    /// The code.
    source: String,
}

impl AttributeTarget {
    /// The option that asks for it.
    fn option(self) -> &'static str {
        match self {
            Self::ClientModule => "client_mod_attribute",
            Self::Client => "client_attribute",
            Self::ServerModule => "server_mod_attribute",
            Self::Server => "server_attribute",
            Self::Trait => "trait_attribute",
            Self::BlockingModule => "blocking_mod_attribute",
            Self::MockModule => "mock_mod_attribute",
        }
    }
}

fn parse_attributes(option: &'static str, text: &str) -> Result<TokenStream, Error> {
    let attributes = syn::Attribute::parse_outer
        .parse_str(text)
        .map_err(|source| Error::InvalidOption {
            option,
            value: text.to_owned(),
            expected: "a list of attributes such as `#[derive(Debug)]`",
            source,
        })?;
    Ok(quote! { #(#attributes)* })
}

/// Whether what was given for the path `given` is meant for what lies at `path` too.
fn covers(given: &str, path: &str) -> bool {
    path.strip_prefix(given)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What prost-build uses for `google.protobuf`, but for `BytesValue`, which is like any other `bytes` field.
fn well_known_types(prost: &str, prost_types: &str, bytes: bool) -> Vec<(String, String)> {
    let bytes_value = if bytes {
        format!("{prost}::bytes::Bytes")
    } else {
        format!("{prost}::alloc::vec::Vec<u8>")
    };
    let string_value = format!("{prost}::alloc::string::String");
    [
        ("", prost_types),
        (".BoolValue", "bool"),
        (".BytesValue", &bytes_value),
        (".DoubleValue", "f64"),
        (".Empty", "()"),
        (".FloatValue", "f32"),
        (".Int32Value", "i32"),
        (".Int64Value", "i64"),
        (".StringValue", &string_value),
        (".UInt32Value", "u32"),
        (".UInt64Value", "u64"),
    ]
    .map(|(name, rust_path)| (format!(".google.protobuf{name}"), rust_path.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configure;

    #[test]
    fn cargo_is_told_of_what_was_read_and_nothing_else() {
        let paths = [PathBuf::from("proto/a.proto")];
        let told = |builder: Builder| builder.rerun_instructions(&paths);
        assert_eq!(told(configure()), ["cargo::rerun-if-changed=proto/a.proto"]);
        assert_eq!(
            told(configure().use_protoc()),
            [
                "cargo::rerun-if-changed=proto/a.proto",
                "cargo::rerun-if-env-changed=PROTOC",
                "cargo::rerun-if-env-changed=PROTOC_INCLUDE",
            ]
        );
        assert_eq!(
            told(
                configure()
                    .file_descriptor_set_path("a.fds")
                    .skip_protoc_run()
            ),
            ["cargo::rerun-if-changed=a.fds"]
        );
    }

    #[test]
    fn the_users_types_take_precedence_over_the_well_known_ones() {
        assert!(covers(".google", ".google.protobuf.Any"));
        assert!(covers(".google.protobuf.Any", ".google.protobuf.Any"));
        assert!(!covers(".google.protobuf.Any", ".google.protobuf"));
        assert!(!covers(".google.proto", ".google.protobuf"));
    }
}
