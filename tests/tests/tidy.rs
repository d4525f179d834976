//! House rules that no lint knows, for all of the workspace's Rust files.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Lines of a file, and of a function.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// How far above a `SeqCst` its reason may end.
const REASON_LINES: usize = 5;

/// Where Rust files lie. What generators and compilers are compared with (golden files, sources for trybuild) is not ours to
/// shape.
const FOLDERS: [&str; 14] = [
    "shmipc-transport/src",
    "shmipc-transport/tests",
    "shmipc-rpc/src",
    "shmipc-rpc/tests",
    "shmipc-codegen/src",
    "shmipc-codegen/tests",
    "benches/src",
    "benches/tests",
    "examples/src",
    "examples/tests",
    "tests/src",
    "tests/tests",
    "tests/codegen-ui",
    "fuzz/fuzz_targets",
];
const NOT_OURS: [&str; 3] = ["tests/codegen-ui/ui/", "golden/", "/generated/grpc."];

/// A file, and what is wrong with it.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    complaints: Vec<String>,
}

#[test]
fn the_house_is_tidy() {
    let mut complaints = Vec::new();
    for mut file in rust_files() {
        // Put together, so that this file does not complain of itself.
        for unfinished in [
            concat!("FIX", "ME"),
            concat!("to", "do!("),
            concat!("db", "g!("),
        ] {
            file.ban(unfinished, "finish it, or file it");
        }
        if file.path.starts_with("shmipc-transport/src/core/") {
            file.ban("std::time::Instant", "the core is given the time");
            file.ban("std::time::SystemTime", "the core is given the time");
            file.ban("tokio", "the core knows no runtime");
            file.ban("nix::", "the core makes no system call");
        }
        if file.path.starts_with("shmipc-transport/src/")
            && file.path != "shmipc-transport/src/core/sync.rs"
        {
            file.ban(concat!("std::sync::", "atomic"), "use `core::sync`");
            file.ban(concat!("core::sync::", "atomic"), "use `core::sync`");
        }
        file.demand_partners();
        file.limit_lines();
        file.limit_functions();
        complaints.append(&mut file.complaints);
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn unsafe_lives_where_the_architecture_says() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = architecture.split_once("## Where unsafe lives").unwrap();
    let section = section.split("\n## ").next().unwrap_or_default();
    let named = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("- `")?.split_once('`')?.0.to_owned()));
    let opened = rust_files()
        .into_iter()
        .filter(|file| file.code().any(|(_, line)| opens_unsafe(line)))
        .map(|file| file.path);
    assert_eq!(
        opened.collect::<BTreeSet<_>>(),
        named.collect::<BTreeSet<_>>(),
        "left: files that open `unsafe_code`; right: those that ARCHITECTURE.md names"
    );
}

/// What a library does not know of, by the names of crates, or how they begin.
const STRANGERS: [(&str, &[&str]); 3] = [
    ("shmipc-transport", &["prost", "http", "tower", "shmipc-"]),
    ("shmipc-rpc", &["memmap2", "nix", "shmipc-codegen"]),
    ("shmipc-codegen", &["shmipc-", "tokio"]),
];

