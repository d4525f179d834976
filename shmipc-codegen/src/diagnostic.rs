//! What is wrong with a `.proto` file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with a `.proto` file.
///
/// Displayed in the manner of rustc, with the line at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    message: String,
    place: Option<Place>,
    snippets: Vec<Snippet>,
    help: Option<String>,
}

/// Where something is. Lines and columns count from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) position: Option<Position>,
}

/// A line and a column, in characters. Both count from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A line of the file with a part of it underlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snippet {
    pub(crate) start: Position,
    /// How many characters to underline. Zero underlines one.
    pub(crate) width: usize,
    pub(crate) text: String,
    pub(crate) label: String,
}

impl Diagnostic {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place: None,
            snippets: Vec::new(),
            help: None,
        }
    }

    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub(crate) fn with_snippets(mut self, snippets: Vec<Snippet>) -> Self {
        self.snippets = snippets;
        self
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file at fault, as a path that can be opened if it was found under one of the include directories.
    pub fn file(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.file.as_path())
    }

    /// The line at fault, counted from one.
    pub fn line(&self) -> Option<usize> {
        self.position().map(|position| position.line)
    }

    /// The column at fault, in characters, counted from one.
    pub fn column(&self) -> Option<usize> {
        self.position().map(|position| position.column)
    }

    /// What to do about it, if there is an advice to give.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn position(&self) -> Option<Position> {
        self.place.as_ref().and_then(|place| place.position)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:", place.file.display())?;
            if let Some(Position { line, column }) = place.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        let line_max = self
            .snippets
            .iter()
            .map(|snippet| snippet.start.line)
            .max()
            .unwrap_or(0);
        let margin = line_max.to_string().len();
        for snippet in &self.snippets {
            let Snippet {
                start: Position { line, column },
                width,
                text,
                label,
            } = snippet;
            let (indent, carets) = (column.saturating_sub(1), (*width).max(1));
            write!(
                f,
                "\n{:margin$} |\n{line:margin$} | {}",
                "",
                text.replace('\t', " ")
            )?;
            write!(f, "\n{:margin$} | {:indent$}{:^<carets$}", "", "", "")?;
            if !label.is_empty() {
                write!(f, " {label}")?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a set of `.proto` files, as far as it was noticed. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// `None` if there is nothing to report.
    pub(crate) fn new(diagnostics: Vec<Diagnostic>) -> Option<Self> {
        (!diagnostics.is_empty()).then_some(Self(diagnostics))
    }

    /// The single things that are wrong, in the order in which they were noticed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if 0 < index {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_the_line_and_underlines_the_fault() {
        let start = Position {
            line: 12,
            column: 5,
        };
        let place = Place {
            file: "proto/a.proto".into(),
            position: Some(start),
        };
        let snippet = Snippet {
            start,
            width: 3,
            text: "    Foo foo = 1;".into(),
            label: "found here".into(),
        };
        let diagnostic = Diagnostic::new("name 'Foo' is not defined")
            .at(place)
            .with_snippets(vec![snippet])
            .with_help("import it");
        assert_eq!(
            diagnostic.to_string(),
            "proto/a.proto:12:5: name 'Foo' is not defined\n   |\n12 |     Foo foo = 1;\n   |     ^^^ found here\n   = help: import it",
        );
        assert_eq!(
            (diagnostic.line(), diagnostic.column()),
            (Some(12), Some(5))
        );
    }

    #[test]
    fn a_diagnostic_may_have_no_place() {
        let both = Diagnostics(vec![Diagnostic::new("one"), Diagnostic::new("two")]);
        assert_eq!(both.to_string(), "one\n\ntwo");
        assert_eq!(both.iter().len(), 2);
    }
}
