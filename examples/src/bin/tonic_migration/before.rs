//! Over TCP, with tonic's own transport.

use tonic::transport::server::TcpIncoming;

use crate::{
    Result,
    greeter::{MyGreeter, greeting, proto::greeter_server::GreeterServer},
};

pub(crate) async fn run(name: &str) -> Result<String> {
    let listener = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async {
        let service = GreeterServer::new(MyGreeter);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(listener)
            .await
    });
    let channel = tonic::transport::Endpoint::from_shared(address)?
        .connect()
        .await?;
    let greeting = greeting(channel, name).await;
    server.abort();
    greeting
}
