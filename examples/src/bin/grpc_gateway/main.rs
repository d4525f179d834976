//! One server, reached through shared memory and as gRPC over HTTP/2, from another process, by the same stub.
//!
//! ```text
//! $ cargo run --bin grpc_gateway -- Ada
//! listening at @grpc-gateway-4711-8d0f2c6be1a5c3f7
//! listening at http://127.0.0.1:38291
//! through @grpc-gateway-4711-8d0f2c6be1a5c3f7: Hello, Ada! You are process 4711.
//! through http://127.0.0.1:38291: Hello, Ada! You are at 127.0.0.1.
//! ```
//!
//! Neighbours take the first way, everybody else the second: any implementation of gRPC, load balancers, browsers' proxies.
//! What the server knows of its callers differs: the kernel vouches for processes, and not for addresses.

use std::{env, error::Error};

use examples::{
    helloworld::{
        HelloReply, HelloRequest,
        greeter_client::GreeterClient,
        greeter_server::{Greeter, GreeterServer},
    },
    second::{self, Second},
};
use shmipc_rpc::{Channel, Request, Response, Server, Status, server::RemoteAddr};

/// Greets, and says who it takes its caller for.
struct Gateway;

impl Greeter for Gateway {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let caller = match (request.peer(), request.extensions().get::<RemoteAddr>()) {
            (Some(peer), _) => format!("process {}", peer.pid().unwrap_or_default()),
            (None, Some(RemoteAddr(address))) => format!("at {}", address.ip()),
            (None, None) => "nobody in particular".to_owned(),
        };
        let name = &request.get_ref().name;
        let message = format!("Hello, {name}! You are {caller}.");
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => call("Ada").await,
        [name] => call(name).await,
        // The second process.
        [_, address, ..] => serve(address).await,
    }
}

/// Serves in both ways until told to end.
async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .add_service(GreeterServer::new(Gateway))
        .bind(address)
        .await?
        .bind("http://127.0.0.1:0")
        .await?;
    let end = second::ready()?;
    // The system has chosen the port.
    println!("{}", server.endpoints()[1]);
    Ok(server.serve_with_shutdown(end).await?)
}

/// Calls a server in a second process in both ways.
async fn call(name: &str) -> Result<(), Box<dyn Error>> {
    let mut server = Second::start("grpc-gateway", &[])?;
    let endpoints = [server.address(), server.says()?];
    for endpoint in &endpoints {
        println!("listening at {endpoint}");
    }
    for endpoint in endpoints {
        let client = GreeterClient::new(Channel::connect(endpoint.as_str()).await?);
        let name = name.to_owned();
        let reply = client.say_hello(HelloRequest { name }).await?;
        println!("through {endpoint}: {}", reply.into_inner().message);
    }
    server.stop()?;
    Ok(())
}
