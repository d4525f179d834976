//! Code that sees calls go by, on either side.
//!
//! An [`Interceptor`] sees the head of a call, may change it, lets the call go on or answers it by itself, and sees the head
//! of the answer. It may wait, for a token to be fetched for example. Messages pass it untouched and typed, whether
//! there is one or a stream of them.
//!
//! How a call ends is often known only after the last message. [`Next::on_end`] and [`Answer::on_end`] have a function called then,
//! once and whatever happens, also if nobody waits for the end any longer. It sees the status and the trailing metadata, and may
//! change both.
//!
//! An [`InterceptorLayer`] is an ordinary tower layer. It fits around a [`Channel`](crate::Channel), around one generated
//! server, or around [all services](crate::Server::layer) of a server; and it can be limited to some
//! [services](InterceptorLayer::for_service) or [methods](InterceptorLayer::for_method). A call that an interceptor sees
//! costs three boxes more than one that it does not see, and up to three more if it is to tell its end; where there is no interceptor,
//! there is no cost.
//!
//! # Examples
//!
//! On the client: each call carries a token, and how long it took is noted.
//!
//! ```no_run
//! # async fn fetch_token() -> Result<http::HeaderValue, shmipc_rpc::Status> { Ok(http::HeaderValue::from_static("token")) }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Instant;
//!
//! use shmipc_rpc::{
//!     Channel,
//!     client::Caller,
//!     interceptor::{Call, InterceptorLayer, Next},
//! };
//!
//! let authenticated = InterceptorLayer::new(async |mut call: Call, next: Next| {
//!     call.metadata_mut().insert("authorization", fetch_token().await?);
//!     let began = Instant::now();
//!     let answer = next.run(call).await;
//!     println!("{:?}", began.elapsed());
//!     answer
//! });
//! let channel = Channel::connect("/run/greeter.sock").await?;
//! let caller = Caller::new(authenticated.layer(channel)); // Or a generated client.
//! # Ok(())
//! # }
//! ```
//!
//! On the server: calls of other users are refused, and responses say who made them.
//!
//! ```
//! use shmipc_rpc::{
//!     Server, Status, http::HeaderValue,
//!     interceptor::{Answer, Call, Interceptor, InterceptorLayer, Next},
//! };
//!
//! struct OnlyUser(u32);
//!
//! impl Interceptor for OnlyUser {
//!     async fn intercept(&self, call: Call, next: Next) -> Result<Answer, Status> {
//!         if call.peer().is_none_or(|peer| peer.uid() != Some(self.0)) {
//!             return Err(Status::permission_denied("this is for somebody else"));
//!         }
//!         let mut answer = next.run(call).await?;
//!         answer.metadata_mut().insert("x-served-by", HeaderValue::from_static("greeter"));
//!         Ok(answer)
//!     }
//! }
//!
//! let server = Server::builder().layer(InterceptorLayer::new(OnlyUser(1000)));
//! ```
//!
//! On either side: how long calls take to their very end, and how they end, is counted; calls that are given up are counted, too.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use shmipc_rpc::{Code, Server, interceptor::{Call, InterceptorLayer, Next}};
//!
//! fn count(method: &str, code: Code, took: Duration) {
//!     // …
//! }
//!
//! let metrics = InterceptorLayer::new(async |call: Call, next: Next| {
//!     let (method, began) = (call.path().to_owned(), Instant::now());
//!     let next = next.on_end(move |end| count(&method, end.code(), began.elapsed()));
//!     next.run(call).await
//! });
//! let server = Server::builder().layer(metrics);
//! ```

mod end;
mod head;
mod layer;

pub use self::{
    end::End,
    head::{Answer, Call},
    layer::{Intercepted, InterceptedFuture, InterceptorLayer, Next, OnRequest},
};
pub(crate) use self::{
    end::{Callback, Ended, Watchers, show_end},
    head::{Ahead, Whereabouts},
    layer::Filter,
};
use crate::Status;

/// Sees calls go by. See the [module](self).
///
/// Async closures that take a [`Call`] and a [`Next`] are interceptors, too.
pub trait Interceptor: Send + Sync + 'static {
    /// Sees one call.
    ///
    /// To let it go on, hand it to [`next`](Next::run) and return what comes back. What is done before that happens before
    /// the call, what is done after it happens once the head of the answer is there. Dropping `next` answers the call early.
    ///
    /// The future is dropped when the call is given up or its deadline passes.
    ///
    /// # Errors
    ///
    /// An error is the status that the call ends with.
    fn intercept(
        &self,
        call: Call,
        next: Next,
    ) -> impl Future<Output = Result<Answer, Status>> + Send;
}

impl<F, Fut> Interceptor for F
where
    F: Fn(Call, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Answer, Status>> + Send,
{
    fn intercept(
        &self,
        call: Call,
        next: Next,
    ) -> impl Future<Output = Result<Answer, Status>> + Send {
        self(call, next)
    }
}
