//! The filter: drops the frames that are not sharp, and passes the others on.

use std::error::Error;

use examples::{
    pipeline::{
        Frame, Summary,
        stage_client::StageClient,
        stage_server::{Stage, StageServer},
    },
    second,
};
use shmipc_rpc::{
    Address, Channel, Endpoint, Listener, Request, Response, Sender, Server, Status, Streaming,
};

use crate::figures;

/// What is less sharp is dropped.
const SHARPNESS_MIN: u32 = 40;

#[derive(Debug)]
struct Filter {
    next: Channel,
}

impl Stage for Filter {
    async fn process(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Summary>, Status> {
        // The consumer may read the memory that the producer lends us, all of it. Without this, pixels would be copied.
        self.next.forward_from(&request);

        let mut arriving = request.into_inner();
        let (mut sender, leaving) = Sender::for_requests();
        let pass_on = async {
            let mut dropped = 0;
            loop {
                match arriving.message().await {
                    Ok(Some(frame)) if frame.sharpness < SHARPNESS_MIN => dropped += 1,
                    // The pixels are the very `Bytes` that arrived.
                    Ok(Some(frame)) => sender.send(&frame).await?,
                    Ok(None) => break sender.finish(),
                    // The producer has given up: the consumer is not to take this for the end.
                    Err(status) => break sender.fail(status),
                }
            }
            Ok::<_, Status>(dropped)
        };
        let next = StageClient::new(self.next.clone());
        let (dropped, summary) = tokio::join!(pass_on, next.process(leaving));
        // If the call has failed, that is why nothing more could be sent.
        let mut summary = summary?.into_inner();
        summary.dropped += dropped?;
        Ok(Response::new(summary))
    }
}

/// Serves until told to end, and prints what was copied for the consumer and what was not.
pub(crate) async fn run(
    address: impl Into<Address>,
    consumer: impl Into<Endpoint>,
) -> Result<(), Box<dyn Error>> {
    let next = Channel::connect(consumer).await?;
    let filter = Filter { next: next.clone() };
    let listener = Listener::bind(address)?;
    Server::builder()
        .add_service(StageServer::new(filter))
        .serve_with_listener_and_shutdown(listener, second::ready()?)
        .await?;
    print!("{}", figures("filter", &next));
    Ok(())
}
