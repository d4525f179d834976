// A method returns another message than it was declared to.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::HelloRequest;
use helloworld::greeter_server::Greeter;
use shmipc_rpc::{Request, Response, Status};

struct Service;

impl Greeter for Service {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloRequest>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() {}
