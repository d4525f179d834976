use std::any::Any;

use bytes::Bytes;
use http::Uri;

use super::{CallService, Channel, channel::SizeLimits};
use crate::{
    Body, Method, Request, Response, Status,
    context::CallContext,
    deadline::{self, Elapsed},
    frame,
};

/// Makes calls over a service: what generated clients consist of.
#[derive(Clone, Debug)]
pub struct Caller<S = Channel> {
    service: S,
    limits: SizeLimits,
}

impl<S> Caller<S> {
    /// Makes a caller over `service`.
    pub fn new(service: S) -> Self {
        Self {
            service,
            limits: SizeLimits::default(),
        }
    }

    /// The most bytes that the message of a request may have. Default: 64 MiB.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not sent.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.limits.request_len_max = bytes;
        self
    }

    /// The most bytes that the message of a response may have. Default: 64 MiB.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not looked at.
    #[must_use]
    pub fn max_response_size(mut self, bytes: usize) -> Self {
        self.limits.response_len_max = bytes;
        self
    }
}

impl<S: CallService> Caller<S> {
    /// Makes a call with one request and one response.
    ///
    /// # Errors
    ///
    /// Returns what the server answered, if that is no response, and otherwise:
    ///
    /// - [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) once the deadline has passed;
    /// - [`Code::Unavailable`](crate::Code::Unavailable) if the server cannot be reached, or its process ended
    ///   before it answered;
    /// - [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) if a message exceeds its limit;
    /// - [`Code::Internal`](crate::Code::Internal) if the answer is malformed.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the call up: the handler's future is dropped as well. The call may or may not have had
    /// its effect.
    pub async fn unary<Req, Res>(
        &self,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Response<Res>, Status>
    where
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        match (&self.service as &dyn Any).downcast_ref::<Channel>() {
            // The same call without `http` and boxes.
            Some(channel) => channel.unary(method, &request, self.limits).await,
            None => self.unary_over_service(method, request).await,
        }
    }

    async fn unary_over_service<Req, Res>(
        &self,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Response<Res>, Status>
    where
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        let (len, max) = (request.get_ref().encoded_len(), self.limits.request_len_max);
        if max < len {
            return Err(frame::message_too_large(len, max));
        }
        let deadline = request.deadline_from_now();
        let request = self.http_request(method, request, deadline)?;
        let call = async {
            let response = self.service.call(request).await?;
            let (mut parts, body) = response.into_parts();
            if let Some(status) = Status::of_response(parts.status, &mut parts.headers) {
                return Err(status);
            }
            let (message, trailers) = body.into_message(self.limits.response_len_max).await?;
            crate::metadata::remove_reserved(&mut parts.headers);
            crate::metadata::merge(&mut parts.headers, trailers);
            Ok(Response::from_parts(
                message,
                parts.headers,
                parts.extensions,
            ))
        };
        match deadline::within(deadline, call).await {
            Ok(result) => result,
            Err(Elapsed) => Err(deadline::exceeded()),
        }
    }

    fn http_request<Req: prost::Message + 'static>(
        &self,
        method: &Method,
        request: Request<Req>,
        deadline: Option<std::time::Instant>,
    ) -> Result<http::Request<Body>, Status> {
        let uri = Uri::from_maybe_shared(Bytes::from_static(method.path().as_bytes())).map_err(
            |error| {
                Status::internal("the path of the method is not one")
                    .with_source(std::sync::Arc::new(error) as std::sync::Arc<_>)
            },
        )?;
        let context = CallContext {
            message_len_max: self.limits.response_len_max,
            wait_for_ready: request.wait_for_ready(),
            ..CallContext::of_caller(deadline)
        };
        let (message, metadata, mut extensions) = request.into_parts();
        // Layers may exchange the body.
        extensions.insert(context.clone());
        let mut request = http::Request::new(Body::request(message).with_context(context));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = metadata;
        *request.extensions_mut() = extensions;
        Ok(request)
    }
}
