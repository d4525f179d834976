//! Answering calls that interceptors see.

use std::{
    future::poll_fn,
    task::{Context, Waker},
    time::Instant,
};

use super::call::{Answer, Arrived, Call};
use crate::{
    Code, Request, Response, Status,
    blocking::{interceptor::see, serve::Sending},
    body::ToSend,
    deadline,
    frame::{Ending, HalfSender},
    interceptor::{self, Whereabouts},
    metadata,
    server::panic::guarded,
};

/// What the interceptors have made of a call.
type Answered = Result<interceptor::Answer, Status>;

/// Answers a call of one response.
pub(in crate::blocking) fn one<T, Res>(
    call: Call,
    take: impl FnOnce(Arrived, Option<Instant>) -> Result<T, Status>,
    handler: impl FnOnce(Request<T>) -> Result<Response<Res>, Status>,
) where
    Res: prost::Message + 'static,
{
    let (answer, answered) = show(call, take, handler, |response, _| {
        interceptor::Answer::new(response)
    });
    answer.seen(answered);
}

/// Answers a call of many responses.
pub(in crate::blocking) fn many<T, Res, I>(
    call: Call,
    take: impl FnOnce(Arrived, Option<Instant>) -> Result<T, Status>,
    handler: impl FnOnce(Request<T>) -> Result<Response<I>, Status>,
) where
    Res: prost::Message,
    I: IntoIterator<Item = Result<Res, Status>>,
{
    // They stay here: interceptors only see that there are some.
    let mut handled = None;
    let (answer, answered) = show(call, take, handler, |response, deadline| {
        let (messages, parts) = response.into_content();
        handled = Some((messages, deadline));
        interceptor::Answer::apart(parts)
    });
    let (answered, handled) = match (answered, handled) {
        (Ok(seen), Some(handled)) if seen.is_apart() => {
            return answer.apart(seen.into_parts().0, handled);
        }
        answered => answered,
    };
    // What a destructor of the application panics about does not matter any more.
    drop(guarded(|| drop(handled)));
    answer.seen(answered);
}

/// Answers a call that fails unless an interceptor answers it.
pub(in crate::blocking) fn failing(call: Call, status: Status) {
    let (answer, answered) = show(
        call,
        |_, _| Ok(()),
        |_| Err(status),
        |response: Response<()>, _| interceptor::Answer::new(response),
    );
    answer.seen(answered);
}

/// Shows a call to those who want to see it, and has it handled at the end of their row.
///
/// `take` waits for the request, and `respond` makes what they see of what the handler returned. Both get the deadline that they
/// leave the handler.
fn show<T, R>(
    call: Call,
    take: impl FnOnce(Arrived, Option<Instant>) -> Result<T, Status>,
    handler: impl FnOnce(Request<T>) -> Result<R, Status>,
    respond: impl FnOnce(R, Option<Instant>) -> interceptor::Answer,
) -> (Answer, Answered) {
    let (interceptors, seen, arrived, answer) = call.into_seen();
    let handle = move |call: interceptor::Call| {
        let (mut metadata, extensions, context) = call.into_alone();
        let deadline = context.deadline();
        let is_late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        if is_late() {
            return Err(deadline::exceeded());
        }
        let message = take(arrived, deadline)?;
        metadata::remove_reserved(&mut metadata);
        let request = Request::with_context(message, metadata, extensions, context);
        let handled = guarded(|| handler(request)).and_then(|handled| handled)?;
        if is_late() {
            // What a destructor of the application panics about does not matter any more.
            drop(guarded(|| drop(handled)));
            return Err(deadline::late());
        }
        Ok(respond(handled, deadline))
    };
    let mut handle = Some(handle);
    let mut bottom = |call| match handle.take() {
        Some(handle) => handle(call),
        None => Err(Status::internal("a call goes on but once")),
    };
    let answered = {
        let _entered = answer.within.enter();
        guarded(|| see(&interceptors, seen, &mut bottom)).and_then(|answered| answered)
    };
    (answer, answered)
}

impl Answer {
    /// Sends what interceptors have made of a call, of which all is there.
    fn seen(mut self, answered: Answered) {
        let response = match answered.map(interceptor::Answer::into_parts) {
            _ if self.within.is_late() => return self.failed(deadline::late()),
            Ok((response, Whereabouts::Here)) => response,
            Ok((_, Whereabouts::Apart | Whereabouts::Ahead(_))) => {
                let problem = "an interceptor returned the answer of another call";
                return self.failed(Status::internal(problem));
            }
            Err(status) => return self.failed(status),
        };
        let (mut head, mut body) = response.into_parts();
        crate::status::remove_status_headers(&mut head.headers);
        let mut context = Context::from_waker(Waker::noop());
        match body.take_to_send(&mut context, self.message_len_max) {
            ToSend::One(mut message, trailers) => {
                let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
                match self.whole(&head.headers, &mut message, &trailers) {
                    Ok(()) => self.within.record(Code::Ok),
                    Err(status) => self.failed(status),
                }
            }
            // A failure after a message, or no message at all: it takes no waiting but for room.
            ToSend::Many(mut messages, trailers, watchers) => {
                let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
                let max = self.message_len_max;
                let half = HalfSender::server(self.stream, head.headers, trailers, max);
                let mut out = Some(half.with_watchers(watchers));
                let sent = poll_fn(|cx| messages.as_mut().poll_send(cx, &mut out));
                let sent = self.session.block_on(self.within.deadline, sent);
                self.within.record(match sent {
                    Some(Ok(Ending::Done(_))) => Code::Ok,
                    Some(Ok(Ending::Failed(status))) => status.code(),
                    Some(Err(_)) => Code::Cancelled,
                    None => Code::DeadlineExceeded,
                });
            }
            ToSend::Nothing(status) => self.failed(status),
        }
    }

    /// Sends the answer of a handler that has kept its messages.
    fn apart<Res, I>(
        self,
        response: http::Response<crate::Body>,
        (messages, limit): (I, Option<Instant>),
    ) where
        Res: prost::Message,
        I: IntoIterator<Item = Result<Res, Status>>,
    {
        let (head, mut body) = response.into_parts();
        let mut context = Context::from_waker(Waker::noop());
        match body.take_to_send(&mut context, self.message_len_max) {
            ToSend::Many(_, trailers, watchers) => {
                let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
                Sending::seen(self, head.headers, trailers, watchers).all_until(limit, messages);
            }
            ToSend::One(..) | ToSend::Nothing(_) => {
                drop(guarded(|| drop(messages)));
                self.failed(Status::internal("the messages of the handler are gone"));
            }
        }
    }
}
