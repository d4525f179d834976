//! What users are shown when their `.proto` files are wrong, word by word.

use std::fs;
use std::path::Path;

use shmipc_codegen::{Builder, Error, configure};

/// Compiles `main` out of `files`, which must fail, and compares what is shown.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &str) {
    let error = compile(files, |builder| builder);
    assert_eq!(error, expected, "shown:\n{error}\n");
}

/// Compiles the first of `files`, which must fail without writing anything. Returns what is shown.
#[track_caller]
fn compile(files: &[(&str, &str)], options: impl FnOnce(Builder) -> Builder) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (protos, out) = (directory.path().join("proto"), directory.path().join("out"));
    fs::create_dir(&out).unwrap();
    for (name, text) in files {
        let path = protos.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let main = protos.join(files[0].0);
    let builder = configure().out_dir(&out).emit_rerun_if_changed(false);
    let error = options(builder)
        .compile_protos(&[main], &[&protos])
        .unwrap_err();
    assert_eq!(
        fs::read_dir(&out).unwrap().count(),
        0,
        "a failure must leave nothing behind"
    );
    shown(&error, directory.path())
}

/// What Cargo shows when a build script returns `error`, with paths made relative.
fn shown(error: &Error, directory: &Path) -> String {
    format!("{error:?}").replace(&format!("{}/", directory.display()), "")
}

#[test]
fn syntax_error() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\n\nmessage A {\n  string name = ;\n}\n",
        )],
        "proto/a.proto:4:17: expected an integer, but found ';'
  |
4 |   string name = ;
  |                 ^ found here",
    );
}

#[test]
fn unexpected_end_of_file() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\n\nmessage A {\n  string name = 1;\n",
        )],
        "proto/a.proto:4:19: expected a message field, oneof, reserved range, enum, message, option or '}', but reached end of file
  = help: is a closing brace missing?",
    );
}

#[test]
fn unknown_type() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\npackage a;\nservice S {\n  rpc Get(Quesion) returns (Question);\n}\nmessage Question {}\n",
        )],
        "proto/a.proto:4:11: name 'Quesion' is not defined
  |
4 |   rpc Get(Quesion) returns (Question);
  |           ^^^^^^^ found here
  = help: declare it, or import the file that does",
    );
}

#[test]
fn type_that_is_not_imported() {
    check(
        &[
            (
                "a.proto",
                "syntax = \"proto3\";\nimport \"b.proto\";\nmessage A {\n\tc.C c = 1;\n}\n",
            ),
            ("b.proto", "syntax = \"proto3\";\nimport \"c.proto\";\n"),
            (
                "c.proto",
                "syntax = \"proto3\";\npackage c;\nmessage C {}\n",
            ),
        ],
        "proto/a.proto:4:2: name 'c.C' is not defined
  |
4 |  c.C c = 1;
  |  ^^^ found here
  = help: 'c.C' is defined in 'c.proto', which is not imported by 'a.proto'",
    );
}

#[test]
fn missing_import() {
    check(
        &[(
            "dir/a.proto",
            "syntax = \"proto3\";\n\nimport \"dir/b.proto\";\n",
        )],
        r#"proto/dir/a.proto:3:1: import 'dir/b.proto' not found
  |
3 | import "dir/b.proto";
  | ^^^^^^^^^^^^^^^^^^^^^ imported here
  = help: imports are looked for in `proto`"#,
    );
}

#[test]
fn error_in_an_import() {
    check(
        &[
            ("a.proto", "syntax = \"proto3\";\nimport \"dir/b.proto\";\n"),
            (
                "dir/b.proto",
                "syntax = \"proto3\";\nmessage B { int33 b = 1; }\n",
            ),
        ],
        "proto/dir/b.proto:2:13: name 'int33' is not defined
  |
2 | message B { int33 b = 1; }
  |             ^^^^^ found here
  = help: declare it, or import the file that does",
    );
}

#[test]
fn circular_import() {
    check(
        &[
            ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
            ("b.proto", "syntax = \"proto3\";\nimport \"a.proto\";\n"),
        ],
        "proto/a.proto: import cycle detected: a.proto -> b.proto -> a.proto
  = help: move what both need to a file that both import",
    );
}

