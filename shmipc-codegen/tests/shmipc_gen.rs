//! The program `shmipc-gen`, run as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shmipc_codegen::{Builder, configure};

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

/// A file that every option makes a difference for.
const EVERYTHING: &str = r#"
syntax = "proto3";
package all;
import "bare.proto";
import "google/protobuf/timestamp.proto";

// Lends pens.
service Pens {
  // Lends one.
  rpc Lend(Pen) returns (Pen);
}

// Writes.
message Pen {
  Colour colour = 1;
  Cap cap = 2;
  map<string, uint32> drawn = 3;
  oneof ink {
    string gel = 4;
    bytes sample = 5;
  }
  google.protobuf.Timestamp bought = 6;
  Bare bare = 7;
}

// Keeps it from drying.
message Cap {
  bytes engraving = 1;
}

enum Colour {
  COLOUR_UNSPECIFIED = 0;
  COLOUR_BLUE = 1;
}
"#;

/// Further arguments, if an option takes effect with these only, and what the builder calls them all. The builder is told where it
/// writes to, and where a `protoc` lies.
type Case = (
    &'static [&'static str],
    fn(Builder, &Path, &Path) -> Builder,
);

const ATTRIBUTE: &str = "#[doc(alias = \"added\")]";

/// Each option of the builder's as it is given to the program.
const CASES: &[Case] = &[
    (&["--no-client"], |b, _, _| b.build_client(false)),
    (&["--no-server"], |b, _, _| b.build_server(false)),
    (&["--blocking"], |b, _, _| b.blocking(true)),
    (&["--dyn-traits"], |b, _, _| b.dyn_traits(true)),
    (&["--mocks"], |b, _, _| b.mocks(true)),
    (&["--use-arc-self"], |b, _, _| b.use_arc_self(true)),
    (&["--generate-default-stubs"], |b, _, _| {
        b.generate_default_stubs(true)
    }),
    (&["--runtime-path=crate::rpc"], |b, _, _| {
        b.runtime_path("crate::rpc")
    }),
    (
        &["--client-attribute", "Pens=#[doc(alias = \"added\")]"],
        |b, _, _| b.client_attribute("Pens", ATTRIBUTE),
    ),
    (
        &["--client-mod-attribute", "Pens=#[doc(alias = \"added\")]"],
        |b, _, _| b.client_mod_attribute("Pens", ATTRIBUTE),
    ),
    (
        &["--server-attribute", "Pens=#[doc(alias = \"added\")]"],
        |b, _, _| b.server_attribute("Pens", ATTRIBUTE),
    ),
    (
        &["--server-mod-attribute", "Pens=#[doc(alias = \"added\")]"],
        |b, _, _| b.server_mod_attribute("Pens", ATTRIBUTE),
    ),
    (
        &["--trait-attribute", "Pens=#[doc(alias = \"added\")]"],
        |b, _, _| b.trait_attribute("Pens", ATTRIBUTE),
    ),
    (
        &[
            "--blocking-mod-attribute",
            "Pens=#[doc(alias = \"added\")]",
            "--blocking",
        ],
        |b, _, _| b.blocking(true).blocking_mod_attribute("Pens", ATTRIBUTE),
    ),
    (
        &[
            "--mock-mod-attribute",
            "Pens=#[doc(alias = \"added\")]",
            "--mocks",
        ],
        |b, _, _| b.mocks(true).mock_mod_attribute("Pens", ATTRIBUTE),
    ),
    (
        &["--type-attribute", ".all=#[doc(alias = \"added\")]"],
        |b, _, _| b.type_attribute(".all", ATTRIBUTE),
    ),
    (
        &["--message-attribute", ".all=#[doc(alias = \"added\")]"],
        |b, _, _| b.message_attribute(".all", ATTRIBUTE),
    ),
    (
        &["--enum-attribute", ".all=#[doc(alias = \"added\")]"],
        |b, _, _| b.enum_attribute(".all", ATTRIBUTE),
    ),
    (
        &["--field-attribute", ".all=#[doc(alias = \"added\")]"],
        |b, _, _| b.field_attribute(".all", ATTRIBUTE),
    ),
    (&["--bytes=.all.Cap", "--bytes=.elsewhere"], |b, _, _| {
        b.bytes([".all.Cap", ".elsewhere"])
    }),
    (&["--bytes-as-vec"], |b, _, _| b.bytes_as_vec()),
    (&["--btree-map=.all"], |b, _, _| b.btree_map([".all"])),
    (&["--boxed=Pen.cap"], |b, _, _| b.boxed("Pen.cap")),
    (&["--extern-path=.all.Cap=::caps::Cap"], |b, _, _| {
        b.extern_path(".all.Cap", "::caps::Cap")
    }),
    (&["--compile-well-known-types"], |b, _, _| {
        b.compile_well_known_types()
    }),
    (&["--skip-debug=Cap"], |b, _, _| b.skip_debug(["Cap"])),
    (&["--retain-enum-prefix"], |b, _, _| b.retain_enum_prefix()),
    (&["--enable-type-names"], |b, _, _| b.enable_type_names()),
    (
        &["--type-name-domain=.=example.com", "--enable-type-names"],
        |b, _, _| b.enable_type_names().type_name_domain(["."], "example.com"),
    ),
    (&["--prost-path=::prost"], |b, _, _| b.prost_path("::prost")),
    (&["--prost-types-path=::prost_types"], |b, _, _| {
        b.prost_types_path("::prost_types")
    }),
    (
        &["--disable-comments=Pen", "--disable-comments=Cap"],
        |b, _, _| b.disable_comments(["Pen", "Cap"]),
    ),
    (&["--skip-source-info"], |b, _, _| b.skip_source_info()),
    (&["--embed-descriptor-set"], |b, _, _| {
        b.embed_descriptor_set(true)
    }),
    (&["--descriptor-set-out=set"], |b, out, _| {
        b.file_descriptor_set_path(out.join("set"))
    }),
    (&["--include-file=mod.rs"], |b, _, _| {
        b.include_file("mod.rs")
    }),
    (&["--default-package-filename=root"], |b, _, _| {
        b.default_package_filename("root")
    }),
    (&["--no-format"], |b, _, _| b.format(false)),
    // What the environment says where it lies gives other files than that which is named.
    (&["--use-protoc"], |b, _, protoc| {
        b.protoc_executable(protoc)
    }),
    (&["--protoc-executable=../named"], |b, _, protoc| {
        b.protoc_executable(protoc.with_file_name("named"))
    }),
    (&["--protoc-arg=--other"], |b, _, protoc| {
        b.protoc_executable(protoc).protoc_arg("--other")
    }),
];

