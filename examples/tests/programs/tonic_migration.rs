//! The migration, as a program.

use std::process::Command;

#[test]
fn the_service_is_the_same_before_and_after() {
    let output = Command::new(env!("CARGO_BIN_EXE_tonic_migration"))
        .arg("Grace")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let [before, after] = lines[..] else {
        panic!("it says two lines:\n{said}");
    };
    assert_eq!(before, "before: Hello, Grace!");
    let uid = nix::unistd::getuid();
    assert!(
        after.starts_with("after: Hello, Grace! (process "),
        "{after}"
    );
    assert!(
        after.ends_with(&format!(" of user {uid} calls)")),
        "{after}"
    );
}

#[test]
fn two_lines_change_and_they_are_those_of_the_documentation() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/tonic_migration");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let (before, after, docs) = (read("before.rs"), read("after.rs"), read("main.rs"));
    assert_eq!(before.lines().count(), after.lines().count());
    let pairs = before.lines().zip(after.lines());
    let changes = pairs.filter(|(before, after)| before != after);
    let changes: Vec<_> = changes
        .flat_map(|(before, after)| [format!("-{before}"), format!("+{after}")])
        .collect();
    assert_eq!(changes.len(), 4, "one line serves, and one connects");
    let documented = docs.lines().filter_map(|line| line.strip_prefix("//! "));
    let documented: Vec<_> = documented
        .filter(|line| line.starts_with(['-', '+']))
        .collect();
    assert_eq!(documented, changes);
}