#[test]
fn duplicate_field_number() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\nmessage A {\n  string x = 1;\n  string y = 1;\n}\n",
        )],
        "proto/a.proto:4:14: field number '1' is already used
  |
3 |   string x = 1;
  |              ^ first defined here
  |
4 |   string y = 1;
  |              ^ defined again here
  = help: each field of a message needs a number of its own",
    );
}

#[test]
fn several_errors() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\nmessage A {\n  X x = 1;\n  Y y = 2;\n}\n",
        )],
        "proto/a.proto:3:3: name 'X' is not defined
  |
3 |   X x = 1;
  |   ^ found here
  = help: declare it, or import the file that does

proto/a.proto:4:3: name 'Y' is not defined
  |
4 |   Y y = 2;
  |   ^ found here
  = help: declare it, or import the file that does",
    );
}

#[test]
fn unsupported_syntax() {
    check(
        &[("a.proto", "edition = \"2023\";\nmessage A {}\n")],
        r#"proto/a.proto:1:1: expected 'enum', 'extend', 'import', 'message', 'option', 'service', 'package' or ';', but found 'edition'
  |
1 | edition = "2023";
  | ^^^^^^^ found here
  = help: editions are not supported; write `syntax = "proto3";` or `syntax = "proto2";`"#,
    );
}

#[test]
fn methods_that_become_one() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\npackage pkg;\nmessage M {}\nservice S {\n  rpc GetIt(M) returns (M);\n  rpc get_it(M) returns (M);\n}\n",
        )],
        "proto/a.proto:6:3: `pkg.S.get_it` and `GetIt` would both be called `get_it` in Rust
  |
6 |   rpc get_it(M) returns (M);
  |   ^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: method names must differ in more than case and underscores; rename one of them",
    );
}

#[test]
fn services_that_become_one() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\nmessage M {}\nservice MyEcho {\n  rpc Get(M) returns (M);\n}\nservice My_Echo {\n  rpc Get(M) returns (M);\n}\n",
        )],
        "proto/a.proto:6:1: the service `My_Echo` and the service `MyEcho` would both have the module `my_echo_client`
  |
6 | service My_Echo {
  | ^^^^^^^^^^^^^^^
  = help: rename one of them, or move it to another package",
    );
}

#[test]
fn a_message_that_takes_the_place_of_a_client() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\npackage pkg;\nmessage EchoClient {\n  message Nested {}\n}\nservice Echo {\n  rpc Get(EchoClient) returns (EchoClient);\n}\n",
        )],
        "proto/a.proto:6:1: the service `Echo` and what the message `EchoClient` nests would both have the module `echo_client`
  |
6 | service Echo {
  | ^^^^^^^^^^^^
  = help: rename one of them, or move it to another package",
    );
}

#[test]
fn a_message_that_takes_the_place_of_what_an_option_adds() {
    for (suffix, option) in [
        (
            "Blocking",
            Builder::blocking as fn(Builder, bool) -> Builder,
        ),
        ("Mock", Builder::mocks),
    ] {
        let text = format!(
            "syntax = \"proto3\";\npackage pkg;\nmessage Echo{suffix} {{\n  message Nested {{}}\n}}\nservice Echo {{\n  rpc Get(Echo{suffix}) returns (Echo{suffix});\n}}\n"
        );
        let error = compile(&[("a.proto", &text)], |builder| option(builder, true));
        let module = suffix.to_lowercase();
        let expected = format!(
            "proto/a.proto:6:1: the service `Echo` and what the message `Echo{suffix}` nests would both have the module `echo_{module}`\n"
        );
        assert!(error.starts_with(&expected), "{error}");

        // Without the option nothing is in the way.
        let directory = tempfile::tempdir().unwrap();
        let proto = directory.path().join("a.proto");
        fs::write(&proto, &text).unwrap();
        let builder = configure()
            .out_dir(directory.path())
            .emit_rerun_if_changed(false);
        builder
            .compile_protos(&[proto], &[directory.path()])
            .unwrap();
    }
}

#[test]
fn a_message_without_a_module_is_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let proto = directory.path().join("a.proto");
    let text = "syntax = \"proto3\";\nmessage EchoClient {\n  optional string a = 1;\n  map<string, string> b = 2;\n}\nservice Echo {\n  rpc Get(EchoClient) returns (EchoClient);\n}\n";
    fs::write(&proto, text).unwrap();
    configure()
        .out_dir(directory.path())
        .emit_rerun_if_changed(false)
        .compile_protos(&[proto], &[directory.path()])
        .unwrap();
}

