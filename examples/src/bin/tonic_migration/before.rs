use crate::{
    Result,
    greeter::{MyGreeter, greeting, proto::greeter_server::GreeterServer},
};

#[rustfmt::skip] // The lines that differ are to be lines.
pub(crate) async fn run(address: &str, name: &str) -> Result<String> {
    let service = GreeterServer::new(MyGreeter);
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(address)?));
    let server = tokio::spawn(server);
    let channel = tonic::transport::Endpoint::new(format!("unix://{address}"))?.connect().await?;
    let greeting = greeting(channel, name).await;
    server.abort();
    greeting
}
