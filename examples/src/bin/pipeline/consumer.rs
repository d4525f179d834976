//! The consumer: checks that frames are as they were made.

use std::error::Error;

use examples::{
    pipeline::{
        Frame, Summary,
        stage_server::{Stage, StageServer},
    },
    second,
};
use shmipc_rpc::{Address, Listener, Request, Response, Server, Status, Streaming};

use crate::sha256;

#[derive(Debug)]
struct Consumer;

impl Stage for Consumer {
    async fn process(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Summary>, Status> {
        let mut arriving = request.into_inner();
        let mut summary = Summary::default();
        while let Some(frame) = arriving.message().await? {
            // Where they are read is the memory of the producer, which gets it back with the drop of the frame.
            if frame.sha256 != sha256(&frame.pixels) {
                let number = frame.number;
                return Err(Status::data_loss(format!("frame {number} has changed")));
            }
            summary.arrived += 1;
            summary.pixels += frame.pixels.len() as u64;
        }
        Ok(Response::new(summary))
    }
}

/// Serves until told to end.
pub(crate) async fn run(address: impl Into<Address>) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(address)?;
    Server::builder()
        .add_service(StageServer::new(Consumer))
        .serve_with_listener_and_shutdown(listener, second::ready()?)
        .await?;
    Ok(())
}
