//! What generated mocks consist of: answers, and the calls that were answered.
//!
//! With the option `mocks` of `shmipc-codegen` there is a `MockGreeter` for each `Greeter`. It implements the trait by what a test
//! tells it to answer, and makes clients that call it [in this process](crate::Channel::in_process).
//!
//! ```ignore
//! let mock = MockGreeter::new();
//! mock.on_say_hello(|request| async move {
//!     let message = format!("Hello, {}!", request.into_inner().name);
//!     Ok(Response::new(HelloReply { message }))
//! });
//! let reply = mock.client().say_hello(HelloRequest { name: "you".into() }).await?;
//! assert_eq!(reply.get_ref().message, "Hello, you!");
//!
//! let calls = mock.calls().to(&SAY_HELLO);
//! assert_eq!(calls[0].message::<HelloRequest>().unwrap().name, "you");
//! ```

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    Method, Request, Response, ResponseStream, Status, Streaming,
    dynamic::{BoxFuture, BoxResponseStream, boxed},
};

/// What a method of a mock answers. Clones share it.
pub struct Answer<Q, R>(Arc<Mutex<Option<Handler<Q, R>>>>);

type Handler<Q, R> =
    Arc<dyn Fn(Request<Q>) -> BoxFuture<'static, Result<Response<R>, Status>> + Send + Sync>;

/// The calls that a mock has seen, in their order. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

/// A call that a mock has seen.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    metadata: HeaderMap,
    /// Encoded, so that it holds no shared memory.
    message: Option<Bytes>,
}

impl<Q, R> Answer<Q, R> {
    /// Has calls answered by `handler` from now on, rather than by an earlier one.
    pub fn set<F, A>(&self, handler: F)
    where
        F: Fn(Request<Q>) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let handler: Handler<Q, R> = Arc::new(move |request| Box::pin(handler(request)));
        let earlier = lock(&self.0).replace(handler);
        // After the lock was released: it may hold anything.
        drop(earlier);
    }

    async fn answer(&self, method: &Method, request: Request<Q>) -> Result<Response<R>, Status> {
        let handler = lock(&self.0).clone();
        match handler {
            Some(handler) => handler(request).await,
            None => Err(Status::unimplemented(format!(
                "the mock of `{}` was not told what to answer to `{}`",
                method.service(),
                method.name()
            ))),
        }
    }
}

impl<Q: 'static, T: 'static> Answer<Q, BoxResponseStream<T>> {
    /// Has calls answered by the streams of `handler` from now on, rather than by those of an earlier one.
    pub fn set_streamed<F, A, S>(&self, handler: F)
    where
        F: Fn(Request<Q>) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<S>, Status>> + Send + 'static,
        S: ResponseStream<T>,
    {
        self.set(move |request| {
            let answer = handler(request);
            async move { boxed(answer.await) }
        });
    }
}

impl<Q: prost::Message, R> Answer<Q, R> {
    /// Notes a call with one request, and answers it. Generated code calls this.
    ///
    /// # Errors
    ///
    /// Returns what the handler failed with, and [`Code::Unimplemented`](crate::Code::Unimplemented) if there is none.
    ///
    /// # Cancel safety
    ///
    /// The call is noted when the future is polled first. Dropping it drops the handler's future.
    pub async fn give(
        &self,
        calls: &Calls,
        method: &Method,
        request: Request<Q>,
    ) -> Result<Response<R>, Status> {
        let message = request.get_ref().encode_to_vec();
        calls.note(method, request.metadata(), Some(message.into()));
        self.answer(method, request).await
    }
}

impl<T, R> Answer<Streaming<T>, R> {
    /// Notes a call with a stream of requests, and answers it. Generated code calls this.
    ///
    /// # Errors
    ///
    /// Returns what the handler failed with, and [`Code::Unimplemented`](crate::Code::Unimplemented) if there is none.
    ///
    /// # Cancel safety
    ///
    /// The call is noted when the future is polled first. Dropping it drops the handler's future.
    pub async fn give_streaming(
        &self,
        calls: &Calls,
        method: &Method,
        request: Request<Streaming<T>>,
    ) -> Result<Response<R>, Status> {
        calls.note(method, request.metadata(), None);
        self.answer(method, request).await
    }
}

impl Calls {
    /// Returns all of them.
    #[must_use]
    pub fn all(&self) -> Vec<Call> {
        lock(&self.0).clone()
    }

    /// Returns those of one method.
    #[must_use]
    pub fn to(&self, method: &Method) -> Vec<Call> {
        let calls = lock(&self.0);
        let matching = calls.iter().filter(|call| call.method == *method);
        matching.cloned().collect()
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    fn note(&self, method: &Method, metadata: &HeaderMap, message: Option<Bytes>) {
        lock(&self.0).push(Call {
            method: *method,
            metadata: metadata.clone(),
            message,
        });
    }
}

impl Call {
    /// Returns the method that was called.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the metadata that came with the call.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        &self.metadata
    }

    /// Returns the request. `None` if the call had a stream of them, or if this is no `T`.
    #[must_use]
    pub fn message<T: prost::Message + Default>(&self) -> Option<T> {
        T::decode(self.message.clone()?).ok()
    }
}

impl<Q, R> Clone for Answer<Q, R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Q, R> Default for Answer<Q, R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Q, R> fmt::Debug for Answer<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = lock(&self.0).is_some();
        f.debug_struct("Answer").field("known", &known).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
