//! What joins a [`Sender`](super::Sender) to its far end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use shmipc_transport::{SendBuf, SendError};

use crate::{
    Status,
    body::{Borrowed, Encode},
    frame::{Ending, HalfError, HalfSender},
};

/// Shared by a sender and its far end.
#[derive(Debug)]
pub(super) struct Port(Mutex<State>);

#[derive(Debug)]
struct State {
    way: Way,
    /// How the sender ended, if it has.
    ending: Option<Ending>,
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
    /// To whoever polls the far end as a stream. Encoded, one at a time.
    Handed(Option<Bytes>),
    /// Nowhere: nobody receives any more.
    Closed,
}

impl Port {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            way: Way::Unknown,
            ending: None,
            sender: None,
            receiver: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic happens between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls for a message to be sent. `buffer` is as for [`HalfSender::poll_message`].
    pub(super) fn poll_send<T: prost::Message>(
        &self,
        cx: &mut Context<'_>,
        message: &T,
        buffer: &mut Option<SendBuf>,
    ) -> Poll<Result<(), Status>> {
        let mut state = self.state();
        let sent = match &mut state.way {
            Way::Direct(half) if half.is_open() => {
                let sent = half.poll_message(cx, &mut Borrowed(message), buffer);
                if sent.is_pending() {
                    // The half wakes whoever polled it last, which is somebody else once it is taken away.
                    state.sender = Some(cx.waker().clone());
                }
                sent
            }
            Way::Handed(slot @ None) => {
                *slot = Some(Borrowed(message).encode_to_grpc());
                let receiver = state.receiver.take();
                drop(state);
                receiver.into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            Way::Unknown | Way::Direct(_) | Way::Handed(Some(_)) => {
                state.sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Way::Closed => return Poll::Ready(Err(closed())),
        };
        Poll::Ready(match ready!(sent) {
            Ok(()) => Ok(()),
            Err(HalfError::Frame(status)) => {
                *buffer = None;
                Err(status)
            }
            Err(HalfError::Stream(error)) => Err(not_sent(error)),
        })
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
        let State {
            way,
            ending,
            receiver,
            sender,
        } = &mut *state;
        let Way::Direct(half) = way else {
            return Poll::Ready(Err(SendError::Finished));
        };
        let Some(ended) = ending else {
            *receiver = Some(cx.waker().clone());
            // Whoever waits for the head learns at once that there is somebody.
            let opened = ready!(half.poll_open(cx, buffer));
            sender.take().into_iter().for_each(Waker::wake);
            return match opened {
                Ok(()) => Poll::Pending,
                Err(HalfError::Stream(error)) => Poll::Ready(Err(error)),
                Err(HalfError::Frame(status)) => {
                    *buffer = None;
                    *ending = Some(Ending::Failed(status));
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            };
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
        match std::mem::replace(&mut state.way, Way::Closed) {
            Way::Direct(half) => *out = Some(*half),
            Way::Unknown | Way::Handed(_) | Way::Closed => {}
        }
        let sender = state.sender.take();
        drop(state);
        sender.into_iter().for_each(Waker::wake);
    }

    /// Polls for the next message, in the framing of gRPC.
    pub(super) fn poll_handed(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
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

    /// Nobody receives any more.
    pub(super) fn close(&self) {
        self.release(&mut None);
    }
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
    status.with_source(crate::BoxError::from(error))
}
