use std::{fmt, time::Instant};

use http::HeaderMap;
use shmipc_transport::RecvBuf;

use super::channel::Rules;
use crate::{
    Status,
    body::{Receiving, decode},
    client::ServiceConfig,
    interceptor::Ahead,
};

/// The messages of a request or response, as they arrive, for threads.
///
/// It is an iterator, and has methods for those who need no more. What has arrived waits in shared memory; the other side sends
/// no more than the windows of the stream allow until it is taken.
///
/// Dropping it tells the other side that nobody listens: at a caller that gives the call up; at a server only the requests are
/// dropped, and the response goes on.
pub struct Streaming<T> {
    source: Source<T>,
    trailers: Option<Box<HeaderMap>>,
    deadline: Option<Instant>,
    /// What counts a response that begins, if anything does.
    counts: Option<ServiceConfig>,
}

/// Where the messages come from.
enum Source<T> {
    /// A response that has not begun, or of which it does not matter how it began.
    Unopened(Box<Receiving>),
    Open(Box<Receiving>),
    /// There is one, and here it is.
    One(RecvBuf),
    /// A call whose end others want to see.
    Seen(Box<Seen<T>>),
    Over,
}

/// The messages of a response that interceptors see.
struct Seen<T> {
    messages: crate::Streaming<T>,
    /// What they want of the head, until that has come.
    ahead: Option<Ahead>,
}

impl<T> Streaming<T> {
    fn new(source: Source<T>, deadline: Option<Instant>) -> Self {
        Self {
            source,
            trailers: None,
            deadline,
            counts: None,
        }
    }

    /// Has a response that begins counted as a success.
    pub(super) fn counted_by(mut self, rules: Option<Rules<'_>>) -> Self {
        self.counts = rules.map(|rules| rules.config().clone());
        self
    }

    fn count(&mut self) {
        if let Some(config) = self.counts.take() {
            config.succeeded();
        }
    }

    /// What has become of a response that interceptors have seen, and maybe have not seen begin.
    pub(super) fn seen(
        messages: crate::Streaming<T>,
        ahead: Option<Ahead>,
        deadline: Option<Instant>,
    ) -> Self {
        Self::new(Source::Seen(Box::new(Seen { messages, ahead })), deadline)
    }

    /// What `receiving` receives once the response has begun.
    pub(super) fn unopened(receiving: Box<Receiving>, deadline: Option<Instant>) -> Self {
        Self::new(Source::Unopened(receiving), deadline)
    }

    /// What `receiving` receives.
    pub(super) fn open(receiving: Receiving, deadline: Option<Instant>) -> Self {
        Self::new(Source::Open(Box::new(receiving)), deadline)
    }

    /// One message, or none, that is there already.
    pub(super) fn whole(message: Option<RecvBuf>, trailers: Option<Box<HeaderMap>>) -> Self {
        let source = message.map_or(Source::Over, Source::One);
        Self {
            trailers,
            ..Self::new(source, None)
        }
    }

    /// Waits until the response begins, and returns what it begins with. `None` if that was done before.
    pub(super) fn begin(&mut self) -> Result<Option<HeaderMap>, Status>
    where
        T: prost::Message + Default + 'static,
    {
        if let Source::Seen(seen) = &mut self.source {
            let Some(ahead) = seen.ahead.take() else {
                return Ok(None);
            };
            let head = seen.messages.wait_open(self.deadline);
            let head = head.and_then(|head| {
                let completed = ahead.complete(head);
                completed.map_err(|status| seen.messages.fail(status))
            });
            match &head {
                Ok(_) => self.count(),
                Err(_) => self.source = Source::Over,
            }
            return head.map(Some);
        }
        // What is open stays so.
        if !matches!(self.source, Source::Unopened(_)) {
            return Ok(None);
        }
        let Source::Unopened(mut receiving) = std::mem::replace(&mut self.source, Source::Over)
        else {
            return Ok(None);
        };
        let metadata = receiving.wait_open(self.deadline)??;
        self.source = Source::Open(receiving);
        self.count();
        Ok(Some(metadata))
    }
}

impl<T: prost::Message + Default + 'static> Streaming<T> {
    /// Waits for the next message. `None` after the last, if all went well.
    ///
    /// # Errors
    ///
    /// Returns how the call failed, after the messages that came before that; nothing follows. At a server, that is
    /// [`Code::Cancelled`](crate::Code::Cancelled) for a caller that gave up before its last message, and
    /// [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) once the deadline has passed.
    pub fn message(&mut self) -> Result<Option<T>, Status> {
        if let Source::Unopened(_) | Source::Seen(_) = self.source {
            self.begin()?;
        }
        let next = match &mut self.source {
            Source::Open(receiving) => receiving.wait_decoded(self.deadline),
            Source::One(_) => match std::mem::replace(&mut self.source, Source::Over) {
                Source::One(message) => return decode(message).map(Some),
                _ => None,
            },
            Source::Seen(seen) => return seen.messages.wait_message(self.deadline),
            Source::Unopened(_) | Source::Over => return Ok(None),
        };
        match next {
            Some(Ok(message)) => Ok(Some(message)),
            end => {
                let source = std::mem::replace(&mut self.source, Source::Over);
                if let Source::Open(mut receiving) = source
                    && end.is_none()
                {
                    self.trailers = receiving.take_trailers();
                }
                end.transpose()
            }
        }
    }

    /// Waits for the end, and returns the metadata that came after the last message. Messages that were not taken are dropped.
    ///
    /// There is none in a request, and after a failure it is [part of the status](Status::metadata).
    ///
    /// # Errors
    ///
    /// Returns how the call failed.
    pub fn trailers(&mut self) -> Result<HeaderMap, Status> {
        self.begin()?;
        if let Source::Seen(seen) = &mut self.source {
            return seen.messages.wait_trailers(self.deadline);
        }
        while self.message()?.is_some() {}
        Ok(self
            .trailers
            .take()
            .map(|trailers| *trailers)
            .unwrap_or_default())
    }
}

impl<T: prost::Message + Default + 'static> Iterator for Streaming<T> {
    type Item = Result<T, Status>;

    fn next(&mut self) -> Option<Result<T, Status>> {
        self.message().transpose()
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("is_over", &matches!(self.source, Source::Over))
            .finish_non_exhaustive()
    }
}
