//! Where files lie.

use std::fs;
use std::path::{Path, PathBuf};

/// The include directories, and what is found through them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    includes: Vec<PathBuf>,
}

impl Files {
    pub(crate) fn new(includes: Vec<PathBuf>) -> Self {
        Self { includes }
    }

    pub(crate) fn includes(&self) -> &[PathBuf] {
        &self.includes
    }

    /// The path of the file that is called `name` in imports.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        self.candidates(Path::new(name)).find(|path| path.is_file())
    }

    /// The path of the file that is called `name` in imports, or its name if there is none.
    pub(crate) fn display(&self, name: &str) -> PathBuf {
        self.find(name).unwrap_or_else(|| PathBuf::from(name))
    }

    /// The content of the file that is called `name` in imports.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.find(name)?).ok()
    }

    /// Where `name` is looked for.
    pub(crate) fn candidates(&self, name: &Path) -> impl Iterator<Item = PathBuf> {
        self.includes
            .iter()
            .map(move |include| match include.as_os_str().to_str() {
                Some("" | ".") => name.to_owned(),
                _ => include.join(name),
            })
    }

    /// The include directories, for a message.
    pub(crate) fn list(&self) -> String {
        let quoted: Vec<String> = self
            .includes
            .iter()
            .map(|include| format!("`{}`", include.display()))
            .collect();
        if quoted.is_empty() {
            "no directory".to_owned()
        } else {
            quoted.join(", ")
        }
    }
}
