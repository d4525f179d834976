//! A service and its client, as they were written for tonic.

use tonic::{Request, Response, Status, body::Body, client::GrpcService};

use self::proto::{
    HelloReply, HelloRequest, greeter_client::GreeterClient, greeter_server::Greeter,
};
use crate::Result;

/// What tonic generated.
pub(crate) mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        elided_lifetimes_in_paths,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/tonic/helloworld.v1.rs"));
}

/// Greets.
#[derive(Debug)]
pub(crate) struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> std::result::Result<Response<HelloReply>, Status> {
        let mut message = format!("Hello, {}!", request.get_ref().name);
        // New, and not needed: through shared memory, the kernel says who calls.
        if let Some(peer) = request.extensions().get::<shmipc_rpc::Peer>() {
            message.push_str(&format!(" ({peer} calls)"));
        }
        Ok(Response::new(HelloReply { message }))
    }
}

/// Asks for a greeting, over whatever carries the call.
pub(crate) async fn greeting<T>(channel: T, name: &str) -> Result<String>
where
    T: GrpcService<Body>,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let request = HelloRequest {
        name: name.to_owned(),
    };
    let reply = GreeterClient::new(channel).say_hello(request).await?;
    Ok(reply.into_inner().message)
}
