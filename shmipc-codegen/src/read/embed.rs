//! Descriptor sets to be embedded into programs.

use std::collections::HashSet;

use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::prost::{DecodeError, Message as _};
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FileDescriptor, ReflectMessage as _, Value,
};

/// Encodes a descriptor set of the files of a package and all that they import, each after what it imports itself.
///
/// Comments and places are left out: a program has no use for them, and they are most of the bytes.
pub(crate) fn self_contained(pool: &DescriptorPool, package: &str) -> Result<Vec<u8>, DecodeError> {
    let mut wanted = HashSet::new();
    for file in pool.files().filter(|file| file.package_name() == package) {
        want(file, &mut wanted);
    }
    let descriptor = FileDescriptorProto::default().descriptor();
    let files = pool
        .files()
        .filter(|file| wanted.contains(file.name()))
        .map(|file| {
            // By reflection, because prost-types drops what it does not know, such as custom options.
            let encoded = file.encode_to_vec();
            let mut file = DynamicMessage::decode(descriptor.clone(), encoded.as_slice())?;
            file.clear_field_by_name("source_code_info");
            Ok(Value::Message(file))
        })
        .collect::<Result<_, DecodeError>>()?;
    let mut set = FileDescriptorSet::default().transcode_to_dynamic();
    set.set_field_by_name("file", Value::List(files));
    Ok(set.encode_to_vec())
}

fn want(file: FileDescriptor, wanted: &mut HashSet<String>) {
    if wanted.insert(file.name().to_owned()) {
        for dependency in file.dependencies() {
            want(dependency, wanted);
        }
    }
}
