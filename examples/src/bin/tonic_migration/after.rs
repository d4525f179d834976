//! Through shared memory.

use shmipc_rpc::Listener;

use crate::{
    Result,
    greeter::{MyGreeter, greeting, proto::greeter_server::GreeterServer},
};

pub(crate) async fn run(name: &str) -> Result<String> {
    let address = format!("@tonic-migration-{}", std::process::id());
    let listener = Listener::bind(address.as_str())?;
    let server = tokio::spawn(async {
        let service = GreeterServer::new(MyGreeter);
        shmipc_rpc::Server::builder()
            .add_tonic_service(service)
            .serve_with_listener(listener)
            .await
    });
    let channel = shmipc_rpc::Channel::connect(address).await?;
    let greeting = greeting(channel, name).await;
    server.abort();
    greeting
}
