//! What a server says of its services, and of what they consist of.
#![cfg(feature = "reflection")]

mod common;

use std::slice::from_ref;

use bytes::Bytes;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto, SourceCodeInfo,
};
use shmipc_rpc::{
    Code, Sender, Server, Streaming,
    reflection::{
        Builder, InvalidDescriptors,
        v1::{
            ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
            server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest as Ask,
            server_reflection_response::MessageResponse as Answer,
        },
        v1alpha,
    },
};

use common::{in_time, lab, serve};

fn some<T: From<&'static str>>(text: &'static str) -> Option<T> {
    Some(text.into())
}

fn file(name: &'static str, package: &'static str, imports: &[&str]) -> FileDescriptorProto {
    FileDescriptorProto {
        name: some(name),
        package: some(package),
        dependency: imports.iter().map(|&name| name.to_owned()).collect(),
        ..FileDescriptorProto::default()
    }
}

fn field(name: &'static str, number: i32, extendee: Option<&str>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: some(name),
        number: Some(number),
        extendee: extendee.map(str::to_owned),
        ..FieldDescriptorProto::default()
    }
}

fn enumeration(name: &'static str, value: &'static str) -> EnumDescriptorProto {
    EnumDescriptorProto {
        name: some(name),
        value: vec![EnumValueDescriptorProto {
            name: some(value),
            ..EnumValueDescriptorProto::default()
        }],
        ..EnumDescriptorProto::default()
    }
}

/// Declares a message with everything in it.
fn base() -> FileDescriptorProto {
    let nested = DescriptorProto {
        name: some("Nested"),
        field: vec![field("depth", 1, None)],
        ..DescriptorProto::default()
    };
    let message = DescriptorProto {
        name: some("Base"),
        field: vec![field("name", 1, None)],
        oneof_decl: vec![OneofDescriptorProto {
            name: some("choice"),
            ..OneofDescriptorProto::default()
        }],
        nested_type: vec![nested],
        enum_type: vec![enumeration("Kind", "KIND_NONE")],
        ..DescriptorProto::default()
    };
    FileDescriptorProto {
        message_type: vec![message],
        enum_type: vec![enumeration("Colour", "RED")],
        ..file("base.proto", "shop.v1", &[])
    }
}

/// Extends it, within a message and without.
fn extended() -> FileDescriptorProto {
    let scope = DescriptorProto {
        name: some("Scope"),
        extension: vec![field("inner", 101, Some(".shop.v1.Base"))],
        ..DescriptorProto::default()
    };
    FileDescriptorProto {
        message_type: vec![scope],
        extension: vec![field("outer", 100, Some(".shop.v1.Base"))],
        ..file("extended.proto", "shop.v1", &["base.proto"])
    }
}

/// The service `lab.v1.Lab`, whose file imports one that nobody has.
fn service() -> FileDescriptorProto {
    let service = ServiceDescriptorProto {
        name: some("Lab"),
        method: vec![MethodDescriptorProto {
            name: some("Run"),
            ..MethodDescriptorProto::default()
        }],
        ..ServiceDescriptorProto::default()
    };
    FileDescriptorProto {
        service: vec![service],
        ..file("lab.proto", "lab.v1", &["extended.proto", "missing.proto"])
    }
}

fn set(files: &[FileDescriptorProto]) -> Vec<u8> {
    let file = files.to_vec();
    FileDescriptorSet { file }.encode_to_vec()
}

fn descriptors() -> Builder {
    Builder::new()
        .register_encoded_file_descriptor_set(set(&[base(), extended()]))
        .register_encoded_file_descriptor_set(set(&[service(), base()]))
}

/// A conversation with a server.
struct Asking {
    questions: Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

impl Asking {
    async fn begin(client: &ServerReflectionClient) -> Self {
        let (questions, requests) = Sender::for_requests();
        let answers = client.server_reflection_info(requests).await;
        Self {
            questions,
            answers: answers.expect("it answers").into_inner(),
        }
    }

    async fn ask(&mut self, question: Ask) -> Answer {
        let request = ServerReflectionRequest {
            host: "here".to_owned(),
            message_request: Some(question),
        };
        self.questions.send(&request).await.expect("it listens");
        let answer = self.answers.message().await.expect("all is well");
        let answer = answer.expect("it goes on");
        assert_eq!(answer.valid_host, "here");
        assert_eq!(answer.original_request, Some(request));
        answer.message_response.expect("it says something")
    }

