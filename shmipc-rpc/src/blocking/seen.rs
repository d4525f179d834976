//! Making calls that interceptors see.

use std::time::Instant;

use http::{Extensions, HeaderMap};

use super::{
    Caller, Duplex, Streaming,
    caller::uri,
    channel::{Ask, Terms, record},
    interceptor::{Interceptors, see},
};
use crate::{
    Body, Method, Request, Response, Status,
    body::{Borrowed, Receiving},
    client::response,
    context::CallContext,
    interceptor::{Ahead, Answer, Call, Whereabouts},
    metadata,
};

/// What interceptors have made of a call.
pub(super) struct Seen {
    head: HeaderMap,
    extensions: Extensions,
    body: Body,
    /// What they want of the head, if that is yet to come.
    ahead: Option<Ahead>,
    /// What they have left the call.
    left: Left,
}

/// What is left for the rest of a response.
#[derive(Clone, Copy)]
struct Left {
    deadline: Option<Instant>,
    message_len_max: usize,
}

impl Caller {
    /// Makes a call of one request.
    pub(super) fn show_one<Req: prost::Message>(
        &self,
        interceptors: &Interceptors,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Seen, Status> {
        let ask = self.ask(&request);
        let (message, metadata, extensions) = request.into_content();
        let call = head(method, metadata, extensions, ask)?;
        self.show(interceptors, call, ask, |metadata, terms| {
            let span = self.channel().span(method.path());
            let _entered = span.enter();
            let begun = self.begin(method, metadata, &mut Borrowed(&message), terms);
            record(&span, &begun);
            begun.map(|(head, receiving)| begun_well(head, receiving))
        })
    }

    /// Makes a call of many requests and one response.
    pub(super) fn show_many<M>(
        &self,
        interceptors: &Interceptors,
        method: &Method,
        request: Request<M>,
    ) -> Result<Seen, Status>
    where
        M: IntoIterator<Item: prost::Message>,
    {
        let ask = self.ask(&request);
        let (messages, metadata, extensions) = request.into_content();
        let call = head(method, metadata, extensions, ask)?;
        self.show(interceptors, call, ask, |metadata, terms| {
            let span = self.channel().span(method.path());
            let begun = self.send(method, metadata, messages, terms, &span);
            record(&span, &begun);
            begun.map(|(head, receiving)| begun_well(head, receiving))
        })
    }

    /// Begins a call of many requests and many responses.
    pub(super) fn show_conversation<Req, Res>(
        &self,
        interceptors: &Interceptors,
        method: &Method,
        request: Request<()>,
    ) -> Result<Duplex<Req, Res>, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        let ask = self.ask(&request);
        let ((), metadata, extensions) = request.into_content();
        let call = head(method, metadata, extensions, ask)?;
        let (mut begun, mut rules) = (None, None);
        let seen = self.show(interceptors, call, ask, |metadata, terms| {
            let span = self.channel().span(method.path());
            let _entered = span.enter();
            let opened = self.open(method, metadata, terms);
            record(&span, &opened);
            let (out, recv) = opened?;
            (begun, rules) = (Some(out), terms.rules);
            let receiving = Receiving::response(recv, None, terms.response_len_max);
            Ok(Answer::ahead(receiving))
        })?;
        let is_ahead = seen.ahead.is_some();
        let (head, messages) = seen.into_messages();
        let messages = messages.counted_by(rules);
        Ok(Duplex::seen(begun, messages, (!is_ahead).then_some(head)))
    }

    /// Shows a call to interceptors, and has `make` make it, with the metadata and the time that they leave it.
    fn show<'a>(
        &'a self,
        interceptors: &Interceptors,
        call: Call,
        mut ask: Ask,
        make: impl FnOnce(&HeaderMap, Terms<'a>) -> Result<Answer, Status>,
    ) -> Result<Seen, Status> {
        let mut left = Left {
            deadline: ask.deadline,
            message_len_max: ask.response_len_max,
        };
        let mut make = Some(|call: Call| {
            let terms = {
                ask.deadline = call.deadline();
                self.channel().terms(call.path(), ask)
            };
            left = Left {
                deadline: terms.deadline,
                message_len_max: terms.response_len_max,
            };
            make(&call.into_alone().0, terms)
        });
        let answer = see(interceptors, call, &mut |call| match make.take() {
            Some(make) => make(call),
            None => Err(Status::internal("a call goes on but once")),
        })?;
        drop(make);
        let (response, whereabouts) = answer.into_parts();
        let (parts, body) = response.into_parts();
        let (mut head, ahead) = match whereabouts {
            Whereabouts::Here => (parts.headers, None),
            Whereabouts::Ahead(callbacks) => {
                let ahead = Ahead::new(parts.headers, callbacks);
                (HeaderMap::new(), Some(ahead))
            }
            Whereabouts::Apart => {
                let problem = "an interceptor returned the answer of another call";
                return Err(Status::internal(problem));
            }
        };
        metadata::remove_reserved(&mut head);
        Ok(Seen {
            head,
            extensions: parts.extensions,
            body,
            ahead,
            left,
        })
    }
}

/// What interceptors see of a call.
fn head(
    method: &Method,
    metadata: HeaderMap,
    extensions: Extensions,
    ask: Ask,
) -> Result<Call, Status> {
    let context = CallContext {
        idempotency: method.idempotency(),
        ..CallContext::of_caller(ask.deadline)
    };
    Ok(Call::alone(uri(method)?, metadata, extensions, context))
}

/// What interceptors see of a response that has begun.
fn begun_well(head: HeaderMap, receiving: Receiving) -> Answer {
    Answer::of(response::Answer::new(head, receiving).into_http(false))
}

impl Seen {
    /// Waits for what must be one message.
    pub(super) fn into_one<Res>(self) -> Result<Response<Res>, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        let Left {
            deadline,
            message_len_max: max,
        } = self.left;
        let (message, trailers) = self.body.wait_for_message(max, deadline)?;
        let mut head = self.head;
        metadata::merge(&mut head, trailers);
        Ok(Response::from_parts(head, message, self.extensions))
    }

    /// Returns the messages as they come.
    pub(super) fn into_many<Res>(mut self) -> Response<Streaming<Res>>
    where
        Res: prost::Message + Default + 'static,
    {
        let extensions = std::mem::take(&mut self.extensions);
        let (head, messages) = self.into_messages();
        Response::from_parts(head, messages, extensions)
    }

    fn into_messages<Res>(self) -> (HeaderMap, Streaming<Res>)
    where
        Res: prost::Message + Default + 'static,
    {
        let Left {
            deadline,
            message_len_max: max,
        } = self.left;
        let messages = self.body.into_streaming(max);
        (self.head, Streaming::seen(messages, self.ahead, deadline))
    }
}
