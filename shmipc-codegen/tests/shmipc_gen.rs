//! The program `shmipc-gen`, run as one.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROTO: &str = "tests/golden/helloworld/helloworld.proto";
const GOLDEN: &str = "tests/golden/helloworld/helloworld.rs";

/// Runs the program in the directory of this package.
fn gen_with(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmipc-gen"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs the program with `--out` and further arguments.
fn gen_into(out: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--out", out.to_str().unwrap()];
    all.extend(arguments);
    gen_with(&all)
}

#[track_caller]
fn assert_succeeded(output: &Output) {
    assert_eq!(stderr(output), "");
    assert_eq!(output.status.code(), Some(0));
}

#[track_caller]
fn assert_failed(output: &Output, code: i32, message: &str) {
    assert_eq!(stderr(output), message);
    assert_eq!(output.status.code(), Some(code));
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_it_writes_is_what_a_build_script_writes() {
    let out = tempfile::tempdir().unwrap();
    let output = gen_into(out.path(), &[PROTO]);
    assert_succeeded(&output);
    assert_eq!(output.stdout, b"", "nothing is said to Cargo");
    assert_eq!(
        fs::read_to_string(out.path().join("helloworld.rs")).unwrap(),
        fs::read_to_string(GOLDEN).unwrap()
    );
}

#[test]
fn files_that_are_up_to_date_pass_the_check() {
    let out = tempfile::tempdir().unwrap();
    let arguments = ["--embed-descriptor-set", "--include-file=mod.rs", PROTO];
    assert_succeeded(&gen_into(out.path(), &arguments));
    assert!(out.path().join("helloworld.fds").exists());

    let checked = [&["--check"][..], &arguments].concat();
    assert_succeeded(&gen_into(out.path(), &checked));
}

#[test]
fn files_that_are_out_of_date_fail_the_check_and_stay_as_they_are() {
    let out = tempfile::tempdir().unwrap();
    let code = out.path().join("helloworld.rs");
    fs::write(&code, "// Old.\n").unwrap();
    let output = gen_into(out.path(), &["--check", PROTO]);
    let name = code.display();
    let message = format!("shmipc-gen: `{name}` is out of date; generate it again\n");
    assert_failed(&output, 1, &message);
    assert_eq!(fs::read_to_string(&code).unwrap(), "// Old.\n");

    let descriptors = out.path().join("all.fds");
    let arguments = [
        "--check",
        "--descriptor-set-out",
        descriptors.to_str().unwrap(),
        PROTO,
    ];
    let message = format!(
        "shmipc-gen: `{name}`, `{}` are out of date; generate them again\n",
        descriptors.display()
    );
    assert_failed(&gen_into(out.path(), &arguments), 1, &message);
    assert!(!descriptors.exists());
}

#[test]
fn options_reach_the_builder() {
    let out = tempfile::tempdir().unwrap();
    let arguments = [
        "--no-client",
        "--type-attribute",
        "HelloReply=#[derive(PartialOrd)]",
        "--btree-map=.one",
        "--btree-map=.",
        "--bytes-as-vec",
        "--disable-comments=.",
        "-Itests/golden/helloworld",
        "helloworld.proto",
    ];
    assert_succeeded(&gen_into(out.path(), &arguments));
    let code = fs::read_to_string(out.path().join("helloworld.rs")).unwrap();
    assert!(!code.contains("greeter_client"), "{code}");
    assert!(code.contains("#[derive(PartialOrd)]"), "{code}");
    assert!(code.contains("Vec<u8>"), "{code}");
    assert!(!code.contains("Greets people"), "{code}");
}

#[test]
fn a_descriptor_set_takes_the_place_of_files() {
    let out = tempfile::tempdir().unwrap();
    let set = out.path().join("hello.fds");
    let set = set.to_str().unwrap();
    assert_succeeded(&gen_into(out.path(), &["--descriptor-set-out", set, PROTO]));
    let code = out.path().join("helloworld.rs");
    fs::remove_file(&code).unwrap();

    assert_succeeded(&gen_into(out.path(), &["--descriptor-set-in", set]));
    assert_eq!(
        fs::read_to_string(code).unwrap(),
        fs::read_to_string(GOLDEN).unwrap()
    );
}

#[test]
fn a_mistake_in_a_file_is_shown_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let proto = directory.path().join("a.proto");
    fs::write(&proto, "syntax = \"proto3\";\nmessage M { N n = 1; }\n").unwrap();
    let output = gen_into(directory.path(), &[proto.to_str().unwrap()]);
    let shown = stderr(&output);
    assert!(shown.starts_with("shmipc-gen: "), "{shown}");
    assert!(
        shown.contains("a.proto:2:13: name 'N' is not defined"),
        "{shown}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let see = "\nSee `shmipc-gen --help`.\n";
    for (arguments, complaint) in [
        (
            &[PROTO][..],
            "say where to write to, with `--out DIR`".to_owned(),
        ),
        (
            &["-o."],
            "say what to read: a .proto file, or several".to_owned(),
        ),
        (
            &["-o.", "--blocking=yes", PROTO],
            "unexpected argument for option '--blocking': \"yes\"".to_owned(),
        ),
        (
            &["-o.", "--blokcing", PROTO],
            "invalid option '--blokcing'".to_owned(),
        ),
        (
            &["-o.", "--extern-path", ".a.B", PROTO],
            "`.a.B` has no `=`".to_owned(),
        ),
        (
            &["-o.", "--descriptor-set-in=a.fds", PROTO],
            "`--descriptor-set-in` takes the place of .proto files".to_owned(),
        ),
        (
            &["-o.", "--descriptor-set-in=a", "--descriptor-set-out=b"],
            "`--descriptor-set-in` and `--descriptor-set-out` exclude each other".to_owned(),
        ),
    ] {
        let message = format!("shmipc-gen: {complaint}{see}");
        assert_failed(&gen_with(arguments), 2, &message);
    }
}

#[test]
fn help_names_every_option_once() {
    let output = gen_with(&["--help"]);
    assert_succeeded(&output);
    let help = String::from_utf8(output.stdout).unwrap();
    for option in [
        "--include",
        "--out",
        "--check",
        "--descriptor-set-in",
        "--descriptor-set-out",
        "--blocking",
        "--dyn-traits",
        "--mocks",
        "--extern-path",
        "--protoc-arg",
    ] {
        let lines = help.lines().filter(|line| {
            line.starts_with("  ") && line.split_whitespace().any(|word| word == option)
        });
        assert_eq!(lines.count(), 1, "{option} in:\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 120), "{help}");

    let output = gen_with(&["-V"]);
    assert_succeeded(&output);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("shmipc-gen ", env!("CARGO_PKG_VERSION"), "\n")
    );
}