#[test]
fn names_without_letters() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\nmessage M {}\nservice _ {\n  rpc __(M) returns (M);\n}\n",
        )],
        "proto/a.proto:3:1: `_` cannot be made a name in Rust
  |
3 | service _ {
  | ^^^^^^^^^
  = help: give the service a name with a letter in it

proto/a.proto:4:3: `_.__` cannot be made a name in Rust
  |
4 |   rpc __(M) returns (M);
  |   ^^^^^^^^^^^^^^^^^^^^^^
  = help: give the method a name with a letter in it",
    );
}

#[test]
fn options_that_are_not_rust() {
    let good: &[(&str, &str)] = &[(
        "a.proto",
        "syntax = \"proto3\";\nmessage M {}\nservice S {\n  rpc Get(M) returns (M);\n}\n",
    )];
    let shown = [
        compile(good, |builder| {
            builder.client_attribute(".", "derive(Debug)")
        }),
        compile(good, |builder| builder.runtime_path("shmipc-rpc")),
        compile(good, |builder| builder.extern_path(".M", "my-types::M")),
        compile(good, |builder| builder.extern_path("M", "::my_types::M")),
        compile(good, |builder| builder.type_attribute(".", "#[derive(")),
    ];
    let expected = [
        "`client_attribute` was given `derive(Debug)`, which is not a list of attributes such as `#[derive(Debug)]`: unexpected token",
        "`runtime_path` was given `shmipc-rpc`, which is not a path: unexpected token",
        "proto/a.proto:4:3: `S.Get` uses the type `my-types::M`, which is not a Rust type
  |
4 |   rpc Get(M) returns (M);
  |   ^^^^^^^^^^^^^^^^^^^^^^^
  = help: look at what was given to `extern_path`, `prost_path` and `prost_types_path`",
        "prost-build refused an option: Protobuf paths must be fully qualified (begin with a leading '.'): M",
        "the code generated for `_.rs` is not Rust; is one of the attributes or paths given to the builder wrong?: cannot parse string into token stream",
    ];
    for (shown, expected) in shown.iter().zip(expected) {
        assert_eq!(shown, expected);
    }
}

#[test]
fn missing_file() {
    let out = tempfile::tempdir().unwrap();
    let compile = |proto: &str, includes: &[&str]| {
        let builder = configure().out_dir(out.path()).emit_rerun_if_changed(false);
        let error = builder.compile_protos(&[proto], includes).unwrap_err();
        shown(&error, out.path())
    };
    assert_eq!(
        compile("proto/gone.proto", &["proto", "third_party"]),
        "there is no file `proto/gone.proto`
  = help: looked for `proto/gone.proto`, `proto/proto/gone.proto`, `third_party/proto/gone.proto`; paths are relative to the package's directory"
    );
    assert_eq!(
        compile("tests/golden/helloworld/helloworld.proto", &["src"]),
        "`tests/golden/helloworld/helloworld.proto` lies in none of the include directories
  = help: they are `src`; add `tests/golden/helloworld`"
    );
}

#[test]
fn missing_protoc() {
    let out = tempfile::tempdir().unwrap();
    let error = configure()
        .out_dir(out.path())
        .protoc_executable(out.path().join("no-such-protoc"))
        .compile_protos(&["a.proto"], &["."])
        .unwrap_err();
    assert!(matches!(error, Error::DescriptorSet(_)), "{error:?}");
    assert!(
        format!("{error:?}")
            .starts_with("could not obtain a descriptor set: Could not find `protoc`."),
        "{error:?}"
    );
}

#[test]
fn missing_output_directory() {
    let out = tempfile::tempdir().unwrap();
    let error = configure()
        .out_dir(out.path().join("gone"))
        .emit_rerun_if_changed(false)
        .compile_protos(
            &["tests/golden/helloworld/helloworld.proto"],
            &["tests/golden/helloworld"],
        )
        .unwrap_err();
    assert_eq!(
        shown(&error, out.path()),
        "could not write `gone/helloworld.rs`: the directory does not exist"
    );
}
