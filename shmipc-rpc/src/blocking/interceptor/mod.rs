//! Code that sees calls of threads go by, on either side.
//!
//! It is the [`interceptor`](crate::interceptor) of tasks without `async`: an [`Interceptor`] sees the head of a call, may change it, lets
//! the call [go on](Next::run) or answers it by itself, and sees the head of the answer; [`Next::on_end`] and [`Answer::on_end`] have a
//! function called when the call ends. [`Call`], [`Answer`] and [`End`] are the same types on both sides and in both worlds. An
//! interceptor may block its thread.
//!
//! An [`InterceptorLayer`] shows calls to it: those of a [`Channel`](super::Channel), of one generated server, or of
//! [all services](super::Server::layer) of a server; and it can be limited to some [services](InterceptorLayer::for_service) or
//! [methods](InterceptorLayer::for_method). A call that an interceptor sees costs some boxes more; where there is no interceptor, there is
//! no cost.
//!
//! # What is different
//!
//! - *Conversations begin late.* A [call of many requests and many responses](super::Caller::bidi_streaming) sends its requests when it has
//!   been made, and the answer cannot come before them. So [`Next::run`] returns on the calling side when the call has begun, and the answer
//!   has no head yet: [`Answer::on_head`] has a function called with it when it comes.
//! - *Nobody is interrupted.* The time that [`Call::set_timeout`] allows is a deadline for all that lies behind, up to the last message: what
//!   is waited for in this library fails then, and so does the call. A handler that is busy with something else ends first.
//!
//! A server runs interceptors in the thread of the handler. One that panics has failed its call with
//! [`Code::Internal`](crate::Code::Internal), as a handler has. On the calling side, a panic is the caller's.
//!
//! # Examples
//!
//! On the client: each call carries a token, and how long it took is noted.
//!
//! ```no_run
//! # fn fetch_token() -> Result<http::HeaderValue, shmipc_rpc::Status> { Ok(http::HeaderValue::from_static("token")) }
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Instant;
//!
//! use shmipc_rpc::blocking::{
//!     Caller, Channel,
//!     interceptor::{Call, InterceptorLayer, Next},
//! };
//!
//! let authenticated = InterceptorLayer::new(|mut call: Call, next: Next<'_>| {
//!     call.metadata_mut().insert("authorization", fetch_token()?);
//!     let began = Instant::now();
//!     let answer = next.run(call);
//!     println!("{:?}", began.elapsed());
//!     answer
//! });
//! let channel = Channel::connect("/run/greeter.sock")?;
//! let caller = Caller::new(authenticated.layer(channel)); // Or a generated client.
//! # Ok(())
//! # }
//! ```
//!
//! On the server: calls of other users are refused, and responses say who made them.
//!
//! ```
//! use shmipc_rpc::{
//!     Status,
//!     blocking::{
//!         Server,
//!         interceptor::{Answer, Call, Interceptor, InterceptorLayer, Next},
//!     },
//!     http::HeaderValue,
//! };
//!
//! struct OnlyUser(u32);
//!
//! impl Interceptor for OnlyUser {
//!     fn intercept(&self, call: Call, next: Next<'_>) -> Result<Answer, Status> {
//!         if call.peer().is_none_or(|peer| peer.uid() != Some(self.0)) {
//!             return Err(Status::permission_denied("this is for somebody else"));
//!         }
//!         let mut answer = next.run(call)?;
//!         answer.metadata_mut().insert("x-served-by", HeaderValue::from_static("greeter"));
//!         Ok(answer)
//!     }
//! }
//!
//! let server = Server::builder().layer(InterceptorLayer::new(OnlyUser(1000)));
//! ```

mod layer;
mod next;

use std::sync::Arc;

pub(super) use self::next::see;
pub use self::{
    layer::{Intercepted, InterceptorLayer},
    next::Next,
};
use crate::Status;
#[doc(no_inline)]
pub use crate::interceptor::{Answer, Call, End};

/// Those who see a call, the first of them first.
pub(super) type Interceptors = Vec<Arc<dyn Interceptor>>;

/// Sees calls of threads go by. See the [module](self).
///
/// Closures that take a [`Call`] and a [`Next`] are interceptors, too.
pub trait Interceptor: Send + Sync + 'static {
    /// Sees one call.
    ///
    /// To let it go on, hand it to [`next`](Next::run) and return what comes back. What is done before that happens before
    /// the call, what is done after it happens once the head of the answer is there. Dropping `next` answers the call early.
    ///
    /// # Errors
    ///
    /// An error is the status that the call ends with.
    fn intercept(&self, call: Call, next: Next<'_>) -> Result<Answer, Status>;
}

impl<F> Interceptor for F
where
    F: Fn(Call, Next<'_>) -> Result<Answer, Status> + Send + Sync + 'static,
{
    fn intercept(&self, call: Call, next: Next<'_>) -> Result<Answer, Status> {
        self(call, next)
    }
}
