//! What a server with threads says of its services, and of what they consist of.

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use shmipc_rpc::{
    Code,
    blocking::{Duplex, Server},
    reflection::{
        Builder, Reflection,
        v1::{
            ServerReflectionRequest, ServerReflectionResponse,
            server_reflection_blocking::ServerReflectionClient,
            server_reflection_request::MessageRequest as Ask,
            server_reflection_response::MessageResponse as Answer,
        },
        v1alpha,
    },
};

use super::lab::{echo, run};

fn descriptors() -> Reflection {
    let message = |name: &str| DescriptorProto {
        name: Some(name.to_owned()),
        ..DescriptorProto::default()
    };
    let file = |name: &str, imports: &[&str], message| FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some("shop.v1".to_owned()),
        dependency: imports.iter().map(|&import| import.to_owned()).collect(),
        message_type: vec![message],
        ..FileDescriptorProto::default()
    };
    let base = file("base.proto", &[], message("Base"));
    let order = file("order.proto", &["base.proto"], message("Order"));
    let set = FileDescriptorSet {
        file: vec![base, order],
    };
    Builder::new()
        .register_encoded_file_descriptor_set(set.encode_to_vec())
        .build()
        .unwrap()
}

/// A conversation with a server.
struct Asking(Duplex<ServerReflectionRequest, ServerReflectionResponse>);

impl Asking {
    fn ask(&mut self, question: Ask) -> Answer {
        let request = ServerReflectionRequest {
            host: "here".to_owned(),
            message_request: Some(question),
        };
        self.0.send(&request).expect("it listens");
        let answer = self.0.message().expect("all is well").expect("it goes on");
        assert_eq!(answer.valid_host, "here");
        assert_eq!(answer.original_request, Some(request));
        answer.message_response.expect("it says something")
    }

    /// Returns the files of an answer by their names, or the code of an error.
    fn files(&mut self, symbol: &str) -> Result<Vec<String>, Code> {
        match self.ask(Ask::FileContainingSymbol(symbol.to_owned())) {
            Answer::FileDescriptorResponse(files) => {
                let files = files.file_descriptor_proto.into_iter();
                let name = |file| FileDescriptorProto::decode(file).unwrap().name().to_owned();
                Ok(files.map(name).collect())
            }
            Answer::ErrorResponse(error) => Err(Code::from_u32(error.error_code.unsigned_abs())),
            other => panic!("no answer to this question: {other:?}"),
        }
    }

    fn services(&mut self) -> Vec<String> {
        match self.ask(Ask::ListServices("*".to_owned())) {
            Answer::ListServicesResponse(list) => {
                let services = list.service.into_iter();
                services.map(|service| service.name).collect()
            }
            other => panic!("no answer to this question: {other:?}"),
        }
    }
}

#[test]
fn a_server_describes_all_of_its_services_by_both_versions_of_the_protocol() {
    // Services are listed whether they come before or after.
    let server = Server::builder().add_reflection(descriptors());
    let running = run(server.add_service(echo()));
    let v1 = ServerReflectionClient::new(running.channel());
    let v1alpha =
        v1alpha::server_reflection_blocking::ServerReflectionClient::new(running.channel());
    let conversations = [
        v1.server_reflection_info(()),
        v1alpha.server_reflection_info(()),
    ];
    for conversation in conversations {
        let mut asking = Asking(conversation.unwrap());
        assert_eq!(
            asking.services(),
            [
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "lab.v1.Lab",
            ]
        );
        assert_eq!(
            asking.files("shop.v1.Order").unwrap(),
            ["order.proto", "base.proto"]
        );
        // What was asked for is sent again, what it imports is not.
        assert_eq!(asking.files("shop.v1.Order").unwrap(), ["order.proto"]);
        assert_eq!(asking.files("shop.v1.Nothing"), Err(Code::NotFound));
        asking.0.finish().unwrap();
        assert_eq!(asking.0.message().unwrap(), None);
    }
}

#[test]
fn who_asks_nothing_is_told_so() {
    let running = run(Server::builder().add_reflection(descriptors()));
    let client = ServerReflectionClient::new(running.channel());
    let mut conversation = client.server_reflection_info(()).unwrap();
    conversation
        .send(&ServerReflectionRequest::default())
        .unwrap();
    let status = conversation.message().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
