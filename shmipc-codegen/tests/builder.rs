//! The ways in and out of the builder: what is read, and what is written besides code.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message as _;
use shmipc_codegen::prost_build::{self, Service, ServiceGenerator};
use shmipc_codegen::{Builder, Error, configure};

const PROTO: &str = "tests/golden/helloworld/helloworld.proto";
const INCLUDE: &str = "tests/golden/helloworld";
const GOLDEN: &str = "tests/golden/helloworld/helloworld.rs";

fn quiet(out: &Path) -> Builder {
    configure().out_dir(out).emit_rerun_if_changed(false)
}

/// Writes the descriptor set of the example, and returns where.
fn descriptor_set(directory: &Path) -> PathBuf {
    let path = directory.join("helloworld.fds");
    quiet(directory)
        .file_descriptor_set_path(&path)
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    path
}

#[track_caller]
fn assert_is_golden(out: &Path) {
    let generated = fs::read_to_string(out.join("helloworld.rs")).unwrap();
    assert!(
        generated == fs::read_to_string(GOLDEN).unwrap(),
        "generated:\n{generated}"
    );
}

#[test]
fn a_descriptor_set_that_was_written_can_be_read() {
    let out = tempfile::tempdir().unwrap();
    let path = descriptor_set(out.path());
    fs::remove_file(out.path().join("helloworld.rs")).unwrap();

    quiet(out.path())
        .file_descriptor_set_path(path)
        .skip_protoc_run()
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    assert_is_golden(out.path());
}

#[test]
fn protoc_may_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let fds = descriptor_set(directory.path());
    let out = tempfile::tempdir().unwrap();
    // Stands in for `protoc --include_imports --include_source_info -o OUT …`.
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\ncp '{}' \"$2\"\n",
        fds.display()
    );
    let protoc = directory.path().join("protoc");
    fs::write(&protoc, script).unwrap();
    fs::set_permissions(&protoc, fs::Permissions::from_mode(0o755)).unwrap();

    quiet(out.path())
        .protoc_executable(&protoc)
        .protoc_arg("--fatal_warnings")
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    assert_is_golden(out.path());
}

#[test]
fn an_incomplete_descriptor_set_is_refused() {
    use shmipc_codegen::prost_types::{FileDescriptorProto, FileDescriptorSet};
    let out = tempfile::tempdir().unwrap();
    let file = FileDescriptorProto {
        name: Some("a.proto".to_owned()),
        dependency: vec!["b.proto".to_owned()],
        ..FileDescriptorProto::default()
    };
    let error = quiet(out.path())
        .compile_fds(FileDescriptorSet {
            file: vec![file.clone()],
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.proto: imported file 'b.proto' has not been added"
    );

    let editions = FileDescriptorProto {
        syntax: Some("editions".to_owned()),
        dependency: Vec::new(),
        ..file
    };
    let error = quiet(out.path())
        .compile_fds(FileDescriptorSet {
            file: vec![editions],
        })
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`a.proto` has the syntax \"editions\", which is not supported"),
        "{error}"
    );
}

