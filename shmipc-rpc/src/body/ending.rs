//! How a response ends, as far as its body is concerned.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::HeaderMap;
use http_body::Body as _;
use sync_wrapper::SyncWrapper;

use super::{Body, EncodeMessage, Encoded, End, Outflow, Payload, messages::Source};
use crate::{
    Status,
    interceptor::{End as CallEnd, Ended, Watchers, show_end},
};

impl Body {
    /// Notes that the head of the response has said that all went well, so that nothing is missing if no trailers follow.
    pub(crate) fn end_well(&mut self) {
        match &self.payload {
            Payload::Empty if matches!(self.end, End::None) => self.end = End::Ok,
            Payload::Foreign(body, _) if body.is_end_stream() => {
                self.payload = Payload::Empty;
                self.end = End::Ok;
                if let Some(watchers) = self.watchers.take() {
                    self.watch(watchers);
                }
            }
            _ => {}
        }
    }

    /// Has `callback` called with the end of this response: at once if it is known, or else as soon as it is, or once nobody waits
    /// for it any longer, which is for lack of time after `deadline`.
    pub(crate) fn on_end(
        &mut self,
        deadline: Option<Instant>,
        callback: impl FnOnce(&mut CallEnd) + Send + 'static,
    ) {
        if self.is_end_known() {
            self.settle(|ended| {
                let mut end = CallEnd::new(ended);
                callback(&mut end);
                end.into_ended()
            });
        } else {
            let watchers = self.watchers.get_or_insert_default();
            watchers.limit(deadline);
            watchers.add(Box::new(callback));
        }
    }

    /// As [`on_end`](Self::on_end), for callbacks that have been waiting.
    pub(crate) fn watch(&mut self, watchers: Box<Watchers>) {
        if self.is_end_known() {
            self.settle(|ended| watchers.run(ended));
        } else if let Some(own) = &mut self.watchers {
            own.append(*watchers);
        } else {
            self.watchers = Some(watchers);
        }
    }

    /// Tells those who want to see the end that it is this failure, of which the body itself does not know. Returns how the
    /// response ends.
    #[cfg(feature = "grpc")]
    pub(crate) fn fail(&mut self, status: Status) -> Ended {
        show_end(&mut self.watchers, Err(status))
    }

    /// Shows the end that the messages have come to. Nothing follows.
    pub(super) fn finish(&mut self, ended: Ended) -> Ended {
        self.payload = Payload::Empty;
        self.end = End::None;
        show_end(&mut self.watchers, ended)
    }

    fn is_end_known(&self) -> bool {
        match &self.payload {
            Payload::Empty | Payload::Message(_) | Payload::Received(_) | Payload::Rest(_) => true,
            Payload::Messages(_) | Payload::Receiving(_) | Payload::Foreign(..) => false,
        }
    }

    /// Exchanges an end that is known.
    fn settle(&mut self, change: impl FnOnce(Ended) -> Ended) {
        let is_silent = matches!(self.end, End::None);
        let metadata = mem::replace(&mut self.end, End::None).into_metadata();
        match change(Ok(metadata)) {
            Ok(None) if is_silent => {}
            Ok(metadata) => self.end = metadata.map_or(End::Ok, End::Trailers),
            Err(status) => {
                let message: Option<Box<dyn EncodeMessage>> =
                    match mem::replace(&mut self.payload, Payload::Empty) {
                        Payload::Message(message) => Some(message),
                        Payload::Received(message) => Some(Box::new(Encoded(message))),
                        // What is left of a message is none.
                        _ => None,
                    };
                self.payload = failing(message, status);
                self.end = End::Ok;
            }
        }
    }
}

/// Makes what consists of a message, if there is one, and then a failure.
pub(super) fn failing(message: Option<Box<dyn EncodeMessage>>, status: Status) -> Payload {
    let failing = Outflow::new(Failing {
        message,
        status: Some(status),
    });
    Payload::Messages(SyncWrapper::new(Box::pin(failing)))
}

/// A message, if there is one, and then a failure.
struct Failing {
    message: Option<Box<dyn EncodeMessage>>,
    status: Option<Status>,
}

impl Source for Failing {
    type Message = Box<dyn EncodeMessage>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Self::Message, Status>>> {
        Poll::Ready(match self.message.take() {
            Some(message) => Some(Ok(message)),
            None => self.status.take().map(Err),
        })
    }

    fn is_done(&self) -> bool {
        false
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        None
    }
}
