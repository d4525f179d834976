//! What all servers of the suite do alike.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use shmipc_rpc::{
    Code, Status,
    http::{self, HeaderMap, HeaderValue},
    server::Service,
};

use crate::protos::{EchoStatus, Payload, StreamingOutputCallResponse};

pub(crate) const INITIAL: &str = "x-grpc-test-echo-initial";
pub(crate) const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Metadata that is to come back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Echo {
    initial: Option<HeaderValue>,
    trailing: Option<HeaderValue>,
}

impl Echo {
    pub(crate) fn of(metadata: &HeaderMap) -> Self {
        Self {
            initial: metadata.get(INITIAL).cloned(),
            trailing: metadata.get(TRAILING).cloned(),
        }
    }

    /// Adds what comes before the message.
    pub(crate) fn begin(&self, metadata: &mut HeaderMap) {
        if let Some(value) = &self.initial {
            metadata.insert(INITIAL, value.clone());
        }
    }

    /// Adds what comes after the last message.
    pub(crate) fn end(&self, trailers: &mut HeaderMap) {
        if let Some(value) = &self.trailing {
            trailers.insert(TRAILING, value.clone());
        }
    }
}

/// Fails if the caller wants that.
pub(crate) fn check_status(status: Option<EchoStatus>) -> Result<(), Status> {
    let EchoStatus { code, message } = status.unwrap_or_default();
    match Code::from_u32(code.unsigned_abs()) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, message)),
    }
}

/// Makes a payload of `size` bytes.
pub(crate) fn payload(size: i32) -> Result<Option<Payload>, Status> {
    let size = usize::try_from(size)
        .map_err(|_| Status::invalid_argument("a payload cannot have less than no bytes"))?;
    let body = Bytes::from(vec![0; size]);
    Ok(Some(Payload { body }))
}

/// Makes a response of a stream.
pub(crate) fn response(size: i32) -> Result<StreamingOutputCallResponse, Status> {
    payload(size).map(|payload| StreamingOutputCallResponse { payload })
}

/// Counts handlers that have not come to their end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handlers(Arc<AtomicUsize>);

/// A handler that has not come to its end.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicUsize>);

impl Handlers {
    pub(crate) fn enter(&self) -> Running {
        self.0.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(&self.0))
    }

    pub(crate) fn running(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Echoes metadata for a server that tonic generated: its handlers cannot send trailing metadata.
#[derive(Clone, Debug)]
pub(crate) struct Echoing<S>(pub(crate) S);

impl<S: tonic::server::NamedService> tonic::server::NamedService for Echoing<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, R, B> Service<http::Request<R>> for Echoing<S>
where
    S: Service<http::Request<R>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<EchoingBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        let echo = Echo::of(request.headers());
        let responding = self.0.call(request);
        Box::pin(async move {
            let mut response = responding.await?;
            echo.begin(response.headers_mut());
            Ok(response.map(|body| EchoingBody { body, echo }))
        })
    }
}

/// A body whose trailers have more in them.
#[derive(Debug)]
pub(crate) struct EchoingBody<B> {
    body: B,
    echo: Echo,
}

impl<B: http_body::Body + Unpin> http_body::Body for EchoingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                self.echo.end(trailers);
            }
            frame
        })
    }
}