#[test]
fn a_file_that_has_not_changed_is_left_alone() {
    let out = tempfile::tempdir().unwrap();
    quiet(out.path())
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    let path = out.path().join("helloworld.rs");
    // Writing to it would fail.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    quiet(out.path())
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn a_check_writes_nothing_and_tells_what_is_out_of_date() {
    let out = tempfile::tempdir().unwrap();
    let check = || {
        quiet(out.path())
            .check(true)
            .include_file("mod.rs")
            .compile_protos(&[PROTO], &[INCLUDE])
    };
    let paths = ["helloworld.rs", "mod.rs"].map(|file| out.path().join(file));
    match check().unwrap_err() {
        Error::Outdated { files } => assert_eq!(files, paths),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);

    quiet(out.path())
        .include_file("mod.rs")
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    check().unwrap();

    fs::write(&paths[1], "").unwrap();
    match check().unwrap_err() {
        Error::Outdated { files } => assert_eq!(files, paths[1..]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_embedded_descriptor_set_is_complete_and_without_comments() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
    write(
        "base.proto",
        "syntax = \"proto3\";\npackage base;\nimport \"google/protobuf/descriptor.proto\";\n\
         extend google.protobuf.MessageOptions { string colour = 50000; }\nmessage B {}\n",
    );
    write(
        "top.proto",
        "syntax = \"proto3\";\npackage top;\nimport \"base.proto\";\n\
         // Says something.\nmessage T { option (base.colour) = \"rouge\"; base.B b = 1; }\n",
    );
    quiet(directory.path())
        .embed_descriptor_set(true)
        .compile_protos(&["top.proto"], &[directory.path()])
        .unwrap();

    let files = |package: &str| {
        let bytes = fs::read(directory.path().join(format!("{package}.fds"))).unwrap();
        let set = shmipc_codegen::prost_types::FileDescriptorSet::decode(&*bytes).unwrap();
        let no_comments = set.file.iter().all(|file| file.source_code_info.is_none());
        assert!(no_comments, "{package}");
        let names = set.file.iter().map(|file| file.name().to_owned());
        (names.collect::<Vec<_>>(), bytes)
    };
    let (names, bytes) = files("top");
    let expected = [
        "google/protobuf/descriptor.proto",
        "base.proto",
        "top.proto",
    ];
    assert_eq!(names, expected);
    let has_option = bytes.windows(5).any(|window| window == b"rouge");
    assert!(has_option, "options of the user's own survive");
    let (names, _) = files("base");
    assert_eq!(names, expected[..2]);
    let code = fs::read_to_string(directory.path().join("top.rs")).unwrap();
    assert!(
        code.contains("FILE_DESCRIPTOR_SET: &[u8] = ::core::include_bytes!(\"top.fds\");"),
        "{code}"
    );
}

#[test]
fn without_services_only_messages_are_left() {
    let out = tempfile::tempdir().unwrap();
    quiet(out.path())
        .build_client(false)
        .build_server(false)
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    let generated = fs::read_to_string(out.path().join("helloworld.rs")).unwrap();
    assert!(generated.contains("pub struct HelloReply"), "{generated}");
    assert!(!generated.contains("mod greeter"), "{generated}");

    let services = "tests/golden/services_only";
    quiet(out.path())
        .build_client(false)
        .build_server(false)
        .compile_protos(&["services.proto"], &[services])
        .unwrap();
    assert!(
        !out.path().join("app.services.rs").exists(),
        "nothing is left of a package of services"
    );
}

#[test]
fn code_may_be_left_unformatted() {
    let out = tempfile::tempdir().unwrap();
    quiet(out.path())
        .format(false)
        .skip_source_info()
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    let generated = fs::read_to_string(out.path().join("helloworld.rs")).unwrap();
    assert!(generated.starts_with(
        "// This file is @generated by shmipc-codegen from helloworld.proto. Do not edit.\n"
    ));
    assert!(!generated.contains("Greets people"), "{generated}");
    syn::parse_file(&generated).unwrap();
}

#[test]
fn an_include_file_in_out_dir_finds_its_neighbours() {
    let out = tempfile::tempdir().unwrap();
    quiet(out.path())
        .include_file("all.rs")
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    let includes = fs::read_to_string(out.path().join("all.rs")).unwrap();
    assert!(
        includes.ends_with("pub mod helloworld {\n    include!(\"helloworld.rs\");\n}\n"),
        "{includes}"
    );
}

#[test]
fn well_known_types_can_be_replaced() {
    let out = tempfile::tempdir().unwrap();
    quiet(out.path())
        .extern_path(".google.protobuf.Timestamp", "::my_types::Timestamp")
        .compile_protos(&["well_known.proto"], &["tests/golden/well_known"])
        .unwrap();
    let generated = fs::read_to_string(out.path().join("well_known.rs")).unwrap();
    assert!(
        generated.contains("Option<::my_types::Timestamp>"),
        "{generated}"
    );
    assert!(
        generated.contains("Option<::shmipc_rpc::prost_types::Any>"),
        "{generated}"
    );

    quiet(out.path())
        .compile_well_known_types()
        .compile_protos(&["well_known.proto"], &["tests/golden/well_known"])
        .unwrap();
    let generated = fs::read_to_string(out.path().join("well_known.rs")).unwrap();
    assert!(
        generated.contains("Option<super::google::protobuf::Timestamp>"),
        "{generated}"
    );
    assert!(out.path().join("google.protobuf.rs").exists());
}

/// Notes the services it is given.
struct Witness(Rc<RefCell<Vec<String>>>);

impl ServiceGenerator for Witness {
    fn generate(&mut self, service: Service, buf: &mut String) {
        buf.push_str("/// Left by the witness.\npub struct Seen;\n");
        self.0.borrow_mut().push(service.name);
    }
}

#[test]
fn another_generator_may_follow() {
    let out = tempfile::tempdir().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    quiet(out.path())
        .also_generate(Box::new(Witness(Rc::clone(&seen))))
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap();
    assert_eq!(*seen.borrow(), ["Greeter"]);
    let generated = fs::read_to_string(out.path().join("helloworld.rs")).unwrap();
    assert!(
        generated.contains("pub struct Seen;") && generated.contains("pub mod greeter_client"),
        "{generated}"
    );
}

#[test]
fn the_generator_works_in_the_hands_of_others() {
    let out = tempfile::tempdir().unwrap();
    let fds = descriptor_set(out.path());
    let modules = |generator: Builder| {
        prost_build::Config::new()
            .out_dir(out.path())
            .prost_path("::shmipc_rpc::prost")
            .file_descriptor_set_path(&fds)
            .skip_protoc_run()
            .service_generator(generator.into_service_generator().unwrap())
            .compile_protos(&[PROTO], &[INCLUDE])
            .unwrap();
        let generated = fs::read_to_string(out.path().join("helloworld.rs")).unwrap();
        let items = syn::parse_file(&generated).unwrap().items.into_iter();
        let modules = items.filter_map(|item| match item {
            syn::Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        });
        modules.collect::<Vec<_>>()
    };
    assert_eq!(
        modules(configure().build_server(false)),
        ["greeter_methods", "greeter_client"]
    );
    assert_eq!(
        modules(configure().dyn_traits(true).blocking(true).mocks(true)),
        [
            "greeter_methods",
            "greeter_client",
            "greeter_server",
            "greeter_blocking",
            "greeter_mock"
        ]
    );
    // There is nothing that a mock could stand in for.
    assert_eq!(
        modules(configure().build_server(false).mocks(true).blocking(true)),
        ["greeter_methods", "greeter_client", "greeter_blocking"]
    );
    assert_eq!(
        modules(
            configure()
                .build_server(false)
                .build_client(false)
                .mocks(true)
        ),
        [""; 0]
    );
}

#[test]
fn the_generator_in_the_hands_of_others_leaves_errors_to_the_compiler() {
    let mut generator = configure().into_service_generator().unwrap();
    let method = |name: &str, proto_name: &str| prost_build::Method {
        name: name.to_owned(),
        proto_name: proto_name.to_owned(),
        comments: prost_build::Comments::default(),
        input_type: "Query".to_owned(),
        output_type: "Event".to_owned(),
        input_proto_type: ".a.Query".to_owned(),
        output_proto_type: ".a.Event".to_owned(),
        options: Default::default(),
        client_streaming: false,
        server_streaming: true,
    };
    let service = |methods: Vec<prost_build::Method>| Service {
        name: "Watcher".to_owned(),
        proto_name: "Watcher".to_owned(),
        package: "a".to_owned(),
        comments: prost_build::Comments::default(),
        methods,
        options: Default::default(),
    };
    let mut text = String::new();
    let twice = vec![
        method("watch_it", "WatchIt"),
        method("watch_it", "watch_it"),
    ];
    generator.generate(service(twice), &mut text);
    assert!(text.contains("compile_error"), "{text}");
    assert!(
        text.contains("`a.Watcher.watch_it` and `WatchIt` would both be called `watch_it` in Rust"),
        "{text}"
    );

    text.clear();
    generator.generate(service(vec![method("watch_it", "WatchIt")]), &mut text);
    assert!(!text.contains("compile_error"), "{text}");
}

#[test]
fn outside_of_a_build_script_the_target_must_be_named() {
    // Cargo sets OUT_DIR for packages with a build script, of which this is none.
    let error = configure()
        .emit_rerun_if_changed(false)
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap_err();
    assert!(matches!(error, Error::OutDirUnset), "{error:?}");
}

#[test]
fn a_descriptor_set_that_is_not_there_is_reported() {
    let out = tempfile::tempdir().unwrap();
    let error = quiet(out.path())
        .file_descriptor_set_path(out.path().join("gone.fds"))
        .skip_protoc_run()
        .compile_protos(&[PROTO], &[INCLUDE])
        .unwrap_err();
    match error {
        Error::DescriptorSet(source) => assert_eq!(source.kind(), io::ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}
