//! Answering calls: what generated blocking servers consist of.
//!
//! Each function runs the handler in the calling thread and sends what it returns. A handler that panics has failed with
//! [`Code::Internal`]. If the caller's deadline has passed when a handler is done, the caller is told
//! so, whatever the handler returned.

use shmipc_transport::SendError;

use super::{
    Call, Streaming,
    out::{Out, OutError},
    server::{Answer, Within, late, no_method},
};
use crate::{
    Code, Request, Response, Status,
    frame::{Ending, HalfSender},
    server::panic::guarded,
};

/// Answers a call of one request and one response.
pub fn unary<Req, Res>(
    call: Call,
    handler: impl FnOnce(Request<Req>) -> Result<Response<Res>, Status>,
) where
    Req: prost::Message + Default,
    Res: prost::Message,
{
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
    Res: prost::Message,
{
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
    let (answer, request) = call.many();
    let handled = handle(&answer, request, handler);
    many(answer, handled);
}

/// Answers that there is no such method. Generated servers do so for a path they do not know.
pub fn unimplemented(call: Call) {
    let status = no_method(call.path());
    call.answer.failed(status);
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

/// Sends the messages of a response, for as long as the caller takes them.
fn many<Res, I>(answer: Answer, handled: Result<Response<I>, Status>)
where
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    let (messages, mut parts) = match handled {
        Ok(response) => response.into_content(),
        Err(status) => return answer.failed(status),
    };
    crate::status::remove_status_headers(&mut parts.metadata);
    let Answer {
        stream,
        session,
        message_len_max,
        within,
        ..
    } = answer;
    let half = HalfSender::server(stream, parts.metadata, parts.trailers, message_len_max);
    let mut out = Out::new(session, half, within.deadline);
    let ending = iterate(messages, &mut out, &within);
    let code = match &ending {
        None => Code::Cancelled,
        Some(Ok(())) => Code::Ok,
        Some(Err(status)) => status.code(),
    };
    within.record(code);
    match ending {
        // The caller has gone, and needs no answer.
        None => {}
        Some(Ok(())) => drop(out.end(Ending::Done(None))),
        Some(Err(status)) if within.is_late() => out.end_at_once(Ending::Failed(status)),
        Some(Err(status)) => drop(out.end(Ending::Failed(status))),
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
            break Some(Err(late()));
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
