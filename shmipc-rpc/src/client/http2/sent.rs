//! The body of a request, on its way through an HTTP/2 connection.
//!
//! A server may refuse a request without having looked at it: by `REFUSED_STREAM`, or because it was about to go. Then it may be sent again
//! (RFC 9113, section 8.7), if what has been sent of it is still there. So that is kept, up to a limit, until the response begins.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;

use super::failure::{Refusal, status_of};
use crate::{
    Body, Status,
    error::BoxError,
    http2::tasks::{CallTask, Tasks},
};

/// The most bytes that are kept of a request: as many as gRPC's other implementations keep of a call.
pub(super) const KEPT_MAX: usize = 256 << 10;

/// The body of a request. Its task ends when nobody waits for the response any more.
#[derive(Debug)]
pub(crate) struct SentBody {
    /// What was sent before, by a request that was refused.
    again: VecDeque<Bytes>,
    body: Body,
    /// How long a message may be.
    message_len_max: usize,
    /// What sends it.
    task: CallTask,
    /// Whose next task that is, until it is about to be made.
    tasks: Mutex<Option<Tasks>>,
    failure: Arc<OnceLock<Status>>,
    kept: Option<Kept>,
}

/// What was sent of a request, in case that it must be sent again.
#[derive(Debug)]
struct Kept {
    frames: VecDeque<Bytes>,
    len: usize,
    /// Whether it is one message, without which a server does nothing.
    is_one: bool,
    /// Where it goes when the request is dropped.
    home: oneshot::Sender<Rest>,
}

/// What it takes to send a request again.
#[derive(Debug)]
struct Rest {
    frames: VecDeque<Bytes>,
    is_one: bool,
    body: Body,
}

/// A request that has been sent and not answered yet.
#[derive(Debug)]
pub(super) struct Sent {
    message_len_max: usize,
    rest: oneshot::Receiver<Rest>,
    pub(super) alive: CallAlive,
}

/// Keeps the request going. Dropped with the response.
#[derive(Debug)]
pub(super) struct CallAlive {
    task: CallTask,
    failure: Arc<OnceLock<Status>>,
}

impl CallAlive {
    /// Returns why the call failed: because its request did, or else for what became of the connection.
    pub(super) fn status_of(&self, error: hyper::Error) -> Status {
        match self.failure.get() {
            Some(status) => status.clone(),
            None => status_of(error),
        }
    }
}

impl SentBody {
    pub(super) fn new(body: Body, message_len_max: usize) -> (Self, Sent) {
        // How long many messages are, nobody knows before.
        let is_one = body.size_hint().exact().is_some();
        let body = body.limited(message_len_max);
        Self::after(VecDeque::new(), is_one, body, message_len_max)
    }

    /// A body that begins with what was sent before.
    fn after(
        again: VecDeque<Bytes>,
        is_one: bool,
        body: Body,
        message_len_max: usize,
    ) -> (Self, Sent) {
        let task = CallTask::default();
        let (home, rest) = oneshot::channel();
        let failure = Arc::new(OnceLock::new());
        let body = Self {
            again,
            body,
            message_len_max,
            task: task.clone(),
            tasks: Mutex::new(None),
            failure: Arc::clone(&failure),
            kept: Some(Kept {
                frames: VecDeque::new(),
                len: 0,
                is_one,
                home,
            }),
        };
        let sent = Sent {
            message_len_max,
            rest,
            alive: CallAlive { task, failure },
        };
        (body, sent)
    }

    /// It is about to be sent by a connection with those tasks.
    pub(super) fn goes_by(&mut self, tasks: Tasks) {
        self.tasks = Mutex::new(Some(tasks));
    }

    /// Keeps what is sent now, unless that gets too much.
    fn keep(&mut self, data: &Bytes) {
        // Whoever made the call has its answer, or does not want it any more.
        self.kept.take_if(|kept| kept.home.is_closed());
        if let Some(kept) = &mut self.kept {
            kept.len += data.len();
            kept.frames.push_back(data.clone());
        }
        self.kept.take_if(|kept| KEPT_MAX < kept.len);
    }
}

impl Sent {
    /// Returns the body once more, from its beginning; `None` if it was too long to be kept, or is broken, or may have been looked at.
    pub(super) async fn again(self, refusal: Refusal) -> Option<(SentBody, Self)> {
        // Once the request is over, the connection drops it.
        let Rest {
            frames,
            is_one,
            body,
        } = self.rest.await.ok()?;
        // Nothing was sent yet: it may have been begun while the server said that it goes. To a server that waits for the message, it
        // is nothing. To one that takes many, it may be a call.
        let is_refused = refusal == Refusal::Reset || is_one || !frames.is_empty();
        is_refused.then(|| SentBody::after(frames, is_one, body, self.message_len_max))
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.again.pop_front() {
            self.keep(&data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let max = self.message_len_max;
        Poll::Ready(match ready!(self.body.poll_limited_frame(cx, max)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.keep(&data);
                    Some(Ok(Frame::data(data)))
                }
                // A request has no trailers.
                Err(_) => None,
            },
            None => None,
            Some(Err(status)) => {
                self.kept = None;
                // HTTP/2 has no words for it, so the response will not tell.
                let _ = self.failure.set(status.clone());
                Some(Err(status.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // This is what hyper asks first, before it makes the task.
        let tasks = self.tasks.lock();
        if let Some(tasks) = tasks.unwrap_or_else(PoisonError::into_inner).take() {
            tasks.next_is_of(&self.task);
        }
        self.again.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let again: usize = self.again.iter().map(Bytes::len).sum();
        let (again, rest) = (again as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint.set_lower(rest.lower().saturating_add(again));
        hint
    }
}

impl Drop for CallAlive {
    fn drop(&mut self) {
        // The server is told that the call was cancelled, if it has not ended: hyper drops all that it has of it.
        self.task.end();
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        let Some(Kept {
            mut frames,
            is_one,
            home,
            ..
        }) = self.kept.take()
        else {
            return;
        };
        frames.append(&mut self.again);
        let body = mem::take(&mut self.body);
        // Usually nobody waits for it any more.
        let _ = home.send(Rest {
            frames,
            is_one,
            body,
        });
    }
}
