// A method takes the request without its envelope.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::greeter_server::Greeter;
use helloworld::{HelloReply, HelloRequest};
use shmipc_rpc::{Response, Status};

struct Service;

impl Greeter for Service {
    async fn say_hello(&self, request: HelloRequest) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply {
            message: request.name,
        }))
    }
}

fn main() {}
