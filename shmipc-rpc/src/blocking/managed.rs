//! Making calls by the rules of a service config.

use std::{borrow::Cow, thread, time::Instant};

use http::HeaderMap;
use shmipc_transport::RecvHalf;

use super::{
    Caller,
    caller::Begun,
    channel::{Rules, Terms},
    out::Out,
};
use crate::{
    Code, Method, Status,
    body::Encode,
    client::{
        managed::next,
        policy::{Attempts, Failure},
    },
    deadline,
};

impl Caller {
    /// Makes a call of one request, which is encoded as often as there are attempts, and waits for what opens the response.
    pub(super) fn begin_by<M: Encode + ?Sized>(
        &self,
        rules: Rules<'_>,
        method: &Method,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms<'_>,
    ) -> Result<Begun, Status> {
        let mut attempts = rules.attempts(method.idempotency());
        loop {
            let mut metadata = Cow::Borrowed(metadata);
            let failed = attempts.as_ref().map_or(0, Attempts::failed);
            if let Some(attempts) = attempts.as_ref().filter(|_| 0 < failed) {
                attempts.note(metadata.to_mut());
            }
            let limit = attempts.as_ref().and_then(Attempts::timeout);
            let limit = limit.and_then(deadline::after);
            let patience = deadline::earlier(terms.deadline, limit);
            let attempt = Terms { patience, ..terms };
            let (status, is_ours) = match self.attempt(method, &metadata, message, attempt) {
                Ok(Ok((mut head, receiving))) => {
                    if let Some(attempts) = &attempts {
                        attempts.note(&mut head);
                    }
                    rules.config().succeeded();
                    return Ok((head, receiving));
                }
                Ok(Err(status)) => (status, false),
                Err(status) => (status, true),
            };
            // What the server says of a deadline is a status like any other.
            let is_over = limit.is_some_and(|limit| limit <= Instant::now());
            let failure = if is_ours && is_over && status.code() == Code::DeadlineExceeded {
                Failure::Timeout
            } else {
                Failure::Status {
                    status: &status,
                    seen: !status.is_unsent(),
                }
            };
            pause(attempts.as_mut(), failure, terms).ok_or(status)?;
        }
    }

    /// Opens a call of many requests. It is opened again only if nothing of it has left this process.
    pub(super) fn open_by(
        &self,
        rules: Rules<'_>,
        method: &Method,
        metadata: &HeaderMap,
        terms: Terms<'_>,
    ) -> Result<(Out, RecvHalf), Status> {
        let mut attempts = rules.attempts(method.idempotency());
        loop {
            let status = match self.open_once(method, metadata, terms) {
                Ok(opened) => return Ok(opened),
                Err(status) => status,
            };
            let failure = Failure::Status {
                status: &status,
                seen: false,
            };
            let attempts = attempts.as_mut().filter(|_| status.is_unsent());
            pause(attempts, failure, terms).ok_or(status)?;
        }
    }
}

/// Waits for the next attempt in this thread. `None`: there is none, and the call has failed. It never takes longer than the deadline.
fn pause(
    attempts: Option<&mut Attempts<'_>>,
    failure: Failure<'_>,
    terms: Terms<'_>,
) -> Option<()> {
    let pause = next(attempts?, failure, terms.deadline)?;
    thread::sleep(pause);
    Some(())
}
