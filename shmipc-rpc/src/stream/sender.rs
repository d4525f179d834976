use std::{future::poll_fn, marker::PhantomData, sync::Arc};

use http::HeaderMap;

use super::{
    port::{Draft, Port},
    pushed::{RequestSink, ResponseSink},
};
use crate::{Status, frame::Ending};

/// Sends the messages of a stream one by one, where that suits better than to *be* a stream.
///
/// A message is encoded in the task that sends it, a long one straight into shared memory. It waits for room in the receiver's windows.
/// Until the far end is on its way (the handler has returned its response, or the call was made), sending waits; so it is done in
/// another task, or while that goes on.
///
/// Dropping the sender ends the stream, as [`finish`](Self::finish) does.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Request, Response, ResponseStream, Sender, Status};
///
/// async fn count(request: Request<u64>) -> Result<Response<impl ResponseStream<u64>>, Status> {
///     let (mut sender, responses) = Sender::for_responses();
///     tokio::spawn(async move {
///         for number in 0..request.into_inner() {
///             sender.send(&number).await?;
///         }
///         sender.finish();
///         Ok::<_, Status>(())
///     });
///     Ok(Response::new(responses))
/// }
/// ```
#[derive(Debug)]
pub struct Sender<T> {
    port: Arc<Port>,
    /// Where short messages are encoded.
    scratch: Vec<u8>,
    message: PhantomData<fn(T)>,
}

impl<T: prost::Message + Default + 'static> Sender<T> {
    /// Makes a sender of responses, and the stream to be returned by the handler.
    #[must_use]
    pub fn for_responses() -> (Self, ResponseSink<T>) {
        let port = Port::new();
        (Self::new(&port), ResponseSink::new(port))
    }

    /// Makes a sender of requests, and the stream to be passed to the call.
    #[must_use]
    pub fn for_requests() -> (Self, RequestSink<T>) {
        let port = Port::new();
        (Self::new(&port), RequestSink::new(port))
    }

    fn new(port: &Arc<Port>) -> Self {
        Self {
            port: Arc::clone(port),
            scratch: Vec::new(),
            message: PhantomData,
        }
    }

    /// Sends a message. Waits while the receiver's windows are full.
    ///
    /// # Errors
    ///
    /// Returns [`Code::Cancelled`](crate::Code::Cancelled) if nobody receives the messages any more: the other side has given
    /// the call up, or it is over. At a caller, the response tells how. Returns
    /// [`Code::Unavailable`](crate::Code::Unavailable) if the connection has ended, and
    /// [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) if the message is larger than this side may send, in which
    /// case the others can still be sent. Behind combinators, nobody knows the limit here: there the stream fails.
    ///
    /// # Cancel safety
    ///
    /// The message is sent in the poll that returns, or not at all.
    pub async fn send(&mut self, message: &T) -> Result<(), Status> {
        let mut draft = Draft::new(&mut self.scratch, true);
        poll_fn(|cx| self.port.poll_send(cx, message, &mut draft)).await
    }

    /// As [`send`](Self::send), for a message that is not worth [compressing](crate::codec), where others of the stream are compressed. What
    /// is behind combinators forgets that.
    ///
    /// # Errors
    ///
    /// As with [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As with [`send`](Self::send).
    pub async fn send_uncompressed(&mut self, message: &T) -> Result<(), Status> {
        let mut draft = Draft::new(&mut self.scratch, false);
        poll_fn(|cx| self.port.poll_send(cx, message, &mut draft)).await
    }

    /// Ends the stream. All went well.
    pub fn finish(self) {
        drop(self);
    }

    /// Ends the stream with metadata for the caller. All went well.
    ///
    /// Has the effect of [`finish`](Self::finish) at a caller, which can send no metadata then.
    pub fn finish_with(self, trailers: HeaderMap) {
        self.port.end(Ending::Done(Some(Box::new(trailers))));
    }

    /// Ends the stream with a failure. At a caller that gives the call up.
    pub fn fail(self, status: Status) {
        self.port.end(Ending::Failed(status));
    }

    /// Waits until it is known that nobody receives the messages any more: the other side has given the call up, it is over, or the
    /// connection has ended. For work that is for nothing then. Any number of tasks may wait.
    ///
    /// The far end looks after that. So it takes as long as nobody has returned it from a handler, or made a call with it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn measure() -> u64 { 7 }
    /// use shmipc_rpc::{Sender, Status};
    ///
    /// async fn report(mut sender: Sender<u64>) -> Result<(), Status> {
    ///     loop {
    ///         let value = tokio::select! {
    ///             value = measure() => value,
    ///             () = sender.closed() => return Ok(()),
    ///         };
    ///         sender.send(&value).await?;
    ///     }
    /// }
    /// ```
    pub async fn closed(&self) {
        self.port.closed().await;
    }

    /// Tells whether it is known that nobody receives the messages any more. See [`closed`](Self::closed) to wait for that.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.port.is_closed()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.port.end(Ending::Done(None));
    }
}
