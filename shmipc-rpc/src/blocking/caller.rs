use bytes::Bytes;
use http::{HeaderMap, Uri};
use shmipc_transport::{RecvHalf, SendError};
use tracing::Span;

use super::{
    Channel, Duplex, Streaming,
    channel::{Ask, Terms, record},
    out::{Out, OutError},
};
use crate::{
    Method, Request, Response, Status,
    body::{Borrowed, Encode, Receiving, decode},
    client::{response::not_sent, retry::Retries},
    context::MESSAGE_LEN_MAX_DEFAULT,
    frame::{Ending, HalfSender},
    metadata,
};

/// What opens a response, and where the rest comes from.
pub(super) type Begun = (HeaderMap, Receiving);

/// Makes calls over a [`Channel`]: what generated blocking clients consist of.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    request_len_max: usize,
    response_len_max: usize,
}

impl Caller {
    /// Makes a caller over `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            request_len_max: MESSAGE_LEN_MAX_DEFAULT,
            response_len_max: MESSAGE_LEN_MAX_DEFAULT,
        }
    }

    /// The most bytes that the message of a request may have. Default: 64 MiB.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not sent.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.request_len_max = bytes;
        self
    }

    /// The most bytes that the message of a response may have. Default: 64 MiB.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not looked at.
    #[must_use]
    pub fn max_response_size(mut self, bytes: usize) -> Self {
        self.response_len_max = bytes;
        self
    }

    /// Makes a call with one request and one response, and waits for it.
    ///
    /// # Errors
    ///
    /// Returns what the server answered, if that is no response, and otherwise:
    ///
    /// - [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) once the deadline has passed;
    /// - [`Code::Unavailable`](crate::Code::Unavailable) if the server cannot be reached, or its process ended
    ///   before it answered;
    /// - [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) if a message exceeds its limit;
    /// - [`Code::Internal`](crate::Code::Internal) if the answer is malformed.
    pub fn unary<Req, Res>(
        &self,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Response<Res>, Status>
    where
        Req: prost::Message,
        Res: prost::Message + Default + 'static,
    {
        let interceptors = self.channel.interceptors(method.path());
        if !interceptors.is_empty() {
            return self.show_one(&interceptors, method, request)?.into_one();
        }
        let (span, terms) = (
            self.channel.span(method.path()),
            self.terms(method, &request),
        );
        let _entered = span.enter();
        let mut message = Borrowed(request.get_ref());
        let called = self
            .begin(method, request.metadata(), &mut message, terms)
            .and_then(|(head, receiving)| one_message(head, receiving, terms));
        record(&span, &called);
        called
    }

    /// Makes a call with one request and many responses.
    ///
    /// Returns when the server has begun its response.
    ///
    /// # Errors
    ///
    /// As with [`unary`](Self::unary). What goes wrong later, the stream reports.
    pub fn server_streaming<Req, Res>(
        &self,
        method: &Method,
        request: Request<Req>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        Req: prost::Message,
        Res: prost::Message + Default + 'static,
    {
        let interceptors = self.channel.interceptors(method.path());
        if !interceptors.is_empty() {
            let seen = self.show_one(&interceptors, method, request)?;
            return Ok(seen.into_many());
        }
        let (span, terms) = (
            self.channel.span(method.path()),
            self.terms(method, &request),
        );
        let _entered = span.enter();
        let mut message = Borrowed(request.get_ref());
        let called = self.begin(method, request.metadata(), &mut message, terms);
        record(&span, &called);
        let (head, mut receiving) = called?;
        let responses = match receiving.take_whole() {
            Some((message, trailers)) => Streaming::whole(message, trailers),
            None => Streaming::open(receiving, terms.deadline),
        };
        Ok(Response::from_parts(
            head,
            responses,
            http::Extensions::new(),
        ))
    }

    /// Makes a call with many requests and one response. The calling thread iterates over the requests.
    ///
    /// # Errors
    ///
    /// As with [`unary`](Self::unary). A server may answer, and fail, before it has had all requests; then no more of them
    /// are taken.
    pub fn client_streaming<M, Req, Res>(
        &self,
        method: &Method,
        request: Request<M>,
    ) -> Result<Response<Res>, Status>
    where
        M: IntoIterator<Item = Req>,
        Req: prost::Message,
        Res: prost::Message + Default + 'static,
    {
        let interceptors = self.channel.interceptors(method.path());
        if !interceptors.is_empty() {
            return self.show_many(&interceptors, method, request)?.into_one();
        }
        let (span, terms) = (
            self.channel.span(method.path()),
            self.terms(method, &request),
        );
        let (messages, metadata, _) = request.into_content();
        let called = self.send(method, &metadata, messages, terms, &span);
        let called = called.and_then(|(head, receiving)| {
            let _entered = span.enter();
            one_message(head, receiving, terms)
        });
        record(&span, &called);
        called
    }

    /// Begins a call with many requests and many responses.
    ///
    /// # Errors
    ///
    /// Returns [`Code::Unavailable`](crate::Code::Unavailable) if the server cannot be reached, and
    /// [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) if that takes too long. What goes wrong later, the
    /// [`Duplex`] reports.
    pub fn bidi_streaming<Req, Res>(
        &self,
        method: &Method,
        request: Request<()>,
    ) -> Result<Duplex<Req, Res>, Status>
    where
        Req: prost::Message,
        Res: prost::Message + Default + 'static,
    {
        let interceptors = self.channel.interceptors(method.path());
        if !interceptors.is_empty() {
            return self.show_conversation(&interceptors, method, request);
        }
        let (span, terms) = (
            self.channel.span(method.path()),
            self.terms(method, &request),
        );
        let _entered = span.enter();
        let begun = self.open(method, request.metadata(), terms);
        record(&span, &begun);
        let (out, recv) = begun?;
        let receiving = Box::new(Receiving::response(recv, None, terms.response_len_max));
        let responses = Streaming::unopened(receiving, terms.deadline);
        Ok(Duplex::new(out, responses.counted_by(terms.rules)))
    }

    /// What a request asks for.
    pub(super) fn ask<T>(&self, request: &Request<T>) -> Ask {
        Ask {
            deadline: request.deadline_from_now(),
            wait_for_ready: request.wait_for_ready(),
            request_len_max: self.request_len_max,
            response_len_max: self.response_len_max,
        }
    }

    fn terms<T>(&self, method: &Method, request: &Request<T>) -> Terms<'_> {
        self.channel.terms(method.path(), self.ask(request))
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Makes a call of one request, and waits for what opens the response.
    pub(super) fn begin<M: Encode + ?Sized>(
        &self,
        method: &Method,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms<'_>,
    ) -> Result<Begun, Status> {
        match terms.rules {
            None => self.attempt(method, metadata, message, terms)?,
            Some(rules) => self.begin_by(rules, method, metadata, message, terms),
        }
    }

    /// Makes one attempt. The inner error is what the server says, the outer one what went wrong on the way.
    pub(super) fn attempt<M: Encode + ?Sized>(
        &self,
        method: &Method,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms<'_>,
    ) -> Result<Result<Begun, Status>, Status> {
        let stream = self.channel.ask(method.path(), metadata, message, terms)?;
        // The half that was sent is over; who receives the other gives the call up if need be.
        let (_, recv) = stream.split();
        let mut receiving = Receiving::response(recv, None, terms.response_len_max);
        let head = receiving.wait_open(terms.patience)?;
        Ok(head.map(|head| (head, receiving)))
    }

    /// Makes a call of many requests, and waits for what opens the response. The caller's iterator runs outside of the span.
    pub(super) fn send<M>(
        &self,
        method: &Method,
        metadata: &HeaderMap,
        messages: M,
        terms: Terms<'_>,
        span: &Span,
    ) -> Result<Begun, Status>
    where
        M: IntoIterator<Item: prost::Message>,
    {
        let (mut out, recv) = {
            let _entered = span.enter();
            self.open(method, metadata, terms)?
        };
        let mut receiving = Receiving::response(recv, None, terms.response_len_max);
        let opened = send_all(messages, &mut out, &mut receiving)?;
        let _entered = span.enter();
        let head = match opened {
            Some(head) => head,
            None => receiving.wait_open(terms.deadline)??,
        };
        if let Some(rules) = terms.rules {
            rules.config().succeeded();
        }
        Ok((head, receiving))
    }

    /// Opens a call of many requests, without any of them, so that it can be opened again.
    pub(super) fn open(
        &self,
        method: &Method,
        metadata: &HeaderMap,
        terms: Terms<'_>,
    ) -> Result<(Out, RecvHalf), Status> {
        match terms.rules {
            None => self.open_once(method, metadata, terms),
            Some(rules) => self.open_by(rules, method, metadata, terms),
        }
    }

    /// Opens a call of many requests, elsewhere if the server goes away.
    pub(super) fn open_once(
        &self,
        method: &Method,
        metadata: &HeaderMap,
        terms: Terms<'_>,
    ) -> Result<(Out, RecvHalf), Status> {
        let path = uri(method)?;
        let mut retries = Retries::default();
        loop {
            let (session, stream) = self.channel.open(terms)?;
            let (send, recv) = stream.split();
            let half = HalfSender::caller(
                send,
                path.clone(),
                metadata.clone(),
                terms.deadline,
                terms.request_len_max,
            );
            let mut out = Out::new(session, half, terms.deadline);
            match out.open() {
                Ok(()) => return Ok((out, recv)),
                Err(OutError::Stream(error)) => retries.permit(error)?,
                Err(OutError::Failed(status)) => return Err(status),
            }
        }
    }
}

/// Sends requests until there are no more of them, or the call is over. Returns what opens the response, if it has begun.
fn send_all<M>(
    messages: M,
    out: &mut Out,
    receiving: &mut Receiving,
) -> Result<Option<HeaderMap>, Status>
where
    M: IntoIterator<Item: prost::Message>,
{
    let mut opened = None;
    let mut messages = messages.into_iter();
    loop {
        // A server may answer before it has had all requests.
        match &opened {
            None => opened = receiving.try_open().transpose()?.transpose()?,
            Some(_) => receiving.try_frame()?,
        }
        if receiving.is_over() {
            return Ok(opened);
        }
        // In no span, and with nothing held: this is the caller's code.
        let sent = match messages.next() {
            Some(message) => out.message(&message),
            None => {
                out.end(Ending::Done(None)).or_else(not_the_stream)?;
                return Ok(opened);
            }
        };
        if let Err(error) = sent {
            not_the_stream(error)?;
            return Ok(opened);
        }
    }
}

/// What is wrong with the stream, the response tells. Anything else is why the call fails.
fn not_the_stream(error: OutError) -> Result<(), Status> {
    match error {
        OutError::Failed(status) => Err(status),
        OutError::Stream(error @ (SendError::TooLarge { .. } | SendError::Memory(_))) => {
            Err(not_sent(error))
        }
        OutError::Stream(_) => Ok(()),
    }
}

/// Returns the path of a method as a URI.
pub(super) fn uri(method: &Method) -> Result<Uri, Status> {
    let path = Uri::from_maybe_shared(Bytes::from_static(method.path().as_bytes()));
    path.map_err(|error| Status::internal("the path of the method is not one").with_source(error))
}

/// Waits for the rest of a response that must be one message.
fn one_message<Res: prost::Message + Default>(
    mut metadata: HeaderMap,
    mut receiving: Receiving,
    terms: Terms<'_>,
) -> Result<Response<Res>, Status> {
    let (message, trailers) = match receiving.take_whole() {
        Some(whole) => whole,
        None => {
            let message = receiving.wait_message(terms.deadline).transpose()?;
            if receiving
                .wait_message(terms.deadline)
                .transpose()?
                .is_some()
            {
                let problem = "the server sent more than one message where there must be one";
                return Err(Status::internal(problem));
            }
            (message, receiving.take_trailers())
        }
    };
    let message = message.ok_or_else(|| {
        Status::internal("the server says that all went well, but sent no message")
    })?;
    metadata::merge(&mut metadata, trailers);
    Ok(Response::from_parts(
        metadata,
        decode(message)?,
        http::Extensions::new(),
    ))
}
