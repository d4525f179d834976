//! Calls through a session.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Uri};
use shmipc_transport::{Lent, RecvHalf, SendError, Stream, StreamWatch};
use tracing::{Instrument as _, Span, field};

use super::{
    channel::SizeLimits,
    connection::Connection,
    response::{Answer, not_sent},
    retry::Retries,
};
#[cfg(feature = "grpc")]
use crate::codec::ClientCompression;
use crate::{
    Body, Code, Status,
    body::{Encode, Messages, Receiving, ToSend},
    codec::Coding,
    deadline::{self, Elapsed},
    frame::{Ending, Flags, HalfError, HalfSender, Outgoing, RequestHeadRef},
};

/// The way through sessions to one server.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    pub(super) connection: Arc<Connection>,
    pub(super) wait_for_ready: bool,
}

/// The terms of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) deadline: Option<Instant>,
    pub(super) wait_for_ready: bool,
    pub(super) limits: SizeLimits,
    /// Sessions have no use for it.
    #[cfg(feature = "grpc")]
    pub(super) compression: ClientCompression,
}

/// What a call came to: the outer error is what went wrong on the way, the inner one what the server says.
pub(super) type Outcome = Result<Result<Answer, Status>, Status>;

/// A call that has begun, and of which nothing but the head was sent.
pub(super) struct Opened {
    out: HalfSender,
    recv: RecvHalf,
    span: Span,
}

impl Direct {
    /// Lends memory of the session; see [`Channel::alloc`](super::Channel::alloc).
    pub(super) async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        let session = match self.connection.session() {
            Some(session) => session,
            None => {
                // Connects. Nothing is sent on a stream that nobody uses.
                self.open_stream(self.wait_for_ready).await?;
                let lost = || Status::unavailable("the session was lost before it was used");
                self.connection.session().ok_or_else(lost)?
            }
        };
        session.alloc(len).await.map_err(Status::from_alloc)
    }

    /// Makes a call with one request.
    pub(super) async fn one<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Outcome {
        let span = self.span(path);
        let sent = match self.try_send(path, metadata, message, terms) {
            // Boxed, so that calls that need not wait for this have a small future, which is moved about.
            Ok(None) => {
                Box::pin(
                    self.send(path, metadata, message, terms)
                        .instrument(span.clone()),
                )
                .await
            }
            Ok(Some(stream)) => Ok(stream),
            Err(status) => Err(status),
        };
        let outcome = match sent {
            Ok(stream) => {
                // The half that was sent is over; who receives the other gives the call up if need be.
                let (_, stream) = stream.split();
                let max = terms.limits.response_len_max;
                let mut receiving = Receiving::response(stream, terms.deadline, max);
                let opened = poll_fn(|cx| {
                    let _span = span.enter();
                    receiving.poll_open(cx)
                });
                let opened = opened.await;
                opened.map(|opened| opened.map(|metadata| Answer::new(metadata, receiving)))
            }
            Err(status) => Err(status),
        };
        record(&span, &outcome);
        outcome
    }

    /// Begins a call with many requests, without any of them.
    pub(super) async fn open(
        &self,
        path: &Uri,
        metadata: &HeaderMap,
        terms: Terms,
    ) -> Result<Opened, Status> {
        let span = self.span(path.path());
        let open = self
            .open_call(path, metadata, terms)
            .instrument(span.clone());
        let opened = deadline::within(terms.deadline, open).await;
        match opened.unwrap_or_else(|Elapsed| Err(deadline::exceeded())) {
            Ok((out, recv)) => Ok(Opened { out, recv, span }),
            Err(status) => {
                record_code(&span, status.code());
                Err(status)
            }
        }
    }

    /// Makes a call with many requests, which has been opened.
    pub(super) async fn many(
        opened: Opened,
        messages: Pin<Box<dyn Messages>>,
        terms: Terms,
    ) -> Outcome {
        let Opened { out, recv, span } = opened;
        let outcome = Self::converse(out, recv, messages, terms, &span)
            .instrument(span.clone())
            .await;
        record(&span, &outcome);
        outcome
    }

    async fn converse(
        out: HalfSender,
        recv: RecvHalf,
        messages: Pin<Box<dyn Messages>>,
        terms: Terms,
        span: &Span,
    ) -> Outcome {
        let mut requests = Requests {
            watch: recv.watch(),
            out: Some(out),
            messages,
            failure: None,
        };
        let max = terms.limits.response_len_max;
        let mut receiving = Receiving::response(recv, terms.deadline, max);
        let mut sending = true;
        let opened = poll_fn(|cx| {
            if sending && let Poll::Ready(sent) = requests.poll(cx) {
                sending = false;
                if let Err(status) = sent {
                    return Poll::Ready(Err(status));
                }
            }
            receiving.poll_open(cx)
        });
        let metadata = match opened.await? {
            Ok(metadata) => metadata,
            Err(status) => return Ok(Err(status)),
        };
        if sending && !receiving.is_over() {
            receiving.fails_with(Arc::clone(requests.failure.insert(Arc::default())));
            tokio::spawn(requests.run().instrument(span.clone()));
        }
        Ok(Ok(Answer::new(metadata, receiving)))
    }

    /// Makes a call for layers.
    pub(super) async fn http(
        self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let context = Body::take_context(&mut request);
        let (parts, mut body) = request.into_parts();
        let terms = Terms {
            deadline: deadline::of_call(context.deadline(), &parts.headers),
            wait_for_ready: context.wait_for_ready.unwrap_or(self.wait_for_ready),
            limits: SizeLimits {
                request_len_max: context.request_len_max,
                response_len_max: context.message_len_max,
            },
            #[cfg(feature = "grpc")]
            compression: ClientCompression::default(),
        };
        if body.is_foreign() {
            body.set_coding(Coding::of_neighbour(&parts.headers));
        }
        let to_send = poll_fn(|cx| Poll::Ready(body.take_to_send(cx, context.request_len_max)));
        let outcome = match to_send.await {
            ToSend::One(mut message, _) => {
                self.one(parts.uri.path(), &parts.headers, &mut *message, terms)
                    .await
            }
            ToSend::Many(messages, ..) => {
                match self.open(&parts.uri, &parts.headers, terms).await {
                    Ok(opened) => Self::many(opened, messages, terms).await,
                    Err(status) => Err(status),
                }
            }
            ToSend::Nothing(status) => Err(status),
        };
        Ok(match outcome? {
            Ok(answer) => answer.into_http(false),
            Err(status) => status.into_http(),
        })
    }

    fn span(&self, path: &str) -> Span {
        tracing::debug_span!(
            target: "shmipc_rpc::client",
            "call",
            method = path,
            address = self.connection.address().map(field::display),
            status = field::Empty,
        )
    }

    /// Sends a request if that takes no waiting. `None`: it does, and nothing was sent.
    fn try_send<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Result<Option<Stream>, Status> {
        let mut frame = frame(path, metadata, message, terms)?;
        if !frame.is_short() {
            return Ok(None);
        }
        let Some(mut stream) = self.connection.try_open_stream() else {
            return Ok(None);
        };
        match frame.try_ask(&mut stream) {
            Ok(true) => Ok(Some(stream)),
            // If the session is lost, or is to be left, it was before this call began to use it.
            Ok(false) | Err(SendError::SessionLost(_) | SendError::GoingAway) => Ok(None),
            Err(error) => Err(not_sent(error)),
        }
    }

    /// Sends a request, waiting for a session and for room as long as need be.
    async fn send<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Result<Stream, Status> {
        let send = async {
            let mut retries = Retries::default();
            loop {
                let mut stream = self.open_stream(terms.wait_for_ready).await?;
                let frame = frame(path, metadata, message, terms)?;
                match frame.send(stream.halves_mut().0).await {
                    Ok(()) => return Ok(stream),
                    Err(error) => retries.permit(error)?,
                }
            }
        };
        let sent = deadline::within(terms.deadline, send).await;
        sent.unwrap_or_else(|Elapsed| Err(deadline::exceeded()))
    }

    /// Opens a call of many requests, without any of them, so that it can be opened elsewhere if the server goes away.
    async fn open_call(
        &self,
        path: &Uri,
        metadata: &HeaderMap,
        terms: Terms,
    ) -> Result<(HalfSender, RecvHalf), Status> {
        let mut retries = Retries::default();
        loop {
            let (send, recv) = self.open_stream(terms.wait_for_ready).await?.split();
            let mut out = HalfSender::caller(
                send,
                path.clone(),
                metadata.clone(),
                terms.deadline,
                terms.limits.request_len_max,
            );
            let mut buffer = None;
            match poll_fn(|cx| out.poll_open(cx, &mut buffer)).await {
                Ok(()) => return Ok((out, recv)),
                Err(HalfError::Stream(error)) => retries.permit(error)?,
                Err(HalfError::Frame(status)) => return Err(status),
            }
        }
    }

    async fn open_stream(&self, wait_for_ready: bool) -> Result<Stream, Status> {
        match self.connection.try_open_stream() {
            Some(stream) => Ok(stream),
            None => self.connection.open_stream(wait_for_ready).await,
        }
    }
}

