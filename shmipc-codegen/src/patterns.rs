//! Settings that apply to what a path matches, by prost-build's rules.

/// Settings, each with a path of what it applies to.
#[derive(Clone, Debug)]
pub(crate) struct Patterns<T>(Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Patterns<T> {
    pub(crate) fn push(&mut self, path: impl Into<String>, setting: T) {
        self.0.push((path.into(), setting));
    }

    /// The settings that apply to `full_name` (`pkg.Service.Method`), in the order they were made.
    pub(crate) fn matching(&self, full_name: &str) -> impl Iterator<Item = &T> {
        self.0
            .iter()
            .filter(move |(path, _)| matches(path, full_name))
            .map(|(_, setting)| setting)
    }

    pub(crate) fn any(&self, full_name: &str) -> bool {
        self.matching(full_name).next().is_some()
    }
}

impl<T> FromIterator<(String, T)> for Patterns<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// Whether `path` applies to `full_name`: it is `.`, or the start of it after a leading `.`, or its end.
/// Only whole components count.
fn matches(path: &str, full_name: &str) -> bool {
    match path.strip_prefix('.') {
        Some("") => true,
        Some(start) => full_name
            .strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        None => full_name
            .strip_suffix(path)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_components_match_from_either_end() {
        for path in [".", ".a", ".a.b", ".a.b.Echo", "Echo", "b.Echo", "a.b.Echo"] {
            assert!(matches(path, "a.b.Echo"), "{path}");
        }
        for path in [".b", ".a.b.E", "cho", "a.b", ".a.b.Echo.Say", ""] {
            assert!(!matches(path, "a.b.Echo"), "{path}");
        }
    }

    #[test]
    fn settings_keep_their_order() {
        let patterns: Patterns<u8> = [(".", 1), ("Other", 2), ("Echo", 3)]
            .map(|(path, n)| (path.to_owned(), n))
            .into_iter()
            .collect();
        assert_eq!(
            patterns.matching("a.Echo").copied().collect::<Vec<_>>(),
            [1, 3]
        );
        assert!(!Patterns::<u8>::default().any("a.Echo"));
    }
}
