//! Answering calls: what generated blocking servers consist of.
//!
//! Each function runs the handler in the calling thread and sends what it returns. A handler that panics has failed with
//! [`Code::Internal`]. If the caller's deadline has passed when a handler is done, the caller is told
//! so, whatever the handler returned.

use std::time::Instant;

use http::HeaderMap;
use shmipc_transport::SendError;

use super::{
    Call, Streaming,
    out::{Out, OutError},
    server::{Answer, Arrived, Within, no_method, seen},
};
use crate::{
    Code, Request, Response, Status, deadline,
    frame::{Ending, HalfSender},
    interceptor::Watchers,
    server::panic::guarded,
};

/// Answers a call of one request and one response.
pub fn unary<Req, Res>(
    call: Call,
    handler: impl FnOnce(Request<Req>) -> Result<Response<Res>, Status>,
) where
    Req: prost::Message + Default,
    Res: prost::Message + 'static,
{
    if call.is_seen() {
        return seen::one(call, Arrived::one, handler);
    }
    let (answer, request) = call.one();
    let handled = handle(&answer, request, handler);
    answer.one(handled);
}

/// Answers a call of one request and many responses: what the handler returns is iterated over in this thread.
pub fn server_streaming<Req, Res, I>(
    call: Call,
    handler: impl FnOnce(Request<Req>) -> Result<Response<I>, Status>,
) where
    Req: prost::Message + Default,
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    if call.is_seen() {
        return seen::many(call, Arrived::one, handler);
    }
    let (answer, request) = call.one();
    let handled = handle(&answer, request, handler);
    many(answer, handled);
}

/// Answers a call of many requests and one response.
pub fn client_streaming<Req, Res>(
    call: Call,
    handler: impl FnOnce(Request<Streaming<Req>>) -> Result<Response<Res>, Status>,
) where
    Req: prost::Message + Default,
    Res: prost::Message + 'static,
{
    if call.is_seen() {
        return seen::one(call, Arrived::many, handler);
    }
    let (answer, request) = call.many();
    let handled = handle(&answer, request, handler);
    answer.one(handled);
}

/// Answers a call of many requests and many responses: what the handler returns is iterated over in this thread, and may
/// take the requests meanwhile.
pub fn bidi_streaming<Req, Res, I>(
    call: Call,
    handler: impl FnOnce(Request<Streaming<Req>>) -> Result<Response<I>, Status>,
) where
    Req: prost::Message + Default,
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    if call.is_seen() {
        return seen::many(call, Arrived::many, handler);
    }
    let (answer, request) = call.many();
    let handled = handle(&answer, request, handler);
    many(answer, handled);
}

/// Answers that there is no such method. Generated servers do so for a path they do not know.
pub fn unimplemented(call: Call) {
    let status = no_method(call.called_path());
    if call.is_seen() {
        seen::failing(call, status);
    } else {
        call.answer.failed(status);
    }
}

/// Runs the handler within its call.
fn handle<Req, Res>(
    answer: &Answer,
    request: Result<Request<Req>, Status>,
    handler: impl FnOnce(Request<Req>) -> Result<Response<Res>, Status>,
) -> Result<Response<Res>, Status> {
    let _entered = answer.within.enter();
    guarded(|| handler(request?)).and_then(|handled| handled)
}

/// Sends a response of many messages, or a failure.
fn many<Res, I>(answer: Answer, handled: Result<Response<I>, Status>)
where
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    match handled {
        Ok(response) => {
            let (messages, parts) = response.into_content();
            Sending::new(answer, parts.metadata, parts.trailers).all(messages);
        }
        Err(status) => answer.failed(status),
    }
}

/// A response of many messages, on its way out.
pub(super) struct Sending {
    out: Out,
    within: Within,
}

impl Sending {
    pub(super) fn new(answer: Answer, metadata: HeaderMap, trailers: HeaderMap) -> Self {
        Self::seen(answer, metadata, trailers, None)
    }

    /// Makes it of a response whose end others want to see.
    pub(super) fn seen(
        answer: Answer,
        mut metadata: HeaderMap,
        trailers: HeaderMap,
        watchers: Option<Box<Watchers>>,
    ) -> Self {
        crate::status::remove_status_headers(&mut metadata);
        let Answer {
            stream,
            session,
            message_len_max,
            within,
            ..
        } = answer;
        let half =
            HalfSender::server(stream, metadata, trailers, message_len_max).with_watchers(watchers);
        let out = Out::new(session, half, within.deadline);
        Self { out, within }
    }

    /// Sends the messages, for as long as the caller takes them.
    pub(super) fn all<Res, I>(self, messages: I)
    where
        Res: prost::Message,
        I: IntoIterator<Item = Result<Res, Status>>,
    {
        self.all_until(None, messages);
    }

    /// Sends the messages, for as long as the caller takes them, until `limit`.
    pub(super) fn all_until<Res, I>(mut self, limit: Option<Instant>, messages: I)
    where
        Res: prost::Message,
        I: IntoIterator<Item = Result<Res, Status>>,
    {
        let deadline = self.within.deadline;
        self.within.deadline = deadline::earlier(deadline, limit);
        self.out.set_deadline(self.within.deadline);
        let ending = iterate(messages, &mut self.out, &self.within);
        // The caller waits for its end all the same.
        self.within.deadline = deadline;
        self.out.set_deadline(deadline);
        match ending {
            // The caller has gone, and needs no answer.
            None => self.within.record(Code::Cancelled),
            Some(Ok(())) => self.end(Ending::Done(None)),
            Some(Err(status)) => self.end(Ending::Failed(status)),
        }
    }

    fn end(mut self, ending: Ending) {
        let ending = {
            let _entered = self.within.enter();
            self.out.settle(ending)
        };
        match ending {
            Ending::Done(_) => {
                self.within.record(Code::Ok);
                drop(self.out.end(ending));
            }
            Ending::Failed(status) => {
                self.within.record(status.code());
                if self.within.is_late() {
                    self.out.end_at_once(Ending::Failed(status));
                } else {
                    drop(self.out.end(Ending::Failed(status)));
                }
            }
        }
    }
}

/// Sends the messages, and returns how they ended; `None` if nobody waits for them any more.
fn iterate<Res, I>(messages: I, out: &mut Out, within: &Within) -> Option<Result<(), Status>>
where
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    let mut sent = out.open();
    let mut messages = {
        let _entered = within.enter();
        match guarded(|| messages.into_iter()) {
            Ok(messages) => messages,
            Err(status) => return Some(Err(status)),
        }
    };
    let ending = loop {
        match sent {
            Ok(()) => {}
            Err(OutError::Failed(status)) => break Some(Err(status)),
            Err(OutError::Stream(SendError::TooLarge { .. })) => {
                let problem = "a message is larger than the memory of the session";
                break Some(Err(Status::resource_exhausted(problem)));
            }
            Err(OutError::Stream(SendError::Memory(_))) => {
                let problem = "there is no memory for a message";
                break Some(Err(Status::resource_exhausted(problem)));
            }
            Err(OutError::Stream(_)) => break None,
        }
        let next = {
            let _entered = within.enter();
            guarded(|| messages.next())
        };
        if within.is_late() {
            break Some(Err(deadline::late()));
        }
        sent = match next {
            Ok(Some(Ok(message))) => out.message(&message),
            Ok(None) => break Some(Ok(())),
            Ok(Some(Err(status))) | Err(status) => break Some(Err(status)),
        };
    };
    // What a destructor of the application panics about does not matter any more.
    drop(guarded(|| drop(messages)));
    ending
}
