//! `docs/protocol.md` and the code that cites it say the same of which rules there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A rule: the letter of its part, and its number there.
type Rule = (char, u32);

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The rules that the document defines, in its order. A definition begins a line, as in `**O1.**`.
fn defined() -> Vec<Rule> {
    let document = fs::read_to_string(repository().join("docs/protocol.md")).unwrap();
    let names = document
        .lines()
        .filter_map(|line| line.strip_prefix("**")?.split_once(".**"));
    names.filter_map(|(name, _)| rule(name)).collect()
}

/// The rules that comments of the libraries cite, each with one of the files that do. A citation is in parentheses, as in
/// `(O6, O7)`.
fn cited() -> BTreeMap<Rule, PathBuf> {
    let mut cited = BTreeMap::new();
    for source in ["shmipc-transport/src", "shmipc-rpc/src"] {
        let mut folders = vec![repository().join(source)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let comments = text.lines().filter(|line| line.trim().starts_with("//"));
                    cited.extend(
                        comments
                            .flat_map(citations)
                            .map(|rule| (rule, path.clone())),
                    );
                }
            }
        }
    }
    cited
}

fn citations(comment: &str) -> Vec<Rule> {
    let parentheses = comment.split('(').skip(1);
    let contents = parentheses.filter_map(|text| text.split_once(')'));
    let lists = contents.filter_map(|(list, _)| list.split(", ").map(rule).collect());
    lists.flat_map(|rules: Vec<Rule>| rules).collect()
}

fn rule(name: &str) -> Option<Rule> {
    let part = name.chars().next().filter(|part| "HOR".contains(*part))?;
    Some((part, name[1..].parse().ok()?))
}

#[test]
fn rules_are_numbered_without_gaps() {
    let rules = defined();
    for part in "HOR".chars() {
        let numbers = rules.iter().filter(|rule| rule.0 == part);
        let numbers: Vec<u32> = numbers.map(|rule| rule.1).collect();
        assert!(!numbers.is_empty(), "there are rules of part {part}");
        assert!(
            numbers.iter().copied().eq((1..).take(numbers.len())),
            "{part}: {numbers:?}"
        );
    }
}

#[test]
fn every_citation_names_a_rule_and_every_rule_is_cited() {
    let defined: BTreeSet<Rule> = defined().into_iter().collect();
    let cited = cited();
    let rules_h = defined.iter().filter(|rule| rule.0 == 'H').count();
    // Hazards of shmipc's own protocol (docs/shmipc-link.md) have numbers beyond those of our rules.
    let is_hazard = |rule: &Rule| rule.0 == 'H' && rules_h < rule.1 as usize;
    let unknown: Vec<_> = cited
        .iter()
        .filter(|(rule, _)| !defined.contains(rule) && !is_hazard(rule))
        .collect();
    assert!(unknown.is_empty(), "no such rules: {unknown:?}");
    let uncited: Vec<_> = defined
        .iter()
        .filter(|rule| !cited.contains_key(rule))
        .collect();
    assert!(uncited.is_empty(), "no code cites {uncited:?}");
}

#[test]
fn citations_are_found_in_comments() {
    assert_eq!(
        citations("/// Checks it (O6, O7), and more (see H1) (H12)."),
        [('O', 6), ('O', 7), ('H', 12)]
    );
    assert_eq!(citations("// (R), (Rx), (O1 and O2)"), []);
}
