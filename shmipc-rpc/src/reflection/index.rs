//! What is declared in which file.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry};

use bytes::Bytes;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto,
};

use super::InvalidDescriptors;

/// Finds files by what is declared in them.
#[derive(Debug, Default)]
pub(super) struct Index {
    files: Vec<File>,
    by_name: HashMap<String, FileId>,
    /// By the full name of whatever has one.
    symbols: HashMap<String, Symbol>,
    /// By the full name of the message that is extended, and the number of the field.
    extensions: HashMap<String, BTreeMap<i32, FileId>>,
    services: BTreeSet<String>,
}

/// Names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(usize);

#[derive(Debug)]
struct File {
    /// As it was registered: decoded and encoded again, it would lack the options that only its authors know.
    encoded: Bytes,
    imports: Vec<String>,
}

#[derive(Debug)]
struct Symbol {
    file: FileId,
    is_message: bool,
}

/// A `FileDescriptorSet` whose files are left encoded.
#[derive(Clone, PartialEq, Message)]
struct EncodedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

impl Index {
    /// Adds the files of a set.
    pub(super) fn add_set(&mut self, set: Bytes) -> Result<(), InvalidDescriptors> {
        for encoded in EncodedFiles::decode(set)?.file {
            let file = FileDescriptorProto::decode(encoded.clone())?;
            self.add_file(encoded, file)?;
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        encoded: Bytes,
        file: FileDescriptorProto,
    ) -> Result<(), InvalidDescriptors> {
        let id = FileId(self.files.len());
        let name = file.name();
        match self.by_name.entry(name.to_owned()) {
            Entry::Vacant(entry) => entry.insert(id),
            Entry::Occupied(entry) if same(&self.files[entry.get().0].encoded, &file)? => {
                return Ok(());
            }
            Entry::Occupied(_) => {
                let name = name.to_owned();
                return Err(InvalidDescriptors::Conflict { name });
            }
        };
        let mut declared = Declared { index: self, id };
        let package = file.package();
        for message in &file.message_type {
            declared.message(package, message);
        }
        for enumeration in &file.enum_type {
            declared.enumeration(package, enumeration);
        }
        for service in &file.service {
            declared.service(package, service);
        }
        for extension in &file.extension {
            declared.extension(package, extension);
        }
        self.files.push(File {
            encoded,
            imports: file.dependency,
        });
        Ok(())
    }

    pub(super) fn file(&self, name: &str) -> Option<FileId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn file_of_symbol(&self, symbol: &str) -> Option<FileId> {
        self.symbols.get(symbol).map(|symbol| symbol.file)
    }

    pub(super) fn file_of_extension(&self, message: &str, number: i32) -> Option<FileId> {
        self.extensions.get(message)?.get(&number).copied()
    }

    /// Returns the numbers of a message's extensions, in their order. `None`: there is no such message.
    pub(super) fn extension_numbers(&self, message: &str) -> Option<Vec<i32>> {
        if let Some(extensions) = self.extensions.get(message) {
            return Some(extensions.keys().copied().collect());
        }
        let symbol = self.symbols.get(message)?;
        symbol.is_message.then(Vec::new)
    }

    /// Returns the full names of all services that are described, in their order.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    /// Returns a file and all that it imports, directly or not, but for what is among `sent`, and adds them to that.
    ///
    /// What is imported and was not registered is left out: whoever misses it will ask for it, and learn that it is not there.
    pub(super) fn with_imports(&self, id: FileId, sent: &mut BTreeSet<FileId>) -> Vec<Bytes> {
        let mut files = Vec::new();
        let mut wanted = VecDeque::from([id]);
        // It was asked for, so it is sent again.
        sent.remove(&id);
        while let Some(id) = wanted.pop_front() {
            if !sent.insert(id) {
                continue;
            }
            let file = &self.files[id.0];
            files.push(file.encoded.clone());
            wanted.extend(file.imports.iter().filter_map(|name| self.file(name)));
        }
        files
    }
}

/// Whether a file is the same as one that is known, but for comments and the like, which compilers may leave out.
fn same(known: &Bytes, file: &FileDescriptorProto) -> Result<bool, InvalidDescriptors> {
    let known = FileDescriptorProto::decode(known.clone())?;
    let bare = |file: FileDescriptorProto| FileDescriptorProto {
        source_code_info: None,
        ..file
    };
    Ok(bare(known) == bare(file.clone()))
}

/// Takes down what a file declares.
struct Declared<'a> {
    index: &'a mut Index,
    id: FileId,
}

impl Declared<'_> {
    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = join(scope, message.name());
        self.symbol(name.clone(), true);
        for field in &message.field {
            self.symbol(join(&name, field.name()), false);
        }
        for oneof in &message.oneof_decl {
            self.symbol(join(&name, oneof.name()), false);
        }
        // Whoever decoded them has bounded how deep they lie.
        for nested in &message.nested_type {
            self.message(&name, nested);
        }
        for enumeration in &message.enum_type {
            self.enumeration(&name, enumeration);
        }
        for extension in &message.extension {
            self.extension(&name, extension);
        }
    }

    /// The values of an enum are declared beside it, not in it.
    fn enumeration(&mut self, scope: &str, enumeration: &EnumDescriptorProto) {
        self.symbol(join(scope, enumeration.name()), false);
        for value in &enumeration.value {
            self.symbol(join(scope, value.name()), false);
        }
    }

    fn service(&mut self, scope: &str, service: &ServiceDescriptorProto) {
        let name = join(scope, service.name());
        for method in &service.method {
            self.symbol(join(&name, method.name()), false);
        }
        self.index.services.insert(name.clone());
        self.symbol(name, false);
    }

    fn extension(&mut self, scope: &str, extension: &FieldDescriptorProto) {
        self.symbol(join(scope, extension.name()), false);
        let extended = extension.extendee();
        let extended = extended.strip_prefix('.').unwrap_or(extended);
        self.index
            .extensions
            .entry(extended.to_owned())
            .or_default()
            .entry(extension.number())
            .or_insert(self.id);
    }

    fn symbol(&mut self, name: String, is_message: bool) {
        let file = self.id;
        let symbol = Symbol { file, is_message };
        self.index.symbols.entry(name).or_insert(symbol);
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}
