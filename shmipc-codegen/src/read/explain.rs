//! Errors of protox and prost-reflect in our own words and form.
//!
//! They come as [`miette::Diagnostic`]s, whose labels are byte ranges of the source. That is rendered here rather
//! than by miette, because a build script shows the error's `Debug` form, and because a path that can be opened is
//! worth more than the name that was imported.

use std::path::Path;

use miette::{Diagnostic as Report, LabeledSpan};
use protox::prost_reflect::DescriptorError;

use super::Files;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, Position, Snippet};

/// Everything that protox found wrong.
pub(super) fn protox_error(error: &protox::Error, files: &Files) -> Diagnostics {
    let mut reports = explain_all(error, error.file(), files);
    if error.is_file_not_found()
        && let [report] = reports.as_mut_slice()
    {
        *report = report
            .clone()
            .with_help(format!("imports are looked for in {}", files.list()));
    }
    all(reports)
}

/// Everything that prost-reflect found wrong with a descriptor set.
pub(super) fn descriptor_error(error: &DescriptorError, files: &Files) -> Diagnostics {
    let mut reports = explain_all(error, error.file(), files);
    if let ([report], Some(line), Some(column), Some(file)) = (
        reports.as_mut_slice(),
        error.line(),
        error.column(),
        error.file(),
    ) {
        let position = Some(Position {
            line: line + 1,
            column: column + 1,
        });
        *report = report.clone().at(Place {
            file: files.display(file),
            position,
        });
    }
    all(reports)
}

/// Says more than protox about a file that was named by the user and cannot be used.
pub(super) fn unusable_file(
    error: &protox::Error,
    proto: &Path,
    files: &Files,
) -> Option<Diagnostic> {
    // An import that is missing is known by its name, and its importer by `file`.
    if !error.is_file_not_found() || error.file().is_some() {
        return None;
    }
    let diagnostic = if proto.is_file() {
        let directory = proto
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Diagnostic::new(format!(
            "`{}` lies in none of the include directories",
            proto.display()
        ))
        .with_help(format!(
            "they are {}; add `{}`",
            files.list(),
            directory.display()
        ))
    } else {
        let tried: Vec<String> = std::iter::once(proto.to_owned())
            .chain(
                files
                    .candidates(proto)
                    .filter(|candidate| candidate != proto),
            )
            .map(|path| format!("`{}`", path.display()))
            .collect();
        Diagnostic::new(format!("there is no file `{}`", proto.display())).with_help(format!(
            "looked for {}; paths are relative to the package's directory",
            tried.join(", ")
        ))
    };
    Some(diagnostic)
}

fn all(reports: Vec<Diagnostic>) -> Diagnostics {
    Diagnostics::new(reports)
        .unwrap_or_else(|| Diagnostic::new("the .proto files are invalid").into())
}

/// Explains `report` and those related to it, which are in the same file.
fn explain_all(report: &dyn Report, file: Option<&str>, files: &Files) -> Vec<Diagnostic> {
    let source = Source {
        file,
        path: file.map(|file| files.display(file)),
        text: file.and_then(|file| files.text(file)).unwrap_or_default(),
    };
    let mut explained = vec![explain(report, &source)];
    explained.extend(
        report
            .related()
            .into_iter()
            .flatten()
            .map(|related| explain(related, &source)),
    );
    explained
}

/// The file a report is about.
struct Source<'a> {
    file: Option<&'a str>,
    path: Option<std::path::PathBuf>,
    text: String,
}

fn explain(report: &dyn Report, source: &Source<'_>) -> Diagnostic {
    let mut message = report.to_string();
    let mut cause = report.source();
    while let Some(inner) = cause {
        // Some wrappers display as what they wrap.
        let inner_message = inner.to_string();
        if !message.contains(&inner_message) {
            message = format!("{message}: {inner_message}");
        }
        cause = inner.source();
    }
    let labels: Vec<LabeledSpan> = report.labels().into_iter().flatten().collect();
    let snippets: Vec<Snippet> = labels
        .iter()
        .filter_map(|label| source.snippet(label))
        .collect();
    let mut diagnostic = Diagnostic::new(message);
    if let Some(path) = &source.path
        && source.file.is_some()
    {
        // Where there are two labels, the second is the one at fault: "defined here", "and again here".
        let found = snippets
            .iter()
            .find(|snippet| snippet.label == "found here")
            .or(snippets.last());
        let position = match found {
            Some(snippet) => Some(snippet.start),
            None if report.source_code().is_some() => source.end(),
            None => None,
        };
        diagnostic = diagnostic.at(Place {
            file: path.clone(),
            position,
        });
    }
    let help = report.help().map(|help| help.to_string());
    if let Some(help) = help.or_else(|| help_for(diagnostic.message()).map(str::to_owned)) {
        diagnostic = diagnostic.with_help(help);
    }
    diagnostic.with_snippets(snippets)
}

/// What to do about a frequent fault that comes without advice.
fn help_for(message: &str) -> Option<&'static str> {
    const HELP: [(&str, &str); 5] = [
        ("is not defined", "declare it, or import the file that does"),
        (
            "field number '",
            "each field of a message needs a number of its own",
        ),
        (
            "import cycle detected",
            "move what both need to a file that both import",
        ),
        ("reached end of file", "is a closing brace missing?"),
        (
            "but found 'edition'",
            "editions are not supported; write `syntax = \"proto3\";` or `syntax = \"proto2\";`",
        ),
    ];
    HELP.iter()
        .find(|(fault, _)| message.contains(fault))
        .map(|(_, help)| *help)
}

impl Source<'_> {
    fn snippet(&self, label: &LabeledSpan) -> Option<Snippet> {
        let before = self.text.get(..label.offset())?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = self.text[line_start..]
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let column = before[line_start..].chars().count() + 1;
        let end = (label.offset() + label.len()).min(line_start + text.len());
        let width = self
            .text
            .get(label.offset()..end)
            .map_or(1, |marked| marked.chars().count());
        let line = before.matches('\n').count() + 1;
        let label = label.label().unwrap_or_default().to_owned();
        Some(Snippet {
            start: Position { line, column },
            width,
            text,
            label,
        })
    }

    /// Where the file ends, for what is missing there.
    fn end(&self) -> Option<Position> {
        let text = self.text.trim_end();
        let last = text.lines().last()?;
        Some(Position {
            line: text.lines().count(),
            column: last.chars().count() + 1,
        })
    }
}
