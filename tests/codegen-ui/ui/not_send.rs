// A method keeps something across an await that cannot change threads.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::greeter_server::Greeter;
use std::rc::Rc;

use helloworld::{HelloReply, HelloRequest};
use shmipc_rpc::{Request, Response, Status};

struct Service;

impl Greeter for Service {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = Rc::new(String::new());
        std::future::ready(()).await;
        Ok(Response::new(HelloReply {
            message: message.to_string(),
        }))
    }
}

fn main() {}
