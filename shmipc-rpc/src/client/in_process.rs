//! Calls within a process.

use std::{
    mem,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Instant,
};

use pin_project_lite::pin_project;

use super::CallService;
use crate::{
    Body, Status,
    cancel::{CallGuard, Cancellation},
    context::MESSAGE_LEN_MAX_DEFAULT,
    deadline::{self, Elapsed, Scope},
    server::panic::guarded,
};

/// A service whose handlers are polled by their callers.
#[derive(Clone, Debug)]
pub(super) struct InProcess<S>(pub(super) S);

impl<S: CallService> tower_service::Service<http::Request<Body>> for InProcess<S> {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut context = Body::take_context(&mut request);
        let deadline = deadline::of_call(context.deadline(), request.headers());
        let sent_max = context.request_len_max;
        // What the caller takes is not what the server does, which says so itself if it wants less than usual.
        let taken_max = mem::replace(&mut context.message_len_max, MESSAGE_LEN_MAX_DEFAULT);
        // Dropped with this future, or with what it returns.
        let (guard, cancellation) = CallGuard::new(deadline);
        context.cancellation = cancellation.clone();
        // Layers may exchange the body.
        request.extensions_mut().insert(context.clone());
        let request = request.map(|body| {
            let body = body.sent_within(sent_max);
            body.while_waited(&cancellation).with_context(context)
        });
        let call = Scoped {
            call: self.0.call(request),
            deadline,
        };
        Box::pin(async move {
            let called = deadline::within(deadline, pin!(call)).await;
            let response = called.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))?;
            let mut response = response.map(|body| {
                let body = body.within(taken_max).guarded(deadline);
                match deadline {
                    Some(_) => body.while_waited(&Cancellation::new(None, deadline)),
                    None => body,
                }
            });
            response.body_mut().on_end(deadline, move |end| {
                if !end.is_cut_off() {
                    guard.finish();
                }
            });
            Ok(response)
        })
    }
}

pin_project! {
    /// A call whose handler, which is polled with it, has a deadline. If it panics, the call fails.
    struct Scoped<F> {
        #[pin]
        call: F,
        deadline: Option<Instant>,
    }
}

impl<F, T> Future for Scoped<F>
where
    F: Future<Output = Result<T, Status>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _scope = Scope::enter(*this.deadline);
        let panicked = |status| Poll::Ready(Err(status));
        guarded(|| this.call.poll(cx)).unwrap_or_else(panicked)
    }
}
