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
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;

use crate::{
    Method, Request, Response, ResponseStream, Status, Streaming,
    body::{Fallible, Outflow},
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
    messages: Noted,
}

/// The requests of a call, encoded, so that they hold no shared memory.
#[derive(Clone, Debug)]
enum Noted {
    One(Bytes),
    /// Those that were taken so far.
    Many(Arc<Mutex<Vec<Bytes>>>),
}

/// A stream of requests, which are noted as they are taken.
struct Noting<T> {
    requests: Streaming<T>,
    taken: Arc<Mutex<Vec<Bytes>>>,
}

impl<T: prost::Message + Default + 'static> Stream for Noting<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.requests).poll_next(cx));
        if let Some(Ok(message)) = &next {
            let message = message.encode_to_vec();
            lock(&self.taken).push(message.into());
        }
        Poll::Ready(next)
    }
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
        calls.note(method, request.metadata(), Noted::One(message.into()));
        self.answer(method, request).await
    }
}

impl<T: prost::Message + Default + 'static, R> Answer<Streaming<T>, R> {
    /// Notes a call with a stream of requests, and answers it. The requests are noted as the handler takes them. Generated code
    /// calls this.
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
        let taken = Arc::default();
        let noted = Noted::Many(Arc::clone(&taken));
        calls.note(method, request.metadata(), noted);
        let request = request.map(|requests| {
            let stream = Noting { requests, taken };
            Streaming::messages(Box::pin(Outflow::new(Fallible { stream })))
        });
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

    fn note(&self, method: &Method, metadata: &HeaderMap, messages: Noted) {
        lock(&self.0).push(Call {
            method: *method,
            metadata: metadata.clone(),
            messages,
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

    /// Returns the request. `None` if the call had a [stream of them](Self::messages), or if this is no `T`.
    #[must_use]
    pub fn message<T: prost::Message + Default>(&self) -> Option<T> {
        match &self.messages {
            Noted::One(message) => T::decode(message.clone()).ok(),
            Noted::Many(_) => None,
        }
    }

    /// Returns the requests of a stream that the handler has taken so far, in their order; for another call, the one that it
    /// has. `None` if one of them is no `T`.
    ///
    /// All of them are kept, however many there are, until the calls are [forgotten](Calls::clear) and all copies of this one are
    /// dropped.
    #[must_use]
    pub fn messages<T: prost::Message + Default>(&self) -> Option<Vec<T>> {
        let noted = match &self.messages {
            Noted::One(message) => vec![message.clone()],
            Noted::Many(taken) => lock(taken).clone(),
        };
        let decoded = noted.into_iter().map(|message| T::decode(message).ok());
        decoded.collect()
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
