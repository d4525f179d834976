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
fn the_documented_lines_are_those_of_the_program() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/tonic_migration");
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        text.split_whitespace().collect::<String>()
    };
    let (before, after) = (read("before.rs"), read("after.rs"));
    let docs = std::fs::read_to_string(format!("{folder}/main.rs")).unwrap();
    let mut lines = 0;
    for line in docs.lines() {
        let Some(line) = line.strip_prefix("//! ") else {
            continue;
        };
        let (file, line) = match line.split_at_checked(1) {
            Some(("-", line)) => (&before, line),
            Some(("+", line)) => (&after, line),
            _ => continue,
        };
        let line: String = line.split_whitespace().collect();
        assert!(file.contains(&line), "{line} is not in the program");
        lines += 1;
    }
    assert_eq!(lines, 4);
}
