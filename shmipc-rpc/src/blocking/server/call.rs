use std::{fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Uri};
use shmipc_transport::{RecvBuf, RecvHalf, SendError, SendHalf, Stream, blocking::Session};
use tracing::{Span, field};

use super::{hub::Hub, routes::MethodId};
use crate::{
    Cancellation, Code, Request, Response, Status,
    blocking::{Streaming, interceptor::Interceptors},
    body::{Borrowed, Encode, Encoded, Receiving, decode},
    context::CallContext,
    deadline,
    frame::{
        self, Flags, InvalidFrame, Outgoing, Prefix, RequestHead, ResponseHeadRef, TrailersRef,
    },
    interceptor, metadata,
    server::{Limits, Served},
};

/// A call that has arrived, to be answered by one of the functions in [`serve`](crate::blocking::serve).
///
/// Dropping it gives the call up.
pub struct Call {
    pub(super) method: MethodId,
    path: &'static str,
    /// Where it leads if that is nowhere, although somebody wants to see it.
    nowhere: Option<Box<Uri>>,
    arrived: Arrived,
    metadata: HeaderMap,
    /// Who wants to see the call.
    interceptors: Interceptors,
    pub(in crate::blocking) answer: Answer,
}

/// What has arrived of a request beside its head, and where the rest comes from.
pub(in crate::blocking) struct Arrived {
    flags: Flags,
    message: RecvBuf,
    requests: RecvHalf,
    message_len_max: usize,
}

/// Where the answer to a call goes.
pub(in crate::blocking) struct Answer {
    pub(in crate::blocking) stream: SendHalf,
    pub(in crate::blocking) session: Session,
    pub(in crate::blocking) message_len_max: usize,
    pub(in crate::blocking) within: Within,
    served: Arc<Served>,
    request_len_max: usize,
}

/// What surrounds a handler.
pub(in crate::blocking) struct Within {
    pub(in crate::blocking) deadline: Option<Instant>,
    span: Span,
}

/// What the head of a request comes down to, beside metadata.
struct Read {
    flags: Flags,
    message_len: usize,
    method: MethodId,
    /// For a path that leads nowhere.
    nowhere: Option<(Box<Uri>, Interceptors)>,
    deadline: Option<Instant>,
}

/// There is no message in a frame that only ends a call.
type NoMessage = Encoded<&'static [u8]>;

impl Call {
    /// Reads the frame that begins a call, or returns how to answer it (R2, R11).
    pub(super) fn read(
        hub: &Arc<Hub>,
        session: &Session,
        served: &Arc<Served>,
        stream: Stream,
        mut frame: RecvBuf,
    ) -> Result<Self, (SendHalf, Status)> {
        let (stream, requests) = stream.split();
        let mut metadata = HeaderMap::new();
        let read = frame::open(&mut frame, |prefix, head| {
            read_head(hub, prefix, head, &mut metadata)
        });
        let read = read.map_err(|error| Status::internal(error.to_string()));
        let Read {
            flags,
            message_len,
            method,
            nowhere,
            deadline,
        } = match read.and_then(|read| read) {
            Ok(read) => read,
            Err(status) => return Err((stream, status)),
        };
        let known = hub.routes.known(method);
        let Limits {
            request_len_max: limit,
            response_len_max,
            ..
        } = known.limits(&hub.limits);
        if limit < message_len {
            return Err((stream, frame::message_too_large(message_len, limit)));
        }
        let path = known.path;
        let (nowhere, interceptors) = nowhere.unzip();
        let called = nowhere.as_ref().map_or(path, |uri| uri.path());
        let peer = session.peer();
        let span = tracing::debug_span!(
            target: "shmipc_rpc::server",
            "call",
            method = called,
            peer.pid = peer.pid(),
            peer.uid = peer.uid(),
            status = field::Empty,
        );
        Ok(Self {
            method,
            path,
            nowhere,
            arrived: Arrived {
                flags,
                message: frame,
                requests,
                message_len_max: limit,
            },
            metadata,
            interceptors: interceptors.unwrap_or_default(),
            answer: Answer {
                stream,
                session: session.clone(),
                message_len_max: response_len_max,
                within: Within { deadline, span },
                served: Arc::clone(served),
                request_len_max: limit,
            },
        })
    }

    /// Returns the path of the method, such as `/helloworld.Greeter/SayHello`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// Returns the path that the caller has called, which may lead nowhere.
    pub(in crate::blocking) fn called_path(&self) -> &str {
        self.nowhere.as_ref().map_or(self.path, |uri| uri.path())
    }

