//! Making calls that interceptors see.

use std::time::Instant;

use http::{Extensions, HeaderMap};

use super::{
    Caller, Duplex, Streaming,
    caller::uri,
    channel::{Terms, record},
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
    terms: Terms,
}

impl Caller {
    /// Makes a call of one request.
    pub(super) fn show_one<Req: prost::Message>(
        &self,
        interceptors: &Interceptors,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Seen, Status> {
        let terms = self.terms(&request);
        let (message, metadata, extensions) = request.into_parts();
        let call = self.head(method, metadata, extensions, terms)?;
        show(interceptors, call, terms, |metadata, terms| {
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
        let terms = self.terms(&request);
        let (messages, metadata, extensions) = request.into_parts();
        let call = self.head(method, metadata, extensions, terms)?;
        show(interceptors, call, terms, |metadata, terms| {
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
        let terms = self.terms(&request);
        let ((), metadata, extensions) = request.into_parts();
        let call = self.head(method, metadata, extensions, terms)?;
        let mut begun = None;
        let seen = show(interceptors, call, terms, |metadata, terms| {
            let span = self.channel().span(method.path());
            let _entered = span.enter();
            let opened = self.open(method, metadata, terms);
            record(&span, &opened);
            let (out, recv) = opened?;
            begun = Some(out);
            let receiving = Receiving::response(recv, None, terms.response_len_max);
            Ok(Answer::ahead(receiving))
        })?;
        let is_ahead = seen.ahead.is_some();
        let (head, messages) = seen.into_messages();
        Ok(Duplex::seen(begun, messages, (!is_ahead).then_some(head)))
    }

    /// What interceptors see of a call.
    fn head(
        &self,
        method: &Method,
        metadata: HeaderMap,
        extensions: Extensions,
        terms: Terms,
    ) -> Result<Call, Status> {
        let context = CallContext {
            idempotency: method.idempotency(),
            ..CallContext::of_caller(terms.deadline)
        };
        Ok(Call::alone(uri(method)?, metadata, extensions, context))
    }
}

/// Shows a call to interceptors, and has `make` make it, with the metadata and the time that they leave it.
fn show(
    interceptors: &Interceptors,
    call: Call,
    mut terms: Terms,
    make: impl FnOnce(&HeaderMap, Terms) -> Result<Answer, Status>,
) -> Result<Seen, Status> {
    let mut make = Some(make);
    let answer = see(interceptors, call, &mut |call| {
        let (metadata, _, context) = call.into_alone();
        terms.deadline = context.deadline();
        match make.take() {
            Some(make) => make(&metadata, terms),
            None => Err(Status::internal("a call goes on but once")),
        }
    })?;
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
        terms,
    })
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
        let (max, deadline) = (self.terms.response_len_max, self.deadline());
        let (message, trailers) = self.body.wait_for_message(max, deadline)?;
        let mut head = self.head;
        metadata::merge(&mut head, trailers);
        Ok(Response::from_parts(message, head, self.extensions))
    }

    /// Returns the messages as they come.
    pub(super) fn into_many<Res>(mut self) -> Response<Streaming<Res>>
    where
        Res: prost::Message + Default + 'static,
    {
        let extensions = std::mem::take(&mut self.extensions);
        let (head, messages) = self.into_messages();
        Response::from_parts(messages, head, extensions)
    }

    fn into_messages<Res>(self) -> (HeaderMap, Streaming<Res>)
    where
        Res: prost::Message + Default + 'static,
    {
        let deadline = self.deadline();
        let messages = self.body.into_streaming(self.terms.response_len_max);
        (self.head, Streaming::seen(messages, self.ahead, deadline))
    }

    fn deadline(&self) -> Option<Instant> {
        self.terms.deadline
    }
}
