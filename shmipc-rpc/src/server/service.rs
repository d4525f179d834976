use std::{
    convert::Infallible,
    fmt,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Extensions, HeaderMap};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;

use super::MessageLimits;
use crate::{
    Body, Method, Request, Response, ResponseStream, Status, Streaming, codec::Negotiated,
    context::CallContext, deadline, metadata,
};

/// A service that is reached by its name. Generated servers are.
pub trait NamedService {
    /// The full name, such as `helloworld.Greeter`. Paths begin with it.
    const NAME: &'static str;

    /// The methods. Calls of these are prepared for; others reach the service, too, but a little later.
    const METHODS: &'static [Method] = &[];

    /// How long its messages may be. Default: as long as the server allows.
    fn message_limits(&self) -> MessageLimits {
        MessageLimits::new()
    }
}

/// The future of a generated server: resolves to the response, which may say that the call failed.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(SyncWrapper<Responses>);

type Responses = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl ResponseFuture {
    /// Makes it of any future.
    pub fn new(
        future: impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
    ) -> Self {
        Self(SyncWrapper::new(Box::pin(future)))
    }

    pub(super) fn failed(status: Status) -> Self {
        Self::new(ready(Ok(status.into_http())))
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Answers a unary call with what `handler` makes of the decoded request. Generated servers call this.
///
/// A request that cannot be decoded is answered with [`Code::Internal`](crate::Code::Internal), as gRPC does.
pub fn unary<S, Req, Res, F, Fut>(
    service: Arc<S>,
    mut request: http::Request<Body>,
    handler: F,
) -> ResponseFuture
where
    S: Send + Sync + 'static,
    Req: prost::Message + Default + 'static,
    Res: prost::Message + 'static,
    F: FnOnce(Arc<S>, Request<Req>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Response<Res>, Status>> + Send + 'static,
{
    let context = Body::take_context(&mut request);
    let deadline = context.deadline();
    let compression = Negotiated::of(&mut request);
    let (parts, body) = request.into_parts();
    let (metadata, extensions) = (parts.headers, parts.extensions);
    match body.try_into_message() {
        Ok(Ok((message, _))) => {
            let request = received(message, metadata, extensions, context);
            ResponseFuture::new(Responding {
                handler: handler(service, request),
                deadline,
                compression,
            })
        }
        Ok(Err(status)) => ResponseFuture::failed(status),
        Err(body) => {
            let handler = async move {
                let (message, _) = body.into_message(context.message_len_max).await?;
                handler(service, received(message, metadata, extensions, context)).await
            };
            ResponseFuture::new(Responding {
                handler,
                deadline,
                compression,
            })
        }
    }
}

/// Answers a call of one request with the stream that `handler` returns. Generated servers call this.
pub fn server_streaming<S, Req, F, Fut>(
    service: Arc<S>,
    mut request: http::Request<Body>,
    handler: F,
) -> ResponseFuture
where
    S: Send + Sync + 'static,
    Req: prost::Message + Default + 'static,
    F: FnOnce(Arc<S>, Request<Req>) -> Fut + Send + 'static,
    Fut: Future<Output = Streamed> + Send + 'static,
{
    let context = Body::take_context(&mut request);
    let deadline = context.deadline();
    let compression = Negotiated::of(&mut request);
    let (parts, body) = request.into_parts();
    let handler = async move {
        match body.into_message(context.message_len_max).await {
            Ok((message, _)) => {
                let request = received(message, parts.headers, parts.extensions, context);
                handler(service, request).await
            }
            Err(status) => Streamed(status.into_http()),
        }
    };
    ResponseFuture::new(Responding {
        handler,
        deadline,
        compression,
    })
}

/// Answers a call of many requests with what `handler` makes of them. Generated servers call this.
pub fn client_streaming<S, Req, Res, F, Fut>(
    service: Arc<S>,
    mut request: http::Request<Body>,
    handler: F,
) -> ResponseFuture
where
    S: Send + Sync + 'static,
    Req: prost::Message + Default + 'static,
    Res: prost::Message + 'static,
    F: FnOnce(Arc<S>, Request<Streaming<Req>>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Response<Res>, Status>> + Send + 'static,
{
    let compression = Negotiated::of(&mut request);
    let request = streaming(request);
    let deadline = request.deadline();
    ResponseFuture::new(Responding {
        handler: handler(service, request),
        deadline,
        compression,
    })
}

/// Answers a call of many requests with the stream that `handler` returns. Generated servers call this.
pub fn bidi_streaming<S, Req, F, Fut>(
    service: Arc<S>,
    mut request: http::Request<Body>,
    handler: F,
) -> ResponseFuture
where
    S: Send + Sync + 'static,
    Req: prost::Message + Default + 'static,
    F: FnOnce(Arc<S>, Request<Streaming<Req>>) -> Fut + Send + 'static,
    Fut: Future<Output = Streamed> + Send + 'static,
{
    let compression = Negotiated::of(&mut request);
    let request = streaming(request);
    let deadline = request.deadline();
    ResponseFuture::new(Responding {
        handler: handler(service, request),
        deadline,
        compression,
    })
}

/// What a handler returned for a response of many messages, without its type.
///
/// The type of the stream may name the lifetime of the service that the handler borrows, although it holds nothing of it. Generated
/// servers forget it, by [`streamed`], before they let go of the service.
#[derive(Debug)]
pub struct Streamed(http::Response<Body>);

/// Forgets the type of what a handler returned for a response of many messages. Generated servers call this.
pub fn streamed<T, S>(handled: Result<Response<S>, Status>) -> Streamed
where
    T: prost::Message + 'static,
    S: ResponseStream<T>,
{
    Streamed(respond(handled, Body::streaming_response))
}

/// Answers that there is no such method. Generated servers call this for a path they do not know.
pub fn unimplemented(request: http::Request<Body>) -> ResponseFuture {
    ResponseFuture::failed(no_method(request.uri().path()))
}

/// The status for a path that leads nowhere (R7).
pub(super) fn no_method(path: &str) -> Status {
    Status::unimplemented(format!("there is no method at {path:?}"))
}

fn received<T>(
    message: T,
    mut metadata: HeaderMap,
    extensions: Extensions,
    context: CallContext,
) -> Request<T> {
    metadata::remove_reserved(&mut metadata);
    Request::with_context(message, metadata, extensions, context)
}

fn streaming<T>(mut request: http::Request<Body>) -> Request<Streaming<T>>
where
    T: prost::Message + Default + 'static,
{
    let context = Body::take_context(&mut request);
    let (parts, body) = request.into_parts();
    let messages = body.into_streaming(context.message_len_max);
    received(messages, parts.headers, parts.extensions, context)
}

/// Makes the response of what a handler returned.
fn respond<T>(
    handled: Result<Response<T>, Status>,
    body: impl FnOnce(T) -> Body,
) -> http::Response<Body> {
    match handled {
        Ok(response) => {
            let (content, mut parts) = response.into_content();
            let mut body = body(content);
            if !parts.trailers.is_empty() {
                body.set_trailers(std::mem::take(&mut parts.trailers));
            }
            let mut response = http::Response::new(body);
            *response.headers_mut() = parts.metadata;
            *response.extensions_mut() = parts.extensions;
            metadata::remove_reserved(response.headers_mut());
            response
        }
        Err(status) => status.into_http(),
    }
}

/// What a handler comes to.
trait Handled {
    fn into_response(self) -> http::Response<Body>;
}

impl<T: prost::Message + 'static> Handled for Result<Response<T>, Status> {
    fn into_response(self) -> http::Response<Body> {
        respond(self, Body::response)
    }
}

impl Handled for Streamed {
    fn into_response(self) -> http::Response<Body> {
        self.0
    }
}

pin_project! {
    /// A handler's future, whose output becomes a response. As an `async` block it would hold the future twice.
    ///
    /// Who polls it has said what is inherited, unless layers had it moved to another task.
    struct Responding<F> {
        #[pin]
        handler: F,
        deadline: Option<Instant>,
        compression: Negotiated,
    }
}

impl<F> Future for Responding<F>
where
    F: Future,
    F::Output: Handled,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _scope = deadline::Scope::narrow(*this.deadline);
        let handled = ready!(this.handler.poll(cx));
        let mut response = handled.into_response();
        this.compression.apply(&mut response);
        Poll::Ready(Ok(response))
    }
}
