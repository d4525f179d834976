//! Calls within a process.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Instant,
};

use pin_project_lite::pin_project;

use super::CallService;
use crate::{
    Body, Status,
    cancel::CallGuard,
    deadline::{self, Elapsed, Scope},
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
        let deadline = context.deadline();
        // Dropped with this future, or with what it returns.
        let (guard, cancellation) = CallGuard::new(deadline);
        context.cancellation = cancellation.clone();
        // Layers may exchange the body.
        request.extensions_mut().insert(context.clone());
        let request = request.map(|body| body.while_waited(&cancellation).with_context(context));
        let call = Scoped {
            call: self.0.call(request),
            deadline,
        };
        Box::pin(async move {
            let called = deadline::within(deadline, pin!(call)).await;
            let mut response = called.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))?;
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
    /// A call whose handler, which is polled with it, has a deadline.
    struct Scoped<F> {
        #[pin]
        call: F,
        deadline: Option<Instant>,
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _scope = Scope::enter(*this.deadline);
        this.call.poll(cx)
    }
}
