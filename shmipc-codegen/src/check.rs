//! What protobuf allows and generated code cannot express.

use std::collections::HashMap;

use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::diagnostic::Diagnostic;
use crate::model::{InvalidType, Method, Service};
use crate::names::{self, ServiceNames};
use crate::read::Locations;
use crate::render::Options;

/// What is wrong with a service by itself.
pub(crate) fn service(service: &Service, locations: &Locations) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if !names::is_identifier(&service.names.service) {
        let diagnostic = Diagnostic::new(format!(
            "`{}` cannot be made a name in Rust",
            service.full_name
        ))
        .with_help("give the service a name with a letter in it");
        found.push(locations.point(diagnostic, &service.full_name));
    }
    let mut by_function: HashMap<&str, &Method> = HashMap::new();
    for method in &service.methods {
        let full_name = service.method_full_name(method);
        let diagnostic = if !names::is_identifier(&method.names.function) {
            Diagnostic::new(format!("`{full_name}` cannot be made a name in Rust"))
                .with_help("give the method a name with a letter in it")
        } else if let Some(other) = by_function.insert(&method.names.function, method) {
            let (function, other) = (&method.names.function, &other.proto_name);
            Diagnostic::new(format!(
                "`{full_name}` and `{other}` would both be called `{function}` in Rust"
            ))
            .with_help(
                "method names must differ in more than case and underscores; rename one of them",
            )
        } else {
            continue;
        };
        found.push(locations.point(diagnostic, &full_name));
    }
    found
}

/// What is wrong with the services of a descriptor set in relation to their surroundings.
pub(crate) fn packages(
    fds: &FileDescriptorSet,
    locations: &Locations,
    options: &Options,
) -> Vec<Diagnostic> {
    if !options.any() {
        return Vec::new();
    }
    // What made a module, by package and module.
    let mut modules: HashMap<(&str, String), String> = HashMap::new();
    for file in &fds.file {
        for message in &file.message_type {
            if has_module(message) {
                let made_by = format!("what the message `{}` nests", message.name());
                modules.insert(
                    (file.package(), names::nested_module(message.name())),
                    made_by,
                );
            }
        }
    }
    let mut found = Vec::new();
    for file in &fds.file {
        for service in &file.service {
            let service_names = ServiceNames::new(service.name(), service.name());
            let blocking = options
                .blocking_module()
                .then_some(&*service_names.blocking_module);
            let mock = options.mock_module().then_some(&*service_names.mock_module);
            let modules_of_service = service_names.modules().into_iter();
            for module in modules_of_service.chain(blocking).chain(mock) {
                let made_by = format!("the service `{}`", service.name());
                let Some(other) =
                    modules.insert((file.package(), module.to_owned()), made_by.clone())
                else {
                    continue;
                };
                let diagnostic = Diagnostic::new(format!(
                    "{made_by} and {other} would both have the module `{module}`"
                ))
                .with_help("rename one of them, or move it to another package");
                let full_name = match file.package() {
                    "" => service.name().to_owned(),
                    package => format!("{package}.{}", service.name()),
                };
                found.push(locations.point(diagnostic, &full_name));
                break;
            }
        }
    }
    found
}

/// Whether prost-build makes a module for what the message nests.
fn has_module(message: &DescriptorProto) -> bool {
    // Maps are nested messages, and fields marked `optional` are alone in a oneof, but neither becomes a type.
    let is_map = |nested: &DescriptorProto| {
        nested
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
    };
    let in_oneof =
        |field: &FieldDescriptorProto| field.oneof_index.is_some() && !field.proto3_optional();
    message.nested_type.iter().any(|nested| !is_map(nested))
        || !message.enum_type.is_empty()
        || message.field.iter().any(in_oneof)
}

/// Reports a type that is no Rust.
pub(crate) fn invalid_type(invalid: &InvalidType, locations: &Locations) -> Diagnostic {
    let InvalidType { method, rust_type } = invalid;
    let diagnostic = Diagnostic::new(format!(
        "`{method}` uses the type `{rust_type}`, which is not a Rust type"
    ))
    .with_help("look at what was given to `extern_path`, `prost_path` and `prost_types_path`");
    locations.point(diagnostic, method)
}
