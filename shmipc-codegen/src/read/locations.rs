//! Where the services and methods of a descriptor set were declared.

use std::collections::HashMap;

use prost_types::source_code_info::Location;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::Files;
use crate::diagnostic::{Diagnostic, Place, Position, Snippet};

/// Field numbers of `descriptor.proto`, of which the path of a location is made.
const FILE_SERVICE: i32 = 6;
const SERVICE_METHOD: i32 = 2;

/// Where the services and methods of a descriptor set were declared, by full name (`pkg.Service.Method`).
///
/// Knows nothing of a set without source information; diagnostics then have no place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locations {
    by_name: HashMap<String, (Place, Option<Snippet>)>,
}

impl Locations {
    pub(crate) fn of(fds: &FileDescriptorSet, files: &Files) -> Self {
        let mut locations = Self::default();
        for file in &fds.file {
            locations.add_file(file, files);
        }
        locations
    }

    /// Adds to `diagnostic` where the thing called `full_name` was declared, if that is known.
    pub(crate) fn point(&self, diagnostic: Diagnostic, full_name: &str) -> Diagnostic {
        match self.by_name.get(full_name) {
            Some((place, snippet)) => diagnostic
                .at(place.clone())
                .with_snippets(snippet.iter().cloned().collect()),
            None => diagnostic,
        }
    }

    fn add_file(&mut self, file: &FileDescriptorProto, files: &Files) {
        if file.service.is_empty() {
            return;
        }
        let text = files.text(file.name()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let path = files.display(file.name());
        for location in file.source_code_info.iter().flat_map(|info| &info.location) {
            let Some(name) = name_at(file, &location.path) else {
                continue;
            };
            let position = start_of(location);
            let snippet = position.and_then(|start| snippet_of(location, start, &lines));
            self.by_name.insert(
                name,
                (
                    Place {
                        file: path.clone(),
                        position,
                    },
                    snippet,
                ),
            );
        }
    }
}

/// The full name of what lies at `path`, if it is a service or a method.
fn name_at(file: &FileDescriptorProto, path: &[i32]) -> Option<String> {
    let index = |index: i32| usize::try_from(index).ok();
    let name = match *path {
        [FILE_SERVICE, service] => file.service.get(index(service)?)?.name().to_owned(),
        [FILE_SERVICE, service, SERVICE_METHOD, method] => {
            let service = file.service.get(index(service)?)?;
            format!(
                "{}.{}",
                service.name(),
                service.method.get(index(method)?)?.name()
            )
        }
        _ => return None,
    };
    Some(match file.package() {
        "" => name,
        package => format!("{package}.{name}"),
    })
}

fn start_of(location: &Location) -> Option<Position> {
    let [line, column, ..] = *location.span.as_slice() else {
        return None;
    };
    Some(Position {
        line: usize::try_from(line).ok()? + 1,
        column: usize::try_from(column).ok()? + 1,
    })
}

fn snippet_of(location: &Location, start: Position, lines: &[&str]) -> Option<Snippet> {
    let text = (*lines.get(start.line - 1)?).to_owned();
    let rest = text.chars().count().saturating_sub(start.column - 1);
    let width = match *location.span.as_slice() {
        [_, column, end] => {
            usize::try_from(end.saturating_sub(column)).map_or(rest, |width| width.min(rest))
        }
        _ => text
            .trim_end_matches([' ', '{'])
            .chars()
            .count()
            .saturating_sub(start.column - 1),
    };
    Some(Snippet {
        start,
        width,
        text,
        label: String::new(),
    })
}