/// What was written, by name.
type Written = BTreeMap<PathBuf, Vec<u8>>;

fn read(directory: &Path) -> Written {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().into(), fs::read(&path).unwrap())
    });
    entries.collect()
}

/// Writes a program that stands in for `protoc`: what it gives is called `{name}`, or `{name}_other` if it is asked for that.
fn protoc(directory: &Path, name: &str) -> PathBuf {
    for set in [name.to_owned(), format!("{name}_other")] {
        let folder = directory.join(format!("of_{set}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("bare.proto"), "syntax = \"proto3\";").unwrap();
        let text = format!("syntax = \"proto3\"; package {set}; message Made {{}}");
        fs::write(folder.join("all.proto"), text).unwrap();
        configure()
            .out_dir(&folder)
            .emit_rerun_if_changed(false)
            .file_descriptor_set_path(directory.join(set).with_extension("fds"))
            .compile_protos(&["all.proto", "bare.proto"], &[&folder])
            .unwrap();
    }
    let (path, own) = (directory.join(name), directory.join(name));
    let script = format!(
        "#!/bin/sh\nset='{}'\nwhile [ $# -gt 0 ]; do\n\
         case $1 in --other) set=${{set}}_other;; -o) out=$2;; esac; shift\n\
         done\ncp \"$set.fds\" \"$out\"\n",
        own.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn each_option_is_that_of_the_builder() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("all.proto"), EVERYTHING).unwrap();
    let bare = "syntax = \"proto3\";\nmessage Bare { uint32 number = 1; }\n";
    fs::write(at("bare.proto"), bare).unwrap();
    let protoc = {
        protoc(directory.path(), "named");
        protoc(directory.path(), "protoc")
    };

    let run = |arguments: &[&str]| {
        let out = at("out");
        fs::create_dir(&out).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmipc-gen"));
        command.current_dir(&out).env("PROTOC", &protoc);
        command.args(["--out=.", "--include=..", "../all.proto", "../bare.proto"]);
        let output = command.args(arguments).output().unwrap();
        assert_eq!(stderr(&output), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let written = read(&out);
        fs::remove_dir_all(&out).unwrap();
        written
    };
    let mut seen = BTreeMap::from([(run(&[]), &[][..])]);
    for (arguments, by_builder) in CASES {
        let written = run(arguments);
        let out = at("expected");
        fs::create_dir(&out).unwrap();
        let builder = configure().out_dir(&out).emit_rerun_if_changed(false);
        by_builder(builder, &out, &protoc)
            .compile_protos(&["all.proto", "bare.proto"], &[directory.path()])
            .unwrap();
        assert!(
            written == read(&out),
            "{arguments:?} is not what the builder makes of it"
        );
        fs::remove_dir_all(&out).unwrap();
        let before = seen.insert(written, *arguments);
        assert_eq!(before, None, "{arguments:?} gives the same");
    }

    let help = String::from_utf8(gen_with(&["--help"]).stdout).unwrap();
    let offered: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("      --")?.split(' ').next())
        // These say what is done with the files, and are seen in other tests.
        .filter(|name| !["check", "descriptor-set-in"].contains(name))
        .collect();
    let tried = CASES.iter().map(|(arguments, _)| arguments[0]);
    let tried: BTreeSet<&str> = tried
        .map(|argument| argument.trim_start_matches('-').split('=').next().unwrap())
        .collect();
    assert_eq!(tried, offered);
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
