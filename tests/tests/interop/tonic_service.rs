//! The service on the trait that tonic generates.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use crate::{
    echo::{Handlers, check_status, payload, response},
    protos::{
        Empty, ResponseParameters, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
        tonic::test_service_server::TestService,
    },
};

#[derive(Debug)]
pub(crate) struct TonicService {
    pub(crate) handlers: Handlers,
}

type Sender = mpsc::Sender<Result<StreamingOutputCallResponse, Status>>;

fn interval(microseconds: i32) -> Duration {
    Duration::from_micros(microseconds.unsigned_abs().into())
}

/// Sends the responses that a request wants, for as long as anybody receives them.
async fn send_all(sender: &Sender, wanted: Vec<ResponseParameters>) -> Result<(), Status> {
    for wanted in wanted {
        tokio::time::sleep(interval(wanted.interval_us)).await;
        let sent = sender.send(Ok(response(wanted.size)?)).await;
        sent.map_err(|_| Status::cancelled("nobody receives them"))?;
    }
    Ok(())
}

async fn full_duplex(
    mut requests: Streaming<StreamingOutputCallRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    while let Some(request) = requests.message().await? {
        check_status(request.response_status)?;
        send_all(sender, request.response_parameters).await?;
    }
    Ok(())
}

async fn half_duplex(
    mut requests: Streaming<StreamingOutputCallRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    let mut wanted = Vec::new();
    while let Some(request) = requests.message().await? {
        wanted.extend(request.response_parameters);
    }
    send_all(sender, wanted).await
}

async fn end(sender: Sender, answered: Result<(), Status>) {
    if let Err(status) = answered {
        // Whoever has gone need not be told.
        let _ = sender.send(Err(status)).await;
    }
}

fn answer(request: SimpleRequest) -> Result<Response<SimpleResponse>, Status> {
    check_status(request.response_status)?;
    Ok(Response::new(SimpleResponse {
        payload: payload(request.response_size)?,
        ..SimpleResponse::default()
    }))
}

#[tonic::async_trait]
impl TestService for TonicService {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        answer(request.into_inner())
    }

    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        answer(request.into_inner())
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let wanted = tokio_stream::iter(request.into_inner().response_parameters);
        Ok(Response::new(Box::pin(wanted.then(async |wanted| {
            tokio::time::sleep(interval(wanted.interval_us)).await;
            Ok(response(wanted.size)?)
        }))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let _running = self.handlers.enter();
        let mut requests = request.into_inner();
        let mut len = 0;
        while let Some(request) = requests.message().await? {
            len += request.payload.unwrap_or_default().body.len();
        }
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size: i32::try_from(len)
                .map_err(|_| Status::out_of_range("too many bytes to count"))?,
        }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let running = self.handlers.enter();
        let (sender, responses) = mpsc::channel(1);
        tokio::spawn(async move {
            let answered = full_duplex(request.into_inner(), &sender).await;
            end(sender, answered).await;
            drop(running);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let running = self.handlers.enter();
        let (sender, responses) = mpsc::channel(1);
        tokio::spawn(async move {
            let answered = half_duplex(request.into_inner(), &sender).await;
            end(sender, answered).await;
            drop(running);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}
