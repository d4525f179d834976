//! One server, reached through shared memory and as gRPC over HTTP/2, from one process, by the same stub.
//!
//! ```text
//! $ cargo run --bin grpc_gateway -- Ada
//! listening at @grpc-gateway-4711
//! listening at http://127.0.0.1:38291
//! through @grpc-gateway-4711: Hello, Ada! You are process 4711.
//! through http://127.0.0.1:38291: Hello, Ada! You are at 127.0.0.1.
//! ```
//!
//! Neighbours take the first way, everybody else the second: any implementation of gRPC, load balancers, browsers' proxies.
//! What the server knows of its callers differs: the kernel vouches for processes, and not for addresses.

use std::{env, error::Error, process};

use examples::helloworld::{
    HelloReply, HelloRequest,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
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
    let name = env::args().nth(1).unwrap_or_else(|| "Ada".to_owned());
    let server = Server::builder()
        .add_service(GreeterServer::new(Gateway))
        .bind(format!("@grpc-gateway-{}", process::id()))
        .await?
        .bind("http://127.0.0.1:0")
        .await?;
    let endpoints = server.endpoints().to_vec();
    for endpoint in &endpoints {
        println!("listening at {endpoint}");
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve_with_shutdown(async {
        // Whether it was told or its teller is gone: it is to stop.
        let _ = stopped.await;
    }));

    for endpoint in endpoints {
        let client = GreeterClient::new(Channel::connect(endpoint.clone()).await?);
        let request = HelloRequest { name: name.clone() };
        let reply = client.say_hello(request).await?.into_inner();
        println!("through {endpoint}: {}", reply.message);
    }
    drop(stop);
    serving.await??;
    Ok(())
}
