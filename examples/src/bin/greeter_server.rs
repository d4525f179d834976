//! Says hello to whoever calls: `greeter_server [SOCKET]`.

use std::{env, error::Error};

use examples::helloworld::{
    HelloReply, HelloRequest,
    greeter_server::{Greeter, GreeterServer},
};
use shmipc_rpc::{Request, Response, Server, Status};

struct Hello;

impl Greeter for Hello {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello, {}!", request.into_inner().name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = env::args().nth(1).unwrap_or("@greeter".to_owned());
    let server = Server::builder().add_service(GreeterServer::new(Hello));
    Ok(server.serve(socket).await?)
}
