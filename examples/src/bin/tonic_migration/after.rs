use crate::{
    Result,
    greeter::{MyGreeter, greeting, proto::greeter_server::GreeterServer},
};

#[rustfmt::skip] // The lines that differ are to be lines.
pub(crate) async fn run(address: &str, name: &str) -> Result<String> {
    let service = GreeterServer::new(MyGreeter);
    let server = shmipc_rpc::Server::builder().add_tonic_service(service).serve_with_listener(shmipc_rpc::Listener::bind(address)?);
    let server = tokio::spawn(server);
    let channel = shmipc_rpc::Channel::connect(address).await?;
    let greeting = greeting(channel, name).await;
    server.abort();
    greeting
}
