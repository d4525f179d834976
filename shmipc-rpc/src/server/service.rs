use std::{
    convert::Infallible,
    fmt,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderMap};
use pin_project_lite::pin_project;

use crate::{Body, Method, Request, Response, Status, context::CallContext, metadata};

/// A service that is reached by its name. Generated servers are.
pub trait NamedService {
    /// The full name, such as `helloworld.Greeter`. Paths begin with it.
    const NAME: &'static str;

    /// The methods. Calls of these are prepared for; others reach the service, too, but a little later.
    const METHODS: &'static [Method] = &[];
}

/// The future of a generated server: resolves to the response, which may say that the call failed.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>,
);

impl ResponseFuture {
    /// Makes it of any future.
    pub fn new(
        future: impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(future))
    }

    pub(super) fn failed(status: Status) -> Self {
        Self::new(ready(Ok(status.into_http())))
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
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
    let (parts, body) = request.into_parts();
    let (metadata, extensions) = (parts.headers, parts.extensions);
    match body.try_into_message() {
        Ok(Ok((message, _))) => {
            let request = received(message, metadata, extensions, context);
            ResponseFuture::new(Responding {
                handler: handler(service, request),
            })
        }
        Ok(Err(status)) => ResponseFuture::failed(status),
        Err(body) => ResponseFuture::new(async move {
            let handled = match body.into_message(context.message_len_max).await {
                Ok((message, _)) => {
                    handler(service, received(message, metadata, extensions, context)).await
                }
                Err(status) => Err(status),
            };
            Ok(into_http(handled))
        }),
    }
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
    Request::from_parts(message, metadata, extensions, context)
}

fn into_http<T: prost::Message + 'static>(
    handled: Result<Response<T>, Status>,
) -> http::Response<Body> {
    match handled {
        Ok(response) => {
            let (message, metadata, extensions) = response.into_parts();
            let mut response = http::Response::new(Body::response(message));
            *response.headers_mut() = metadata;
            *response.extensions_mut() = extensions;
            crate::status::remove_status_headers(response.headers_mut());
            response
        }
        Err(status) => status.into_http(),
    }
}

pin_project! {
    /// A handler's future, whose output becomes a response. As an `async` block it would hold the future twice.
    struct Responding<F> {
        #[pin]
        handler: F,
    }
}

impl<F, T> Future for Responding<F>
where
    F: Future<Output = Result<Response<T>, Status>>,
    T: prost::Message + 'static,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(into_http(ready!(self.project().handler.poll(cx)))))
    }
}
