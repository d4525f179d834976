//! What joins a [`Sender`](super::Sender) to its far end.

use std::{
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use shmipc_transport::{SendBuf, SendError, SendHalf};
use tokio::sync::Notify;

use crate::{
    Status,
    body::{Borrowed, Encode, Encoded},
    frame::{self, Ending, HalfError, HalfSender},
};

/// Shared by a sender and its far end.
#[derive(Debug)]
pub(super) struct Port {
    state: Mutex<State>,
    /// Wakes those who wait for nobody to receive any more.
    closed: Notify,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// How the sender ended, if it has.
    ending: Option<Ending>,
    /// How long a message may be, beside what the half says that sends it.
    message_len_max: usize,
    /// Woken when the far end can go on, or is gone.
    sender: Option<Waker>,
    /// Woken when there is a message, or the end.
    receiver: Option<Waker>,
}

/// Where messages go.
#[derive(Debug)]
enum Way {
    /// Nobody has asked for one yet.
    Unknown,
    /// Straight into shared memory.
    Direct(Box<HalfSender>),
    /// To whoever polls the far end as a stream. One at a time.
    Handed(Option<Handed>),
    /// Nowhere: nobody receives any more.
    Closed,
}

/// A message for whoever polls the far end.
#[derive(Debug)]
pub(super) struct Handed {
    /// In the framing of gRPC.
    pub(super) framed: Bytes,
    /// Whether it may be compressed.
    pub(super) is_compressible: bool,
}

/// A message on its way through a port.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    len: Option<usize>,
    text: Text,
    /// Room for a short message, which is used again.
    scratch: &'a mut Vec<u8>,
    is_compressible: bool,
}

/// What there is of a message.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, where the message is sent"
)]
#[derive(Debug)]
enum Text {
    /// Nothing yet.
    None,
    /// It is in the draft's `scratch`: to be copied into the ring, where nothing can wait.
    Short,
    /// It is in the memory of the session, behind the beginning of its frame.
    Long(SendBuf),
    /// In the framing of gRPC.
    Framed(Bytes),
}

/// What is to be done next about a message.
enum Step {
    /// It is to be encoded, which is done by code of the application.
    Encode,
    /// Nothing: this has become of it.
    Done(Result<(), Status>),
}

impl<'a> Draft<'a> {
    pub(super) fn new(scratch: &'a mut Vec<u8>, is_compressible: bool) -> Self {
        Self {
            len: None,
            text: Text::None,
            scratch,
            is_compressible,
        }
    }

    fn encode<T: prost::Message>(&mut self, message: &T) {
        match &mut self.text {
            Text::None => {}
            Text::Short => {
                self.scratch.clear();
                message.encode_raw(self.scratch);
            }
            Text::Long(buffer) => message.encode_raw(buffer),
            Text::Framed(framed) => *framed = Borrowed(message).encode_to_grpc(),
        }
    }
}

