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
                    self.stream_opened();
                    self.queue_to_accept(stream);
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

    /// A stream that is open.
    fn find(&self, id: StreamId) -> Result<Option<Arc<StreamShared>>, PeerMisbehaved> {
        Ok(match lock(&self.streams).look_up(id, false)? {
            Lookup::Open(stream) => Some(stream),
            _ => None,
        })
    }

    /// The stream that a message is for, which it may open.
    fn find_or_open(&self, id: StreamId) -> Result<Found, PeerMisbehaved> {
        let mut streams = lock(&self.streams);
        Ok(match streams.look_up(id, true)? {
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
        self.link.stream_over(id);
        let (may_open, is_empty) = {
            let mut streams = lock(&self.streams);
            (streams.close(id), streams.is_empty())
        };
        if may_open {
            self.wake_openers();
        }
        if is_empty && self.presence.goes_away() {
            self.changed.notify_waiters();
        }
    }
}