    /// Returns the files of an answer by their names, or the code of an error.
    async fn files(&mut self, question: Ask) -> Result<Vec<String>, Code> {
        match self.ask(question).await {
            Answer::FileDescriptorResponse(files) => {
                let files = files.file_descriptor_proto.into_iter();
                Ok(files.map(|file| name_of(&file)).collect())
            }
            Answer::ErrorResponse(error) => Err(Code::from_u32(error.error_code.unsigned_abs())),
            other => panic!("no answer to this question: {other:?}"),
        }
    }

    async fn services(&mut self) -> Vec<String> {
        match self.ask(Ask::ListServices("*".to_owned())).await {
            Answer::ListServicesResponse(list) => list
                .service
                .into_iter()
                .map(|service| service.name)
                .collect(),
            other => panic!("no answer to this question: {other:?}"),
        }
    }

    /// Returns the numbers of an answer, or the code of an error.
    async fn extensions(&mut self, message: &str) -> Result<Vec<i32>, i32> {
        match self
            .ask(Ask::AllExtensionNumbersOfType(message.to_owned()))
            .await
        {
            Answer::AllExtensionNumbersResponse(numbers) => {
                assert_eq!(numbers.base_type_name, message);
                Ok(numbers.extension_number)
            }
            Answer::ErrorResponse(error) => Err(error.error_code),
            other => panic!("no answer to this question: {other:?}"),
        }
    }
}

fn name_of(file: &Bytes) -> String {
    let file = FileDescriptorProto::decode(file.clone()).expect("a file");
    file.name().to_owned()
}

fn symbol(name: &str) -> Ask {
    Ask::FileContainingSymbol(name.to_owned())
}

fn extension(containing_type: &str, extension_number: i32) -> Ask {
    Ask::FileContainingExtension(ExtensionRequest {
        containing_type: containing_type.to_owned(),
        extension_number,
    })
}

/// Runs a check on a server with a service that is described and one that is not.
async fn with_server<F>(check: impl FnOnce(ServerReflectionClient) -> F)
where
    F: Future<Output = ()>,
{
    let reflection = descriptors().build().expect("valid descriptors");
    // Services are listed whether they come before or after.
    let server = Server::builder()
        .add_reflection(reflection)
        .add_service(lab(|_| std::future::pending()));
    let running = serve(server);
    let client = ServerReflectionClient::new(running.channel().await);
    in_time(check(client)).await;
}

#[tokio::test]
async fn a_file_comes_with_what_it_imports_once_per_call() {
    with_server(|client| async move {
        let mut asking = Asking::begin(&client).await;
        let by_name = |name: &str| Ask::FileByFilename(name.to_owned());
        assert_eq!(
            asking.files(by_name("lab.proto")).await.unwrap(),
            ["lab.proto", "extended.proto", "base.proto"]
        );
        // What was asked for is sent again, what it imports is not.
        assert_eq!(
            asking.files(by_name("extended.proto")).await.unwrap(),
            ["extended.proto"]
        );
        assert_eq!(
            asking.files(by_name("missing.proto")).await,
            Err(Code::NotFound)
        );
        let mut another = Asking::begin(&client).await;
        assert_eq!(
            another.files(by_name("extended.proto")).await.unwrap(),
            ["extended.proto", "base.proto"]
        );
    })
    .await;
}

#[tokio::test]
async fn everything_with_a_full_name_leads_to_its_file() {
    with_server(|client| async move {
        let mut asking = Asking::begin(&client).await;
        let base = [
            "shop.v1.Base",
            "shop.v1.Base.name",
            "shop.v1.Base.choice",
            "shop.v1.Base.Nested",
            "shop.v1.Base.Nested.depth",
            "shop.v1.Base.Kind",
            "shop.v1.Base.KIND_NONE",
            "shop.v1.Colour",
            "shop.v1.RED",
        ];
        let extended = ["shop.v1.outer", "shop.v1.Scope", "shop.v1.Scope.inner"];
        let lab = ["lab.v1.Lab", "lab.v1.Lab.Run"];
        for (names, file) in [
            (&base[..], "base.proto"),
            (&extended, "extended.proto"),
            (&lab, "lab.proto"),
        ] {
            for name in names {
                let found = asking.files(symbol(name)).await;
                assert_eq!(found.unwrap()[0], file, "{name}");
            }
        }
        for name in ["", "shop.v1", "Base", ".shop.v1.Base", "lab.v1.Lab.Walk"] {
            assert_eq!(
                asking.files(symbol(name)).await,
                Err(Code::NotFound),
                "{name}"
            );
        }
        let own = asking
            .files(symbol("grpc.reflection.v1.ServerReflection"))
            .await;
        assert_eq!(own.unwrap(), ["grpc/reflection/v1/reflection.proto"]);
    })
    .await;
}

#[tokio::test]
async fn extensions_are_found_by_what_they_extend() {
    with_server(|client| async move {
        let mut asking = Asking::begin(&client).await;
        assert_eq!(asking.extensions("shop.v1.Base").await, Ok(vec![100, 101]));
        assert_eq!(asking.extensions("shop.v1.Scope").await, Ok(vec![]));
        let not_found = Code::NotFound as i32;
        assert_eq!(asking.extensions("shop.v1.Nothing").await, Err(not_found));
        assert_eq!(asking.extensions("lab.v1.Lab").await, Err(not_found));

        for number in [100, 101] {
            let found = asking.files(extension("shop.v1.Base", number)).await;
            assert_eq!(found.unwrap()[0], "extended.proto");
        }
        for (message, number) in [("shop.v1.Base", 102), ("shop.v1.Nothing", 100)] {
            let found = asking.files(extension(message, number)).await;
            assert_eq!(found, Err(Code::NotFound));
        }
    })
    .await;
}

#[tokio::test]
async fn the_services_of_the_server_are_listed() {
    with_server(|client| async move {
        let mut asking = Asking::begin(&client).await;
        assert_eq!(
            asking.services().await,
            [
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "lab.v1.Lab",
            ]
        );
    })
    .await;
    // Alone, a service knows of descriptors only.
    let reflection = descriptors().build().unwrap();
    let client = ServerReflectionClient::new(reflection.v1());
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Ask::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(common::streams::iter([question]));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(Answer::ListServicesResponse(list)) = answer.message_response else {
        panic!("no answer to this question: {answer:?}");
    };
    assert_eq!(list.service.len(), 3);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn the_protocol_of_old_is_spoken_too() {
    let reflection = descriptors().build().unwrap();
    let running = serve(Server::builder().add_service(reflection.v1alpha()));
    in_time(async {
        let channel = running.channel().await;
        let client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let (questions, requests) = Sender::for_requests();
        let answers = client.server_reflection_info(requests).await.unwrap();
        let mut asking = Asking {
            questions,
            answers: answers.into_inner(),
        };
        assert_eq!(
            asking.files(symbol("shop.v1.RED")).await.unwrap(),
            ["base.proto"]
        );
        assert_eq!(asking.services().await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn who_asks_nothing_is_told_so() {
    with_server(|client| async move {
        let mut asking = Asking::begin(&client).await;
        let request = ServerReflectionRequest::default();
        asking.questions.send(&request).await.unwrap();
        let status = asking.answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    })
    .await;
}

#[tokio::test]
async fn files_are_handed_out_as_they_were_registered() {
    // An option that this library knows nothing of: field 50000 of the file's options.
    let mut encoded = base().encode_to_vec();
    encoded.extend([0x42, 5, 0x80, 0xb5, 0x18, 0xff, 0x01]);
    let mut registered = vec![0x0a];
    prost::encode_length_delimiter(encoded.len(), &mut registered).unwrap();
    registered.extend(&encoded);
    let reflection = Builder::default()
        .register_encoded_file_descriptor_set(registered)
        .build()
        .unwrap();
    let running = serve(Server::builder().add_reflection(reflection));
    in_time(async {
        let client = ServerReflectionClient::new(running.channel().await);
        let mut asking = Asking::begin(&client).await;
        let Answer::FileDescriptorResponse(files) = asking.ask(symbol("shop.v1.Base")).await else {
            panic!("no answer to this question");
        };
        assert_eq!(files.file_descriptor_proto, [Bytes::from(encoded)]);
    })
    .await;
}

#[test]
fn what_is_no_descriptor_is_refused_and_so_are_contradictions() {
    let malformed = Builder::new().register_encoded_file_descriptor_set(&b"\x0a\xff"[..]);
    assert!(matches!(
        malformed.build(),
        Err(InvalidDescriptors::Malformed(_))
    ));

    // Comments make no difference.
    let commented = FileDescriptorProto {
        source_code_info: Some(SourceCodeInfo::default()),
        ..base()
    };
    let twice = descriptors().register_encoded_file_descriptor_set(set(from_ref(&commented)));
    twice.build().expect("the same file");

    let other = FileDescriptorProto {
        enum_type: Vec::new(),
        ..base()
    };
    let contradiction = descriptors().register_encoded_file_descriptor_set(set(from_ref(&other)));
    match contradiction.build() {
        Err(InvalidDescriptors::Conflict { name }) => assert_eq!(name, "base.proto"),
        built => panic!("it was to be refused: {built:?}"),
    }
}
