use std::{
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use futures_core::Stream;
use http::HeaderMap;
use sync_wrapper::SyncWrapper;
use tokio::time::Sleep;

use crate::{
    Status,
    body::{Decoder, Messages, Receiving, decode, typed},
    deadline::{self, Lookout},
    interceptor::{Watchers, show_end},
    metadata,
};

/// The messages of a request or response, as they arrive.
///
/// It is a [`Stream`], and has methods for those who need no more. What has arrived waits in shared memory; the other side sends no
/// more than the windows of the stream allow until it is taken.
///
/// Dropping it tells the other side that nobody listens: at a caller that gives the call up; at a server only the requests are
/// dropped, and the response goes on.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::{Request, Response, Status, Streaming};
///
/// async fn sum(request: Request<Streaming<u64>>) -> Result<Response<u64>, Status> {
///     let mut numbers = request.into_inner();
///     let mut sum = 0;
///     while let Some(number) = numbers.message().await? {
///         sum += number;
///     }
///     Ok(Response::new(sum))
/// }
/// ```
pub struct Streaming<T> {
    source: Source<T>,
    trailers: Option<Box<HeaderMap>>,
    /// Who wants to see how it ends.
    watchers: Option<Box<Watchers>>,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    lookout: Lookout,
}

/// Where the messages come from.
enum Source<T> {
    /// A session.
    Received(Box<Receiving>),
    /// A body of somebody else's.
    Foreign(Box<Decoder>),
    /// This process; they were never encoded.
    Messages(SyncWrapper<Pin<Box<dyn Messages>>>),
    /// There is one, and here it is.
    One(Box<Result<T, Status>>),
    /// It is over.
    Over,
}

impl<T> Streaming<T> {
    fn new(source: Source<T>) -> Self {
        Self {
            source,
            trailers: None,
            watchers: None,
            deadline: None,
            timer: None,
            lookout: Lookout::default(),
        }
    }

    /// Fails the call if it is not over at `deadline`.
    pub(crate) fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets metadata that comes after the last message, before that which the source has.
    pub(crate) fn with_trailers(mut self, trailers: Option<Box<HeaderMap>>) -> Self {
        self.trailers = trailers;
        self
    }

    /// As [`with_trailers`](Self::with_trailers), and sets who wants to see the end.
    pub(crate) fn with_end(
        mut self,
        trailers: Option<Box<HeaderMap>>,
        watchers: Option<Box<Watchers>>,
    ) -> Self {
        self.watchers = watchers;
        self.with_trailers(trailers)
    }

    pub(crate) fn over() -> Self {
        Self::new(Source::Over)
    }

    pub(crate) fn one(message: Result<T, Status>) -> Self {
        Self::new(Source::One(Box::new(message)))
    }

    pub(crate) fn received(receiving: Box<Receiving>) -> Self {
        Self::new(Source::Received(receiving))
    }

    pub(crate) fn foreign(decoder: Decoder) -> Self {
        Self::new(Source::Foreign(Box::new(decoder)))
    }

    pub(crate) fn messages(messages: Pin<Box<dyn Messages>>) -> Self {
        Self::new(Source::Messages(SyncWrapper::new(messages)))
    }
}

impl<T: prost::Message + Default + 'static> Streaming<T> {
    /// Waits for the next message. `None` after the last, if all went well.
    ///
    /// # Errors
    ///
    /// Returns how the call failed, after the messages that came before that; nothing follows. At a server, that is
    /// [`Code::Cancelled`](crate::Code::Cancelled) for a caller that gave up before its last message.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message is taken in the poll that returns it.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|cx| self.poll_message(cx)).await.transpose()
    }

    /// Waits for the end, and returns the metadata that came after the last message. Messages that were not taken are dropped.
    ///
    /// There is none in a request, and after a failure it is [part of the status](Status::metadata).
    ///
    /// # Errors
    ///
    /// Returns how the call failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, but for the messages that were dropped.
    pub async fn trailers(&mut self) -> Result<HeaderMap, Status> {
        while self.message().await?.is_some() {}
        Ok(self.take_end())
    }

    /// Takes the metadata that came after the last message.
    fn take_end(&mut self) -> HeaderMap {
        let trailers = self.trailers.take();
        trailers.map(|trailers| *trailers).unwrap_or_default()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        if self.lookout.is_late(self.deadline) && !matches!(self.source, Source::Over) {
            return Poll::Ready(self.end(Err(deadline::exceeded())));
        }
        if let Poll::Ready(next) = self.poll_source(cx) {
            return Poll::Ready(next);
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = || Box::pin(tokio::time::sleep_until(deadline.into()));
        ready!(self.timer.get_or_insert_with(timer).as_mut().poll(cx));
        Poll::Ready(self.end(Err(deadline::exceeded())))
    }

    /// As [`message`](Self::message), but waits in this thread, until `deadline`.
    pub(crate) fn wait_message(&mut self, deadline: Option<Instant>) -> Result<Option<T>, Status> {
        if let Source::Received(receiving) = &mut self.source {
            let next = receiving.wait_decoded(deadline);
            return self.taken(next).transpose();
        }
        match self.poll_source(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next.transpose(),
            // What did not come through a session is there, when a thread waits for it.
            Poll::Pending => Err(self.fail(Status::internal("a message is not there"))),
        }
    }

    /// As [`trailers`](Self::trailers), but waits in this thread, until `deadline`.
    pub(crate) fn wait_trailers(&mut self, deadline: Option<Instant>) -> Result<HeaderMap, Status> {
        while self.wait_message(deadline)?.is_some() {}
        Ok(self.take_end())
    }

    /// Waits in this thread for what opens a response, until `deadline`.
    pub(crate) fn wait_open(&mut self, deadline: Option<Instant>) -> Result<HeaderMap, Status> {
        let Source::Received(receiving) = &mut self.source else {
            return Ok(HeaderMap::new());
        };
        match receiving.wait_open(deadline).and_then(|opened| opened) {
            Ok(head) => Ok(head),
            Err(status) => match self.end(Err(status)) {
                Some(Err(status)) => Err(status),
                Some(Ok(_)) | None => Ok(HeaderMap::new()),
            },
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        let next = match &mut self.source {
            Source::Received(receiving) => {
                ready!(receiving.poll_decoded(cx))
            }
            Source::Foreign(decoder) => {
                ready!(decoder.poll_message(cx)).map(|next| next.and_then(decode))
            }
            Source::Messages(messages) => {
                ready!(messages.get_mut().as_mut().poll_next(cx)).map(|next| next.and_then(typed))
            }
            Source::One(_) => match mem::replace(&mut self.source, Source::Over) {
                Source::One(message) => Some(*message),
                _ => None,
            },
            Source::Over => None,
        };
        Poll::Ready(self.taken(next))
    }

    /// Passes on what was taken from the source, which may be its end.
    fn taken(&mut self, next: Option<Result<T, Status>>) -> Option<Result<T, Status>> {
        match next {
            Some(Ok(message)) => Some(Ok(message)),
            None => {
                if let Some(more) = self.take_trailers() {
                    metadata::merge(self.trailers.get_or_insert_default(), Some(more));
                }
                self.end(Ok(()))
            }
            // What could not be decoded ends the stream as well.
            Some(Err(status)) => self.end(Err(status)),
        }
    }

    /// Fails the call for what its messages are. Returns how.
    pub(crate) fn fail(&mut self, status: Status) -> Status {
        match self.end(Err(status.clone())) {
            Some(Err(changed)) => changed,
            Some(Ok(_)) | None => status,
        }
    }

    /// Ends the stream, and shows that to those who want to see it.
    fn end(&mut self, result: Result<(), Status>) -> Option<Result<T, Status>> {
        self.source = Source::Over;
        if self.watchers.is_none() {
            return result.err().map(Err);
        }
        let ended = result.map(|()| self.trailers.take());
        match show_end(&mut self.watchers, ended) {
            Ok(trailers) => {
                self.trailers = trailers;
                None
            }
            Err(status) => Some(Err(status)),
        }
    }

    fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        match &mut self.source {
            Source::Received(receiving) => receiving.take_trailers(),
            Source::Foreign(decoder) => decoder.take_trailers(),
            Source::Messages(messages) => messages.get_mut().as_mut().take_trailers(),
            Source::One(_) | Source::Over => None,
        }
    }
}

impl<T> Unpin for Streaming<T> {}

impl<T: prost::Message + Default + 'static> Stream for Streaming<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        self.get_mut().poll_message(cx)
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("is_over", &matches!(self.source, Source::Over))
            .finish_non_exhaustive()
    }
}
