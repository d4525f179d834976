//! Boxed futures and streams, of which the object-safe twins of generated traits consist.
//!
//! With the option `dyn_traits` of `shmipc-codegen` there is a `DynGreeter` for each `Greeter`. Whatever implements `Greeter`
//! implements it, and an `Arc<dyn DynGreeter>` implements `Greeter`: handlers can be chosen at run time, at the cost of a box per
//! call, and of another per stream.

use std::pin::Pin;

use crate::{Response, ResponseStream, Status};

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of responses in a box.
pub type BoxResponseStream<T> = Pin<Box<dyn ResponseStream<T>>>;

/// Puts the stream that a handler returned into a box. Generated code calls this.
///
/// # Errors
///
/// Returns what the handler failed with.
pub fn boxed<T, S: ResponseStream<T>>(
    handled: Result<Response<S>, Status>,
) -> Result<Response<BoxResponseStream<T>>, Status> {
    handled.map(|response| response.map(|stream| Box::pin(stream) as _))
}