impl Port {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                way: Way::Unknown,
                ending: None,
                message_len_max: usize::MAX,
                sender: None,
                receiver: None,
            }),
            closed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic happens between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls for a message to be sent. Pass the same `draft` until it is ready.
    pub(super) fn poll_send<T: prost::Message>(
        &self,
        cx: &mut Context<'_>,
        message: &T,
        draft: &mut Draft<'_>,
    ) -> Poll<Result<(), Status>> {
        // Code of the application: nothing is locked while it runs.
        let len = match draft.len {
            Some(len) => len,
            None => *draft.len.insert(message.encoded_len()),
        };
        loop {
            match ready!(self.poll_step(cx, len, draft)) {
                Step::Encode => draft.encode(message),
                Step::Done(sent) => return Poll::Ready(sent),
            }
        }
    }

    /// Polls for the next thing to be done about a message of `len` bytes.
    fn poll_step(&self, cx: &mut Context<'_>, len: usize, draft: &mut Draft<'_>) -> Poll<Step> {
        let mut state = self.state();
        let max = state.message_len_max;
        let sent = match (&mut state.way, &mut draft.text) {
            (Way::Direct(half), Text::None) if half.is_open() => {
                let max = max.min(half.message_len_max());
                draft.text = if max < len {
                    return done(Err(frame::message_too_large(len, max)));
                } else if frame::PREFIX_LEN + len <= SendHalf::SHORT_MAX {
                    Text::Short
                } else {
                    match half.begin_message(len) {
                        Ok(buffer) => Text::Long(buffer),
                        Err(status) => return done(Err(status)),
                    }
                };
                return Poll::Ready(Step::Encode);
            }
            (Way::Direct(half), Text::Short) => {
                half.poll_message(cx, &mut Encoded(&draft.scratch[..]), &mut None)
            }
            (Way::Direct(half), Text::Long(buffer)) => half.poll_begun(cx, buffer),
            (Way::Handed(None), Text::None) => {
                if max < len {
                    return done(Err(frame::message_too_large(len, max)));
                }
                draft.text = Text::Framed(Bytes::new());
                return Poll::Ready(Step::Encode);
            }
            (Way::Handed(slot @ None), Text::Framed(message)) => {
                *slot = Some(Handed {
                    framed: mem::take(message),
                    is_compressible: draft.is_compressible,
                });
                let receiver = state.receiver.take();
                drop(state);
                receiver.into_iter().for_each(Waker::wake);
                return done(Ok(()));
            }
            (Way::Unknown | Way::Direct(_) | Way::Handed(_), _) => {
                state.sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            (Way::Closed, _) => return done(Err(closed())),
        };
        if sent.is_pending() {
            // The half wakes whoever polled it last, which is somebody else once it is taken away.
            state.sender = Some(cx.waker().clone());
        }
        drop(state);
        done(match ready!(sent) {
            Ok(()) => Ok(()),
            Err(HalfError::Frame(status)) => Err(status),
            Err(HalfError::Stream(error)) => Err(not_sent(error)),
        })
    }

    /// Messages may be no longer than this.
    pub(super) fn limit(&self, message_len_max: usize) {
        let mut state = self.state();
        state.message_len_max = state.message_len_max.min(message_len_max);
    }

    /// The sender has ended.
    pub(super) fn end(&self, ending: Ending) {
        let receiver = {
            let mut state = self.state();
            if state.ending.is_some() {
                return;
            }
            state.ending = Some(ending);
            state.receiver.take()
        };
        receiver.into_iter().for_each(Waker::wake);
    }

    /// Polls for the end of a half that is sent directly; takes over `out` first.
    pub(super) fn poll_direct(
        &self,
        cx: &mut Context<'_>,
        out: &mut Option<HalfSender>,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<Ending, SendError>> {
        let mut state = self.state();
        if let Some(half) = out.take() {
            state.way = Way::Direct(Box::new(half));
        }
        if let State {
            way: Way::Direct(half),
            ending: Some(ending),
            ..
        } = &mut *state
            && let Some(unsettled) = half.unsettled(ending)
        {
            // This runs code of the application.
            drop(state);
            let ending = unsettled.settle();
            state = self.state();
            state.ending = Some(ending);
        }
        let State { way, ending, .. } = &mut *state;
        let Way::Direct(half) = way else {
            return Poll::Ready(Err(SendError::Finished));
        };
        let Some(ended) = ending else {
            let (polled, wakers) = state.poll_open(cx, buffer);
            drop(state);
            wakers.into_iter().flatten().for_each(Waker::wake);
            return polled;
        };
        let sent = if buffer.is_some() && !half.is_open() {
            // What opens the half waits to be sent as it is. It does not say how the half ends, so it may not be the last.
            ready!(half.poll_open(cx, buffer))
        } else {
            Ok(())
        };
        let sent = match sent {
            Ok(()) => ready!(half.poll_end(cx, None::<&mut Borrowed<'_, ()>>, ended, buffer)),
            failed => failed,
        };
        let ended = ending.take().unwrap_or(Ending::Done(None));
        Poll::Ready(match sent {
            Ok(()) => Ok(ended),
            Err(HalfError::Stream(error)) => Err(error),
            Err(HalfError::Frame(status)) => Ok(Ending::Failed(status)),
        })
    }

    /// Gives back what [`poll_direct`](Self::poll_direct) took.
    pub(super) fn release(&self, out: &mut Option<HalfSender>) {
        let mut state = self.state();
        match mem::replace(&mut state.way, Way::Closed) {
            Way::Direct(half) => *out = Some(*half),
            Way::Unknown | Way::Handed(_) | Way::Closed => {}
        }
        let sender = state.sender.take();
        drop(state);
        sender.into_iter().for_each(Waker::wake);
        self.closed.notify_waiters();
    }

    /// Polls for the next message.
    pub(super) fn poll_handed(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Handed, Status>>> {
        let mut state = self.state();
        match &mut state.way {
            Way::Unknown => state.way = Way::Handed(None),
            Way::Handed(slot) => {
                if let Some(message) = slot.take() {
                    let sender = state.sender.take();
                    drop(state);
                    sender.into_iter().for_each(Waker::wake);
                    return Poll::Ready(Some(Ok(message)));
                }
            }
            Way::Direct(_) | Way::Closed => return Poll::Ready(None),
        }
        if let Some(Ending::Failed(status)) = &state.ending {
            let status = status.clone();
            // The sender is gone, so nobody waits for that.
            state.way = Way::Closed;
            return Poll::Ready(Some(Err(status)));
        }
        if state.ending.is_some() {
            return Poll::Ready(None);
        }
        state.receiver = Some(cx.waker().clone());
        let sender = state.sender.take();
        drop(state);
        sender.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Takes the metadata with which the sender ended.
    pub(super) fn take_trailers(&self) -> Option<Box<HeaderMap>> {
        match &mut self.state().ending {
            Some(Ending::Done(trailers)) => trailers.take(),
            Some(Ending::Failed(_)) | None => None,
        }
    }

    /// Whether nobody receives any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state().way, Way::Closed)
    }

    /// Waits until nobody receives any more. It may be dropped at any time.
    pub(super) async fn closed(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            // Before the look, so that no change after that is missed.
            closed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            closed.await;
        }
    }

    /// Nobody receives any more.
    pub(super) fn close(&self) {
        self.release(&mut None);
    }
}

impl State {
    /// Has a half opened that is sent directly, and waits for what the sender does. Returns whom to wake, too, once nothing is locked.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Option<SendBuf>,
    ) -> (Poll<Result<Ending, SendError>>, [Option<Waker>; 2]) {
        self.receiver = Some(cx.waker().clone());
        let opened = match &mut self.way {
            Way::Direct(half) => half.poll_open(cx, buffer),
            Way::Unknown | Way::Handed(_) | Way::Closed => Poll::Pending,
        };
        let Poll::Ready(opened) = opened else {
            return (Poll::Pending, [None, None]);
        };
        // Whoever waits for the head learns at once that there is somebody.
        let sender = self.sender.take();
        match opened {
            Ok(()) => (Poll::Pending, [sender, None]),
            Err(HalfError::Stream(error)) => (Poll::Ready(Err(error)), [sender, None]),
            Err(HalfError::Frame(status)) => {
                *buffer = None;
                self.ending = Some(Ending::Failed(status));
                (Poll::Pending, [sender, self.receiver.take()])
            }
        }
    }
}

fn done(sent: Result<(), Status>) -> Poll<Step> {
    Poll::Ready(Step::Done(sent))
}

fn closed() -> Status {
    Status::cancelled("nobody receives these messages any more")
}

/// The status for a sender whose message nobody will get.
fn not_sent(error: SendError) -> Status {
    let status = match error {
        SendError::SessionLost(_) => Status::unavailable("the connection ended"),
        SendError::TooLarge { .. } | SendError::Memory(_) => {
            Status::resource_exhausted("there is no memory for the message")
        }
        _ => closed(),
    };
    status.with_source(error)
}
