//! The service on the trait that this project generates.

use std::time::Duration;

use shmipc_rpc::{
    Request, Response, ResponseStream, Sender, Status, Streaming,
    codec::SingleMessageCompressionOverride, http::HeaderMap,
};

use crate::{
    compression::{Flags, is_false},
    echo::{Echo, Handlers, check_status, payload, response},
    protos::{
        Empty, ResponseParameters, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
        test_service_server::TestService,
    },
};

#[derive(Debug)]
pub(crate) struct OurService {
    pub(crate) handlers: Handlers,
}

/// Sends the responses that a request wants.
async fn send_all(
    sender: &mut Sender<StreamingOutputCallResponse>,
    wanted: Vec<ResponseParameters>,
) -> Result<(), Status> {
    for ResponseParameters {
        size,
        interval_us,
        compressed,
    } in wanted
    {
        tokio::time::sleep(interval(interval_us)).await;
        let response = response(size)?;
        if is_false(compressed) {
            sender.send_uncompressed(&response).await?;
        } else {
            sender.send(&response).await?;
        }
    }
    Ok(())
}

fn interval(microseconds: i32) -> Duration {
    Duration::from_micros(microseconds.unsigned_abs().into())
}

/// Answers each request as it comes.
async fn full_duplex(
    mut requests: Streaming<StreamingOutputCallRequest>,
    sender: &mut Sender<StreamingOutputCallResponse>,
) -> Result<(), Status> {
    while let Some(request) = requests.message().await? {
        check_status(request.response_status)?;
        send_all(sender, request.response_parameters).await?;
    }
    Ok(())
}

/// Answers all requests after the last.
async fn half_duplex(
    mut requests: Streaming<StreamingOutputCallRequest>,
    sender: &mut Sender<StreamingOutputCallResponse>,
) -> Result<(), Status> {
    let mut wanted = Vec::new();
    while let Some(request) = requests.message().await? {
        wanted.extend(request.response_parameters);
    }
    send_all(sender, wanted).await
}

fn end(sender: Sender<StreamingOutputCallResponse>, answered: Result<(), Status>, echo: &Echo) {
    let mut trailers = HeaderMap::new();
    echo.end(&mut trailers);
    match answered {
        Ok(()) => sender.finish_with(trailers),
        Err(status) => sender.fail(status),
    }
}

impl OurService {
    fn answer(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let echo = Echo::of(request.metadata());
        let flags = Flags::of(request.extensions());
        let request = request.into_inner();
        flags.check(0, request.expect_compressed)?;
        check_status(request.response_status)?;
        let mut response = Response::new(SimpleResponse {
            payload: payload(request.response_size)?,
            ..SimpleResponse::default()
        });
        echo.begin(response.metadata_mut());
        echo.end(response.trailers_mut());
        if is_false(request.response_compressed) {
            let extensions = response.extensions_mut();
            extensions.insert(SingleMessageCompressionOverride::Disable);
        }
        Ok(response)
    }
}

impl TestService for OurService {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.answer(request)
    }

    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.answer(request)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<impl ResponseStream<StreamingOutputCallResponse>>, Status> {
        let wanted = request.into_inner().response_parameters;
        let (mut sender, responses) = Sender::for_responses();
        tokio::spawn(async move {
            let answered = send_all(&mut sender, wanted).await;
            end(sender, answered, &Echo::default());
        });
        Ok(Response::new(responses))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let _running = self.handlers.enter();
        let flags = Flags::of(request.extensions());
        let mut requests = request.into_inner();
        let mut len = 0;
        let mut count = 0;
        while let Some(request) = requests.message().await? {
            flags.check(count, request.expect_compressed)?;
            count += 1;
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
    ) -> Result<Response<impl ResponseStream<StreamingOutputCallResponse>>, Status> {
        let echo = Echo::of(request.metadata());
        let running = self.handlers.enter();
        let (mut sender, responses) = Sender::for_responses();
        let mut response = Response::new(responses);
        echo.begin(response.metadata_mut());
        tokio::spawn(async move {
            let answered = full_duplex(request.into_inner(), &mut sender).await;
            end(sender, answered, &echo);
            drop(running);
        });
        Ok(response)
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<impl ResponseStream<StreamingOutputCallResponse>>, Status> {
        let running = self.handlers.enter();
        let (mut sender, responses) = Sender::for_responses();
        tokio::spawn(async move {
            let answered = half_duplex(request.into_inner(), &mut sender).await;
            end(sender, answered, &Echo::default());
            drop(running);
        });
        Ok(Response::new(responses))
    }
}
