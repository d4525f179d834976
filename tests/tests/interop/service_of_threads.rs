//! The service on the trait that this project generates for handlers that block.

use std::{collections::VecDeque, thread, time::Duration};

use shmipc_rpc::{Request, Response, Status, blocking::Streaming};

use crate::{
    echo::{Echo, Handlers, Running, check_status, payload, response},
    protos::{
        Empty, ResponseParameters, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
        test_service_blocking::TestService,
    },
};

#[derive(Debug)]
pub(crate) struct ServiceOfThreads {
    pub(crate) handlers: Handlers,
}

/// Makes a response when its time has come.
fn respond(wanted: &ResponseParameters) -> Result<StreamingOutputCallResponse, Status> {
    let interval = wanted.interval_us.unsigned_abs().into();
    thread::sleep(Duration::from_micros(interval));
    response(wanted.size)
}

/// Answers each request as it comes.
struct Answers {
    requests: Streaming<StreamingOutputCallRequest>,
    wanted: VecDeque<ResponseParameters>,
    _running: Running,
}

impl Answers {
    /// Takes requests until there is something to answer, or nothing more.
    fn look_ahead(&mut self) -> Result<Option<ResponseParameters>, Status> {
        while self.wanted.is_empty() {
            let Some(request) = self.requests.message()? else {
                return Ok(None);
            };
            check_status(request.response_status)?;
            self.wanted.extend(request.response_parameters);
        }
        Ok(self.wanted.pop_front())
    }
}

impl Iterator for Answers {
    type Item = Result<StreamingOutputCallResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let wanted = self.look_ahead().transpose()?;
        Some(wanted.and_then(|wanted| respond(&wanted)))
    }
}

impl ServiceOfThreads {
    fn answer(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let echo = Echo::of(request.metadata());
        let request = request.into_inner();
        check_status(request.response_status)?;
        let mut response = Response::new(SimpleResponse {
            payload: payload(request.response_size)?,
            ..SimpleResponse::default()
        });
        echo.begin(response.metadata_mut());
        echo.end(response.trailers_mut());
        Ok(response)
    }
}

impl TestService for ServiceOfThreads {
    fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.answer(request)
    }

    fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.answer(request)
    }

    fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<
        Response<
            impl Iterator<Item = Result<StreamingOutputCallResponse, Status>> + Send + 'static,
        >,
        Status,
    > {
        let wanted = request.into_inner().response_parameters.into_iter();
        Ok(Response::new(wanted.map(|wanted| respond(&wanted))))
    }

    fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let _running = self.handlers.enter();
        let mut len = 0;
        for request in request.into_inner() {
            len += request?.payload.unwrap_or_default().body.len();
        }
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size: i32::try_from(len)
                .map_err(|_| Status::out_of_range("too many bytes to count"))?,
        }))
    }

    fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<
        Response<
            impl Iterator<Item = Result<StreamingOutputCallResponse, Status>> + Send + 'static,
        >,
        Status,
    > {
        let echo = Echo::of(request.metadata());
        let mut response = Response::new(Answers {
            requests: request.into_inner(),
            wanted: VecDeque::new(),
            _running: self.handlers.enter(),
        });
        echo.begin(response.metadata_mut());
        echo.end(response.trailers_mut());
        Ok(response)
    }

    fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<
        Response<
            impl Iterator<Item = Result<StreamingOutputCallResponse, Status>> + Send + 'static,
        >,
        Status,
    > {
        let mut wanted = Vec::new();
        for request in request.into_inner() {
            wanted.extend(request?.response_parameters);
        }
        let responses = wanted.into_iter().map(|wanted| respond(&wanted));
        Ok(Response::new(responses))
    }
}