    /// Whether the whole request is there.
    pub(super) fn is_whole(&self) -> bool {
        self.arrived.flags == Flags::UNARY
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Cancellation::new(
            Some(self.answer.stream.watch()),
            self.answer.within.deadline,
        )
        .is_cancelled()
    }

    /// Who wants to see the call, to become more.
    pub(in crate::blocking) fn interceptors_mut(&mut self) -> &mut Interceptors {
        &mut self.interceptors
    }

    /// Whether anybody wants to see the call.
    pub(in crate::blocking) fn is_seen(&self) -> bool {
        !self.interceptors.is_empty()
    }

    /// Waits for the one message of the request.
    pub(in crate::blocking) fn one<T: prost::Message + Default>(
        self,
    ) -> (Answer, Result<Request<T>, Status>) {
        self.request(Arrived::one)
    }

    /// The messages of the request, as they come.
    pub(in crate::blocking) fn many<T>(self) -> (Answer, Result<Request<Streaming<T>>, Status>) {
        self.request(Arrived::many)
    }

    fn request<T>(
        self,
        message: impl FnOnce(Arrived, Option<Instant>) -> Result<T, Status>,
    ) -> (Answer, Result<Request<T>, Status>) {
        let Self {
            arrived,
            mut metadata,
            answer,
            ..
        } = self;
        let request = message(arrived, answer.within.deadline).map(|message| {
            metadata::remove_reserved(&mut metadata);
            Request::with_context(message, metadata, Extensions::new(), answer.context())
        });
        (answer, request)
    }

    /// Takes the call apart: who wants to see it, and what of it.
    pub(in crate::blocking) fn into_seen(
        self,
    ) -> (Interceptors, interceptor::Call, Arrived, Answer) {
        let Self {
            path,
            nowhere,
            arrived,
            metadata,
            interceptors,
            answer,
            ..
        } = self;
        let path = match nowhere {
            Some(path) => *path,
            None => Uri::from_maybe_shared(Bytes::from_static(path.as_bytes())).unwrap_or_default(),
        };
        let context = answer.context();
        let seen = interceptor::Call::alone(path, metadata, Extensions::new(), context);
        (interceptors, seen, arrived, answer)
    }
}

impl Arrived {
    /// Waits for the one message of the request.
    pub(in crate::blocking) fn one<T: prost::Message + Default>(
        self,
        deadline: Option<Instant>,
    ) -> Result<T, Status> {
        if self.flags == Flags::UNARY {
            return decode(self.message);
        }
        let mut receiving = self.receiving();
        let message = receiving.wait_message(deadline).transpose()?;
        let message = message.ok_or_else(|| {
            Status::internal("the caller sent no message where there must be one")
        })?;
        if receiving.wait_message(deadline).transpose()?.is_some() {
            let problem = "the caller sent more than one message where there must be one";
            return Err(Status::internal(problem));
        }
        decode(message)
    }

    /// The messages of the request, as they come.
    pub(in crate::blocking) fn many<T>(
        self,
        deadline: Option<Instant>,
    ) -> Result<Streaming<T>, Status> {
        Ok(Streaming::open(self.receiving(), deadline))
    }

    fn receiving(self) -> Receiving {
        let message = self.flags.contains(Flags::MESSAGE).then_some(self.message);
        let is_last = self.flags.contains(Flags::END);
        Receiving::request(self.requests, message, is_last, self.message_len_max)
    }
}

impl Answer {
    /// What a handler, and who sees its call, may know of it.
    fn context(&self) -> CallContext {
        CallContext {
            served: Some(Arc::clone(&self.served)),
            cancellation: Cancellation::new(Some(self.stream.watch()), self.within.deadline),
            message_len_max: self.request_len_max,
            ..CallContext::default()
        }
    }

    /// Sends a response of one message, or a failure.
    pub(in crate::blocking) fn one<T: prost::Message>(
        mut self,
        answer: Result<Response<T>, Status>,
    ) {
        let answer = if self.within.is_late() {
            Err(deadline::late())
        } else {
            answer
        };
        let failure = match answer {
            Ok(response) => self.message(response).err(),
            Err(status) => Some(status),
        };
        match failure {
            None => self.within.record(Code::Ok),
            Some(status) => self.failed(status),
        }
    }

    /// Sends a response. An error is to be sent in its place.
    fn message<T: prost::Message>(&mut self, response: Response<T>) -> Result<(), Status> {
        let (message, mut parts) = response.into_content();
        crate::status::remove_status_headers(&mut parts.metadata);
        self.whole(&parts.metadata, &mut Borrowed(&message), &parts.trailers)
    }