#[test]
fn libraries_know_no_more_than_they_should() {
    for (library, strangers) in STRANGERS {
        let manifest = fs::read_to_string(root().join(library).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let known: Vec<_> = dependencies
            .lines()
            .filter(|line| strangers.iter().any(|stranger| line.starts_with(stranger)))
            .collect();
        assert!(known.is_empty(), "{library} depends on {known:?}");
    }
}

/// The parts of a library that ARCHITECTURE.md has a row for, or names in one, by their paths from its `src`.
fn mapped(architecture: &str, library: &str) -> BTreeSet<String> {
    let (_, section) = architecture
        .split_once(&format!("### `{library}`\n"))
        .unwrap();
    let section = section.split("\n### ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|path| path.trim_end_matches('/').to_owned())
        .collect()
}

#[test]
fn the_architecture_says_what_every_module_is_for() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for library in ["shmipc-transport", "shmipc-rpc", "shmipc-codegen"] {
        let source = root().join(library).join("src");
        let mapped = mapped(&architecture, library);
        let gone: Vec<_> = mapped
            .iter()
            .filter(|path| !source.join(path).exists())
            .collect();
        assert!(gone.is_empty(), "{library}: there is no {gone:?}");
        let is_mapped = |module: &str| {
            let below = format!("{module}/");
            mapped
                .iter()
                .any(|path| path == module || path.starts_with(&below))
        };
        let modules = names_in(&source)
            .into_iter()
            .filter(|name| name != "lib.rs");
        let unmapped: Vec<_> = modules.filter(|module| !is_mapped(module)).collect();
        assert!(unmapped.is_empty(), "{library}: what are {unmapped:?} for?");
    }
}

#[test]
fn every_fuzz_target_is_built_and_its_corpus_replayed() {
    let fuzz = root().join("fuzz");
    let targets = names_in(&fuzz.join("fuzz_targets"));
    let targets: BTreeSet<_> = targets
        .iter()
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let binaries = manifest.split("[[bin]]").skip(1);
    let built: BTreeSet<_> = binaries
        .filter_map(|binary| Some(binary.split('"').nth(1)?.to_owned()))
        .collect();
    let replayed: BTreeSet<_> = ["shmipc-transport", "shmipc-rpc"]
        .iter()
        .flat_map(|library| {
            let tests = fs::read_to_string(root().join(library).join("src/fuzzing.rs")).unwrap();
            let (_, table) = tests.split_once("const TARGETS").unwrap();
            let table = table.split("];").next().unwrap_or_default();
            let names = table.split('"').skip(1).step_by(2);
            names.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        built, targets,
        "left: what fuzz/Cargo.toml builds; right: targets"
    );
    assert_eq!(
        replayed, targets,
        "left: what `cargo test` replays; right: targets"
    );
    assert_eq!(
        names_in(&fuzz.join("corpus")),
        targets,
        "left: corpora; right: targets"
    );
}

/// The names of what lies in a folder.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// All that is known of shmipc's other implementations, by the names that `docs/shmipc-link.md` has for it.
const HAZARDS: [(char, RangeInclusive<u32>); 7] = [
    ('C', 1..=14),
    ('H', 1..=17),
    ('H', 20..=37),
    ('H', 40..=77),
    ('L', 1..=10),
    ('S', 1..=8),
    ('V', 1..=13),
];

#[test]
fn every_hazard_has_a_test_of_its_name_or_a_reason_why_not() {
    let docs = fs::read_to_string(root().join("docs/shmipc-link.md")).unwrap();
    let (_, section) = docs
        .split_once("## Hazards of other implementations")
        .unwrap();
    let (tested, excused) = section.split_once("### Without a test").unwrap();
    let (tested, excused) = (listed(tested), listed(excused));
    let hazards = HAZARDS.into_iter().flat_map(|(kind, numbers)| {
        let named = move |number| format!("{kind}{number}");
        numbers.map(named)
    });
    let hazards: BTreeSet<_> = hazards.collect();
    assert_eq!(
        tested.union(&excused).cloned().collect::<BTreeSet<_>>(),
        hazards,
        "left: hazards that the tables list; right: those that there are"
    );
    let both: Vec<_> = tested.intersection(&excused).collect();
    assert!(both.is_empty(), "in both tables: {both:?}");
    let files = rust_files();
    let named: BTreeSet<_> = files
        .iter()
        .flat_map(Source::code)
        .filter_map(|(_, line)| line.split_once("fn hazard_"))
        .flat_map(|(_, name)| cited(name))
        .collect();
    let untested: Vec<_> = tested.difference(&named).collect();
    assert!(
        untested.is_empty(),
        "no test is named after these: {untested:?}"
    );
    let unknown: Vec<_> = named.difference(&hazards).collect();
    assert!(
        unknown.is_empty(),
        "tests are named after these, which there are not: {unknown:?}"
    );
}

/// The names in the first column of a table: `H1, H20–H24`.
fn listed(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let names = rows.filter_map(|row| row.split_once(" | "));
    let names = names.flat_map(|(names, _)| names.split(", "));
    names
        .flat_map(|name| {
            let (first, last) = name.split_once('–').unwrap_or((name, name));
            let number = |name: &str| name.get(1..).and_then(|number| number.parse::<u32>().ok());
            match (number(first), number(last)) {
                (Some(from), Some(to)) => (from..=to)
                    .map(|number| format!("{}{number}", &first[..1]))
                    .collect(),
                _ => Vec::new(),
            }
        })
        .collect()
}

/// The hazards that a test's name begins with: `h1_c4_a_list_that_…`.
fn cited(name: &str) -> impl Iterator<Item = String> {
    let words = name.split('_').take_while(|word| {
        let number = word.strip_prefix(['c', 'h', 'l', 's', 'v']);
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    words.map(str::to_uppercase)
}

fn opens_unsafe(line: &str) -> bool {
    line.trim() == "unsafe_code,"
        || ["expect(", "allow("]
            .iter()
            .any(|lint| line.contains(&format!("{lint}unsafe_code")))
}

impl Source {
    /// The lines that are not comments, with their numbers from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (1..).zip(self.text.lines());
        lines.filter(|(_, line)| !is_comment(line))
    }

    fn complain(&mut self, line: usize, what: impl std::fmt::Display) {
        self.complaints
            .push(format!("{}:{line}: {what}", self.path));
    }

    fn ban(&mut self, text: &str, instead: &str) {
        let found: Vec<_> = self
            .code()
            .filter(|(_, code)| code.contains(text))
            .map(|(line, _)| line)
            .collect();
        for line in found {
            self.complain(line, format_args!("`{text}`: {instead}"));
        }
    }

    /// Each `SeqCst` has a comment that says what it pairs with.
    fn demand_partners(&mut self) {
        let lines: Vec<_> = self.text.lines().collect();
        let alone: Vec<_> = self
            .code()
            .filter(|(_, code)| code.contains(concat!("Ordering::", "SeqCst")))
            .map(|(line, _)| line)
            .filter(|line| {
                let above = &lines[line.saturating_sub(1 + REASON_LINES)..line - 1];
                let reason = above.iter().filter(|line| is_comment(line));
                !reason.copied().any(|line| line.contains("pairs with"))
            })
            .collect();
        for line in alone {
            self.complain(line, "a SeqCst that does not say what it pairs with");
        }
    }

    fn limit_lines(&mut self) {
        let lines = self.text.lines().count();
        if FILE_LINES_MAX < lines {
            self.complain(lines, format_args!("more than {FILE_LINES_MAX} lines"));
        }
    }

    /// Relies on rustfmt: a function ends with a brace in the column of its first line.
    fn limit_functions(&mut self) {
        let lines: Vec<_> = self.text.lines().collect();
        let mut long = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            if !begins_function(line) {
                continue;
            }
            let mut rest = lines[start..].iter();
            let signature_end = rest.find(|line| line.ends_with(['{', ';', '}']));
            if signature_end.is_some_and(|line| line.ends_with('{')) {
                let end = format!("{indent}}}");
                let len = lines[start..].iter().position(|line| **line == end);
                if len.is_none_or(|len| FUNCTION_LINES_MAX <= len) {
                    long.push(start + 1);
                }
            }
        }
        for line in long {
            let what = format_args!("a function of more than {FUNCTION_LINES_MAX} lines");
            self.complain(line, what);
        }
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn begins_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let qualifiers = ["pub", "const", "async", "unsafe"];
    words.find(|word| !qualifiers.contains(word) && !word.starts_with("pub(")) == Some("fn")
}

fn rust_files() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    assert!(50 < files.len(), "the folders have moved");
    files
}

fn collect(folder: &Path, files: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            if !NOT_OURS.iter().any(|not_ours| name.contains(not_ours)) {
                files.push(Source {
                    path: name.to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                    complaints: Vec::new(),
                });
            }
        }
    }
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_owned()
}
