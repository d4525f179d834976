//! What becomes of what arrives.

use std::sync::Arc;

use super::shared::Shared;
use crate::{
    core::{
        num::{StreamId, index},
        streams::Lookup,
        sync::lock,
    },
    error::{PeerMisbehaved, SessionLost},
    link::{Arrival, Control},
    stream::{ABANDONED, StreamShared},
};

/// The stream that a message is for.
enum Found {
    Open(Arc<StreamShared>),
    /// It has just been opened.
    New(Arc<StreamShared>),
    /// There are as many as there may be.
    Refused,
    /// It has ended: the message has crossed that.
    Over,
}

impl Shared {
    /// Hands an arrival to whom it concerns.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol.
    pub(super) fn dispatch(&self, arrival: Arrival) -> Result<(), PeerMisbehaved> {
        match arrival {
            Arrival::Message {
                stream: id,
                message,
                end,
            } => match self.find_or_open(id)? {
                Found::Open(stream) => stream.receive(self, message, end),
                Found::Over => Ok(()),
                Found::Refused => {
                    let code = ABANDONED;
                    self.control(Control::Reset { stream: id, code });
                    Ok(())
                }
                Found::New(stream) => {
                    stream.receive(self, message, end)?;
                    self.opened_by_peer(&stream);
                    Ok(())
                }
            },
            Arrival::Reset { stream: id, code } => {
                if let Some(stream) = self.find(id)? {
                    stream.reset_by_peer(self, code);
                }
                Ok(())
            }
            Arrival::Closed { stream: id } => {
                if let Some(stream) = self.find(id)? {
                    stream.closed_by_peer(self);
                }
                Ok(())
            }
            Arrival::Credit {
                stream: id,
                messages,
                bytes,
            } => match self.find(id)? {
                Some(stream) => stream.granted(self, messages, bytes),
                None => Ok(()),
            },
            Arrival::GoAway => {
                self.presence.peer_goes_away();
                self.link.counters().go_aways_received.add(1);
                self.wake_openers();
                self.changed.notify_waiters();
                Ok(())
            }
            Arrival::HotRestart { epoch } => {
                self.hear_restart(epoch);
                Ok(())
            }
            Arrival::HotRestartAck { epoch } => {
                self.hear_acknowledgement(epoch);
                Ok(())
            }
            Arrival::Internal => Ok(()),
            Arrival::Pong { nonce } => {
                self.presence.answered(nonce)?;
                self.changed.notify_waiters();
                Ok(())
            }
            Arrival::Bye => {
                self.lose(SessionLost::ClosedByPeer);
                Ok(())
            }
        }
    }

    /// Hands a stream out that the peer has opened.
    fn opened_by_peer(&self, stream: &Arc<StreamShared>) {
        self.stream_opened();
        self.queue_to_accept(Arc::clone(stream));
        // Whoever ended the session before that has not seen it.
        if let Some(reason) = self.lost() {
            stream.lose(self, reason);
        }
    }

    /// A stream that is open.
    fn find(&self, id: StreamId) -> Result<Option<Arc<StreamShared>>, PeerMisbehaved> {
        Ok(match lock(&self.streams).look_up(id, false)? {
            Lookup::Open(stream) => Some(stream),
            _ => None,
        })
    }

    /// The stream that a message is for, which it may open.
    fn find_or_open(&self, id: StreamId) -> Result<Found, PeerMisbehaved> {
        let found = self.look_up_or_open(id)?;
        if matches!(found, Found::Over | Found::Refused) {
            self.link.dropped(id);
        }
        Ok(found)
    }

    fn look_up_or_open(&self, id: StreamId) -> Result<Found, PeerMisbehaved> {
        let mut streams = lock(&self.streams);
        let found = streams.look_up(id, true)?;
        if matches!(found, Lookup::New) {
            // The peer may have seen an end or a reset of ours that was not noted yet.
            streams.make_room(StreamShared::is_closing);
        }
        Ok(match found {
            Lookup::Open(stream) => Found::Open(stream),
            Lookup::Over => Found::Over,
            // It knows nothing of how many it may open.
            Lookup::New
                if self.link.is_native() && index(self.windows.streams_max) <= streams.len() =>
            {
                streams.remember(id);
                Found::Refused
            }
            Lookup::New => {
                let stream = Arc::new(StreamShared::opened_by_peer(id, self));
                streams.open_remote(id, Arc::clone(&stream))?;
                Found::New(stream)
            }
        })
    }

    /// Forgets a stream that is over on the wire.
    pub(crate) fn close_stream(&self, id: StreamId) {
        let (may_open, is_empty) = {
            let mut streams = lock(&self.streams);
            (streams.close(id), streams.is_empty())
        };
        // What comes from now on finds no open stream; before, it may have been noted.
        self.link.stream_over(id);
        if may_open {
            self.wake_openers();
        }
        if is_empty && self.presence.goes_away() {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::{
        Flush, RecvBuf,
        error::{RecvError, SendError},
        session::pair::pair,
    };

    #[tokio::test]
    async fn a_stream_that_is_opened_while_the_session_is_lost_learns_of_it() {
        let (_client, server) = pair().await;
        let shared = server.shared();
        // Whoever drains has looked before that, and takes one record more.
        shared.lose(SessionLost::ClosedByPeer);
        let opening = Arrival::Message {
            stream: StreamId(1),
            message: Some(RecvBuf::from(Bytes::from_static(b"the first"))),
            end: false,
        };
        shared.dispatch(opening).unwrap();
        let mut stream = server.accepted(shared.try_accept().unwrap().unwrap());
        assert!(matches!(stream.try_recv(), Some(Ok(Some(_)))));
        let lost = stream.try_recv();
        assert!(
            matches!(lost, Some(Err(RecvError::SessionLost(_)))),
            "{lost:?}"
        );
        let (mut send, _recv) = stream.split();
        let mut message = send.buffer(1);
        let cx = &mut Context::from_waker(Waker::noop());
        let sent = send.poll_send(cx, &mut message, Flush::More);
        assert!(
            matches!(sent, Poll::Ready(Err(SendError::SessionLost(_)))),
            "{sent:?}"
        );
    }
}
