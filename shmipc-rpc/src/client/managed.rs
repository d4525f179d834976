//! Calls by the rules of a service config, and over several connections.

use std::{
    borrow::Cow,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderMap, Uri};
use shmipc_transport::{Address, Backoff, Lent, Session};

use super::{
    balance::{Balanced, Pending},
    channel::SizeLimits,
    direct::{Outcome, Terms},
    member::{Member, hold},
    policy::{Attempts, Failure, MethodConfig, ServiceConfig},
};
#[cfg(feature = "grpc")]
use crate::codec::ClientCompression;
use crate::{
    Body, ConnectError, Endpoint, Idempotency, Status,
    body::{Encode, Messages, ToSend},
    codec::Coding,
    deadline::{self, Elapsed},
};

/// More than a session to one server. Clones share it.
#[derive(Clone)]
pub(super) struct Managed {
    pub(super) ways: Ways,
    pub(super) config: Option<ServiceConfig>,
    /// What calls do that are not told otherwise.
    pub(super) wait_for_ready: bool,
}

/// How many sessions there are.
#[derive(Clone)]
pub(super) enum Ways {
    One(Member),
    Several(Arc<Balanced>),
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) path: &'a str,
    pub(super) metadata: &'a HeaderMap,
    pub(super) idempotency: Idempotency,
    pub(super) deadline: Option<Instant>,
    pub(super) wait_for_ready: Option<bool>,
    pub(super) limits: SizeLimits,
    #[cfg(feature = "grpc")]
    pub(super) compression: ClientCompression,
}

impl Managed {
    /// Returns the address of the server, if there is but one.
    pub(super) fn address(&self) -> Option<&Address> {
        match &self.ways {
            Ways::One(member) => member.address(),
            Ways::Several(balanced) => balanced.address(),
        }
    }