/// The requests of a call, on their way out.
struct Requests {
    messages: Pin<Box<dyn Messages>>,
    out: Option<HalfSender>,
    watch: StreamWatch,
    /// Where the response looks for why they failed.
    failure: Option<Arc<OnceLock<Status>>>,
}

impl Requests {
    /// Polls for all of them to be sent. An error is their own; what is wrong with the stream, the response tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.messages
            .as_mut()
            .poll_send(cx, &mut self.out)
            .map(|sent| match sent {
                Ok(Ending::Done(_)) => Ok(()),
                Ok(Ending::Failed(status)) => Err(status),
                Err(error @ (SendError::TooLarge { .. } | SendError::Memory(_))) => {
                    Err(not_sent(error))
                }
                Err(_) => Ok(()),
            })
    }

    /// Sends them for as long as the call goes on. If they fail, the call is given up, by dropping its half.
    async fn run(mut self) {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(sent) => {
                if let (Err(status), Some(failure)) = (sent, &self.failure) {
                    // Before the half is dropped, so that it is there when the response is found to be given up.
                    let _ = failure.set(status);
                }
                Poll::Ready(())
            }
            Poll::Pending => self.watch.poll_abandoned(cx).map(drop),
        })
        .await;
    }
}

/// Makes the frame of a request, to be sent now.
fn frame<'a, M: Encode + ?Sized>(
    path: &'a str,
    metadata: &'a HeaderMap,
    message: &'a mut M,
    terms: Terms,
) -> Result<Outgoing<'a, RequestHeadRef<'a>, M>, Status> {
    let timeout_ns = terms.deadline.map(deadline::left_ns).transpose();
    let timeout_ns = timeout_ns.map_err(|Elapsed| deadline::exceeded())?;
    let head = RequestHeadRef {
        path,
        timeout_ns,
        metadata,
    };
    Ok(Outgoing::new(
        Flags::UNARY,
        head,
        Some(message),
        terms.limits.request_len_max,
    )?)
}

/// Notes in the span of a call how it went, as far as is known.
fn record(span: &Span, outcome: &Outcome) {
    let code = match outcome {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) | Err(status) => status.code(),
    };
    record_code(span, code);
}

fn record_code(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("status", code.name());
    }
}