    /// Sends a response that is one frame. An error is to be sent in its place.
    pub(in crate::blocking) fn whole<M: Encode>(
        &mut self,
        metadata: &HeaderMap,
        message: &mut M,
        trailers: &HeaderMap,
    ) -> Result<(), Status> {
        let has_trailers = !trailers.is_empty();
        let head = ResponseHeadRef {
            metadata,
            trailers: has_trailers.then(|| TrailersRef::ok(trailers)),
        };
        let flags = if has_trailers {
            Flags::UNARY.with(Flags::TRAILERS)
        } else {
            Flags::UNARY
        };
        let mut frame = Outgoing::new(flags, head, Some(message), self.message_len_max)?;
        let sent = match frame.try_send(&mut self.stream) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let sending = frame.send(&mut self.stream);
                let sent = self.session.block_on(self.within.deadline, sending);
                sent.ok_or_else(deadline::late)?
            }
            Err(error) => Err(error),
        };
        match sent {
            Err(SendError::TooLarge { .. }) => Err(Status::resource_exhausted(
                "the response is larger than the memory of the session",
            )),
            Err(SendError::Memory(_)) => Err(Status::resource_exhausted(
                "there is no memory for the response",
            )),
            // A caller that has gone needs no answer.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends a failure.
    pub(in crate::blocking) fn failed(mut self, status: Status) {
        self.within.record(status.code());
        let deadline = self.within.deadline;
        fail(&self.session, &mut self.stream, &status, deadline);
    }
}

impl Within {
    pub(in crate::blocking) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Notes in the span of the call how it ended.
    pub(in crate::blocking) fn record(&self, code: Code) {
        if !self.span.is_disabled() {
            self.span.record("status", code.name());
        }
    }

    /// Enters the call: its span, and its deadline for calls that are made within.
    pub(in crate::blocking) fn enter(&self) -> (deadline::Scope, tracing::span::Entered<'_>) {
        (deadline::Scope::enter(self.deadline), self.span.enter())
    }
}

/// Answers a call with a failure, if there is room for it before the deadline. For who has none, the stream is reset.
pub(super) fn fail(
    session: &Session,
    stream: &mut SendHalf,
    status: &Status,
    deadline: Option<Instant>,
) {
    let mut shortened = None;
    for _ in 0..2 {
        let status = shortened.as_ref().unwrap_or(status);
        let frame: Result<Outgoing<'_, _, NoMessage>, _> = Outgoing::new(
            Flags::TRAILERS.with(Flags::END),
            TrailersRef::failed(status),
            None,
            0,
        );
        match frame {
            // A caller that has gone needs no answer.
            Ok(mut frame) => {
                if let Ok(false) = frame.try_send(stream) {
                    drop(session.block_on(deadline, frame.send(stream)));
                }
                return;
            }
            Err(_) => shortened = Some(status.shortened()),
        }
    }
}

/// Reads the head. The outer error is the peer's fault, the inner one has other reasons.
fn read_head(
    hub: &Hub,
    prefix: Prefix,
    head: &[u8],
    metadata: &mut HeaderMap,
) -> Result<Result<Read, Status>, InvalidFrame> {
    let flags = prefix.flags;
    if !flags.contains(Flags::OPEN)
        || flags.contains(Flags::TRAILERS)
        || flags.contains(Flags::CANCEL)
    {
        return Err(InvalidFrame::UnexpectedFlags(flags));
    }
    let RequestHead { path, timeout } = RequestHead::decode(head, metadata)?;
    let (method, nowhere) = match hub.routes.method(path) {
        Some(method) => (method, None),
        None => match (hub.routes.nowhere(path), path.parse::<Uri>()) {
            (Some((method, interceptors)), Ok(uri)) if uri.path() == path => {
                (method, Some((Box::new(uri), interceptors)))
            }
            _ => return Ok(Err(no_method(path))),
        },
    };
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Ok(Err(Status::deadline_exceeded(
            "the deadline had passed when the call arrived",
        )));
    }
    Ok(Ok(Read {
        flags,
        message_len: prefix.message_len as usize,
        method,
        nowhere,
        deadline: timeout.and_then(deadline::after),
    }))
}

/// The status for a path that leads nowhere (R7).
pub(in crate::blocking) fn no_method(path: &str) -> Status {
    Status::unimplemented(format!("there is no method at {path:?}"))
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