    /// Returns where the server is, if there is but one.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        match &self.ways {
            Ways::One(member) => member.endpoint(),
            Ways::Several(balanced) => balanced.endpoint(),
        }
    }

    /// Connects to the server, or to several.
    pub(super) async fn connect(&self) -> Result<(), ConnectError> {
        match &self.ways {
            Ways::One(member) => member.connect().await,
            Ways::Several(balanced) => balanced.connect().await,
        }
    }

    /// The sessions that are open now.
    pub(super) fn sessions(&self) -> Vec<Session> {
        match &self.ways {
            Ways::One(member) => member.session().into_iter().collect(),
            Ways::Several(balanced) => balanced.sessions(),
        }
    }

    /// Lends memory of a session; see [`Channel::alloc`](super::Channel::alloc).
    pub(super) async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        match &self.ways {
            Ways::One(member) => member.alloc(len).await,
            Ways::Several(balanced) => {
                let (member, _pending) = balanced.pick(self.wait_for_ready).await?;
                member.alloc(len).await
            }
        }
    }

    /// Makes a call with one request, which can be encoded as often as there are attempts.
    pub(super) async fn one<M: Encode + ?Sized>(&self, ask: Ask<'_>, message: &mut M) -> Outcome {
        let method = self.method(ask.path);
        let terms = self.terms(&ask, method);
        let Some(mut attempts) = self.attempts(method, ask.idempotency) else {
            let outcome = self.attempt(ask.path, ask.metadata, message, terms).await;
            self.note(&outcome);
            return outcome;
        };
        loop {
            let mut metadata = Cow::Borrowed(ask.metadata);
            if 0 < attempts.failed() {
                attempts.note(metadata.to_mut());
            }
            let limit = attempts.timeout().and_then(deadline::after);
            let attempt = self.attempt(ask.path, &metadata, message, terms);
            let mut outcome = deadline::within(limit, attempt).await;
            let failure = match &mut outcome {
                Ok(Ok(Ok(answer))) => {
                    attempts.note(answer.metadata_mut());
                    None
                }
                Ok(Ok(Err(status)) | Err(status)) => Some(Failure::Status {
                    status,
                    seen: !status.is_unsent(),
                }),
                Err(Elapsed) => Some(Failure::Timeout),
            };
            let pause = failure.and_then(|failure| next(&mut attempts, failure, terms.deadline));
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
                continue;
            }
            let outcome = outcome.unwrap_or_else(|Elapsed| Err(deadline::exceeded()));
            self.note(&outcome);
            return outcome;
        }
    }

    /// Makes one attempt.
    async fn attempt<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Outcome {
        let mut elsewhere = Elsewhere::default();
        loop {
            let (member, pending) = self.pick(terms).await?;
            let own = elsewhere.terms(terms, pending.as_ref());
            let outcome = member.one(path, metadata, message, own).await;
            match (outcome, pending) {
                (Err(status), Some(_)) if elsewhere.may_try(&status) => {}
                (outcome, pending) => return hold(outcome, pending),
            }
        }
    }

    /// Makes a call with many requests. It is made again only if nothing of it has left this process.
    pub(super) async fn many(
        &self,
        path: &Uri,
        ask: Ask<'_>,
        messages: Pin<Box<dyn Messages>>,
    ) -> Outcome {
        let method = self.method(ask.path);
        let terms = self.terms(&ask, method);
        let mut attempts = self.attempts(method, ask.idempotency);
        let mut elsewhere = Elsewhere::default();
        let (begun, pending) = loop {
            let picked = self.pick(terms).await;
            let opened = match picked {
                Ok((member, pending)) => {
                    let own = elsewhere.terms(terms, pending.as_ref());
                    match member.open(path, ask.metadata, own).await {
                        Ok(begun) => break (begun, pending),
                        Err(status) if pending.is_some() && elsewhere.may_try(&status) => continue,
                        Err(status) => status,
                    }
                }
                Err(status) => status,
            };
            let pause = attempts
                .as_mut()
                .filter(|_| opened.is_unsent())
                .and_then(|attempts| {
                    let failure = Failure::Status {
                        status: &opened,
                        seen: false,
                    };
                    next(attempts, failure, terms.deadline)
                });
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(opened),
            }
        };
        let made = begun.many(path, ask.metadata, messages, terms).await;
        let outcome = hold(made, pending);
        self.note(&outcome);
        outcome
    }

    /// Makes a call for layers. If `never_fails`, not even the body of the response does.
    pub(super) async fn http(
        self,
        mut request: http::Request<Body>,
        never_fails: bool,
    ) -> Result<http::Response<Body>, Status> {
        let context = Body::take_context(&mut request);
        let (parts, mut body) = request.into_parts();
        let header = parts.headers.get("grpc-timeout");
        let timeout = header.and_then(|value| deadline::parse_grpc_timeout(value.as_bytes()));
        let deadline = deadline::earlier(context.deadline(), timeout.and_then(deadline::after));
        let ask = Ask {
            path: parts.uri.path(),
            metadata: &parts.headers,
            idempotency: context.idempotency,
            deadline: deadline::earlier(deadline, deadline::inherited()),
            wait_for_ready: context.wait_for_ready,
            limits: SizeLimits {
                request_len_max: context.request_len_max,
                response_len_max: context.message_len_max,
            },
            // What is taken apart here is put together again, should it go over HTTP/2.
            #[cfg(feature = "grpc")]
            compression: ClientCompression::of_request(&parts.headers),
        };
        if body.is_foreign() {
            body.set_coding(Coding::of_neighbour(&parts.headers));
        }
        let to_send = poll_fn(|cx| Poll::Ready(body.take_to_send(cx, context.request_len_max)));
        let outcome = match to_send.await {
            ToSend::One(mut message, _) => self.one(ask, &mut *message).await,
            ToSend::Many(messages, ..) => self.many(&parts.uri, ask, messages).await,
            ToSend::Nothing(status) => Err(status),
        };
        Ok(match outcome? {
            Ok(answer) => answer.into_http(never_fails),
            Err(status) => status.into_http(),
        })
    }

    /// Chooses a session for an attempt.
    async fn pick(&self, terms: Terms) -> Result<(&Member, Option<Pending>), Status> {
        match &self.ways {
            Ways::One(member) => Ok((member, None)),
            Ways::Several(balanced) => {
                if let Some((member, pending)) = balanced.try_pick() {
                    return Ok((member, Some(pending)));
                }
                let picked = Box::pin(balanced.pick(terms.wait_for_ready));
                let picked = deadline::within(terms.deadline, picked).await;
                let picked = picked.unwrap_or_else(|Elapsed| Err(deadline::exceeded()));
                picked.map(|(member, pending)| (member, Some(pending)))
            }
        }
    }

    fn method(&self, path: &str) -> Option<&MethodConfig> {
        self.config.as_ref().map(|config| config.of_method(path))
    }

    fn terms(&self, ask: &Ask<'_>, method: Option<&MethodConfig>) -> Terms {
        let mut terms = Terms {
            deadline: ask.deadline,
            wait_for_ready: ask.wait_for_ready.unwrap_or(self.wait_for_ready),
            limits: ask.limits,
            #[cfg(feature = "grpc")]
            compression: ask.compression,
        };
        let Some(method) = method else { return terms };
        terms.deadline =
            deadline::earlier(terms.deadline, method.timeout.and_then(deadline::after));
        if let (None, Some(wait)) = (ask.wait_for_ready, method.wait_for_ready) {
            terms.wait_for_ready = wait;
        }
        let SizeLimits {
            request_len_max,
            response_len_max,
        } = &mut terms.limits;
        let lower = |limit: &mut usize, max: Option<usize>| {
            *limit = max.map_or(*limit, |max| max.min(*limit))
        };
        lower(request_len_max, method.request_len_max);
        lower(response_len_max, method.response_len_max);
        terms
    }

    fn attempts<'a>(
        &'a self,
        method: Option<&'a MethodConfig>,
        idempotency: Idempotency,
    ) -> Option<Attempts<'a>> {
        self.config.as_ref()?.attempts(method?, idempotency)
    }

    /// Counts a success. Failures are counted with the attempts.
    fn note(&self, outcome: &Outcome) {
        if let (Some(config), Ok(Ok(_))) = (&self.config, outcome) {
            config.succeeded();
        }
    }
}

/// Attempts with other sessions of a call that has not left this process, because the one that was chosen has gone since.
#[derive(Default)]
struct Elsewhere {
    tried: u32,
}

impl Elsewhere {
    /// More than go in one moment.
    const MAX: u32 = 5;

    /// The terms with the session that was chosen. It is not waited for: another one may be there.
    fn terms(&self, terms: Terms, chosen: Option<&Pending>) -> Terms {
        let is_last = chosen.is_none() || Self::MAX <= self.tried;
        Terms {
            wait_for_ready: terms.wait_for_ready && is_last,
            ..terms
        }
    }

    /// Whether another session may be tried after this one has failed so.
    fn may_try(&mut self, status: &Status) -> bool {
        let may = status.is_unsent() && self.tried < Self::MAX;
        self.tried += u32::from(may);
        may
    }
}

/// Returns how long to wait before the next attempt.
pub(crate) fn next(
    attempts: &mut Attempts<'_>,
    failure: Failure<'_>,
    deadline: Option<Instant>,
) -> Option<Duration> {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    attempts.next(failure, deadline.map(left), Backoff::random_fraction())
}
