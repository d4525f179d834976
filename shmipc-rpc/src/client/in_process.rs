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

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let deadline = request.body().deadline();
        let call = Scoped {
            call: self.0.call(request),
            deadline,
        };
        Box::pin(async move {
            let called = deadline::within(deadline, pin!(call)).await;
            called.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))
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
