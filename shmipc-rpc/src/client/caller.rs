use std::{any::Any, future::poll_fn, task::Poll};

use bytes::Bytes;
use futures_core::Stream;
use http::Uri;

use super::{
    CallService, Channel,
    channel::SizeLimits,
    direct::{Direct, Terms},
    managed::{Ask, Managed},
    response::Answer,
};
use crate::{
    Body, Method, Request, Response, Status, Streaming,
    body::{Borrowed, ToSend},
    codec::{ClientCompression, Coding, CompressionEncoding},
    context::CallContext,
    deadline::{self, Elapsed},
    frame, grpc_headers, metadata,
};

/// Makes calls over a service: what generated clients consist of.
#[derive(Clone, Debug)]
pub struct Caller<S = Channel> {
    service: S,
    limits: SizeLimits,
    compression: ClientCompression,
}

/// A way that is shorter than that of a service.
enum Short<'a> {
    Direct(&'a Direct),
    Managed(&'a Managed),
}

impl<S> Caller<S> {
    /// Makes a caller over `service`.
    pub fn new(service: S) -> Self {
        Self {
            service,
            limits: SizeLimits::default(),
            compression: ClientCompression::default(),
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

    /// Compresses requests by `encoding` where they travel over HTTP/2. Default: they are not compressed.
    ///
    /// The server must take that, or the call fails with [`Code::Unimplemented`](crate::Code::Unimplemented). See [`codec`](crate::codec).
    #[must_use]
    pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
        self.compression.send = Some(encoding);
        self
    }

    /// Takes responses that are compressed by `encoding`, among others, and tells the server so. Default: none.
    #[must_use]
    pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
        self.compression.accept.add(encoding);
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
        let direct = match self.short() {
            Some(Short::Direct(direct)) => direct,
            Some(Short::Managed(managed)) => {
                let answer = self.one_managed(managed, method, &request).await?;
                return answer.into_message().await;
            }
            None => return self.unary_over_service(method, request).await,
        };
        // The same call without `http` and boxes.
        let terms = self.terms(&request, direct);
        let mut message = Borrowed(request.get_ref());
        let outcome = direct
            .one(method.path(), request.metadata(), &mut message, terms)
            .await;
        outcome??.into_message().await
    }

    /// Makes a call with one request and many responses.
    ///
    /// Returns when the server has begun its response.
    ///
    /// # Errors
    ///
    /// As with [`unary`](Self::unary). What goes wrong later, the stream reports.
    ///
    /// # Cancel safety
    ///
    /// A future, or a stream, that is dropped gives the call up.
    pub async fn server_streaming<Req, Res>(
        &self,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        match self.short() {
            Some(Short::Direct(direct)) => {
                let terms = self.terms(&request, direct);
                let mut message = Borrowed(request.get_ref());
                let outcome = direct
                    .one(method.path(), request.metadata(), &mut message, terms)
                    .await;
                return Ok(outcome??.into_streaming());
            }
            Some(Short::Managed(managed)) => {
                let answer = self.one_managed(managed, method, &request).await?;
                return Ok(answer.into_streaming());
            }
            None => {}
        }
        self.check_size(request.get_ref())?;
        self.streaming(method, request.map(Body::request)).await
    }

    /// Makes a call with many requests and one response.
    ///
    /// # Errors
    ///
    /// As with [`unary`](Self::unary). A server may answer, and fail, before it has had all requests.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the call up.
    pub async fn client_streaming<M, Req, Res>(
        &self,
        method: &Method,
        request: Request<M>,
    ) -> Result<Response<Res>, Status>
    where
        M: Stream<Item = Req> + Send + 'static,
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        let request = request.map(Body::streaming_request);
        let Some(short) = self.short() else {
            let deadline = request.deadline_from_now();
            let call = async {
                let (response, body) = self.begin(method, request).await?;
                self.finish(response, body).await
            };
            let called = deadline::within(deadline, call).await;
            return called.unwrap_or_else(|Elapsed| Err(deadline::exceeded()));
        };
        self.many(short, method, request)
            .await?
            .into_message()
            .await
    }

    /// Makes a call with many requests and many responses.
    ///
    /// Returns when the server has begun its response, which may be before, or after, it has had a request.
    ///
    /// # Errors
    ///
    /// As with [`unary`](Self::unary). What goes wrong later, the stream reports.
    ///
    /// # Cancel safety
    ///
    /// A future, or a stream, that is dropped gives the call up.
    pub async fn bidi_streaming<M, Req, Res>(
        &self,
        method: &Method,
        request: Request<M>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        M: Stream<Item = Req> + Send + 'static,
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        let request = request.map(Body::streaming_request);
        match self.short() {
            Some(short) => Ok(self.many(short, method, request).await?.into_streaming()),
            None => self.streaming(method, request).await,
        }
    }

    /// Returns a way that is shorter than the service's, if the service is a channel that has one.
    fn short(&self) -> Option<Short<'_>> {
        let channel = (&self.service as &dyn Any).downcast_ref::<Channel>()?;
        match channel.direct() {
            Some(direct) => Some(Short::Direct(direct)),
            None => channel.managed().map(Short::Managed),
        }
    }

    /// Makes a call with one request by rules, or over several sessions.
    async fn one_managed<Req: prost::Message + 'static>(
        &self,
        managed: &Managed,
        method: &Method,
        request: &Request<Req>,
    ) -> Result<Answer, Status> {
        let mut message = Borrowed(request.get_ref());
        // Boxed, so that the calls of other channels do not carry this future about.
        Box::pin(managed.one(self.ask(method, request), &mut message)).await?
    }

    fn ask<'a, T>(&self, method: &Method, request: &'a Request<T>) -> Ask<'a> {
        Ask {
            path: method.path(),
            metadata: request.metadata(),
            idempotency: method.idempotency(),
            deadline: request.deadline_from_now(),
            wait_for_ready: request.wait_for_ready(),
            limits: self.limits,
            #[cfg(feature = "grpc")]
            compression: self.compression.for_call(request.extensions()),
        }
    }

    fn terms<T>(&self, request: &Request<T>, direct: &Direct) -> Terms {
        Terms {
            deadline: request.deadline_from_now(),
            wait_for_ready: request.wait_for_ready().unwrap_or(direct.wait_for_ready),
            limits: self.limits,
            // Through a session.
            #[cfg(feature = "grpc")]
            compression: ClientCompression::default(),
        }
    }

    async fn many(
        &self,
        short: Short<'_>,
        method: &Method,
        mut request: Request<Body>,
    ) -> Result<Answer, Status> {
        let (body, max) = (request.get_mut(), self.limits.request_len_max);
        let to_send = poll_fn(|cx| Poll::Ready(body.take_to_send(cx, max)));
        let ToSend::Many(messages, ..) = to_send.await else {
            return Err(Status::internal("the requests are none"));
        };
        let path = uri(method)?;
        match short {
            Short::Direct(direct) => {
                let terms = self.terms(&request, direct);
                let opened = direct.open(&path, request.metadata(), terms).await?;
                Direct::many(opened, messages, terms).await?
            }
            Short::Managed(managed) => {
                managed
                    .many(&path, self.ask(method, &request), messages)
                    .await?
            }
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
        self.check_size(request.get_ref())?;
        let deadline = request.deadline_from_now();
        let call = async {
            let (response, body) = self.begin(method, request.map(Body::request)).await?;
            self.finish(response, body).await
        };
        let called = deadline::within(deadline, call).await;
        called.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))
    }

    /// Makes a call whose response is a stream.
    async fn streaming<Res>(
        &self,
        method: &Method,
        request: Request<Body>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        let deadline = request.deadline_from_now();
        let begun = deadline::within(deadline, self.begin(method, request)).await;
        let (response, body) = begun.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))?;
        let streaming = body.into_streaming(self.limits.response_len_max);
        Ok(response.map(|()| streaming.with_deadline(deadline)))
    }

    /// Makes a call, and returns what opens the response, and the rest of it.
    async fn begin(
        &self,
        method: &Method,
        request: Request<Body>,
    ) -> Result<(Response<()>, Body), Status> {
        let request = self.http_request(method, request)?;
        let mut response = self.service.call(request).await?;
        if let Some(status) = Status::of_response(&mut response) {
            return Err(status);
        }
        let (mut parts, mut body) = response.into_parts();
        if body.is_foreign() {
            let encoding = parts.headers.get(grpc_headers::ENCODING);
            body.set_coding(Coding::of_response(encoding, self.compression.accept));
        }
        metadata::remove_reserved(&mut parts.headers);
        let response = Response::from_parts(parts.headers, (), parts.extensions);
        Ok((response, body))
    }

    /// Waits for what must be one message.
    async fn finish<Res>(&self, response: Response<()>, body: Body) -> Result<Response<Res>, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        let (message, trailers) = body.into_message(self.limits.response_len_max).await?;
        let mut response = response.map(|()| message);
        metadata::merge(response.metadata_mut(), trailers);
        Ok(response)
    }

    fn check_size(&self, message: &impl prost::Message) -> Result<(), Status> {
        let (len, max) = (message.encoded_len(), self.limits.request_len_max);
        if max < len {
            return Err(frame::message_too_large(len, max));
        }
        Ok(())
    }

    fn http_request(
        &self,
        method: &Method,
        request: Request<Body>,
    ) -> Result<http::Request<Body>, Status> {
        let context = CallContext {
            message_len_max: self.limits.response_len_max,
            request_len_max: self.limits.request_len_max,
            idempotency: method.idempotency(),
            wait_for_ready: request.wait_for_ready(),
            ..CallContext::of_caller(request.deadline_from_now())
        };
        let compression = self.compression.for_call(request.extensions());
        let (mut body, mut metadata, mut extensions) = request.into_content();
        // Without layers, they are not sent either.
        metadata::remove_reserved(&mut metadata);
        body.compress(compression.send);
        // Layers may exchange the body.
        extensions.insert(context.clone());
        let mut request = http::Request::new(body.with_context(context));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri(method)?;
        *request.headers_mut() = metadata;
        compression.write(request.headers_mut());
        *request.extensions_mut() = extensions;
        Ok(request)
    }
}

/// Returns the path of a method as a URI.
fn uri(method: &Method) -> Result<Uri, Status> {
    Uri::from_maybe_shared(Bytes::from_static(method.path().as_bytes()))
        .map_err(|error| Status::internal("the path of the method is not one").with_source(error))
}
